"""One HTML file that shows what a run made: no scripts, nothing from the net, pictures inside, light and dark.

Plain functions make blocks, strings of HTML in which every text they were given is escaped. `write_report` puts blocks
under headings. What the page says comes from its caller: nothing is measured or read here but the pictures.
"""

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path

from decodetr.utils.files import write_text
from decodetr.utils.markup import html_link, html_text

_MEDIA_TYPES = {".gif": "gif", ".jpeg": "jpeg", ".jpg": "jpeg", ".png": "png", ".svg": "svg+xml", ".webp": "webp"}
_STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2430; --faint: #5b6675; --line: #d9dee5; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181e; --ink: #e4e8ee; --faint: #9aa6b5; --line: #333c48; --link: #7db7f5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { line-height: 1.2; margin: 0.5rem 0; }
h2 { margin: 2.5rem 0 0.75rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }
p { max-width: 52rem; }
a { color: var(--link); }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: 0.3rem 0.9rem; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
figure { margin: 1.25rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line); }
figcaption { color: var(--faint); font-size: 0.9rem; max-width: 52rem; margin-top: 0.35rem; }
pre { padding: 0.8rem 1rem; border: 1px solid var(--line); border-radius: 4px; font-size: 0.85rem;
  white-space: pre-wrap; }
"""


def paragraph(text: object) -> str:
    """A block: one paragraph."""
    return f"<p>{html_text(text)}</p>"


def table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A block: a table.

    Args:
        header: column titles.
        rows: sequences of as many cells, each anything that `str` takes. All but the first are set to the right.
    """
    head = "".join(f'<th scope="col">{html_text(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html_text(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def picture(file: str | Path, caption: object) -> str:
    """A block: a picture file, embedded as it is, with a caption that is its text for screen readers too.

    Raises:
        FileNotFoundError: no such file. ValueError: no kind of picture that browsers show, by its suffix.
    """
    file = Path(file)
    if file.suffix.lower() not in _MEDIA_TYPES:
        raise ValueError(f"{file}: expected a picture with {', '.join(_MEDIA_TYPES)}, got {file.suffix!r}; convert it")
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    source = f"data:image/{_MEDIA_TYPES[file.suffix.lower()]};base64,{data}"
    text = html_text(caption)
    return f'<figure>\n<img src="{source}" alt="{text}">\n<figcaption>{text}</figcaption>\n</figure>'


def code(lines: Iterable[str]) -> str:
    """A block: lines as they would be typed."""
    return f"<pre><code>{html_text(chr(10).join(lines))}</code></pre>"


def links(targets: Mapping[str, object]) -> str:
    """A block: a list of links.

    Args:
        targets: {file or folder, relative to the report and with "/": what it is}.
    """
    items = "".join(
        f'<li><a href="{html_link(target)}">{html_text(target)}</a>: {html_text(text)}</li>\n'
        for target, text in targets.items()
    )
    return f"<ul>\n{items}</ul>"


def write_report(file: str | Path, title: str, introduction: str, sections: Mapping[str, Iterable[str]]) -> Path:
    """Write the page, whole or not at all.

    Args:
        file: the HTML file to write. Its folder is made if missing.
        title: heading and name of the page.
        introduction: text of the paragraph below it.
        sections: {heading: list of blocks}, in order. Titles, headings and introduction are plain text.

    Returns:
        `file` as a `Path`.
    """
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{html_text(title)}</h1>",
        paragraph(introduction),
    ]
    for heading, blocks in sections.items():
        parts += ["<section>", f"<h2>{html_text(heading)}</h2>", *blocks, "</section>"]
    return write_text(file, "\n".join([*parts, "</body>", "</html>", ""]))
