"""The one place that opens a picture.

What a file is called says nothing about its content, so the decoders are listed here: those that Pillow runs in its
own process. PostScript, which starts Ghostscript, and everything exotic are not among them. The number of pixels is
known before any is decoded, and is bounded; so are the sides.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from decodetr.utils.files import limit, regular_file
from decodetr.utils.limits import MAX_PIXELS, MAX_PIXELS_VARIABLE, MAX_SIDE

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    import PIL.Image

Item = TypeVar("Item")
# Pillow's name of a format, and the suffixes of its files.
FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
IMAGE_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
# Pictures of telephones and cameras that are not read.
UNREAD_SUFFIXES = frozenset(
    (".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".hif", ".jxl", ".nef", ".orf", ".raf", ".rw2")
)
MAX_BYTES = 1 << 30
BATCH_PIXELS = 1 << 26  # of pictures that are held at once
# What is said of annotated pictures that EXIF turns.
STORED_FRAME = "EXIF turns pictures whose boxes are of the pixels as stored: trained lying, but predict turns them"
UNKNOWN_FRAME = "EXIF turns pictures whose boxes may be of the pixels as stored; taken as turned: store them turned"
_ORIENTATION, _BITS_PER_SAMPLE, _WIDTH, _HEIGHT = 0x0112, 0x0102, 0x0100, 0x0101  # tags of EXIF and TIFF
_BACK = {5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}  # what undoes an orientation
_XMP, _PROFILE = b"XML:com.adobe.xmp", b"Raw profile type "  # texts in PNG files that hold an orientation
_QUARTER_TURNS = range(5, 9)  # EXIF orientations that swap width and height


class TooManyPixels(ValueError):
    """A picture that is not decoded because of its size. `most` is what is allowed, such as "67,108,864 pixels"."""

    def __init__(self, message: str, most: str) -> None:
        super().__init__(message)
        self.most = most


def is_image(path: str | Path) -> bool:
    """Whether a file's suffix is that of a picture, in any case."""
    return os.path.splitext(os.fspath(path))[1].lower() in IMAGE_SUFFIXES


def open_image(
    source: str | Path | bytes | BinaryIO, where: object = None, size: tuple[int, int] | None = None
) -> PIL.Image.Image:
    """The picture of a file as 8-bit RGB, turned as its EXIF orientation says.

    16-bit and float pictures are scaled to 8 bits by what their mode can hold: 0 to 65,535, or 0 to 1. Of several
    frames the first is taken. Transparency is dropped.

    Args:
        source (`str`, `Path`, `bytes` or binary file).
        where (`str`, *optional*): the file's name for messages. Default `source`.
        size (`tuple`, *optional*): (width, height) that annotations of the picture declare, which can tell that they
            are of the pixels as stored, so that they must not be turned. See [`annotated_frame`].

    Returns:
        `PIL.Image.Image` of mode RGB. Its `info` has "orientation" and "stored_size" if EXIF turns it, nothing else.

    Raises:
        FileNotFoundError: no such file. ValueError: no picture of a format of `FORMATS`, damaged, not a regular file,
            larger than the limits ([`TooManyPixels`]), or with values that have no meaning as a colour. The message
            names the file.
    """
    from PIL import Image, ImageOps

    from decodetr.processing.picture_modes import to_rgb

    where = source if where is None else where
    with _opened(source, where) as image:
        try:
            stored, orientation = _header(image)
            image.load()
            bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] if image.format == "TIFF" else 16
            is_turned = orientation != 1 and _orientation(image) == 1  # Pillow turns TIFFs itself
            upright = annotated_frame(stored, orientation, size)[0] == "upright"
            if upright and not is_turned:
                ImageOps.exif_transpose(image, in_place=True)
            elif is_turned and not upright:
                image = image.transpose(Image.Transpose[_BACK[orientation]])
            rgb = to_rgb(image, 2**bits - 1 if bits in (10, 12, 14) else None)
        except Exception as error:  # Pillow's decoders raise a dozen types, SyntaxError and struct.error among them
            raise _unreadable(where, error) from error
    rgb = rgb.copy() if rgb is image else rgb
    rgb.info = {} if orientation == 1 else {"orientation": orientation, "stored_size": stored}
    return rgb


def open_cutout(source: str | Path | bytes | BinaryIO, where: object = None) -> PIL.Image.Image:
    """The picture of a file as 8-bit RGBA, as stored: its transparency says what of it is shown.

    Raises:
        FileNotFoundError, ValueError: as [`open_image`].
    """
    from decodetr.processing.picture_modes import to_rgba

    where = source if where is None else where
    with _opened(source, where) as image:
        try:
            return to_rgba(image)
        except Exception as error:  # as above
            raise _unreadable(where, error) from error


def image_header(source: str | Path | bytes | BinaryIO, where: object = None) -> tuple[tuple[int, int], int]:
    """What a picture's header says, without decoding it: ((width, height) as stored, EXIF orientation 1 to 8).

    Raises:
        FileNotFoundError, ValueError: as [`open_image`].
    """
    where = source if where is None else where
    with _opened(source, where) as image:
        try:
            return _header(image)
        except Exception as error:  # as above
            raise _unreadable(where, error) from error


def _header(image):
    """((width, height) as stored, EXIF orientation) of an opened picture."""
    if image.format == "TIFF":  # whose size Pillow gives as turned
        width, height, orientation = (image.tag_v2.get(tag) for tag in (_WIDTH, _HEIGHT, _ORIENTATION))
        return (width, height), orientation if orientation in range(2, 9) else 1
    if image.format == "PNG" and "exif" not in image.info and _says_more(image.fp):
        image.load()
    return image.size, _orientation(image)


def _says_more(stream):
    """Whether a PNG file has an orientation behind its pixels, which Pillow reads only when it has decoded them."""
    place = stream.tell()
    stream.seek(8)
    pixels, more = False, False
    while len(head := stream.read(8)) == 8 and not more:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        pixels = pixels or kind == b"IDAT"
        start = stream.tell()
        if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            more = kind == b"eXIf" or stream.read(len(_XMP)).startswith((_XMP, _PROFILE))
        stream.seek(start + length + 4)
    stream.seek(place)
    return more


def pixel_count(source: str | Path | bytes | BinaryIO) -> int:
    """Width times height, from a picture's header. 0 for what cannot be opened, which opening it will say."""
    try:
        with _opened(source, source) as image:
            return image.width * image.height
    except (OSError, ValueError):
        return 0


def in_batches(items: Iterable[Item], batch_size: int, pixels: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yield lists of at most `batch_size` items whose pictures have at most BATCH_PIXELS together. Larger ones alone.

    Args:
        items (sequence). batch_size (`int`).
        pixels: function that gives the number of pixels of an item.
    """
    batch, held = [], 0
    for item in items:
        count = pixels(item)
        if batch and (len(batch) == batch_size or held + count > BATCH_PIXELS):
            yield batch
            batch, held = [], 0
        batch, held = [*batch, item], held + count
    if batch:
        yield batch


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) of a picture as its EXIF orientation turns it."""
    width, height = size
    return (height, width) if orientation in _QUARTER_TURNS else (width, height)


def annotated_frame(
    size: tuple[int, int], orientation: int, declared: tuple[int, int] | None = None
) -> tuple[str, bool]:
    """Which pixels annotations are of, where EXIF turns a picture.

    The declared size decides where it can: if it is that of the pixels as stored and not of the picture as turned,
    boxes are of the former. Where it cannot - a square, a half turn, a mirrored picture, no size at all - they are
    taken to be of the picture as people see it: browsers, CVAT, Label Studio, labelme, OpenCV and `datasets` turn it.

    Args:
        size (`tuple`): (width, height) as stored. orientation (`int`): of EXIF, 1 to 8.
        declared (`tuple`, *optional*): (width, height) of the annotations.

    Returns:
        ("upright" or "stored", whether the size, or that nothing is turned, decides it).
    """
    turned = upright_size(size, orientation)
    if orientation == 1 or (turned != tuple(size) and declared is not None and tuple(declared) == turned):
        return "upright", True
    if turned != tuple(size) and declared is not None and tuple(declared) == tuple(size):
        return "stored", True
    return "upright", False


def _orientation(image):
    from PIL import Image

    try:
        # Not that of PNG files, which decodes them for what `_says_more` finds.
        found = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data, of a dozen types, say nothing about the picture
        return 1
    return found if found in range(2, 9) else 1


def _opened(source, where):
    """A PIL image whose header is read and allowed. Pixels are not."""
    from PIL import Image

    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        source = regular_file(source, MAX_BYTES)
    most = limit(MAX_PIXELS_VARIABLE, MAX_PIXELS)
    of_pillow = Image.MAX_IMAGE_PIXELS
    if os.environ.get(MAX_PIXELS_VARIABLE) and of_pillow is not None and most > of_pillow:
        Image.MAX_IMAGE_PIXELS = most  # the user's wish, for the process too: decoders and crops look there again
    try:
        Image.init()  # of the formats that Pillow was built with, AVIF may be missing
        image = Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # as an error, if asked for
        raise _too_large(where, error, min(most, 2 * Image.MAX_IMAGE_PIXELS)) from error
    except Exception as error:
        raise _unreadable(where, error) from error
    if image.format == "JPEG2000":  # whose decoder takes 19 bytes a pixel, four times what others do
        most = limit(MAX_PIXELS_VARIABLE, MAX_PIXELS // 2)
    size = f"{image.width} x {image.height} pixels"
    if image.width * image.height > most:
        image.close()
        raise _too_large(where, size, most)
    if max(image.size) > MAX_SIDE:
        image.close()
        side = f"{MAX_SIDE:,} pixels a side"
        raise TooManyPixels(f"{where}: {size}, more than the {side} that are decoded at most; cut it into parts", side)
    return image


def _too_large(where, size, most):
    return TooManyPixels(
        f"{where}: {size}, more than the {most:,} pixels that are decoded at most; if you trust the picture, give "
        f"--max-image-pixels or set the environment variable {MAX_PIXELS_VARIABLE}",
        f"{most:,} pixels",
    )


def _unreadable(where, error):
    return ValueError(
        f"{where}: expected a readable image ({', '.join(FORMATS)}), got {type(error).__name__}: {error}; replace "
        "or remove the file"
    )
