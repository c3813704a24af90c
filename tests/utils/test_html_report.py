"""The HTML report: well-formed, self-contained, every text escaped, every picture inside."""

import base64

import pytest
from helpers.html_pages import Page
from PIL import Image

from decodetr.utils.html_page import code, links, paragraph, picture, table, write_report
from decodetr.utils.tables import markdown_tables

NASTY = """<script>alert("x")</script> & 'salt, pepper' | crème"""


def test_report_is_valid_escaped_and_self_contained(tmp_path):
    for name, colour in (("a.png", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (5, 4), colour).save(tmp_path / name)
    sections = {
        NASTY: [paragraph(NASTY), table((NASTY, "n"), [(NASTY, 3), ("b", 4.5)])],
        "Pictures": [picture(tmp_path / name, f"{name} {NASTY}") for name in ("a.png", "b.jpg")],
        "Made": [code([f"decodetr predict --names '{NASTY}'", "second"]), links({"a b/<c>&'.json": NASTY})],
    }
    file = write_report(tmp_path / "report.html", f"Title {NASTY}", f"Introduction {NASTY}", sections)
    assert file == tmp_path / "report.html" and sorted(p.name for p in tmp_path.iterdir()) == [
        "a.png",
        "b.jpg",
        "report.html",
    ]
    page = Page(file.read_text(encoding="utf-8"))
    page.assert_self_contained()
    assert page.texts["title"] == page.texts["h1"] == [f"Title {NASTY}"]
    assert page.texts["h2"] == [NASTY, "Pictures", "Made"]
    assert page.texts["p"] == [f"Introduction {NASTY}", NASTY]
    assert page.texts["th"] == [NASTY, "n"] and page.texts["td"] == [NASTY, "3", "b", "4.5"]
    assert page.texts["code"] == [f"decodetr predict --names '{NASTY}'\nsecond"]
    for image, name, kind in zip(page.attributes["img"], ("a.png", "b.jpg"), ("png", "jpeg")):
        head, data = image["src"].split(",")
        assert head == f"data:image/{kind};base64" and image["alt"] == f"{name} {NASTY}"
        assert base64.b64decode(data, validate=True) == (tmp_path / name).read_bytes()
    assert page.attributes["a"] == [{"href": "a%20b/%3Cc%3E%26%27.json"}] and page.texts["a"] == ["a b/<c>&'.json"]


def test_tables_as_html_and_as_markdown():
    header, rows = ["name", "AP50"], [["a <b>", 1.5], ["last", ""]]
    block = table(header, rows)
    page = Page(block)
    assert page.texts["th"] == ["name", "AP50"] and page.texts["td"] == ["a <b>", "1.5", "last"]
    assert len(page.attributes["td"]) == 4 and block.count("<tr>") == 3
    markdown = "| name | AP50 |\n| --- | ---: |\n| a <b> | 1.5 |\n| last |  |\n"
    assert markdown_tables([("One", header, rows), ("Two", header, [])]) == (
        f"One:\n\n{markdown}\nTwo:\n\n| name | AP50 |\n| --- | ---: |\n"
    )


def test_pictures_that_cannot_be_shown(tmp_path):
    with pytest.raises(ValueError, match="notes.txt: expected a picture with .gif, .* got '.txt'; convert it"):
        picture(tmp_path / "notes.txt", "")
    with pytest.raises(FileNotFoundError):
        picture(tmp_path / "none.png", "")
