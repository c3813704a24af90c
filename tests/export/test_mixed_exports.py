"""A file of another export, a damaged one and a changed export.json are refused, in all formats."""

import json
import shutil

import pytest
from helpers.exports import exported
from helpers.tiny_models import tiny_model

from decodetr.runtime import ExportedDetector


@pytest.fixture(scope="module", params=["onnx", "openvino", "pt2"])
def of_each_format(request, tmp_path_factory, onnx_folder):
    """A small export with names as input, and the files that it lists."""
    folder = onnx_folder
    if request.param != "onnx":
        folder = tmp_path_factory.mktemp(request.param)
        exported(tiny_model("detr", names=["cat", "dog"]).eval(), folder, request.param, names_input=True)
    return folder, json.loads((folder / "export.json").read_text())["files"]


def test_every_other_file_of_an_export_is_known_by_its_content(of_each_format, tmp_path):
    """A damaged byte, a file of another export, a file cut short."""
    source, listed = of_each_format
    assert {source / name for name in listed} == {*source.iterdir()} - {source / "export.json"}
    for name, said in listed.items():
        folder = shutil.copytree(source, tmp_path / name.replace(".", "_"))
        assert said["bytes"] == (folder / name).stat().st_size
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not the file .* damaged, changed, or of another export"):
            ExportedDetector(folder, allow_pickle=True)
        (folder / name).write_bytes(content[:-1])
        for verify in (True, False):
            with pytest.raises(ValueError, match=f"{name} is not .* {said['bytes']} bytes .* {said['bytes'] - 1} w"):
                ExportedDetector(folder, allow_pickle=True, verify=verify)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"{name}: no such file"):
            ExportedDetector(folder, allow_pickle=True)


def test_an_export_json_of_another_export_of_the_same_weights_is_refused(of_each_format, tmp_path):
    """Whatever decides detections, also where its list of files would fit the graph."""
    folder = shutil.copytree(of_each_format[0], tmp_path / "out")
    said = json.loads((folder / "export.json").read_text())
    changes = {
        "names": said["names"][::-1],
        "preprocessing": said["preprocessing"] | {"image_mean": [0.9, 0.9, 0.9]},
        "image_size": [96, 96],
        "batch_size": 3,
        "post_processing": "inside",
        "top_k": 7,
        "score_scale": 2.0,
        "score_bias": 0.5,
        "score_threshold": 0.5,
        "name_thresholds": {said["names"][0]: 0.1},
        "default_threshold": 0.1,
        "background_threshold": 0.5,
        "pool_use": "none",
        "pool_digest": "0" * 64,
        "dtype": "bfloat16",
    }
    for name, value in changes.items():
        assert said[name] != value
        (folder / "export.json").write_text(json.dumps({**said, name: value}))
        with pytest.raises(ValueError, match=f"beside it are of two exports, .*: they differ in {name};"):
            ExportedDetector(folder, allow_pickle=True)
    free = {"source": "other", "versions": {}, "training_info": {"data": "photos"}}  # `decodetr push` cuts paths
    (folder / "export.json").write_text(json.dumps(said | free))
    assert ExportedDetector(folder, allow_pickle=True).names == said["names"]


def test_tables_are_compared_also_where_graphs_are_not(onnx_folder, tmp_path):
    folder = onnx_folder
    (tmp_path / "export.json").write_bytes((folder / "export.json").read_bytes())
    for name in ("model.onnx", "name_tables.safetensors"):
        content = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(content.replace(b"decodetr", b"decodeTR"))  # of the metadata's key
    assert (tmp_path / "model.onnx").read_bytes() != (folder / "model.onnx").read_bytes()
    assert ExportedDetector(tmp_path, verify=False).names == ExportedDetector(folder).names
    tables = bytearray((folder / "name_tables.safetensors").read_bytes())
    tables[-1] ^= 1
    (tmp_path / "name_tables.safetensors").write_bytes(tables)
    with pytest.raises(ValueError, match="name_tables.safetensors is not the file"):
        ExportedDetector(tmp_path, verify=False)
