"""What an earlier run left behind is used by what it belongs to, and by nothing else; what is damaged is named."""

import json
import shutil

import numpy as np
import pytest
from helpers.captions import CAPTIONS, write_json
from helpers.tiny_teachers import write_tiny_clip

from decodetr.scenes.command_runner import MARKER, claim, run_stages
from decodetr.scenes.run_records import RunRecords
from decodetr.training.data.weak_labels import CaptionTable
from decodetr.training.results.forgetting import FILE, ForgettingReport


@pytest.mark.parametrize("content", ["", "[]", '{"trained_names": ["a"], "data": "d", "start": "s"}'])
def test_what_was_measured_before_is_measured_again_where_its_file_is_damaged(tmp_path, content, caplog):
    (tmp_path / FILE).write_text(content)
    report = ForgettingReport(tmp_path, ["a"], "d", "s")
    report.before(lambda: {"AP50_trained": 1.0})
    assert report.content["before"] == {"AP50_trained": 1.0}
    assert (str(tmp_path / FILE) in caplog.text) == (not content.startswith("{"))
    again = ForgettingReport(tmp_path, ["a"], "d", "s")
    again.before(None)  # not called
    assert again.content["before"] == {"AP50_trained": 1.0}
    ForgettingReport(tmp_path, ["a"], "d", "another start").before(lambda: {"AP50_trained": 2.0})
    assert json.loads((tmp_path / FILE).read_text())["before"] == {"AP50_trained": 2.0}


def test_captions_are_embedded_again_by_another_model_of_the_same_name_or_from_a_damaged_file(tmp_path, caplog):
    rows = [{"image_id": image, "caption": caption} for image, caption in CAPTIONS]
    file = write_json(tmp_path / "captions.json", {"annotations": rows})
    write_tiny_clip(tmp_path / "clip")
    first = CaptionTable.load(file, str(tmp_path / "clip"), tmp_path / "run")
    shutil.rmtree(tmp_path / "clip")
    write_tiny_clip(tmp_path / "clip", seed=1)
    other = CaptionTable.load(file, str(tmp_path / "clip"), tmp_path / "run")
    assert not np.allclose(first.embeddings, other.embeddings)
    (tmp_path / "run" / "captions.safetensors").write_bytes(b"cut off")
    again = CaptionTable.load(file, str(tmp_path / "clip"), tmp_path / "run")
    assert np.array_equal(again.embeddings, other.embeddings) and "captions.safetensors is damaged" in caplog.text


def _stage(folder, command, *words):
    def run(done):
        record = claim(folder, {"size": 1})
        done.clear()
        return run_stages(folder, [(folder / "names.json", ["vocabulary", *words])], 1, record, command)

    return run


def test_a_stage_that_another_command_finished_is_no_stage_of_this_one(tmp_path, capsys):
    done, folder = [], tmp_path / "out"

    def command(words):
        done.append(words)
        (folder / "names.json").write_text("{}")
        return 0

    first = _stage(folder, command, "--output", str(folder), "--rate", "1")
    assert first(done)[0] == 0 and len(done) == 1
    assert first(done)[0] == 0 and not done  # done before
    with pytest.raises(ValueError, match=r"names.json was made by another command:\n  .*--rate 1\nnow\n  .*--rate 2"):
        _stage(folder, command, "--output", str(folder), "--rate", "2")(done)
    moved = folder.rename(tmp_path / "moved")
    folder = moved
    assert _stage(moved, command, "--output", str(moved), "--rate", "1")(done)[0] == 0 and not done


def test_a_folder_of_stages_belongs_to_the_models_that_it_was_made_with(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    record = claim(tmp_path / "out", {"model": "model"}, models=[str(model)])
    assert claim(tmp_path / "out", {"model": "model"}, models=[str(model)]) == record
    (model / "config.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=f"other contents: {model}"):
        claim(tmp_path / "out", {"model": "model"}, models=[str(model)])
    (tmp_path / "out" / MARKER).write_text("{}")
    with pytest.raises(ValueError, match="stages.json is not what this command writes"):
        claim(tmp_path / "out", {"model": "model"})


def test_runs_of_a_comparison_belong_to_the_contents_of_its_folders(tmp_path):
    file = tmp_path / "runs.json"
    RunRecords(file, {"steps": 2}, {"model": "a", "pool": "b"}).add("runs", "captions", {"0": {}})
    assert RunRecords(file, {"steps": 2}, {"model": "a", "pool": "b"}).content["runs"] == {"captions": {"0": {}}}
    with pytest.raises(ValueError, match="other contents of pool"):
        RunRecords(file, {"steps": 2}, {"model": "a", "pool": "c"})
