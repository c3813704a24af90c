"""What readers find wrong with data: listed by kind, or the first error raised.

A reader says everything it finds to a `Findings`. Training gives it a `FirstError`, which raises. `decodetr validate`
a `Findings`, which goes on, so that both see the same rows with the same eyes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from pathlib import Path


@dataclass
class Finding:
    """One kind of problem. `level`: "error" (training would fail or learn something wrong) or "warning"; `example`:
    the first place; `repair`: what happens to it in a repaired copy, empty where nothing can be done."""

    level: str
    what: str
    count: int = 1
    example: str = ""
    repair: str = ""


class Findings(list[Finding]):
    """Findings by kind."""

    def add(self, level: str, what: str, example: str = "", repair: str = "") -> None:
        """Count a problem."""
        for finding in self:
            if finding.what == what:
                finding.count += 1
                return
        self.append(Finding(level, what, 1, example, repair))

    @property
    def errors(self) -> int:
        """How many kinds are errors."""
        return sum(finding.level == "error" for finding in self)

    def warn(self, logger: logging.Logger, source: str | Path) -> None:
        """Log the warnings, one line a kind. `source` names the data."""
        for finding in self:
            if finding.level == "warning":
                done = f" ({finding.repair})" if finding.repair else ""
                logger.warning(
                    "%s: %d %s%s, the first: %s", source, finding.count, finding.what, done, finding.example
                )


class FirstError(Findings):
    """Findings of a reader that cannot go on: an error is raised, with its example as the message."""

    def add(self, level: str, what: str, example: str = "", repair: str = "") -> None:
        """Count a warning. Raises ValueError for an error."""
        if level == "error":
            raise ValueError(example or what)
        super().add(level, what, example, repair)
