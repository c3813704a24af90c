"""Names, captions and paths are shown as they are, whatever they hold."""

import html
import re

import pytest
import torch
import yaml

from decodetr import PrototypePool, Vocabulary
from decodetr.cards.renewal import CardOptions, card_of
from decodetr.utils.markup import code_block, figure_text, front_matter, html_link, html_text, markdown_text, one_line
from decodetr.utils.tables import markdown_table

NASTY = [
    "a|b",
    "two\nlines",
    "back`tick`",
    "<script>alert(1)</script>",
    "**bold** _it_ [x](http://y) ![z](w)",
    "back\\slash\\|",
    "$x^2$",
    "a: b # c",
    "- 'q' \"r\"",
    "&lt;",
    "snake_case_name",
    "caf\udce9",
    "\x1b[31mred\x07",
    "abc\u202edef",
    "~~gone~~",
    "crème brûlée 猫 🙂",
]


def unescaped(cell):
    """What Markdown shows of a cell without markup."""
    return html.unescape(re.sub(r"\\(.)", r"\1", cell))


@pytest.mark.parametrize("text", NASTY)
def test_markdown_shows_the_text_and_nothing_else(text):
    shown = markdown_text(text)
    assert unescaped(shown) == one_line(text)
    assert not re.search(r"(?<!\\)(?:\\\\)*([|`*<>$~]|\]\()", shown) and "\n" not in shown
    shown.encode("utf-8")


def test_a_table_has_its_rows_and_columns_whatever_is_in_them():
    table = markdown_table(["name", "n"], [(text, i) for i, text in enumerate(NASTY)])
    lines = table.splitlines()
    assert len(lines) == 2 + len(NASTY) and lines[1] == "| --- | ---: |"
    cells = [re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1] for line in lines]
    assert all(len(row) == 2 for row in cells)
    assert markdown_table(["AP50_novel", ""], [["a b", 1.5]]) == "| AP50_novel |  |\n| --- | ---: |\n| a b | 1.5 |\n"


def test_controls_and_bytes_that_are_no_utf_8_become_visible():
    assert one_line("a\x1b[31m\n b\udcff\u202e") == "a\\x1b[31m b\\udcff\\u202e"
    assert html_text('<a "b">\x07\n') == "&lt;a &quot;b&quot;&gt;\\x07\n"
    assert html_link("a b/caf\udce9&.png") == "a%20b/caf%E9%26.png"


def test_a_code_block_ends_where_it_should():
    for text in ("a", "```\nb\n```", "`````"):
        lines = code_block(text, "python").splitlines()
        assert lines[0].startswith(lines[-1]) and lines[0].endswith("python") and set(lines[-1]) == {"`"}
        assert lines[-1] not in text


def test_front_matter_is_yaml_whatever_the_values_are():
    fields = {f"key{i}": text for i, text in enumerate(NASTY)} | {"tags": ["a: b", "- c"]}
    read = yaml.safe_load(front_matter(fields).strip("-"))
    assert list(read) == list(fields) and read["tags"] == fields["tags"]
    assert read["key7"] == "a: b # c" and read["key8"] == NASTY[8] and read["key1"] == "two\nlines"


@pytest.mark.parametrize("text", NASTY)
def test_figures_draw_any_text(text, tmp_path):
    from decodetr.evaluation.figures import draw_calibration, draw_curves, draw_errors

    draw_curves({text: {"0.50": [0.5] * 101}}, tmp_path / "a.png")
    draw_calibration({text: {"bins": [], "error": 0.0}}, tmp_path / "b.png")
    draw_errors({"missed": {f"delta_AP50_{text}": 1.0}}, [text], tmp_path / "c.png")
    assert figure_text("$a$") == r"\$a\$" and len(list(tmp_path.iterdir())) == 3


def test_cards_of_tables_show_names_and_captions(tmp_path):
    embeddings = torch.eye(len(NASTY))
    info = {f"key{i}": text for i, text in enumerate(NASTY)}
    vocabulary = Vocabulary(NASTY, embeddings, info)
    pool = PrototypePool(embeddings, captions=NASTY, info={"prompt": NASTY, "proposer": "<b>"})
    for table in (vocabulary, pool):
        table.save_pretrained(tmp_path / table.stem)
        card, _ = card_of(CardOptions(source=str(tmp_path / table.stem)))
        card.encode("utf-8")
        front, body = card.removeprefix("---\n").split("\n---\n", 1)
        assert yaml.safe_load(front)["tags"] == ["decodetr", "arxiv:2604.02753", f"decodetr-{table.stem}"]
        cells = [line.replace("\\|", "").count("|") for line in body.splitlines() if line.startswith("|")]
        assert len(cells) >= 2 + len(table.info) and set(cells) <= {3, 4}
        assert "<script>" not in body and "<b>" not in body and "\x1b" not in body
