"""What a server takes, and how much of it. Light to import: the command line reads its defaults here."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_NAME_LENGTH = 500  # characters. Text encoders of CLIP cut a text off at about 300
_HOST = re.compile(r"\*|(\*\.)?[^*:/\s]+|\[[0-9a-fA-F:]+\]")


@dataclass(frozen=True)
class ServeSettings:
    """
    Settings of a server.

    Args:
        threshold (float, *optional*): 0 to 1, for requests that say none. Default: that of the model, for each name.
        top_k (int): detections of a picture, for requests that say no number.
        batch_size (int): pictures that go through the model at once, if they wait.
        max_wait_ms (float): how long the first picture of a batch waits for others while the model has nothing to do.
        max_queue (int): pictures that are let in and not answered yet. Beyond these a request gets 429 at once.
        max_images (int): of one request. max_names (int): of one request. max_top_k (int): that one may ask for.
        max_body_bytes (int): of one request, however many pictures it has.
        kept_names (int): names of earlier requests that are kept, with what follows from them, so that nothing is
            computed twice.
        workers (int): threads that decode and resize pictures.
        new_names (bool): whether names without a stored embedding are embedded by the text model of the others.
        body_seconds (float): how long the body of a request may take to arrive.
        shutdown_seconds (int): how long answers may take that are on their way when the server is told to end.
        hosts (tuple[str]): names of this machine, besides those of the loopback, that requests may have as their Host
            while the server listens at a loopback address.
        origins (tuple[str]): web pages of other addresses whose scripts may read answers (CORS).

    Raises:
        ValueError: a number out of range, with its option.
    """

    threshold: float | None = None
    top_k: int = 100
    batch_size: int = 8
    max_wait_ms: float = 2.0
    max_queue: int = 64
    max_images: int = 16
    max_names: int = 2000
    max_top_k: int = 1000
    max_body_bytes: int = 32 << 20
    kept_names: int = 20_000
    workers: int = 2
    new_names: bool = True
    body_seconds: float = 30.0
    shutdown_seconds: int = 30
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ones = "top_k batch_size max_queue max_images max_names max_top_k max_body_bytes workers kept_names"
        for name in ones.split():
            if getattr(self, name) < 1:
                raise ValueError(f"{_option(name)} must be at least 1, got {getattr(self, name)}")
        for name in ("body_seconds", "shutdown_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{_option(name)} must be above 0, got {getattr(self, name)}")
        if not self.max_wait_ms >= 0:
            raise ValueError(f"--max-wait-ms must be at least 0, got {self.max_wait_ms}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold must be in 0..1, got {self.threshold}")
        if wrong := [host for host in self.hosts if not _HOST.fullmatch(host)]:
            raise ValueError(f"--allow-host {wrong[0]}: expected a name such as detect.example.org, without port")
        if self.top_k > self.max_top_k:
            raise ValueError(f"--top-k {self.top_k} is above --max-top-k {self.max_top_k}")

    @property
    def most_images(self) -> int:
        """Pictures that one request can have: more than all that are let in would never be."""
        return min(self.max_images, self.max_queue)

    @property
    def most_bodies(self) -> int:
        """Bodies that may arrive at once. Slow clients keep places of these alone."""
        return 8 * self.max_queue

    @property
    def most_bytes(self) -> int:
        """Bytes of bodies that arrive. Few of 8 times the bodies are large."""
        return self.max_queue * self.max_body_bytes


def _option(name):
    return "--" + name.replace("_", "-")
