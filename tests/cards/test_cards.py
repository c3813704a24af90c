"""Cards from data: what they hold, what a renewal keeps, and what text of others cannot do to them."""

import json
import shutil

import pytest
import torch
from helpers.card_snippets import run_snippets
from huggingface_hub import ModelCard

from decodetr import Vocabulary
from decodetr.cards.render import Markdown, fill, renew
from decodetr.cards.sections import renewed, sections_of
from decodetr.cli import main
from decodetr.utils.card_leftovers import card_leftovers
from decodetr.utils.model_identity import model_identity
from decodetr.utils.shipped import resolve

EVIL = "a|b <script>x</script> {{ 7*7 }} ![x](http://x.y)\n# é"


def _printed(capsys, *words):
    assert main(["card", *words]) == 0
    return capsys.readouterr().out


def _report(folder, file, metrics, data="cones", **protocol):
    own = {"revision": f"weights {model_identity(folder)['weights'][:12]}", "vocabulary": "stored in the model, x"}
    counts = {"images": 20, "annotations": 85, "vocabulary_size": 240, "federated": False}
    facts = {"model": "mine", "protocol": "custom", "annotations_file": "cones/annotations/val.json"}
    content = {"protocol": {**facts, **counts, "annotations_digest": "0" * 12, **own, **protocol}, "metrics": metrics}
    file.write_text(json.dumps({**content, "max_detections": 100, "source": {"data": data}}))
    return str(file)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(resolve("scenes-decodetr"), folder)
    (folder / "README.md").unlink()
    return folder


def test_a_model_without_a_report_says_so_and_asks_for_a_license(model, capsys):
    assert main(["card", str(model)]) == 0
    text, said = capsys.readouterr()
    assert "Nothing yet: `decodetr eval" in text and "model-index" not in text and "**None is stated.**" in text
    assert "no license is stated" in said and "a snippet for one machine" in said
    assert ModelCard(text).data.library_name == "transformers" and "Setting V-OVD." in text


def test_results_become_a_table_and_a_model_index(model, tmp_path, capsys):
    file = _report(model, tmp_path / "report.json", {"AP50": 94.747, "AP50_novel": 90.0, "AP": None, "AR100": 3.0})
    text = _printed(capsys, str(model), "--results", file, "--license", "mit", "--name", "ann/cones")
    results = ModelCard(text).data.eval_results
    assert [(r.metric_type, r.metric_value, r.dataset_name, r.dataset_split) for r in results] == [
        ("AP50_novel", 90.0, "cones", "val"), ("AP50", 94.75, "cones", "val")]  # fmt: skip
    assert "| AP50 | 94.8 |" in text and "20 images, 85 objects, 240 names" in text
    assert card_leftovers(text) == [] and '"ann/cones"' in text


def test_crowds_are_no_objects(model, tmp_path, capsys):
    """Of the 85 annotations of the report 5 are crowds."""
    file = _report(model, tmp_path / "report.json", {"AP50": 94.747})
    report = json.loads((tmp_path / "report.json").read_text())
    report["per_name"] = {"cone": {"support": 78}, "cup": {"support": 2}, "yak": {"support": 0}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert "20 images, 80 objects, 240 names" in _printed(capsys, str(model), "--results", file, "--license", "mit")


@pytest.mark.parametrize(
    "wrong", [{"revision": "weights 0123456789ab"}, {"vocabulary": "other, x"}, {"oracle": "boxes"}]
)
def test_a_report_of_something_else_is_refused(model, tmp_path, capsys, wrong):
    file = _report(model, tmp_path / "report.json", {"AP50": 94.7}, **wrong)
    assert main(["card", str(model), "--results", file]) == 1
    assert "evaluate" in capsys.readouterr().err


def test_the_snippets_of_the_shipped_model_run(tmp_path, capsys):
    *_, detected, by_pipeline = run_snippets(_printed(capsys, "scenes-decodetr"), tmp_path)
    assert detected.splitlines()[-1].isdecimal() and by_pipeline.startswith("[")


def test_a_renewal_keeps_what_a_person_wrote(model, capsys):
    card = model / "README.md"
    assert main(["card", str(model), "--license", "mit", "--output", str(card)]) == 0
    text = card.read_text().replace("## Citation\n", "## Citation\nAnd mine. ")
    card.write_text(text.replace("license: mit\n", "license: mit\nlanguage: fr\n") + "\n## My notes\n\nMine.\n")
    before = card.read_text()
    assert main(["card", str(model), "--name", "ann/x", "--output", str(card)]) == 0
    after = card.read_text()
    assert "kept as somebody wrote it: ## Citation" in capsys.readouterr().err
    assert "language: fr" in after and "license: mit" in after and "And mine." in after and "## My notes" in after
    assert 'model = "ann/x"\n' in after and str(model) in before and 'model = "ann/x"' not in before
    assert main(["card", str(model), "--overwrite", "--output", str(card)]) == 0
    assert "And mine." not in card.read_text() and "## My notes\n\nMine." in card.read_text()


def test_a_card_of_somebody_else_gets_what_it_lacks():
    old = "# Theirs\n\n```\n## no heading\n```\n\n## Limits\nMine.\n"
    body, kept = renewed(old, "<!-- decodetr:about -->\n# Ours\n\n<!-- decodetr:limits -->\n## Limits\nx\n")
    assert [part.heading for part in sections_of(body)] == ["# Theirs", "## Limits"] and kept == [
        "# Theirs",
        "## Limits",
    ]


def test_a_front_matter_that_cannot_be_read_is_named():
    with pytest.raises(ValueError, match="README.md: the front matter"):
        renew("---\na: [\n---\n", "---\nlicense: mit\n---\n# x\n", "README.md")


def test_text_of_others_is_shown_and_never_obeyed(tmp_path, capsys):
    names = [EVIL, *(f"name {i}" for i in range(9_999))]
    Vocabulary(names, torch.nn.functional.normalize(torch.randn(len(names), 4)), {"encoder": EVIL}).save_pretrained(
        tmp_path / "v"
    )
    text = _printed(capsys, str(tmp_path / "v"), "--license", "mit", "--name", "ann/v")
    assert "10,000 names" in text and len(text) < 6_000
    assert "<script>" not in text and "x\\](http://x.y)" in text and r"\{\{ 7" in text.replace("\\{{", r"\{\{")
    assert "\n# é" not in text and card_leftovers(text) == []


def test_only_markdown_of_ours_is_left_as_it_is():
    data = ModelCard("---\nlicense: mit\n---\n").data
    facts = dict.fromkeys(("width", "count", "names", "record", "licensing", "load", "parts"), "x")
    text = fill("vocabulary", data, {**facts, "title": "**a**", "load": Markdown("**b**")})
    assert r"# \*\*a\*\*" in text and "\n**b**\n" in text
