"""`decodetr vocabulary build`: where names and templates come from, and what is written."""

import json
import subprocess
import sys

import pytest
import torch
from helpers.light_imports import PROBE
from helpers.tiny_teachers import write_byte_clip

from decodetr import Vocabulary
from decodetr.cli import main


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_byte_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def build(clip_folder, tmp_path):
    """Run the command; returns the vocabulary that it wrote, or the exit code if it wrote none."""

    def run(*arguments):
        output = tmp_path / "vocabulary"
        model = ["--text-model", str(clip_folder), "--output", str(output), "--overwrite", "--device", "cpu"]
        code = main(["vocabulary", "build", *map(str, arguments), *model])
        return code or Vocabulary.from_pretrained(output)

    return run


def test_help_imports_nothing_heavy():
    result = subprocess.run(
        [sys.executable, "-c", PROBE, "vocabulary", "build", "--help"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "--clip" in result.stdout and "--names-split" in result.stdout


def test_names_of_the_command_line(build, clip_folder, tmp_path, capsys):
    vocabulary = build("--names", 'cat,"salt, pepper",crème brûlée')
    assert vocabulary.names == ["cat", "salt, pepper", "crème brûlée"]
    expected = Vocabulary.from_text_model(vocabulary.names, clip_folder)
    assert torch.equal(vocabulary.embeddings, expected.embeddings)
    assert vocabulary.info == {**expected.info, "underscores_to_spaces": True}
    line = capsys.readouterr().out
    fingerprint = expected.info["encoder_fingerprint"]
    assert line == f"{tmp_path}/vocabulary: 3 names, d = 16, encoder '{clip_folder}' (fingerprint {fingerprint})\n"


def test_names_of_files(build, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("salt, pepper\n\ncup\n", encoding="utf-8")
    assert build("--names-file", names).names == ["salt, pepper", "cup"]

    split = tmp_path / "names.json"
    split.write_text(json.dumps({"base": {"1": "cat", "3": "dog"}, "novel": {"2": "yak"}}))
    assert build("--names-split", split).names == ["cat", "dog", "yak"]
    assert build("--names-split", split, "--part", "all").names == ["cat", "dog", "yak"]
    assert build("--names-split", split, "--part", "base").names == ["cat", "dog"]
    assert build("--names-split", split, "--part", "novel").names == ["yak"]

    coco = tmp_path / "coco.json"
    categories = [{"id": 7, "name": "traffic light"}, {"id": 2, "name": "cat"}]
    coco.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    assert build("--annotations", coco).names == ["cat", "traffic light"]


def test_templates(build, clip_folder, tmp_path):
    several = build("--names", "cat", "--template", "{}", "--template", "one {}, drawn")
    assert several.info["templates"] == ["{}", "one {}, drawn"]
    file = tmp_path / "templates.txt"
    file.write_text("{}\n\none {}, drawn\n")
    assert torch.equal(build("--names", "cat", "--templates-file", file).embeddings, several.embeddings)
    file.write_text("\n")
    assert build("--names", "cat", "--templates-file", file) == 1


def test_what_a_user_gets_wrong(build, tmp_path, capsys):
    def error(*arguments):
        assert build(*arguments) == 1
        return capsys.readouterr().err

    assert "--part chooses from a --names-split" in error("--names", "cat", "--part", "base")
    assert "no names in --names ','" in error("--names", ",")
    assert "must contain {}" in error("--names", "cat", "--template", "a photo")
    assert "none.txt" in error("--names-file", tmp_path / "none.txt")
    split = tmp_path / "names.json"
    split.write_text(json.dumps({"base": {"1": "cat"}, "novel": {}}))
    assert "expected novel names, got none" in error("--names-split", split, "--part", "novel")
    coco = tmp_path / "coco.json"
    coco.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    assert "expected categories, got none" in error("--annotations", coco)
    assert "--names-split" in error()
    with pytest.raises(SystemExit):
        build("--names", "cat", "--names-file", coco)


def test_a_missing_text_model(tmp_path, capsys):
    arguments = ["vocabulary", "build", "--names", "cat", "--output", str(tmp_path / "v"), "--text-model"]
    assert main([*arguments, "nobody/no-such-clip"]) == 1
    error = capsys.readouterr().err
    assert "the text model 'nobody/no-such-clip' cannot be loaded" in error and "shipped with decodetr" in error
    assert not (tmp_path / "v").exists()


def test_a_detector_as_text_model(tmp_path, capsys):
    arguments = ["vocabulary", "build", "--names", "cat", "--output", str(tmp_path / "v"), "--text-model"]
    assert main([*arguments, "scenes-decodetr"]) == 1
    error = capsys.readouterr().err
    assert "'scenes-decodetr' is a detector; give a CLIP, such as scenes-clip" in error and error.count("\n") == 1
    assert not (tmp_path / "v").exists()


def test_a_shipped_text_model_goes_by_its_name(tmp_path, monkeypatch):
    from decodetr.utils import shipped

    monkeypatch.setattr(shipped, "HUB_CARDS", tmp_path / "hub_cards")
    write_byte_clip(tmp_path / "hub_cards" / "small-clip")
    output = tmp_path / "v"
    arguments = ["vocabulary", "build", "--names", "cat", "--text-model", "small-clip", "--output", str(output)]
    assert main(arguments) == 0
    assert Vocabulary.from_pretrained(output).info["encoder"] == "small-clip"
