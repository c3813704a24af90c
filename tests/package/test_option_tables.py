"""The tables of options in docs/training_options.md are those of the dataclasses. Run as a program, it writes them."""

import dataclasses
import re
from pathlib import Path

import pytest

from decodetr.training.options.arguments import DeCoDetrTrainingArguments
from decodetr.training.options.options import TrainOptions
from decodetr.training.options.own_arguments import GROUPS, OwnArguments, option_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training_options.md"
OWN = {entry.name for entry in dataclasses.fields(OwnArguments)}
TABLES = (DeCoDetrTrainingArguments, TrainOptions)


def _table(kind):
    """A row for each field that the class itself describes."""
    described = (entry for entry in dataclasses.fields(kind) if kind is TrainOptions or entry.name in OWN)
    rows = [_row(entry, kind) for entry in described if "help" in entry.metadata]
    head = "| option | default | |\n|---|---|---|" if kind is DeCoDetrTrainingArguments else "| option | |\n|---|---|"
    return "\n".join([head, *rows])


def _row(entry, kind):
    text = entry.metadata["help"].replace("|", "\\|")
    option = entry.metadata.get("flags", [option_of(entry.name)])[0]
    if kind is TrainOptions:
        return f"| `{option}` | {text} |"
    value = str(entry.default).lower() if entry.default is None or isinstance(entry.default, bool) else entry.default
    return f"| `{option}` | {entry.metadata.get('default', value)} | {text} |"


def _pattern(kind):
    return re.compile(rf"(?<=<!-- fields of {kind.__name__} -->\n).*?(?=<!-- end -->)", re.DOTALL)


@pytest.mark.parametrize("kind", TABLES)
def test_the_page_has_the_texts_of_the_fields(kind):
    found = _pattern(kind).search(PAGE.read_text(encoding="utf-8"))
    assert found and found[0].rstrip("\n") == _table(kind), f"python {Path(__file__).name} writes it again"


def test_every_option_has_a_text():
    fields = [entry for entry in dataclasses.fields(TrainOptions) if "help" not in entry.metadata]
    assert [entry.name for entry in fields] == ["class_names", "box_format"]  # described where they are shared
    assert sorted(OWN) == sorted(name for names in GROUPS.values() for name in names.split())
    assert OWN and all(entry.metadata.get("help") for entry in dataclasses.fields(OwnArguments))


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    for kind in TABLES:
        before, after = _pattern(kind).search(page).span()
        page = f"{page[:before]}{_table(kind)}\n{page[after:]}"
    PAGE.write_text(page, encoding="utf-8")
