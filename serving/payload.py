"""Bodies of requests: bytes of pictures, and what is asked of them.

A picture comes as the body itself, as a part of a form, or in base64 within JSON. Nothing is fetched from anywhere.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import string
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from decodetr.serving.refusal import GONE, Refusal
from decodetr.serving.settings import MAX_NAME_LENGTH, ServeSettings
from decodetr.utils.name_list import read_names

if TYPE_CHECKING:
    from typing import Any

    from starlette.types import Message

Result = TypeVar("Result")
Wait = Callable[..., Awaitable["Result"]]
_HOW = (
    "send the picture as the body (curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg), as a form (curl -F "
    "image=@photo.jpg), or as JSON with base64"
)
_FIELDS = 20  # of a form, besides pictures
_MANY, _SAID = 100, 3  # mistakes that are no honest ones; those that are told
_LETTERS = 40  # of a word that somebody made up
_SPACES = string.whitespace.encode()
_Texts = Annotated[list[str], Field(fail_fast=True)]  # an error for each of millions of elements would take minutes


class Wish(BaseModel):
    """What is asked of the pictures of a request."""

    model_config = ConfigDict(extra="forbid")

    names: _Texts | str | None = Field(
        None,
        description="Look for these: a list, or a text with commas, and double quotes around a name with a comma.",
    )
    threshold: float | None = Field(None, ge=0, le=1, description="Only scores above it.")
    top_k: int | None = Field(None, ge=1, description="At most so many detections of a picture.")

    @field_validator("threshold", "top_k", mode="before")
    @classmethod
    def _no_boolean(cls, value: object) -> object:
        if isinstance(value, bool):  # which pydantic would take for 1 or 0
            raise ValueError(f"expected a number, got {str(value).lower()}")
        return value


class Single(Wish):
    """A request for one picture."""

    image: str = Field(description="The bytes of the picture's file in base64.")


class Several(Wish):
    """A request for several pictures."""

    images: _Texts = Field(min_length=1, description="The bytes of each picture's file in base64.")


@dataclass(frozen=True)
class Payload:
    """What a request says.

    Attributes:
        pictures: (what it is called in messages, the bytes of its file) of each.
        names (tuple[str], *optional*), threshold (float, *optional*), top_k (int).
    """

    pictures: list[tuple[str, bytes]]
    names: tuple[str, ...] | None
    threshold: float | None
    top_k: int


async def read_payload(
    request: Request,
    query: Mapping[str, Any],
    several: bool,
    settings: ServeSettings,
    run: Wait,
    arrived: Callable[[int], None],
) -> Payload:
    """Read the body of a request.

    Args:
        query: names (list of texts), threshold and top_k of the address. several (bool): a form or JSON with `images`.
        run: awaits a function and its arguments in another thread.
        arrived: told of the bytes that come, as they come.

    Raises:
        Refusal: what cannot be read, is too much, or takes too long, or whose client has gone.
    """
    try:
        async with asyncio.timeout(settings.body_seconds):
            return await _read(_limited(request, settings.max_body_bytes, arrived), query, several, settings, run)
    except TimeoutError as error:
        raise Refusal(
            408, f"the body took more than {settings.body_seconds:g} s to arrive; send it faster, or a smaller one",
            {"Connection": "close"},
        ) from error  # fmt: skip
    except ClientDisconnect as error:
        raise Refusal(GONE, "the client has closed its connection before its body was there") from error


async def _read(request, query, several, settings, run):
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    key = "images" if several else "image"
    given = {name: value for name, value in query.items() if value is not None}
    if kind == "application/json":
        body = await request.body()
        _check_marks(body, settings)
        said = await run(_checked, Several if several else Single, body)
        texts = said.pop(key)
        texts = texts if several else [texts]
        _count(texts, key, settings)
        labels = [_label(key, i, several) for i in range(len(texts))]
        pictures = await run(lambda: [(label, _decoded(text, label)) for label, text in zip(labels, texts)])
    elif kind == "multipart/form-data":
        try:
            pictures, fields = await _form(request, key, several, settings)
        except HTTPException as error:  # of the library: too many parts, or no form
            how = "one picture as image=@photo.jpg, several to /v1/detect/batch as images=@photo.jpg"
            how = f"at most {settings.most_images} pictures as images=@photo.jpg" if several else how
            raise Refusal(400, f"the form cannot be read: {error.detail.rstrip('.')}; send {how}") from error
        said = _checked(Wish, fields)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        if several:
            raise Refusal(415, "several pictures come as a form (curl -F images=@a.jpg -F images=@b.jpg) or as JSON")
        said, pictures = {}, [("the picture", await request.body())]
    else:
        raise Refusal(415, f"Content-Type {kind or 'is missing'}: {_HOW}")
    said = {name: value for name, value in said.items() if value is not None}
    if twice := sorted(said.keys() & given.keys()):
        raise Refusal(422, f"{twice[0]} is in the address and in the body; give it once")
    said |= given
    return Payload(pictures, _names(said.get("names"), settings), said.get("threshold"), _top_k(said, settings))


def _limited(request, most, arrived):
    """The same request with a body of at most so many bytes, which are told of."""
    refusal = Refusal(
        413, f"the body has more than the {most:,} bytes that are taken; send a smaller picture, or fewer"
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise refusal
    read = 0

    async def receive() -> Message:
        nonlocal read
        message = await request.receive()
        length = len(message.get("body", b""))
        read += length
        if read > most:
            raise refusal
        arrived(length)
        return message

    return Request(request.scope, receive)


async def _form(request, key, several, settings):
    """(pictures, other fields) of a form."""
    most = settings.most_images if several else 1
    pictures, fields = [], {}
    async with request.form(max_files=most, max_fields=_FIELDS, max_part_size=settings.max_body_bytes) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != key:
                    raise Refusal(
                        422, f"the form has a file {name[:_LETTERS]!r}, expected {key!r}: curl -F {key}=@photo.jpg"
                    )
                label = _label(key, len(pictures), several)
                pictures.append((f"{label} ({value.filename})" if value.filename else label, await value.read()))
            elif name == "names":
                fields.setdefault(name, []).append(value)
            elif name in fields:
                raise Refusal(422, f"the form has {name!r} twice; give it once")
            else:
                fields[name] = value
    if "names" in fields:
        fields["names"] = ",".join(fields["names"])
    if not pictures:
        raise Refusal(422, f"the form has no file {key!r}: curl -F {key}=@photo.jpg")
    return pictures, fields


def _label(key, place, several):
    return f"{key}[{place}]" if several else key


def _count(pictures, key, settings):
    if len(pictures) > settings.most_images:
        raise Refusal(422, f"{key}: {len(pictures)} pictures, more than the {settings.most_images} of one request")


def _check_marks(body, settings):
    """Refuse a JSON text of millions of values, each of which would become an object. Base64 has none of these marks,
    and names have no more characters."""
    most = settings.max_names * MAX_NAME_LENGTH
    if (count := sum(map(body.count, (b",", b"[", b"{")))) > most:
        raise Refusal(422, f"the body has {count:,} commas and brackets, more than the {most:,} of a request's names")


def _checked(kind, given):
    """Fields of a JSON text or of a dict, of their types."""
    try:
        said = kind.model_validate_json(given) if isinstance(given, bytes) else kind.model_validate(given)
    except ValidationError as error:
        if error.error_count() > _MANY:  # unknown words: the texts about them would take longer than finding them
            raise Refusal(
                422, f"the body has {error.error_count():,} mistakes; expected {', '.join(kind.model_fields)}"
            ) from None
        raise Refusal(422, in_words(error.errors(include_input=False, include_url=False))) from error
    return said.model_dump()


def in_words(errors: Sequence[Mapping[str, Any]]) -> str:
    """What a check by pydantic found first, as one text."""
    found = [
        (".".join(str(part)[:_LETTERS] for part in error["loc"] if part != "query"), error["msg"])
        for error in errors[:_SAID]
    ]
    return "; ".join(f"{place}: {message}" if place else message for place, message in found)


def _decoded(text, label):
    """Bytes of base64, which may be a data: address."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    elif text[:8].lower().startswith(("http:", "https:", "file:", "ftp:", "s3:")):
        raise Refusal(422, f"{label}: addresses are not fetched; send the bytes of the picture in base64")
    try:
        return base64.b64decode(text.encode("ascii").translate(None, _SPACES), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(422, f"{label}: expected the bytes of a picture in base64, got: {error}") from error


def _names(given, settings):
    """The names that are asked for, each once, or None for the model's own."""
    if given is None:
        return None
    most = settings.max_names * (MAX_NAME_LENGTH + 3) if isinstance(given, str) else settings.max_names
    if len(given) > most:  # before a text is cut up, or each name looked at
        what = "characters" if isinstance(given, str) else "given"
        raise Refusal(422, f"names: {len(given):,} {what}, more than the {most:,} of one request")
    try:
        names = read_names(given, option="names") if isinstance(given, str) else [name.strip() for name in given]
    except ValueError as error:
        raise Refusal(422, str(error)) from error
    names = list(dict.fromkeys(name for name in names if name))
    if not names:
        raise Refusal(422, "names: expected one at least; leave it out to look for all names of the model")
    if len(names) > settings.max_names:
        raise Refusal(422, f"names: {len(names):,} given, more than the {settings.max_names:,} of one request")
    if long := next((name for name in names if len(name) > MAX_NAME_LENGTH), None):
        raise Refusal(
            422, f"names: {long[:40]!r}... has {len(long):,} characters, at most {MAX_NAME_LENGTH} are taken"
        )
    return tuple(names)


def _top_k(said, settings):
    top_k = said.get("top_k", settings.top_k)
    if top_k > settings.max_top_k:
        raise Refusal(422, f"top_k: {top_k:,} is more than the {settings.max_top_k:,} that this server gives")
    return top_k
