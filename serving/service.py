"""From bytes of pictures to entries of detections. The event loop only waits: pictures are decoded and names looked up
in threads, and one thread runs the model.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from decodetr.inference.result_files import rows_of
from decodetr.serving.batcher import Batcher
from decodetr.serving.metrics import Metrics
from decodetr.serving.refusal import Refusal
from decodetr.utils.images import FORMATS, TooManyPixels, open_image

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from decodetr.serving.engine import Engine, Prepared, Search
    from decodetr.serving.payload import Payload
    from decodetr.serving.settings import ServeSettings

    Result = TypeVar("Result")
    Asked = tuple[Prepared, Search, int, float]

logger = logging.getLogger(__name__)

_BLANK = (640, 480)  # of the picture that warms a model up


class Service:
    """
    A model and the threads around it.

    Args:
        engine ([`Engine`]). settings ([`ServeSettings`]).

    Attributes:
        ready (bool): the model has seen a picture, and nothing has been told to end.
        failed (Exception, *optional*): what kept it from getting ready.
    """

    def __init__(self, engine: Engine, settings: ServeSettings) -> None:
        self.engine, self.settings = engine, _within(settings, engine.facts().get("top_k"))
        self.inside = 0  # pictures let in and not answered. This and the next are of the event loop alone
        self._bodies = self._body_bytes = 0  # that arrive
        self.ready = False
        self.failed: Exception | None = None
        self._reading = ThreadPoolExecutor(settings.workers, "decodetr-read")
        self._embedding = ThreadPoolExecutor(1, "decodetr-names")  # a slow text model keeps no picture waiting
        self.batcher: Batcher[Asked, dict[str, list]] = Batcher(
            self._detect, settings.batch_size, settings.max_wait_ms / 1000, self._seen
        )
        self.metrics = Metrics(lambda: self.batcher.waiting, lambda: self.inside, settings.batch_size)

    async def warm_up(self) -> None:
        """Let the model see a blank picture, alone and as a full batch: first calls are slow. Then it is ready.

        Raises:
            Exception: whatever the model raises. It is in `failed`, too.
        """
        try:
            blank = await self.run(self.engine.prepare, Image.new("RGB", _BLANK, (128, 128, 128)))
            search = self.engine.search(None)
            for count in sorted({1, self.settings.batch_size}):
                jobs = [self.batcher.submit((blank, search, 1, 0.0), (search, blank.key)) for _ in range(count)]
                await asyncio.gather(*map(asyncio.wrap_future, jobs))
        except Exception as error:
            self.failed = error
            raise
        self.ready = True

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """A function in one of the threads that read."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, function, *args)

    async def close(self) -> None:
        """Answer what was let in, and end the threads."""
        self.ready = False
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self.batcher.close)
        for pool in (self._reading, self._embedding):
            pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def arrival(self) -> Iterator[Callable[[int], None]]:
        """Let a body arrive until the end of the block. What is yielded is told of its bytes, as they come.

        A body is no picture yet: a client that sends none would keep the place of one.

        Raises:
            Refusal: the server is not ready, or full of pictures, or of bodies (also of what is yielded).
        """
        if not self.ready:
            raise Refusal(503, "the model is not ready; try again", {"Retry-After": "1"})
        self._check_room(1)
        if self._bodies >= self.settings.most_bodies:
            raise _busy(f"{self._bodies:,} requests are sending their bodies already", 1)
        own = 0

        def arrived(count: int) -> None:
            nonlocal own
            if self._body_bytes + count > self.settings.most_bytes:
                raise _busy(f"bodies of {self._body_bytes:,} bytes are arriving already", 1)
            self._body_bytes, own = self._body_bytes + count, own + count

        self._bodies += 1
        try:
            yield arrived
        finally:
            self._bodies, self._body_bytes = self._bodies - 1, self._body_bytes - own

    @contextmanager
    def entrance(self, count: int) -> Iterator[None]:
        """Let pictures in until the end of the block.

        Raises:
            Refusal: the server has no room for so many.
        """
        self._check_room(count)
        self.inside += count
        try:
            yield
        finally:
            self.inside -= count

    def _check_room(self, count):
        if self.inside + count > self.settings.max_queue:
            seconds = max(1, min(60, math.ceil(self.inside * self.batcher.seconds_per_item)))
            raise _busy(f"{self.inside} pictures wait already", seconds)

    async def answer(self, payload: Payload) -> list[dict[str, Any]]:
        """Entries as those of detections.json, without the file: "width", "height", "turned", "best_score" and
        "detections", of each picture.

        Raises:
            Refusal: a picture that cannot be read, or names without an embedding.
        """
        search = await self._search(payload.names)
        threshold = self.settings.threshold if payload.threshold is None else payload.threshold
        least = self.engine.least(search, threshold)
        pictures = await _all(self.run(self._prepare, *picture) for picture in payload.pictures)
        asked = (search, payload.top_k, min(least.values()))
        jobs = [self.batcher.submit((one, *asked), (search, one.key)) for one in pictures]
        found = await _all(map(asyncio.wrap_future, jobs))
        return [_entry(picture, result, least) for picture, result in zip(pictures, found)]

    async def _search(self, names):
        """The search for some names."""
        if names is not None and not self.engine.knows(names):
            if not self.settings.new_names:
                raise Refusal(422, "this server looks for names that it knows alone: GET /v1/names lists them")
            pool = self._embedding
        else:
            pool = self._reading
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, self.engine.search, names)
        except ValueError as error:
            raise Refusal(422, str(error)) from error

    def _prepare(self, label, content):
        """A picture as the model takes it."""
        try:
            picture = open_image(content, label)
        except TooManyPixels as error:
            raise Refusal(
                413, f"{label}: more than the {error.most} that are taken; send a smaller picture"
            ) from error
        except ValueError as error:
            reason = type(error.__cause__ or error).__name__
            raise Refusal(
                422, f"{label}: expected the file of a picture ({', '.join(FORMATS)}) that can be read ({reason})"
            ) from error
        try:
            return self.engine.prepare(picture)
        except ValueError as error:
            raise Refusal(422, f"{label}: {error}") from error

    def _seen(self, pictures, seconds):
        if self.ready:  # what warms up is no request
            self.metrics.batch(pictures, seconds)

    def _detect(self, asked):
        """A batch, in the thread of the model. Each picture gets as many detections as it was asked for."""
        pictures, searches, numbers, least = zip(*asked)
        results = self.engine.detect(pictures, searches[0], max(numbers), min(least))
        return [{key: values[:most] for key, values in result.items()} for result, most in zip(results, numbers)]


def _within(settings, most):
    """Settings whose numbers of detections are at most what the model gives: who asks for more is told so."""
    if most is None:
        return settings
    return replace(settings, top_k=min(settings.top_k, most), max_top_k=min(settings.max_top_k, most))


def _busy(what, seconds):
    return Refusal(429, f"{what}; try again in {seconds} s", {"Retry-After": str(seconds)})


async def _all(awaited):
    """What all of them give. The first error cancels the others."""
    tasks = [asyncio.ensure_future(one) for one in awaited]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _entry(picture: Prepared, result: dict[str, list], least: Any) -> dict[str, Any]:
    """What is said of a picture."""
    width, height = picture.size
    shown = [i for i, (name, score) in enumerate(zip(result["names"], result["scores"])) if score > least[name]]
    return {
        "width": width,
        "height": height,
        "turned": picture.turned,
        "best_score": max(result["scores"], default=0.0),
        "detections": rows_of({key: [values[i] for i in shown] for key, values in result.items()}),
    }
