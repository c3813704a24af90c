"""What keeps a card from being published."""

from pathlib import Path

import pytest

from decodetr.utils.card_leftovers import card_leftovers

SOUND = "---\nlicense: mit\nlibrary_name: decodetr\n---\n# Cones\n\n"
CARDS = sorted((Path(__file__).resolve().parents[2] / "hub_cards").glob("*/README.md"))


@pytest.mark.parametrize(
    "line, said",
    [
        ("[More Information Needed]", "a placeholder, '[More Information Needed]'"),
        ("Bias: more information needed", "a placeholder"),
        ("TODO: measure", "a note to oneself, 'TODO'"),
        ("by {{ author }}, {{ year }}", "a field of a template, '{{ author }}'"),
        ("{% if x %}", "a field of a template"),
        ("pip install <your-package>", "a name to be filled in"),
        ("from your-username/model", "a name to be filled in"),
        ("decodetr train --data /home/ann/cones --output x", "a path that others do not have, '/home/ann/cones'"),
        ("`~/models/x`", "'~/models/x'"),
        (r"C:\Users\ann\x", "a path that others do not have"),
        (r"\\server\share\x", "a path that others do not have"),
        ("see file:///x", "a path that others do not have"),
        ('model = "mine"  # a folder on this machine', "a snippet for one machine"),
    ],
)
def test_says_the_line_what_it_is_and_what_to_do(line, said):
    (found,) = card_leftovers(SOUND + line)[:1]
    assert found.startswith("line 7: ") and said in found and "; " in found


@pytest.mark.parametrize(
    "line",
    [
        "and/or, km/h, novel / base, 1/2, a/b/c.txt, runs/mine, ./x/y",
        "https://arxiv.org/abs/2604.02753, http://x.org/a/b",
        "<b>x</b><i>y</i>",
        r"a name \{\{ such }} as this",
        "a photo of a {}.",
        "todo lists, xxxl shirts",
    ],
)
def test_ordinary_text_can_be_published(line):
    assert card_leftovers(SOUND + line) == []


@pytest.mark.parametrize(
    "front, said",
    [
        ("# No front matter", "expected front matter"),
        ("---\n- a\n- b\n---\n", "must have fields"),
        ("---\na: [\n---\n", "no YAML"),
        ("---\nlibrary_name: decodetr\n---\n", "no license is stated"),
        ("---\nlicense:\n---\n", "no license is stated"),
        ("---\nlicense: mit\ndatasets: []\n---\n", "an empty datasets"),
        ("---\nlicense: other\n---\n", "needs a license_name"),
    ],
)
def test_the_front_matter_must_be_whole(front, said):
    (found,) = card_leftovers(front)
    assert said in found


def test_a_license_is_asked_for():
    (found,) = card_leftovers("---\nlibrary_name: decodetr\n---\n")
    assert found.startswith("no license is stated")


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_the_shipped_cards_can_be_published(card):
    assert card_leftovers(card.read_text(encoding="utf-8")) == []
