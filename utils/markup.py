"""The one place where names, captions and paths become Markdown, HTML or text of a figure. What they hold is shown,
never obeyed."""

import html
from pathlib import Path
from urllib.parse import quote

from decodetr.utils.card_text import code_block, front_matter, markdown_text, one_line, visible

__all__ = [
    "code_block",
    "figure_text",
    "front_matter",
    "html_link",
    "html_text",
    "in_words",
    "markdown_text",
    "one_line",
    "visible",
]

_SHOWN = 8  # names of a list


def html_text(text: object) -> str:
    """Any text inside of an element or an attribute of HTML. Line breaks stay."""
    return html.escape(visible(text))


def html_link(path: str | Path) -> str:
    """A relative path, also one that is no UTF-8, as the target of a link."""
    return html.escape(quote(str(path), errors="surrogateescape"))


def figure_text(text: object) -> str:
    """One line for matplotlib, in which dollar signs are no formulas."""
    return one_line(text).replace("$", r"\$")


def in_words(value: object) -> str:
    """A value of a record for people: dicts as "key: value; ...", long lists of names by their length."""
    if isinstance(value, dict):
        return "; ".join(f"{key.replace('_', ' ')}: {in_words(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and len(value) > _SHOWN:
        return f"{len(value)} names: {', '.join(map(str, value[:_SHOWN]))}, ..."
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
