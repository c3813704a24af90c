"""What a card still has of a template or of its author's machine, so that nobody publishes it.

It imports nothing of ours: `utils` loads it by its path, without the model.
"""

import re

import yaml

ON_THIS_MACHINE = "a folder on this machine"  # what a snippet says of a model that is not on the Hub
_FRONT = re.compile(r"\s*---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_END = r"[^\s`'\")\]|,;*<]+"
# Each has what it is, how it is found, and what to do. After a letter, a digit, "." or ":" a slash belongs to an
# address or to a relative path.
_LEFT = (
    ("a placeholder", r"(?i:\[?\bmore information needed\b\]?)", "say it, or take it out"),
    ("a note to oneself", r"\b(?:TODO|FIXME|TBD|XXX)\b", "do it, or take it out"),
    ("a field of a template", r"(?<!\\)\{\{.*?(?:\}\}|$)|(?<!\\)\{%.*?(?:%\}|$)", "fill it"),
    ("a name to be filled in", r"(?i:<your[-_ ][^>\n]*>|\byour[-_](?:name|username|org|model|repo)\b)", "fill it"),
    ("a snippet for one machine", ON_THIS_MACHINE, "name the model as on the Hub: `decodetr card --name OWNER/NAME`"),
    (
        "a path that others do not have",
        rf"(?<![\w./:~>&-])(?:~?/[\w.@+-]+/{_END}|[A-Za-z]:\\{_END}|\\\\[\w.-]+\\{_END})|\bfile://\S+",
        "name what it is instead",
    ),
)
_PATTERNS = [(what, re.compile(pattern), remedy) for what, pattern, remedy in _LEFT]


def card_leftovers(text: str) -> list[str]:
    """What must not stand in a published card: placeholders, fields of a template, paths of one machine, a front
    matter that the Hub cannot read, no license.

    Args:
        text (`str`): a README.md, with its front matter.

    Returns:
        `list[str]`: for each the line, what was found there, and what to do. Empty: it can be published.
    """
    found = _of_front_matter(text)
    for number, line in enumerate(text.splitlines(), start=1):
        for what, pattern, remedy in _PATTERNS:
            found += [f"line {number}: {what}, {match[0].strip()!r}; {remedy}" for match in pattern.finditer(line)]
    return found


def check_card(text: str, where: str) -> None:
    """Refuse to publish a card with leftovers.

    Args:
        text (`str`): a README.md. where (`str`): what the message calls it.

    Raises:
        ValueError: with all that [`card_leftovers`] finds.
    """
    if found := card_leftovers(text):
        lines = "\n".join(f"- {one}" for one in found)
        raise ValueError(f"{where} cannot be published as it is:\n{lines}")


def _of_front_matter(text):
    match = _FRONT.match(text)
    if match is None:
        return ["line 1: expected front matter (license, library_name, ... between two lines of ---), got none"]
    try:
        fields = yaml.safe_load(match[1])
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return [f"the front matter is no YAML: {' '.join(str(error).split())}"]
    if not isinstance(fields, dict):
        return [f"the front matter must have fields with values, got {type(fields).__name__}"]
    found = [
        f"the front matter has an empty {key}; fill it, or take it out"
        for key, value in fields.items()
        if value in (None, "", [], {}) and key != "license"
    ]
    if fields.get("license") == "other" and not fields.get("license_name"):
        found.append("license: other needs a license_name; `decodetr card --license other --license-name NAME`")
    if not str(fields.get("license") or "").strip():
        found.append(
            "no license is stated. It follows from those of the detector, the CLIP, the captioner and the data that "
            "this was made of; `decodetr card --license`, in the Hub's spelling, states it"
        )
    return found
