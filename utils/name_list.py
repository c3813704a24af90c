"""Names as a user writes them, on a command line or in a file. In a file, a line that begins with # is a comment.

Names that look equal are equal ([`as_seen`]); `spelled_as` finds those of annotations again, which stay as written.
"""

import csv
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from decodetr.utils.documents import read_json, read_text
from decodetr.utils.spelling import as_seen

_PROMPTS = re.compile(r":\s+|:$")  # between a name and its prompts
# A name in quotes, and prompts. Quotes in it are doubled, as in CSV.
_QUOTED = re.compile(r'"((?:[^"]|"")+)"\s*(?::(.*))?')
_FILES = (".txt", ".json")
_NUMBERED = re.compile(r"(\d+)[.),;]?\s")
_ID = re.compile(r"\d+:\s")  # before a text: in id2label, or in the names of YOLO
_BACKWARDS = "expected a name and its texts, got numbers with a text each, as of class ids"
_HEADS = frozenset("id name names class classes class_name label labels category category_name supercategory".split())
logger = logging.getLogger(__name__)


def read_names(text: str | None = None, file: str | Path | None = None, option: str = "--names") -> list[str] | None:
    """Names of `--names` (comma-separated, CSV quotes around names with commas) or of `--names-file` (one a line).
    `option` is what messages call the text, of which no file is read.

    Returns None where neither is given. Repeated names are taken once, in their first place.

    Raises:
        ValueError: both given, no name in them, semicolons between names, or a file that is no list of one name a
            line.
    """
    if text is not None and file is not None:
        raise ValueError("give --names or --names-file, not both")
    if file is not None:
        names = []
        for _, line in _lines(file):
            name, prompts = _quoted(line)
            names.append(line if name is None or prompts is not None else name)
    elif text is not None:
        names = _items(text, option)
    else:
        return None
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    where = f"{file}" if file is not None else f"{option} {text!r}"
    if not names:
        raise ValueError(f"no names in {where}")
    _warn_of_case(names, where)
    return names


def read_typed_names(text: str | None, option: str) -> list[str] | None:
    """As [`read_names`], of an option of a command: a .txt or .json file stands for the names in it."""
    if names_file(text) is None:
        return read_names(text, option=option)
    return list(read_prompts(text, option=option) or ())


def names_file(text: str | None) -> Path | None:
    """The file that people mean where they type `names.txt` in the place of names. It need not be there."""
    return Path(text) if text and "," not in text and Path(text).suffix.lower() in _FILES else None


def read_prompts(
    text: str | None = None, file: str | Path | None = None, option: str = "--names"
) -> dict[str, list[str]] | None:
    """Names and what is embedded for each of them, which is the name itself where nothing else is said.

    Args:
        text: of `--names`, see [`read_names`]; `name: prompt; prompt` is taken too. Or a .txt or .json file.
        file: of `--names-file`. One name a line, or `name: prompt; prompt`, where a name in double quotes may have
            a colon; or a .json file with a list of names, or {name: prompt or list of prompts}.
        option: what messages call the text.

    Returns:
        {name: texts}, or None where neither is given. A name that comes again with the same texts is taken once, in
        its first place.

    Raises:
        FileNotFoundError: no such file. ValueError: both given, no name in them, a name without texts or with other
            texts when it comes again, a key that a .json file has twice or that is a heading, or class ids in the
            place of names. The message has the file and, of a text, the line.
    """
    if text is not None and file is not None:
        raise ValueError("give --names or --names-file, not both")
    if file is None and (file := names_file(text)) is not None and not file.is_file():
        raise FileNotFoundError(
            f"{option} {text}: no such file; a name that ends in {file.suffix} goes into a file of names"
        )
    if file is None:
        if (names := read_names(text, option=option)) is None:
            return None
        written = [(f"{option} {name!r}", name) for name in names]
    elif Path(file).suffix.lower() == ".json":
        return _of_json(file)
    else:
        written = [(f"{file}, line {number}", line) for number, line in _lines(file)]
    found: dict[str, list[str]] = {}
    ids = len(written) > 1  # as long as all names are numbers with a text
    for where, line in written:
        name, rest = _quoted(line) if file is not None else (None, None)  # CSV took the quotes of a command line
        if name is None:
            name, *prompted = _PROMPTS.split(line, maxsplit=1)
            rest = prompted[0] if prompted else None
        prompts = [name] if rest is None else [prompt.strip() for prompt in rest.split(";") if prompt.strip()]
        if not (name and prompts):
            raise ValueError(
                f"{where}: expected a name, or 'name: prompt; prompt', got {line!r}; a name with a colon goes into a "
                "file of names, in double quotes"
            )
        ids = ids and len(prompts) == 1 and bool(_ID.match(line))
        _add(found, name, prompts, where)
    if not found:
        raise ValueError(f"no names in {file}")
    if ids:
        raise ValueError(
            f"{written[0][0]}: {_BACKWARDS}; give the texts alone, or, in a file, double quotes around numbers that "
            "are names"
        )
    if file is not None:  # else `read_names` has said it
        _warn_of_case(found, str(file))
    return found


def _items(text, option):
    text = as_seen(text)
    try:
        names = [name for row in csv.reader([text], skipinitialspace=True, strict=True) for name in row]
    except csv.Error as error:
        raise ValueError(
            f"{option} {text!r}: expected names with commas between them, and double quotes around a name with a "
            f"comma, such as 'cat,\"salt, pepper\"'; got: {error}"
        ) from error
    for name in names:
        quoted = name.replace('"', '""')
        if _has_semicolon(name) and f'"{quoted}"' not in text:
            raise ValueError(
                f"{option} {name!r}: expected names with commas between them, got a semicolon in one; write commas, "
                "or double quotes around the name"
            )
    return names


def _has_semicolon(line):
    """Whether there is one, and not between prompts."""
    return ";" in line and not _PROMPTS.search(line)


def _lines(file):
    """(number, line) of the lines that say something. A name may be quoted, as it is on a command line."""
    found = []
    for number, line in enumerate(as_seen(read_text(file)).splitlines(), start=1):
        if (line := line.strip()) and not line.startswith("#"):
            found.append((number, line))
    alone = found[0][1] if len(found) == 1 else ""
    if ("," in alone or _has_semicolon(alone)) and not _QUOTED.fullmatch(alone):
        raise ValueError(
            f"{file}, line {found[0][0]}: expected one name a line, got {alone!r} alone; write each name on a "
            "line of its own, or double quotes around the line if it is one name"
        )
    if what := _other_format([line for _, line in found]):
        number, line = found[0]
        raise ValueError(f"{file}, line {number}: expected one name a line and nothing else, got {line!r}: {what}")
    return found


def _other_format(lines: Sequence[str]) -> str | None:
    """What lines plainly are that are no names, all of them, and what to do. None where they may be names."""
    if lines and all(line.startswith("- ") for line in lines):
        return "every line is an item of a list; remove the dashes"
    if len(lines) < 2:
        return None
    if all(line.endswith(",") for line in lines[:-1]):
        return "every line ends with a comma; remove the commas"
    if all(line.endswith(";") and _has_semicolon(line) for line in lines[:-1]):
        return "every line ends with a semicolon; remove the semicolons"
    numbers = [int(match[1]) if (match := _NUMBERED.match(line)) else None for line in lines]
    if numbers[0] is not None and numbers == list(range(numbers[0], numbers[0] + len(lines))):
        return "the lines are numbered; remove the numbers, or write double quotes around each line that is a name"
    for separator in ",\t;":
        rows = [line.split(separator) for line in lines]
        header = {cell.strip().strip('"').casefold() for cell in rows[0]}
        if len(rows[0]) > 1 and len({len(row) for row in rows}) == 1 and header & _HEADS and ":" not in lines[0]:
            return "the lines are rows of a table below its header; keep the column of names alone, without the header"
    return None


def _add(found: dict[str, list[str]], name: str, texts: list[str], where: str) -> None:
    """Add a name, unless it is there with the same texts."""
    if found.setdefault(name, texts) != texts:
        raise ValueError(
            f"{where}: {name!r} is there before, as {'; '.join(found[name])!r}; leave one, or write all its texts "
            "there, as `name: prompt; prompt` in a text or {name: [prompt, prompt]} in a .json file"
        )


def _warn_of_case(names: Iterable[str], where: str) -> None:
    """Warn of names that are equal but for case: each is a class of its own."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.casefold(), []).append(name)
    if alike := [group for group in groups.values() if len(group) > 1]:
        some = "; ".join(", ".join(map(repr, group)) for group in alike[:5]) + ("; ..." if alike[5:] else "")
        logger.warning("%s: names that are equal but for case are names of their own: %s", where, some)


def _quoted(line):
    """(name, text of its prompts or None) of a line that begins with a name in quotes, else (None, None)."""
    match = _QUOTED.fullmatch(line)
    return (match[1].replace('""', '"').strip(), match[2]) if match else (None, None)


def _of_json(file):
    content = read_json(file, unique=True)  # Python would keep the last of two texts for a name
    if not isinstance(content, dict | list | None):
        raise ValueError(f"{file}: expected a list of names, or {{name: prompt or list of prompts}}, got {content!r}")
    pairs = content.items() if isinstance(content, dict) else [(name, name) for name in content or ()]
    if isinstance(content, dict):
        if len(content) > 1 and all(name.isdecimal() and isinstance(text, str) for name, text in pairs):
            raise ValueError(
                f"{file}: {_BACKWARDS}; give a list of the texts, or brackets around each if the numbers are names"
            )
        heads = [key for key, given in pairs if isinstance(given, list) and key.strip().casefold() in _HEADS]
        if heads and len(content) == 1:
            raise ValueError(
                f"{file}: expected a list of names, or {{name: prompt or list of prompts}}, got a list below the "
                f"heading {heads[0]!r}; give the list alone, or, if {heads[0]!r} is a name, its texts in a .txt file, "
                f"as `{heads[0]}: prompt; prompt`"
            )
    found = {}
    for name, given in pairs:
        texts = [given] if isinstance(given, str) else given
        fits = isinstance(texts, list) and texts and all(isinstance(text, str) and text.strip() for text in texts)
        if not (isinstance(name, str) and name.strip() and fits):
            raise ValueError(
                f"{file}: expected a list of names, or {{name: prompt or list of prompts}}, got {given!r} for {name!r}"
            )
        _add(found, as_seen(name).strip(), [as_seen(text).strip() for text in texts], str(file))
    if not found:
        raise ValueError(f"no names in {file}")
    _warn_of_case(found, str(file))
    return found
