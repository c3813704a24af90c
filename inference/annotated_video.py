"""The annotated video of `decodetr predict`, written by PyAV: every picture at its own time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING

import PIL.ImageOps

if TYPE_CHECKING:
    from pathlib import Path

    import PIL.Image

_TICKS = 10_000  # of a second, as exact as the seconds of detections.json. MPEG-4 takes up to 65,535
_LATE = 10.0  # seconds at most before the first picture
_OPTIONS = {"libx264": {"preset": "ultrafast", "crf": "20"}, "mpeg4": {"flags": "+qscale", "qmin": "3"}}


@contextmanager
def video_sink(file: Path | None, rate: float) -> Iterator[Callable[[PIL.Image.Image, float], None] | None]:
    """A function that appends a picture at its time in seconds to a video, or None where there is none.

    Args:
        rate (float): pictures a second, as long as which the last one is shown.
    """
    if file is None:
        yield None
        return
    with closing(_Writer(file, rate)) as writer:
        yield writer.show


class _Writer:
    """An MP4 file, which begins with its first picture: that one says how large it is."""

    def __init__(self, file, rate):
        self._file, self._rate, self._step = file, rate, max(1, round(_TICKS / rate))
        self._container = self._stream = None
        self._shift, self._last = 0, -1

    def show(self, picture: PIL.Image.Image, seconds: float) -> None:
        """Append a picture."""
        import av  # pictures do without it

        time = round(seconds * _TICKS)
        if self._stream is None:
            # Clocks of cameras and streams began long ago, and nobody waits for their first picture.
            self._shift = 0 if 0 <= seconds <= _LATE else -time
            self._open(picture.width // 2 * 2, picture.height // 2 * 2)  # codecs want even sides
        size = self._stream.width, self._stream.height
        if (picture.width // 2 * 2, picture.height // 2 * 2) != size:  # some streams change theirs
            picture = PIL.ImageOps.pad(picture, size)
        frame = av.VideoFrame.from_image(picture.crop((0, 0, *size)))
        frame.pts, frame.time_base = self._after(time), Fraction(1, _TICKS)
        self._write(frame)

    def _after(self, time):
        """The time of a picture, after that of the last one."""
        if time + self._shift < self._last - _TICKS:  # a stream that began anew goes on from here
            self._shift = self._last + self._step - time
        self._last = max(time + self._shift, self._last + 1)
        return self._last

    def _open(self, width, height):
        import av

        self._container = av.open(str(self._file), "w")
        codec = next(name for name in _OPTIONS if name in av.codecs_available)  # H.264 plays in browsers too
        self._stream = self._container.add_stream(codec, rate=max(1, round(self._rate)))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._stream.options = _OPTIONS[codec]

    def _write(self, frame):
        for packet in self._stream.encode(frame):
            packet.duration = self._step  # counts for the last one: the others end where the next one begins
            self._container.mux(packet)

    def close(self) -> None:
        """End the file, where a picture began it."""
        if self._container is None:
            return
        with self._container:
            if self._stream is not None:
                self._write(None)
