"""Paths that lead out of a data set's folder: refused by every reader, a finding of validate, allowed by a flag."""

import json
import os

import datasets
import pyarrow.parquet as pq
import pytest
from helpers.broken_data import good, training_says, write
from helpers.data_forms import hub_dataset, write_yolo
from PIL import Image

from decodetr.annotations.sources import load_annotations, load_stream
from decodetr.cli import main
from decodetr.utils.paths import inside

FLAG = "--allow-outside"


@pytest.fixture
def secret(tmp_path):
    """A picture beside the data set, not in it."""
    Image.new("RGB", (96, 64), "red").save(tmp_path / "secret.png")
    return tmp_path / "secret.png"


@pytest.mark.parametrize("name", ["../../secret.png", "SECRET", "x/../../../secret.png"])
def test_a_coco_file_that_names_pictures_elsewhere(tmp_path, secret, name, capsys, monkeypatch):
    document = good()
    document["images"][0]["file_name"] = name.replace("SECRET", str(secret))
    folder = write(tmp_path / "data", document)
    assert (said := training_says(folder)) and "secret.png leads out of" in said and FLAG in said
    assert "images[0] (id 1)" in said and "train.json" in said
    words = ["validate", str(folder), "--names-split", "none"]
    assert main([*words, "--output", str(tmp_path / "out"), "--repair", str(tmp_path / "repaired")]) == 1
    printed = capsys.readouterr().out
    assert "| error | images outside of the data set's folder | 1 |" in printed
    assert training_says(tmp_path / "repaired") is None  # without it
    assert main([*words, FLAG]) == 0 and "DECODETR_ALLOW_OUTSIDE" not in os.environ
    monkeypatch.setenv("DECODETR_ALLOW_OUTSIDE", "1")
    assert training_says(folder) is None


def test_paths_that_stay_inside_are_as_good_as_others(tmp_path):
    document = good()
    document["images"][0]["file_name"] = str(tmp_path / "data" / "train" / "1.png")
    document["images"][1]["file_name"] = "../train/2.png"
    folder = write(tmp_path / "data", document)
    assert training_says(folder) is None
    (tmp_path / "link").symlink_to(folder)
    assert training_says(tmp_path / "link") is None
    document["images"][0]["file_name"] = "../../secret.png"
    (folder / "annotations" / "train.json").write_text(json.dumps(document))
    Image.new("RGB", (96, 64)).save(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="leads out of"):
        load_annotations(folder, "train")
    document["images"][0]["file_name"] = "secret.png"  # in the image folder that is given
    for image in document["images"][1:]:
        image["file_name"] = f"data/train/{image['id']}.png"
    (folder / "annotations" / "train.json").write_text(json.dumps(document))
    assert len(load_annotations(None, "train", folder / "annotations" / "train.json", tmp_path)) == 6


def test_an_image_folder_elsewhere(tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    folder = write(tmp_path / "data", good() | {"info": {"image_folder": str(tmp_path / "elsewhere")}})
    assert "info.image_folder" in training_says(folder) and FLAG in training_says(folder)
    assert main(["validate", str(folder)]) == 1
    assert "info.image_folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    "config", [{"path": ".."}, {"train": "../other"}, {"train": "OTHER"}, {"path": "OTHER", "train": "."}]
)
def test_a_yolo_file_that_names_folders_elsewhere(tmp_path, config, capsys, monkeypatch):
    folder = write_yolo(tmp_path / "yolo")
    (folder / "images" / "train").rename(tmp_path / "other")
    for label in (folder / "labels" / "train").iterdir():
        label.rename(tmp_path / "other" / label.name)
    config = {key: value.replace("OTHER", str(tmp_path / "other")) for key, value in config.items()}
    document = {"names": ["a", "b"], "train": "other", **config}
    (folder / "data.yaml").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"data\.yaml: train: .* leads out of .*--allow-outside"):
        load_annotations(folder, "train")
    assert main(["validate", str(folder)]) == 1 and "leads out of" in capsys.readouterr().out
    monkeypatch.setenv("DECODETR_ALLOW_OUTSIDE", "1")
    assert len(load_annotations(folder, "train").annotations_by_image.column("id")) == 3


def test_a_yolo_list_that_names_pictures_elsewhere(tmp_path, secret):
    folder = write_yolo(tmp_path / "yolo", train="list.txt")
    (folder / "list.txt").write_text(f"images/train/a.png\n\n{secret}\n")
    with pytest.raises(ValueError, match=r"list\.txt: line 3: .*secret\.png leads out of"):
        load_annotations(folder, "train")
    (folder / "list.txt").unlink()
    os.mkfifo(folder / "list.txt")
    with pytest.raises(ValueError, match=r"list\.txt: expected a regular file"):
        load_annotations(folder, "train")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "path", ["SECRET", "../secret.png", "https://example.org/a.png", "file://SECRET", "/dev/zero"]
)
def test_a_parquet_file_that_names_pictures_elsewhere(tmp_path, secret, path, streaming, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = path.replace("SECRET", str(secret))
    rows = hub_dataset().cast_column("image", datasets.Image(decode=False)).to_list()
    rows[1]["image"] = {"bytes": None, "path": path}
    features = hub_dataset().features | {"image": datasets.Image(decode=False)}
    data = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    (tmp_path / "data").mkdir()
    data = data.cast_column("image", datasets.Image())
    table = data.data.table.replace_schema_metadata(data.features.arrow_schema.metadata)
    pq.write_table(table, tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match="row 1: .*(leads out of|leads to another machine)"):
        if streaming:
            stream = load_stream(tmp_path / "data", "train")
            list(map(stream.read, stream.rows([0], 0, 0, 1)))
        else:
            load_annotations(tmp_path / "data", "train")


def test_pictures_of_a_folder_that_datasets_lists_are_inside(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(folder / "a.png")
    row = {"file_name": "a.png", "objects": {"bbox": [[1, 1, 4, 4]], "category": ["cat"]}}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    coco = load_annotations(tmp_path / "data", "train")
    assert (coco.images[0]["width"], coco.images[0]["height"], coco.names) == (8, 6, ["cat"])


def test_inside():
    assert inside(["data"], "a/b.png", "f") == os.path.join("data", "a/b.png")
    assert inside(["data"], "a/../b.png", "f") == os.path.join("data", "b.png")
    assert inside(["data/x", "data"], "../b.png", "f") == os.path.join("data", "b.png")
    for path in ("..", "../database/x.png", "/etc/passwd", "a/../../x"):
        with pytest.raises(ValueError, match=r"^file, row 3: .* leads out of data; .*--allow-outside"):
            inside(["data"], path, "file, row 3")
    with pytest.raises(ValueError, match="expected a path"):
        inside(["data"], "a\0b", "f")
