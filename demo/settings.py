"""What a demo takes, and how much of it. Light to import: the command line reads its defaults here."""

from __future__ import annotations

from dataclasses import dataclass

from decodetr.serving.settings import MAX_NAME_LENGTH, ServeSettings
from decodetr.utils.name_list import read_names

HOST, PORT = "127.0.0.1", 7860
_SERVED = ServeSettings()


@dataclass(frozen=True)
class DemoSettings:
    """
    Settings of a demo. The limits are those of `decodetr serve`.

    Args:
        threshold (float, *optional*): 0 to 1, where the slider begins. Default: the model's.
        top_k (int): detections of a picture. prototypes (int): of the explanation of a detection.
        max_names (int): that one may type. max_bytes (int): of a picture's file. max_queue (int): people who wait.
        kept_names (int): typed names that are kept with their embeddings, so that nothing is computed twice.
        kept_seconds (int): how long files of pictures stay on the disk, and what was found in the memory.
        sessions (int): open pages whose findings are in the memory at once. The oldest ones are dropped.

    Raises:
        ValueError: a number out of range, with its option.
    """

    threshold: float | None = None
    top_k: int = _SERVED.top_k
    prototypes: int = 5
    max_names: int = _SERVED.max_names
    max_bytes: int = _SERVED.max_body_bytes
    max_queue: int = _SERVED.max_queue
    kept_names: int = _SERVED.kept_names
    kept_seconds: int = 900
    sessions: int = 200

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold must be in 0..1, got {self.threshold}")

    def names(self, text: str) -> tuple[str, ...]:
        """The names of a text that somebody typed, as `--names` has them.

        Raises:
            ValueError: none, too many, or one that is too long.
        """
        if not text.strip():
            raise ValueError('Type what to look for, with commas between names, such as: cat, "salt, pepper".')
        names = read_names(text, option="Names")
        assert names is not None
        if len(names) > self.max_names:
            raise ValueError(f"Names: {len(names):,} given, more than the {self.max_names:,} that are taken at once.")
        if long := next((name for name in names if len(name) > MAX_NAME_LENGTH), None):
            raise ValueError(
                f"Names: {long[:40]!r}... has {len(long):,} characters, at most {MAX_NAME_LENGTH} are taken."
            )
        return tuple(names)


def check_port(port: int) -> None:
    """ValueError unless a number can be a port."""
    if not 0 <= port < 1 << 16:
        raise ValueError(f"--port must be in 0..65535, got {port}")
