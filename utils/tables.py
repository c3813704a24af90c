"""Tables as data, a header and rows of cells, written as Markdown. utils/html_page.py writes them as HTML."""

from collections.abc import Iterable, Sequence
from decimal import Decimal

from decodetr.utils.card_text import markdown_table

__all__ = ["markdown_table", "markdown_tables", "score_text"]


def markdown_tables(tables: Iterable[tuple[str, Sequence[object], Iterable[Sequence[object]]]]) -> str:
    """Tables in Markdown, each under its title. Cells are shown without escapes, as for a terminal.

    Args:
        tables: list of (title, header, rows).
    """
    return "\n".join(f"{title}:\n\n{markdown_table(header, rows, escape=False)}" for title, header, rows in tables)


def score_text(score: float) -> str:
    """A score in 0..1 as a text for `--threshold`: all its digits, since a score above it may be close, and no
    exponent."""
    return f"{Decimal(repr(float(score))).normalize():f}"
