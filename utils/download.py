"""The one place that fetches from addresses that a user gave."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from decodetr.utils.files import limit
from decodetr.utils.images import open_image

if TYPE_CHECKING:
    import PIL.Image

MAX_BYTES = 64 << 20
MAX_BYTES_VARIABLE = "DECODETR_MAX_URL_BYTES"
SECONDS = 30  # without a byte


def is_url(text: object) -> bool:
    """Whether a text is an address of the web."""
    return str(text).lower().startswith(("http://", "https://"))


def open_url(url: str, timeout: float | None = None) -> PIL.Image.Image:
    """The picture at an address, as [`open_image`] gives it. `timeout`: seconds without a byte (default: 30).

    Raises:
        OSError: it cannot be fetched. ValueError: no address, more bytes than the limit, or no picture.
    """
    return open_image(fetch(url, timeout), url)


def fetch(url: str, timeout: float | None = None) -> bytes:
    """What is at an address of the web, up to a limit: DECODETR_MAX_URL_BYTES, else 64 MiB.

    Raises:
        OSError: it cannot be fetched. ValueError: no address, or more bytes than the limit.
    """
    if not is_url(url):
        raise ValueError(f"{url}: expected an address that begins with http:// or https://")
    most = limit(MAX_BYTES_VARIABLE, MAX_BYTES)
    request = urllib.request.Request(url, headers={"User-Agent": "decodetr"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS if timeout is None else timeout) as response:
            content = response.read(most + 1)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        raise OSError(f"{url}: cannot be fetched: {error}") from error
    if len(content) > most:
        raise ValueError(
            f"{url}: more than the {most:,} bytes that are fetched at most; if you trust it, set the environment "
            f"variable {MAX_BYTES_VARIABLE}"
        )
    return content
