"""Names, captions and paths as text of cards and pages: they can hold anything, and none of it may become markup."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import yaml

_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # change the direction of what follows
# An underscore inside of a word is none, nor are brackets without an address behind them.
_MARKUP = re.compile(r"[\\`*|~$]|\](?=\()|\{(?=[{%])|(?<!\w)_|_(?!\w)")


def visible(text: object) -> str:
    """Any text with escapes such as \\x1b for characters that are not shown but do something: controls of a terminal,
    changes of direction, bytes of a file name that are no UTF-8. Line breaks and tabs stay."""
    return "".join(
        c.encode("unicode_escape").decode("ascii")
        if c in _TURNING or (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t")
        else c
        for c in str(text)
    )


def one_line(text: object) -> str:
    """The same on one line, with single blanks."""
    return visible(" ".join(str(text).split()))


def markdown_text(text: object) -> str:
    """One line of Markdown that shows the text as it is, also in a cell of a table. HTML in it is text too."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(lambda found: "\\" + found[0], text)


def markdown_table(
    header: Sequence[object], rows: Iterable[Iterable[object]], left: int = 1, escape: bool = True
) -> str:
    """A table in Markdown, a line break at its end. The first `left` columns are set to the left, the others to the
    right. Cells are anything that `str` takes, and are shown as text. For a terminal, from which a path is copied,
    without escapes."""
    rule = ["---" if column < left else "---:" for column in range(len(header))]
    lines = [[(markdown_text if escape else one_line)(cell) for cell in line] for line in (header, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])) + "\n"


def code_block(text: str, language: str = "") -> str:
    """A fenced block of Markdown. Its fence is longer than any in the text."""
    runs = re.findall("`+", text)
    fence = "`" * max(3, 1 + max(map(len, runs), default=0))
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def front_matter(fields: Mapping[str, object]) -> str:
    """The YAML at the head of a card, between its rules, without a line break at its end.

    Args:
        fields (`dict`): texts and lists of texts.
    """
    fields = {
        key: [visible(v) for v in value] if isinstance(value, list) else visible(value)
        for key, value in fields.items()
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)}---"
