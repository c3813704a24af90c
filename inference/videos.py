"""Frames of videos, streams and cameras, by PyAV."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from decodetr.utils.files import limit
from decodetr.utils.limits import MAX_PIXELS, MAX_PIXELS_VARIABLE, MAX_SIDE

if TYPE_CHECKING:
    from typing import Any

    import PIL.Image

# What FFmpeg may take a file for. Play lists, which name other files and addresses, are not among them.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,m4v,h264,hevc"
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".flv", ".ogv", ".wmv", ".3gp")
)
_STREAMS = ("rtsp://", "rtsps://", "rtmp://", "srt://", "udp://")
_CAMERA = "camera:"
_PROTOCOLS = {"file": "file", "http": "http,https,tcp,tls", "live": "rtsp,rtsps,rtp,srtp,rtmp,srt,udp,tcp,tls"}
_CAMERAS = {"Linux": ("v4l2", "/dev/video{}"), "Darwin": ("avfoundation", "{}"), "Windows": ("dshow", "video={}")}
_SECONDS = 30.0  # of waiting for a stream
_SAY_LENGTH = ("mov,", "matroska,", "avi", "flv")  # when they begin. Of others FFmpeg reads the end, or guesses
_MISSING = 0.05  # of what a file says that it has: lengths are not always exact
_MISSING_FRAMES = 3


class Frame(NamedTuple):
    """A frame of a video: its number from 0, its time in seconds, and its picture, as a player shows it."""

    number: int
    seconds: float
    picture: PIL.Image.Image


def is_video(source: str | Path) -> bool:
    """Whether a file's suffix is that of a video."""
    return os.path.splitext(os.fspath(source))[1].lower() in VIDEO_SUFFIXES


def is_live(source: str) -> bool:
    """Whether a source is a stream or a camera ("camera:0"), which has no end."""
    return source.lower().startswith((*_STREAMS, _CAMERA))


class Video:
    """
    A video, stream or camera that is open.

    Args:
        source (str): a file, an http(s):// or stream address, or "camera:N".

    Attributes:
        rate (float): frames a second. frames (int): as the file says, 0 where it does not.

    Raises:
        FileNotFoundError: no such file. ValueError: nothing of a known format, or without pictures.
    """

    def __init__(self, source: str) -> None:
        import av  # pictures do without it

        self.source = source
        try:
            self._container = av.open(*_how(source)[0], **_how(source)[1])
        except FileNotFoundError:
            raise FileNotFoundError(f"{source}: no such file") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"{source}: expected a video, got: {error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"{source}: expected a video, got a file without pictures, such as sound alone")
        self._stream = self._container.streams.video[0]
        most = limit(MAX_PIXELS_VARIABLE, MAX_PIXELS)
        width, height = self._stream.width, self._stream.height
        if width * height > most or max(width, height) > MAX_SIDE:
            self._container.close()
            raise ValueError(
                f"{source}: frames of {width} x {height} pixels, more than the {most:,}, or {MAX_SIDE:,} a side, that "
                "are decoded at most; if you trust the video, --max-image-pixels takes more pixels"
            )
        self._stream.thread_type = "AUTO"
        self.rate = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.frames = self._stream.frames or 0
        self._end = 0.0

    def read(self, stride: int = 1, most: int | None = None) -> Iterator[Frame]:
        """Yield every `stride`-th frame, at most `most`.

        Raises:
            ValueError: the file is damaged from here on, ends clearly before the end that it says, or has no frame.
        """
        import av

        given = number = 0
        try:
            for number, frame in enumerate(self._decoded(), 1):
                if (number - 1) % stride:
                    continue
                picture = frame.to_image()
                if turn := getattr(frame, "rotation", 0):
                    picture = picture.rotate(turn, expand=True)
                seconds = float(frame.time if frame.time is not None else (number - 1) / self.rate)
                yield Frame(number - 1, seconds, picture)
                given += 1
                if given == most:
                    return
        except av.FFmpegError as error:
            raise ValueError(f"{self.source}: damaged after {given} frames: {error}") from error
        if not number:
            raise ValueError(f"{self.source}: expected a video, got no frame that can be read")
        if self._is_cut_off(number):
            ends = f"it ends at {self._end:.1f} of {self._length():.1f} seconds"
            raise ValueError(f"{self.source}: damaged after {given} frames: {ends}")

    def _decoded(self):
        """All frames. Notes where the file ends: sound may be longer than pictures."""
        for packet in self._container.demux():
            start = packet.pts if packet.pts is not None else packet.dts
            if start is not None:
                self._end = max(self._end, float((start + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index == self._stream.index:
                yield from packet.decode()

    def _length(self):
        """Seconds, as the file says, 0 where it does not."""
        form = self._container.format.name
        if not form.startswith(_SAY_LENGTH):
            return 0.0
        if form == "avi":  # whose frames take equally long. FFmpeg's own length is less where much is missing
            return self.frames / self.rate
        return (self._container.duration or 0) / 1e6

    def _is_cut_off(self, count):
        """Whether a file that had so many frames lacks its end: by its length, and by its number of frames too if it
        says that. An edit list hides frames, and the last frame may be shown for long."""
        missing, length = self.frames - count, self._length()
        if self.frames and missing <= max(_MISSING_FRAMES, _MISSING * self.frames):
            return False
        return length - self._end > max(_MISSING_FRAMES / self.rate, _MISSING * length)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()


def _how(source):
    """Arguments of `av.open`."""
    options: dict[str, Any] = {"timeout": _SECONDS}
    if source.startswith(_CAMERA):
        kind, pattern = _CAMERAS.get(platform.system(), _CAMERAS["Linux"])
        return (pattern.format(source.removeprefix(_CAMERA)),), {"format": kind}
    if is_live(source):
        return (source,), options | {"options": {"protocol_whitelist": _PROTOCOLS["live"]}}
    if source.lower().startswith(("http://", "https://")):
        white = {"protocol_whitelist": _PROTOCOLS["http"], "format_whitelist": _FORMATS}
        return (source,), options | {"options": white}
    file = Path(source).absolute()
    if not file.is_file():
        raise FileNotFoundError(source)
    return (str(file),), {"options": {"protocol_whitelist": _PROTOCOLS["file"], "format_whitelist": _FORMATS}}
