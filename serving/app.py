"""The addresses of a server, as a FastAPI application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import decodetr
from decodetr.serving.engine import Engine
from decodetr.serving.metrics import Counted
from decodetr.serving.payload import Several, Single, in_words, read_payload
from decodetr.serving.refusal import GONE, Refusal
from decodetr.serving.service import Service
from decodetr.serving.settings import ServeSettings
from decodetr.utils.files import json_text

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Detection(BaseModel):
    """A thing in a picture. The box is x0, y0, x1, y1 in pixels of the upright picture."""

    name: str
    score: float
    box: tuple[float, float, float, float]


class Found(BaseModel):
    """A picture: its size as it is seen, whether its EXIF orientation was applied, its best score whatever the
    threshold, and its detections, the best first."""

    width: int
    height: int
    turned: bool
    best_score: float
    detections: list[Detection]


class FoundInAll(BaseModel):
    """The pictures of a request, in their order."""

    images: list[Found]


class Problem(BaseModel):
    """What is wrong, and what to do."""

    detail: str


_Names = Annotated[
    list[str] | None,
    Query(description="""Look for these: 'cat,"salt, pepper"'; may be repeated. Default: all names of the server."""),
]
_Threshold = Annotated[float | None, Query(ge=0, le=1, description="Only scores above it. Default: of the model.")]
_TopK = Annotated[int | None, Query(ge=1, description="At most so many detections of a picture.")]
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "a form that cannot be read, or with too many files",
        408: "the body took too long", 413: "too many bytes or pixels", 415: "no picture, form or JSON",
        422: "a picture that cannot be read, or names, threshold or top_k that cannot be used",
        429: "too many pictures wait; Retry-After says when to come again", 503: "the model is not ready",
    }.items()
}  # fmt: skip


def create_app(
    engine: Engine, settings: ServeSettings | None = None, stop: Callable[[], None] | None = None
) -> FastAPI:
    """The application of a model. Its `state.service` is the [`Service`].

    Args:
        engine ([`Engine`]). settings ([`ServeSettings`], *optional*).
        stop (callable, *optional*): called where the model cannot be warmed up.
    """
    service = Service(engine, settings or ServeSettings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(_warm(service, stop))
        try:
            yield
        finally:
            warming.cancel()
            await service.close()

    app = FastAPI(
        title="decodetr",
        version=decodetr.__version__,
        description="Open-vocabulary detection: pictures and names in, boxes out.",
        lifespan=lifespan,
    )
    app.state.service = service
    if service.settings.origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(service.settings.origins), allow_methods=["GET", "POST"])
    app.add_middleware(Counted, metrics=service.metrics)
    _add_errors(app)
    _add_detection(app, service)
    _add_state(app, service)
    return app


async def _warm(service, stop):
    try:
        await service.warm_up()
    except Exception:
        logger.exception("the model cannot be warmed up")
        if stop is not None:
            stop()


def _add_errors(app):
    """Every error is JSON with a text."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return _json({"detail": error.message}, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def misspelt(_: Request, error: RequestValidationError) -> Response:
        return _json({"detail": in_words(error.errors())}, 422)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return _json({"detail": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return _json({"detail": f"the server failed ({type(error).__name__}); its log has the reason"}, 500)


def _add_detection(app, service):
    async def entries(request: Request, query: dict[str, Any], several: bool) -> list[dict[str, Any]]:
        with service.arrival() as arrived:
            payload = await read_payload(request, query, several, service.settings, service.run, arrived)
        with service.entrance(len(payload.pictures)):
            return await _unless_gone(request, service.answer(payload))

    @app.post("/v1/detect", responses={200: {"model": Found}, **_PROBLEMS}, openapi_extra=_body(Single))
    async def detect(
        request: Request, names: _Names = None, threshold: _Threshold = None, top_k: _TopK = None
    ) -> Response:
        """Detect in one picture: the body itself, `image` of a form, or `image` of JSON."""
        (found,) = await entries(request, _query(request, names, threshold, top_k), several=False)
        return _json(found)

    @app.post("/v1/detect/batch", responses={200: {"model": FoundInAll}, **_PROBLEMS}, openapi_extra=_body(Several))
    async def detect_batch(
        request: Request, names: _Names = None, threshold: _Threshold = None, top_k: _TopK = None
    ) -> Response:
        """Detect in several pictures, `images` of a form or of JSON. They get the same names, threshold and top_k."""
        query = _query(request, names, threshold, top_k)
        return _json({"images": await entries(request, query, several=True)})


def _add_state(app, service):
    @app.get("/health", responses={503: {"model": Problem}})
    async def health() -> Response:
        """Whether the server lives. If not, start it again."""
        if not service.batcher.healthy:
            return _json({"detail": "the model fails at every picture; the log has the reason"}, 503)
        return _json({"status": "alive"})

    @app.get("/ready", responses={503: {"model": Problem}})
    async def ready() -> Response:
        """Whether pictures are taken: the model is loaded and has been warmed up."""
        if not (service.ready and service.batcher.healthy):
            return _json({"detail": "the model is not ready"}, 503, {"Retry-After": "1"})
        return _json({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/names")
    async def names() -> Response:
        """The names that are looked for where a request says none, their thresholds, and whether others can be."""
        facts = service.engine.facts()
        return _json(facts | {"new_names": service.settings.new_names and facts["text_model"] is not None})


def _query(request, names, threshold, top_k):
    """What the address asks for. What else is in it is misspelt, and would not be obeyed."""
    query = {"names": None if names is None else ",".join(names), "threshold": threshold, "top_k": top_k}
    if unknown := sorted(set(request.query_params) - set(query)):
        words = ", ".join(repr(word[:40]) for word in unknown)
        raise Refusal(422, f"the address has {words}, expected {', '.join(query)}")
    if twice := [word for word in ("threshold", "top_k") if len(request.query_params.getlist(word)) > 1]:
        raise Refusal(422, f"{twice[0]} is in the address more than once; give it once")
    return query


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What is worked out, unless the client closes its connection: then nothing more is done for it. Its body has been
    read."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(GONE, "the client has closed its connection")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _left(request):
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(value, status=200, headers=None):
    return Response(json_text(value, None), status, headers, media_type="application/json")


def _body(kind):
    """What the documentation says of the body of a request."""
    schema = kind.model_json_schema()
    binary = {"type": "string", "format": "binary"}
    properties = dict(schema["properties"])
    if "image" in properties:
        properties["image"] = binary
    else:
        properties["images"] = {"type": "array", "items": binary}
    content = {
        "application/json": {"schema": schema},
        "multipart/form-data": {"schema": {**schema, "properties": properties}},
    }
    if "image" in properties:
        content["image/*"] = {"schema": binary}
    return {"requestBody": {"required": True, "content": content}}
