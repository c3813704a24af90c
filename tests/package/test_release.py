"""What is uploaded holds the package and nothing else, and nothing is uploaded by accident."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml
from helpers import release
from helpers.paths import ROOT
from readme_renderer import markdown

from decodetr import __version__

ADDRESS = "https://example.org/them/decodetr"  # of nobody


@pytest.fixture(scope="module")
def workflow():
    content = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    return content | {"on": content.pop(True)}  # `on` is a truth value to YAML


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a wheel and a source distribution of the files that git has."""
    source = tmp_path_factory.mktemp("source")
    for name in [*release.package_files(), "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    (source / "notebooks").mkdir()
    (source / "notebooks" / "a.ipynb").touch()
    subprocess.run([sys.executable, "-m", "build", "--no-isolation"], cwd=source, check=True, capture_output=True)
    return source / "dist"


def _only(folder, pattern):
    (file,) = folder.glob(pattern)
    return file


def test_the_version_stands_in_one_place():
    assert release.version() == __version__
    assert release.setup_cfg()["metadata"]["version"] == "attr: decodetr.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", __version__)


def test_every_file_of_the_package_is_code_or_declared_data():
    """Without a build: what package_data of setup.cfg names, and git has."""
    patterns = release.setup_cfg()["options.package_data"]["decodetr"].split()
    declared = {file.relative_to(ROOT).as_posix() for pattern in patterns for file in ROOT.glob(pattern)}
    data = {name for name in release.package_files() if not name.endswith(".py")}
    assert data - declared == set()
    assert {"py.typed", "hub_cards/scenes-decodetr/model.safetensors", "evaluation/protocols/ov-coco.json"} <= data


def test_links_of_the_readme_become_absolute():
    text = '[a](setup.cfg#b) [c](#c) [d](https://d.org/x) <img src="docs/p.jpg" width="1"> ![e](e.png)'
    blob, raw = f"{ADDRESS}/blob/v1.0", f"{ADDRESS}/raw/v1.0"
    assert release.absolute_links(text, f"{ADDRESS}/", "v1.0") == (
        f"[a]({blob}/setup.cfg#b) [c](#c) [d](https://d.org/x) "
        f'<img src="{raw}/docs/p.jpg" width="1"> ![e]({raw}/e.png)'
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(release.relative_targets(readme)) > 20
    assert release.relative_targets(release.absolute_links(readme, ADDRESS, "v1.0")) == []


def test_the_readme_renders_on_pypi():
    readme = release.absolute_links((ROOT / "README.md").read_text(encoding="utf-8"), ADDRESS, "v1.0")
    page = markdown.render(readme)
    assert page is not None and "<table>" in page and f'src="{ADDRESS}/raw/v1.0/docs/' in page


def test_a_tag_is_of_this_version_and_of_a_day(monkeypatch, tmp_path):
    for name, text in {
        "__init__.py": '__version__ = "1.2.0"\n',
        "CHANGELOG.md": "# Changelog\n\n## 1.2.0 - 2027-01-02\n\n## 1.1.0 - 2026-12-01\n",
        "CITATION.cff": 'version: 1.2.0\ndate-released: "2027-01-02"\n',
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    assert release.tag_problems("v1.2.0") == []
    assert release.tag_problems("v1.1.0") == ["the tag v1.1.0 is not of the version 1.2.0 of __init__.py"]
    (tmp_path / "CITATION.cff").write_text("version: 1.2.0\n")
    assert release.tag_problems("v1.2.0") == [
        "CITATION.cff: expected `date-released: 2027-01-02`, as CHANGELOG.md says"
    ]
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.0 - unreleased\n")
    assert release.tag_problems("v1.2.0") == ["CHANGELOG.md: expected `## 1.2.0 - YYYY-MM-DD`"]


def test_only_a_tag_of_a_version_starts_the_workflow(workflow):
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    assert workflow["permissions"] == {"contents": "read"}


def test_the_workflow_checks_before_it_publishes(workflow):
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    commands = [step["run"].split(" ")[:3] for step in build["steps"] if "run" in step]
    script = "tests/helpers/release.py"
    assert commands == [["python", script, "tag"], ["python", script, "links"], ["make", "release-check"]]
    assert publish["needs"] == "build" and publish["permissions"] == {"id-token": "write"}
    assert [step["uses"].split("@")[0] for step in publish["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]


def test_actions_of_the_workflow_are_pinned_and_no_secret_is_named():
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    used = re.findall(r"uses: (.+)$", text, re.MULTILINE)
    assert len(used) == 5 and [one for one in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", one)] == []
    assert "secrets." not in text and "password" not in text


@pytest.mark.slow
def test_the_distributions_hold_the_package(built):
    expected = release.package_files()
    wheel, sdist = _only(built, "*.whl"), _only(built, "*.tar.gz")
    assert release.wheel_problems(wheel, expected) == [] and release.sdist_problems(sdist, expected) == []
    assert max(wheel.stat().st_size, sdist.stat().st_size) < release.LARGEST
    missing = expected - {"py.typed"} | {"cli/absent.py"}
    assert release.wheel_problems(wheel, missing) == ["lacks decodetr/cli/absent.py", "has decodetr/py.typed"]
    assert release.sdist_problems(sdist, missing) == ["lacks cli/absent.py"]


@pytest.mark.slow
def test_a_type_checker_sees_the_types_of_an_installed_wheel(built, tmp_path):
    seen = release.types_seen(_only(built, "*.whl"), tmp_path)
    assert 'Argument 1 to "detect" has incompatible type "float"' in seen and "Found 1 error" in seen
    assert "-> decodetr.modeling_decodetr.vocabulary.Vocabulary" in seen
