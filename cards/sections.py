"""The sections of a card, and how a card is renewed without losing what a person wrote.

A section that decodetr wrote begins with a comment, `<!-- decodetr:use 1a2b3c4d -->`: its key, and a digest of its
text, which tells whether somebody changed it since. Everything without such a comment is somebody's own.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

_MARK = re.compile(r"<!-- decodetr:(\w+)(?: ([0-9a-f]{8}))? -->\s*")
_HEADING = re.compile(r"##? \S")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


@dataclass(frozen=True)
class Section:
    """
    A part of a card that begins with a heading of the first or second level, or what stands before the first one.

    Args:
        text (str): of the section, with its heading. key (str or None): of one that decodetr wrote. written (str or
            None): digest of the text as decodetr wrote it.
    """

    text: str
    key: str | None = None
    written: str | None = None

    @property
    def heading(self) -> str:
        """Its first line."""
        return self.text.partition("\n")[0].strip()

    @property
    def edited(self) -> bool:
        """Somebody changed it since decodetr wrote it."""
        return self.written is not None and self.written != _digest(self.text)

    def __str__(self) -> str:
        mark = "" if self.key is None else f"<!-- decodetr:{self.key} {self.written or _digest(self.text)} -->\n"
        return mark + self.text


def sections_of(body: str) -> list[Section]:
    """The sections of a card without its front matter. Lines inside of fences begin none."""
    found: list[tuple[str | None, str | None, list[str]]] = [(None, None, [])]
    fence, marked = "", False
    for line in body.splitlines():
        mark, opening = _MARK.fullmatch(line), _FENCE.match(line)
        if fence:
            if opening and opening[1].startswith(fence) and not opening[2].strip():
                fence = ""
        elif mark:
            found.append((mark[1], mark[2], []))
            marked = True
            continue
        elif _HEADING.match(line) and not marked:
            found.append((None, None, []))
        elif opening:
            fence = opening[1]
        found[-1][2].append(line)
        marked = marked and not line.strip()
    parts = [Section("\n".join(lines).strip(), key, written) for key, written, lines in found]
    return [part for part in parts if part.text]


def joined(sections: Iterable[Section]) -> str:
    """The body of a card."""
    return "\n\n".join(map(str, sections)) + "\n"


def renewed(old: str, new: str, overwrite: bool = False) -> tuple[str, list[str]]:
    """The body of a card with the sections of a new one.

    Sections that decodetr wrote and nobody changed are replaced, those that the new body lacks stay as they are, and
    new ones come after the one that they follow there. A section of one's own with the same heading as one of
    decodetr's stands for it, and so does a title.

    Args:
        old, new (str): bodies. overwrite (bool): replace sections of decodetr that somebody changed, too.

    Returns:
        (body, headings of the sections that were kept although they differ from the new ones).
    """
    before, fresh = sections_of(old), {part.key: part for part in sections_of(new)}
    kept, result = [], []
    headings = {part.heading.casefold(): key for key, part in fresh.items() if part.heading.startswith("## ")}
    there = set()
    for part in before:
        key = part.key
        if key is None:
            own = headings.get(part.heading.casefold())
            own = "about" if part.heading.startswith("# ") else own
            there.add(own)
            if own in fresh:
                kept.append(part.heading)
        else:
            there.add(key)
            if key in fresh:
                if part.edited and not overwrite:
                    kept.append(part.heading)
                else:
                    part = fresh[key]
        result.append(part)
    place = 0
    for key, part in fresh.items():
        if key not in there:
            result.insert(place, part)
        where = [i for i, other in enumerate(result) if _is(other, key, headings)]
        place = where[0] + 1 if where else place
    return joined(result), kept


def with_section(body: str, section: Section, after: str | None = None) -> str:
    """A body with a section in the place of the one with its key, or with its heading.

    Args:
        after (str, *optional*): key or heading of the section that a new one follows. Default: the last one.
    """
    parts = sections_of(body)
    places = [i for i, part in enumerate(parts) if part.key == section.key or part.heading == section.heading]
    if places:
        parts[places[0]] = section
        parts = [part for i, part in enumerate(parts) if i not in places[1:]]
    else:
        following = [i + 1 for i, part in enumerate(parts) if after in (part.key, part.heading)]
        parts.insert(following[0] if following else len(parts), section)
    return joined(parts)


def _is(part, key, headings):
    if part.key is not None:
        return part.key == key
    return headings.get(part.heading.casefold(), "about" if part.heading.startswith("# ") else None) == key


def _digest(text):
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return hashlib.sha256(lines.encode("utf-8", errors="backslashreplace")).hexdigest()[:8]
