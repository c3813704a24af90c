"""What code and documents refer to is there: rows of docs/paper.md, documents, links, headings and commands."""

import os
import re
import subprocess
from argparse import _SubParsersAction
from pathlib import Path

import pytest
from helpers.paths import ROOT

from decodetr.cli import command_parser

THIS = Path(__file__).resolve().relative_to(ROOT).as_posix()
TEXTS = {".py", ".md", ".yaml", ".yml", ".cfg", ".toml"}
WRITTEN = {"README.md", "bench.md", "report.md", "table.md"}  # commands write files of these names
_NUMBER = r"\d(?:\.\d+)?"
# "paper 2.3", "paper 1.5 to 1.7", "paper 2.5, 2.6 and 2.8", also over the end of a line or of a comment.
_PAPER = re.compile(rf"\bpaper[\s#]+({_NUMBER}(?:(?:,[\s#]+|[\s#]+(?:and|or|to)[\s#]+){_NUMBER})*)(?![\d,]*\d)")
_DOCUMENT = re.compile(r"(?<![\w./-])[\w./-]*\w\.md\b")
_QUOTED = re.compile(r'(?<![\w./-])([\w./-]*\w\.md)`?(?:\]\([^)]*\))?,[\s#]+"([^"]+)"')  # `model.md`, "Threads"
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_OUTSIDE = re.compile(r"\b\w+://\S+")


def tracked():
    """Paths of the files that git has, relative to the root; without git, those of the tree."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
        names = listed.stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        ignored = {"__pycache__", "build", "dist", "runs"}
        names = []
        for folder, folders, files in os.walk(ROOT):
            folders[:] = [name for name in folders if not name.startswith(".") and name not in ignored]
            names += [(Path(folder) / name).relative_to(ROOT).as_posix() for name in files]
    return {name for name in names if (ROOT / name).is_file()}


TRACKED = tracked()
CONTENTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in sorted(TRACKED)
    if Path(name).suffix in TEXTS or name in ("Makefile", ".ci/run")
}
DOCUMENTS = [name for name in CONTENTS if name.endswith(".md")]


def paper_references(text):
    """Numbers of the sections and rows of docs/paper.md that a text cites."""
    return [number for match in _PAPER.finditer(text) for number in re.findall(_NUMBER, match[1])]


def paper_rows(text):
    """Numbers of the sections and rows that docs/paper.md has."""
    return set(re.findall(r"^(?:## |\| )(\d(?:\.\d+)?)\.? ", text, re.MULTILINE))


def find_document(name, cited_in):
    """The tracked document that a text means: named from the root, from docs/ or from its own folder; else None."""
    folders = ("", "docs", str(Path(cited_in).parent))
    paths = (os.path.normpath(os.path.join(folder, name)) for folder in folders)
    return next((path for path in paths if path in TRACKED), None)


def anchors(text):
    """{anchor: heading} of a document, as GitHub makes them."""
    found = {}
    for heading in re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE):
        heading = heading.replace("`", "").strip()
        anchor = base = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        number = 0
        while anchor in found:
            number += 1
            anchor = f"{base}-{number}"
        found[anchor] = heading
    return found


def titles(text):
    """Headings of a document, and the words in bold with which a paragraph begins."""
    bold = re.findall(r"^\*\*(.+?)\*\*", without_code(text), re.MULTILINE)
    return {*anchors(text).values(), *(title.rstrip(".") for title in bold)}


def without_code(text):
    """A Markdown text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def broken_link(target, document):
    """Whether a link of a document leads nowhere; links to other places are not followed."""
    if _OUTSIDE.match(target) or target.startswith("mailto:"):
        return False
    path, _, anchor = target.partition("#")
    path = os.path.normpath(os.path.join(Path(document).parent, path)) if path else document
    if path not in TRACKED:
        return anchor != "" or not any(name.startswith(f"{path}/") for name in TRACKED)
    return anchor != "" and anchor not in anchors(CONTENTS.get(path, ""))


def test_rows_of_the_paper_that_are_cited_are_there():
    rows = paper_rows(CONTENTS["docs/paper.md"])
    assert {"1.1", "2.8", "3.6", "4", "7"} <= rows and "4.1" not in rows
    cited = [(name, number) for name, text in CONTENTS.items() for number in paper_references(text)]
    assert [place for place in cited if place[1] not in rows and place[0] != THIS] == []
    assert len({name for name, _ in cited}) > 20


def test_documents_that_are_cited_are_there():
    missing = []
    for name, text in CONTENTS.items():
        for document in _DOCUMENT.findall(_OUTSIDE.sub("", text)):
            if Path(document).name not in WRITTEN and find_document(document, name) is None:
                missing.append((name, document))
    assert missing == []


def test_headings_that_are_cited_are_there():
    cited, missing = 0, []
    for name, text in CONTENTS.items():
        for document, heading in _QUOTED.findall(text):
            if (path := find_document(document, name)) is not None:
                cited += 1
                if " ".join(heading.split()) not in titles(CONTENTS[path]):
                    missing.append((name, document, heading))
    assert missing == [] and cited > 5


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_a_document_lead_somewhere(document):
    links = _LINK.findall(without_code(CONTENTS[document]))
    assert [link for link in links if broken_link(link, document)] == []


def test_the_readme_leads_to_the_site():
    linked = set(_LINK.findall(CONTENTS["README.md"]))
    assert {"docs/index.md", "docs/api.md", "docs/faq.md", "docs/quickstart.md"} <= linked  # test_site.py: all pages


@pytest.mark.parametrize(
    "text, numbers",
    [
        ("(paper 2.3)", ["2.3"]),
        ("paper 1.5 to 1.7, and", ["1.5", "1.7"]),
        ("paper 2.5, 2.6 and 2.8; paper 9", ["2.5", "2.6", "2.8", "9"]),
        ("a row of the paper\n    # 5, V-OVD", ["5"]),
        ("the paper\nsays 2.3; the paper 44 times, the paper 4,800", []),
    ],
)
def test_references_to_the_paper_are_found(text, numbers):
    assert paper_references(text) == numbers


def test_what_leads_nowhere_is_found():
    absent = "docs/absent" + ".md"
    assert find_document("model.md", "docs/pools.md") == find_document("docs/model.md", "train.py") == "docs/model.md"
    assert find_document(absent, "train.py") is None and _DOCUMENT.findall(f"see `{absent}`") == [absent]
    page = "# A, `b` and c's\n```\n# no\n```\n## A\n## A\n\n**Bold words.** More."
    assert anchors(page) == {"a-b-and-cs": "A, b and c's", "a": "A", "a-1": "A"}
    assert titles(page) == {"A, b and c's", "A", "Bold words"}
    for link in ("model.md#no-such-heading", "none.txt", "#deviations", "../evaluation#protocols"):
        assert broken_link(link, "docs/paper.md")
    for link in ("model.md#deviations", "#4-reported-results", "../evaluation/protocols", "https://arxiv.org/abs/1"):
        assert not broken_link(link, "docs/paper.md")


def test_documents_and_cards_name_commands_that_exist():
    used = {
        (command, word, name)
        for name, text in CONTENTS.items()
        if name.endswith(".md")
        for command, word in re.findall(r"`decodetr (pool|scenes|vocabulary) ([a-z-]+)", text)
    }
    choices = {}
    for command in ("pool", "scenes", "vocabulary"):
        actions = command_parser(command)[1]._actions
        (choices[command],) = (set(action.choices) for action in actions if isinstance(action, _SubParsersAction))
    assert len(used) > 20 and not {found for found in used if found[1] not in choices[found[0]]}
