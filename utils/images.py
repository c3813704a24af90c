"""The one place that opens a picture.

What a file is called says nothing about its content, so the decoders are listed here: those that Pillow runs in its
own process. PostScript, which starts Ghostscript, and everything exotic are not among them. The number of pixels is
known before any is decoded, and is bounded.
"""

import io
import os
import warnings

from decodetr.utils.files import limit, regular_file

# Pillow's name of a format, and the suffixes of its files.
FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
IMAGE_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 89_478_485  # Pillow's own threshold: a quarter of a gigabyte as RGB
MAX_PIXELS_VARIABLE = "DECODETR_MAX_IMAGE_PIXELS"
MAX_BYTES = 1 << 30
_TURNING = range(2, 9)  # EXIF orientations that move pixels


def is_image(path) -> bool:
    """Whether a file's suffix is that of a picture, in any case."""
    return os.path.splitext(os.fspath(path))[1].lower() in IMAGE_SUFFIXES


def open_image(source, upright=True, where=None):
    """The picture of a file as 8-bit RGB.

    16-bit and float pictures are scaled to 8 bits by what their mode can hold: 0 to 65,535, or 0 to 1. Of several
    frames the first is taken; transparency is dropped.

    Args:
        source (`str`, `Path`, `bytes` or binary file).
        upright (`bool`): turn the pixels as the EXIF orientation says. Annotated pictures are opened as stored.
        where (`str`, *optional*): the file's name for messages; default `source`.

    Returns:
        `PIL.Image.Image` of mode RGB.

    Raises:
        FileNotFoundError: no such file. ValueError: no picture of a format of `FORMATS`, damaged, not a regular file,
            larger than the limits, or with values that have no meaning as a colour. The message names the file.
    """
    from PIL import ImageOps

    where = source if where is None else where
    with _opened(source, where) as image:
        try:
            return to_rgb(ImageOps.exif_transpose(image) if upright else image)
        except Exception as error:  # Pillow's decoders raise a dozen types, SyntaxError and struct.error among them
            raise _unreadable(where, error) from error


def image_header(source, where=None):
    """What a picture's header says, without decoding it: ((width, height) as stored, EXIF orientation 1 to 8).

    Raises:
        FileNotFoundError, ValueError: as [`open_image`].
    """
    where = source if where is None else where
    with _opened(source, where) as image:
        try:
            orientation = image.getexif().get(0x0112, 1)
        except Exception:  # damaged EXIF data say nothing about the picture
            orientation = 1
        return image.size, orientation if orientation in _TURNING else 1


def to_rgb(image):
    """A PIL image of any mode as 8-bit RGB, scaled by what its mode can hold.

    Raises:
        ValueError: values that are no colours: negative, above 65,535, or floats outside 0 to 1 and 0 to 255.
    """
    from PIL import Image

    if not (image.mode.startswith("I") or image.mode == "F"):
        return image.convert("RGB")
    import numpy as np

    values = np.asarray(image).astype(np.float64)
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    full = 65535 if image.mode != "F" else 1 if high <= 1 else 255
    if not (np.isfinite(values).all() and low >= 0 and high <= full):
        raise ValueError(
            f"values from {low:g} to {high:g} in mode {image.mode} are no colours; expected 0 to 65,535, or floats "
            "from 0 to 1 or 0 to 255: convert the picture to 8 bits"
        )
    grey = Image.fromarray((values * (255 / full)).round().astype(np.uint8))
    return grey.convert("RGB")


def _opened(source, where):
    """A PIL image whose header is read and allowed; pixels are not."""
    from PIL import Image

    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        source = regular_file(source, MAX_BYTES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
        try:
            Image.init()  # of the formats that Pillow was built with, AVIF may be missing
            image = Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])
        except Exception as error:
            raise _unreadable(where, error) from error
    most = limit(MAX_PIXELS_VARIABLE, MAX_PIXELS)
    if image.width * image.height > most:
        image.close()
        raise ValueError(
            f"{where}: {image.width} x {image.height} pixels, more than the {most:,} that are decoded at most; if you "
            f"trust the picture, set the environment variable {MAX_PIXELS_VARIABLE}"
        )
    return image


def _unreadable(where, error):
    return ValueError(
        f"{where}: expected a readable picture ({', '.join(FORMATS)}), got {type(error).__name__}: {error}; replace "
        "or remove the file"
    )
