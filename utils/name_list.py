"""Names as a user writes them, on a command line or in a file. In a file, a line that begins with # is a comment."""

import csv
import re
from pathlib import Path

from decodetr.utils.documents import read_json, read_text

_PROMPTS = re.compile(r":\s+|:$")  # between a name and its prompts


def read_names(text: str | None = None, file: str | Path | None = None, option: str = "--names") -> list[str] | None:
    """Names of `--names` (comma-separated, CSV quotes around names with commas) or of `--names-file` (one a line).
    `option` is what messages call the text.

    Returns None where neither is given. Repeated names are taken once, in their first place.

    Raises:
        ValueError: both given, or no name in them.
    """
    if text is not None and file is not None:
        raise ValueError("give --names or --names-file, not both")
    if file is not None:
        names = [name for _, name in _lines(file)]
    elif text is not None:
        try:
            names = [name for row in csv.reader([text], skipinitialspace=True, strict=True) for name in row]
        except csv.Error as error:
            raise ValueError(
                f"{option} {text!r}: expected names with commas between them, and double quotes around a name with a "
                f"comma, such as 'cat,\"salt, pepper\"'; got: {error}"
            ) from error
    else:
        return None
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise ValueError(f"no names in {f'{file}' if file is not None else f'{option} {text!r}'}")
    return names


def read_prompts(text: str | None = None, file: str | Path | None = None) -> dict[str, list[str]] | None:
    """Names and what is embedded for each of them, which is the name itself where nothing else is said.

    Args:
        text: of `--names`, see [`read_names`].
        file: of `--names-file`. One name a line, or `name: prompt; prompt`; or a .json file with a list of names, or
            {name: prompt or list of prompts}.

    Returns:
        {name: texts}, or None where neither is given. A name that is there twice has its first place and texts.

    Raises:
        ValueError: both given, no name in them, or a name without texts. The message has the file and line.
    """
    if file is None or text is not None:
        names = read_names(text, file)
        return None if names is None else {name: [name] for name in names}
    if Path(file).suffix.lower() == ".json":
        return _of_json(file)
    found: dict[str, list[str]] = {}
    for number, line in _lines(file):
        name, *rest = _PROMPTS.split(line, maxsplit=1)
        prompts = [prompt.strip() for prompt in rest[0].split(";") if prompt.strip()] if rest else [name]
        if rest and not (name and prompts):
            raise ValueError(
                f"{file}, line {number}: expected a name, or 'name: prompt; prompt', got {line!r}; a name "
                "with a colon goes into a .json file"
            )
        found.setdefault(name, prompts)
    if not found:
        raise ValueError(f"no names in {file}")
    return found


def _lines(file):
    """(number, text) of the lines that say something."""
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if (line := line.strip()) and not line.startswith("#"):
            yield number, line


def _of_json(file):
    content = read_json(file)
    if not isinstance(content, dict | list | None):
        raise ValueError(f"{file}: expected a list of names, or {{name: prompt or list of prompts}}, got {content!r}")
    pairs = content.items() if isinstance(content, dict) else [(name, name) for name in content or ()]
    found = {}
    for name, given in pairs:
        texts = [given] if isinstance(given, str) else given
        fits = isinstance(texts, list) and texts and all(isinstance(text, str) and text.strip() for text in texts)
        if not (isinstance(name, str) and name.strip() and fits):
            raise ValueError(
                f"{file}: expected a list of names, or {{name: prompt or list of prompts}}, got {given!r} for {name!r}"
            )
        found.setdefault(name.strip(), [text.strip() for text in texts])
    if not found:
        raise ValueError(f"no names in {file}")
    return found
