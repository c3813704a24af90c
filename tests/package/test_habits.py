"""What people and services read beside the code: it parses, and it agrees with the package."""

import re
from configparser import ConfigParser

import pytest
import yaml
from helpers.paths import ROOT

from decodetr import __version__

SECTIONS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")  # in this order


def _text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def _yaml(name):
    return yaml.safe_load(_text(name))


@pytest.fixture(scope="module")
def setup_cfg():
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def _packages(requirements):
    return [re.split(r"[<>=!~ ]", line)[0] for line in requirements.split()]


def test_the_workflow_runs_the_commands_of_the_ci_script():
    script = _text(".ci/run")
    workflow = _yaml(".github/workflows/ci.yml")
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == re.findall(r"^make .*$", script, re.MULTILINE) == ["make style", "make test"]
    assert "export HF_HUB_OFFLINE=1" in script and workflow["env"]["HF_HUB_OFFLINE"] == "1"


def test_the_workflow_has_the_python_versions_that_setup_cfg_names(setup_cfg):
    (job,) = _yaml(".github/workflows/ci.yml")["jobs"].values()
    versions = job["strategy"]["matrix"]["python-version"]
    assert versions == re.findall(r":: (3\.\d+)$", setup_cfg["metadata"]["classifiers"], re.MULTILINE)
    assert setup_cfg["options"]["python_requires"] == f">={versions[0]}"


def test_pre_commit_runs_the_oldest_ruff_that_setup_cfg_allows(setup_cfg):
    (floor,) = re.findall(r"^ruff>=(.+)$", setup_cfg["options.extras_require"]["test"], re.MULTILINE)
    (repository,) = _yaml(".pre-commit-config.yaml")["repos"]
    assert repository["rev"] in (f"v{floor}", f"v{floor}.0")
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff-check", "ruff-format"]


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_the_issue_forms_have_what_github_asks_for(name):
    form = _yaml(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"] and form["description"]
    fields = [item for item in form["body"] if item["type"] != "markdown"]
    assert {item["type"] for item in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
    assert len({item["id"] for item in fields}) == len({item["attributes"]["label"] for item in fields}) == len(fields)
    assert any(item.get("validations", {}).get("required") for item in fields)


def test_the_choice_of_issues_parses():
    assert set(_yaml(".github/ISSUE_TEMPLATE/config.yml")) <= {"blank_issues_enabled", "contact_links"}


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = _yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == __version__ and citation["authors"]
    (paper,) = citation["references"]
    assert paper["url"] in _text("README.md") and paper["url"] in _text("setup.cfg")


def test_the_changelog_begins_with_this_version_and_sorts_its_lines():
    changelog = _text("CHANGELOG.md")
    title, *versions = re.split(r"^## .+$", changelog, flags=re.MULTILINE)
    headings = re.findall(r"^## (\S+) - (?:unreleased|\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert title.startswith("# Changelog\n") and headings[0] == __version__ and len(headings) == len(versions)
    for version in versions:
        sections = re.findall(r"^### (.+)$", version, re.MULTILINE)
        assert sections == [name for name in SECTIONS if name in sections]


def test_contributing_lists_the_targets_of_the_makefile():
    makefile = _text("Makefile")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert sorted(phony.split()) == sorted(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert sorted(phony.split()) == sorted(
        re.findall(r"^\| `make ([a-z-]+)` \|", _text("CONTRIBUTING.md"), re.MULTILINE)
    )


def test_every_dependency_has_its_reason(setup_cfg):
    """One row for each package, and no row for what is gone."""
    plain, extras = _text("docs/dependencies.md").split("\nAn extra ")
    reasons = re.findall(r"^\| (\S+) \| \S.* \|$", plain, re.MULTILINE)
    assert reasons[0] == "package" and reasons[1:] == _packages(setup_cfg["options"]["install_requires"])
    rows = re.findall(r"^\| `(\S+)` \| (\S+) \| \S.* \|$", extras, re.MULTILINE)
    expected = setup_cfg["options.extras_require"].items()
    assert sorted(rows) == sorted((extra, name) for extra, names in expected for name in _packages(names))


def test_a_plain_install_has_the_packages_of_every_engine(setup_cfg):
    assert {"faster-coco-eval", "pycocotools"} <= set(_packages(setup_cfg["options"]["install_requires"]))
