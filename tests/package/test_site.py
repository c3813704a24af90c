"""The documentation site: every page is listed, every public name is on the API page, it builds strictly, and nothing
in it is fetched from elsewhere."""

import os
import re
import subprocess
import sys

import pytest
import yaml
from helpers.browsers import chromium
from helpers.paths import ROOT

import decodetr

PAGES = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").glob("*.md")}
OF_ROOT = {"CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md"}
_FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*?\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*?rel=[\"']?(?:stylesheet|preconnect|preload|icon)[\"']?[^>]*?href=[\"']?(?:https?:)?//"
)


class _Tags(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name environment variables and a function."""


_Tags.add_multi_constructor("", lambda loader, suffix, node: None)


def settings():
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Tags)


def listed(entries):
    """Pages that a navigation names."""
    for entry in entries:
        (below,) = entry.values()
        yield from [below] if isinstance(below, str) else listed(below)


def test_every_page_is_in_the_navigation_once():
    found = list(listed(settings()["nav"]))
    assert sorted(found) == sorted(PAGES | OF_ROOT), "`nav` of mkdocs.yml lists all of docs/*.md"


def test_every_public_name_is_on_the_api_page():
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^::: decodetr\.(\w+)$", page, re.MULTILINE)) | {"__version__"}
    assert named == set(decodetr.__all__) and "`decodetr.__version__`" in page


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    place = tmp_path_factory.mktemp("docs")
    folder = place / "site"
    (place / "decodetr").symlink_to(ROOT)  # whatever the checkout is called, as `make docs` does it
    words = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(place)}
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert said.returncode == 0, said.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_and_fetches_nothing(site):
    pages = {path.name: path.read_text(encoding="utf-8") for path in site.glob("*.html")}
    assert set(pages) >= {name.replace(".md", ".html") for name in PAGES | OF_ROOT} and len(pages) > 30
    assert {name: _FETCHED.findall(page) for name, page in pages.items() if _FETCHED.search(page)} == {}
    api = pages["api.html"]
    assert [name for name in decodetr.__all__ if name[0] != "_" and f'id="decodetr.{name}"' not in api] == []
    assert re.findall(r"\[`|`\]|\[<code>", re.sub(r"<pre.*?</pre>", "", api, flags=re.DOTALL)) == []
    assert '<a class="autorefs autorefs-internal"' in api  # [`DeCoDetrConfig`] leads to its place
    assert "iframe-worker.js" in pages["index.html"] and (site / "search/search_index.js").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_pages_of_every_kind(site, scheme):
    from axe_playwright_python.sync_playwright import Axe

    found = {}
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
        for name in ("index", "quickstart", "training", "benchmarks", "api", "CHANGELOG"):
            page.goto((site / f"{name}.html").as_uri())
            assert (
                page.locator("body").get_attribute("data-md-color-scheme")
                == {"light": "default", "dark": "slate"}[scheme]
            )
            result = Axe().run(page)
            if result.violations_count:
                found[name] = result.generate_report()
    assert found == {}, "\n".join(found.values())


@pytest.mark.slow
def test_no_page_is_wider_than_a_phone(site):
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        wide = {}
        for file in sorted(site.glob("*.html")):
            page.goto(file.as_uri())
            if (width := page.evaluate("document.documentElement.scrollWidth")) > 390:
                wide[file.name] = width
    assert wide == {}
