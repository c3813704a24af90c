"""`decodetr validate`: what it finds, what it exits with, what a repaired copy is."""

import errno
import json
import os
import shutil
from pathlib import Path

import datasets
import pytest
from helpers.broken_data import BROKEN, NAMES, WHOLE, good, make, training_says, write
from helpers.data_forms import assert_same, hub_dataset, items, write_yolo
from PIL import Image

from decodetr.annotations import repair
from decodetr.annotations.left_over import UNNAMED
from decodetr.annotations.sources import load_annotations
from decodetr.cli import main
from decodetr.utils.files import write_json


def validate(capsys, *words):
    """(exit status, what it printed)."""
    status = main(["validate", *map(str, words)])
    return status, capsys.readouterr().out


@pytest.mark.parametrize("case", BROKEN)
def test_one_mistake_each(tmp_path, capsys, case):
    _, message, is_error, stops = BROKEN[case]
    folder = make(case, tmp_path / "data")
    status, printed = validate(capsys, folder, "--output", tmp_path / "out", "--repair", tmp_path / "repaired")
    assert status == (1 if is_error else 0) and message in printed
    assert (training_says(folder) is not None) == stops
    report = json.loads((tmp_path / "out" / "validation.json").read_text())["train"]
    assert any(message in finding["what"] for finding in report["findings"]) or message == "No problem was found."[:-1]
    if case in ("no image", "no category"):
        assert not (tmp_path / "repaired").exists()
        return
    assert training_says(tmp_path / "repaired") is None, "a repaired copy must train"
    status, printed = validate(capsys, tmp_path / "repaired")
    said = ("No problem was found", "no annotations at all", UNNAMED)  # a picture that was left out is still there
    assert status == 0 and any(text in printed for text in said)
    with Image.open(tmp_path / "out" / "train.jpg") as sheet:
        assert sheet.width >= 480


@pytest.mark.parametrize("case", WHOLE)
def test_files_that_are_none(tmp_path, capsys, case):
    status, printed = validate(capsys, make(case, tmp_path / "data"), "--output", tmp_path / "out")
    assert status == 1 and WHOLE[case][1] in printed


@pytest.mark.parametrize(
    "case",
    [
        "boxes as two corners",
        "boxes in 0..1",
        "centres in 0..1",
        "polygons only",
        "masks only",
        "category ids from 0",
        "image ids that are words",
        "no sizes",
        "a size of 400 digits",
        "paths of another system",
        "a root above the names",
    ],
)
def test_what_is_put_right_is_as_it_was(tmp_path, case):
    status = main(["validate", str(make(case, tmp_path / "data")), "--repair", str(tmp_path / "repaired")])
    assert status == int(BROKEN[case][2])
    repaired = json.loads((tmp_path / "repaired" / "annotations" / "train.json").read_text())
    for row, expected in zip(repaired["annotations"], good()["annotations"], strict=True):
        assert row["bbox"] == pytest.approx(expected["bbox"]) and row["category_id"] == expected["category_id"]
    assert [entry["name"] for entry in repaired["categories"]] == NAMES
    files = [(f"{image}.png", 96, 64) for image in range(1, 7)]
    assert [(entry["file_name"], entry["width"], entry["height"]) for entry in repaired["images"]] == files
    image_of = {entry["id"]: entry["file_name"] for entry in repaired["images"]}
    assert [image_of[row["image_id"]] for row in repaired["annotations"]] == [
        f"{row['image_id']}.png" for row in good()["annotations"]
    ]


MASKS = {
    "a text that goes on": {"size": [64, 96], "counts": "Po"},
    "other characters": {"size": [64, 96], "counts": "\u2603\xff"},
    "negative runs": {"size": [64, 96], "counts": [5, -1]},
    "runs beyond all pixels": {"size": [64, 96], "counts": [5, 2**40]},
    "no pixels": {"size": [0, 0], "counts": [1, 2]},
    "another size": {"size": [96, 64], "counts": [5, 10, 6129]},
    "no runs": {"size": [64, 96]},
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_that_are_none_make_no_box(tmp_path, capsys, case):
    document = good()
    document["annotations"][0] |= {"bbox": None, "segmentation": MASKS[case]}
    status, printed = validate(capsys, write(tmp_path / "data", document))
    assert status == 1 and "| error | boxes that are not four finite numbers | 1 |" in printed


def test_an_object_without_a_box_stays_by_its_outline(tmp_path, capsys):
    document = good()
    document["annotations"][0] |= {"bbox": [float("nan")] * 4, "segmentation": [[10, 8, 50, 8, 50, 58]]}
    folder = write(tmp_path / "data", document)
    with pytest.raises(ValueError, match="got .*--repair DIR` makes boxes of polygons and masks"):
        load_annotations(
            write(tmp_path / "none", good() | {"annotations": [{**document["annotations"][0], "bbox": None}]}), "train"
        )
    assert "polygons and no bbox | 1 |" in validate(capsys, folder, "--repair", tmp_path / "repaired")[1]
    assert load_annotations(tmp_path / "repaired", "train").annotations_by_image[1][0]["bbox"] == [10, 8, 40, 50]


def test_statistics_and_rows_that_stay(tmp_path, capsys):
    document = good()
    document["annotations"][0]["id"] = document["annotations"][1]["id"]
    document["annotations"][2]["bbox"] = [90, 60, 20, 20]
    folder = write(tmp_path / "data", document)
    status, printed = validate(capsys, folder, "--repair", tmp_path / "repaired", "--output", tmp_path / "out")
    assert status == 1
    assert (
        "| error | annotation ids that repeat or are no integers | 1 | annotations[1] (id 2) | given new ids |"
        in printed
    )
    assert "annotations[2] (id 3): [90, 60, 20, 20] in 96 x 64 | clipped |" in printed
    numbers = json.loads((tmp_path / "out" / "validation.json").read_text())["train"]
    assert (numbers["images"], numbers["annotations"], numbers["images_without_objects"]) == (6, 10, 1)
    assert sum(numbers["small_medium_large"]) == 10
    coco = load_annotations(tmp_path / "repaired", "train")
    assert coco.annotations_by_image[2][0]["bbox"] == [90, 60, 6, 4]
    assert Path(coco.images[0]["path"]).resolve() == (tmp_path / "data" / "train" / "1.png").resolve()
    assert (tmp_path / "repaired" / "train").is_symlink(), "images stay in their place"
    assert len({row["id"] for rows in coco.annotations_by_image.values() for row in rows}) == 10


def test_names_of_split_and_vocabulary(tmp_path, capsys):
    from decodetr import Vocabulary

    folder = write(tmp_path / "data", good())
    split = {"base": {"1": NAMES[0], "2": "Salt, Pepper"}, "novel": {"3": "cat"}}
    (folder / "names.json").write_text(json.dumps(split))
    status, printed = validate(capsys, folder)
    assert status == 0
    assert "names of the split that the file lacks | 1 | 'Salt, Pepper' (there is 'salt, pepper') |" in printed
    assert "annotations of 1 novel names in the training file" in printed and "| novel annotations | 3 |" in printed
    (folder / "names.json").write_text(json.dumps({"base": {"1": "x"}, "novel": {}}))
    assert "no base name of the split is in the file" in validate(capsys, folder)[1]
    assert validate(capsys, folder, "--names-split", "none") == validate(capsys, folder, "--names-split", "none")
    import torch

    Vocabulary(["cat", "creme brulee"], torch.eye(2)).save_pretrained(tmp_path / "names")
    status, printed = validate(capsys, folder, "--names-split", "none", "--vocabulary", tmp_path / "names")
    assert (
        status == 1 and "names that the vocabulary lacks | 2 | 'crème brûlée' (there is 'creme brulee') |" in printed
    )


def test_pictures_in_two_parts_and_twice(tmp_path, capsys):
    folder = write(tmp_path / "data", good())
    (folder / "val").mkdir()
    Image.open(folder / "train" / "1.png").save(folder / "val" / "1.png")
    for name in ("2.png", "3.png"):
        Image.new("RGB", (96, 64), "white").save(folder / "val" / name)
    document = good()
    document["images"], document["annotations"] = document["images"][:3], document["annotations"][:6]
    (folder / "annotations" / "val.json").write_text(json.dumps(document))
    status, printed = validate(capsys, folder)
    assert status == 1 and printed.count("## ") == 2
    assert "| error | pictures that are in two parts | 1 |" in printed
    assert "| warning | pictures that are there twice | 1 |" in printed
    assert validate(capsys, folder, "--parts", "train")[0] == 0


def test_other_kinds_of_data(tmp_path, capsys):
    yolo = write_yolo(tmp_path / "yolo")
    status, printed = validate(capsys, yolo, "--output", tmp_path / "out", "--repair", tmp_path / "repaired")
    assert status == 0 and "| annotations | 3 |" in printed and (tmp_path / "out" / "train.jpg").is_file()
    assert training_says(tmp_path / "repaired") is None  # YOLO as a COCO folder
    (yolo / "labels" / "train" / "a.txt").write_text("7 0.5 0.5 0.1 0.1")
    status, printed = validate(capsys, yolo)
    assert status == 1 and "a.txt: line 1: expected a class of 0 to 1" in printed
    hub_dataset().save_to_disk(tmp_path / "saved")
    status, printed = validate(capsys, tmp_path / "saved", "--output", tmp_path / "saved-out")
    assert status == 0 and "| names | 2 |" in printed
    wrong = hub_dataset(box_format="pascal_voc")
    wrong.save_to_disk(tmp_path / "corners")
    status, printed = validate(capsys, tmp_path / "corners")
    assert status == 1 and "boxes seem to be two corners" in printed
    status, printed = validate(capsys, tmp_path / "corners", "--repair", tmp_path / "r")
    assert status == 1 and training_says(tmp_path / "r") is None  # its pictures are written too
    assert validate(capsys, tmp_path / "r")[0] == 0
    assert_same(items(load_annotations(tmp_path / "r", "train")), items(load_annotations(tmp_path / "saved", "train")))


def test_a_file_alone_and_nothing(tmp_path, capsys):
    folder = write(tmp_path / "data", good())
    status, printed = validate(capsys, folder / "annotations" / "train.json")
    assert status == 0 and printed.startswith("## train")
    (tmp_path / "empty").mkdir()
    assert main(["validate", str(tmp_path / "empty")]) == 1
    assert "no annotations and no pictures were found. Looked for: data.yaml" in capsys.readouterr().err
    assert main(["validate", str(tmp_path / "none.json")]) == 1
    assert "cannot be read as JSON" in capsys.readouterr().out


def test_relative_boxes_of_two_forms_are_not_guessed(tmp_path, capsys):
    document = good()
    for row in document["annotations"]:
        row["bbox"] = [0.4, 0.4, 0.5, 0.5]
    folder = write(tmp_path / "data", document)
    status, printed = validate(capsys, folder, "--repair", tmp_path / "repaired")
    assert status == 1 and not (tmp_path / "repaired").exists()
    assert "they can be x, y, w, h or two corners or centre and size: say which (--box-format)" in printed
    for form, box in (
        ("coco", [38.4, 25.6, 48, 32]),
        ("pascal_voc", [38.4, 25.6, 9.6, 6.4]),
        ("yolo", [14.4, 9.6, 48, 32]),
    ):
        assert validate(capsys, folder, "--repair", tmp_path / form, "--box-format", form)[0] == 1
        repaired = json.loads((tmp_path / form / "annotations" / "train.json").read_text())
        assert repaired["annotations"][0]["bbox"] == pytest.approx(box)


@pytest.mark.parametrize("words", [["--repair", "data"], ["--repair", "data/annotations/.."], ["--output", "data"]])
def test_what_is_read_is_not_written_over(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    folder = make("zero area", tmp_path / "data")
    before = (folder / "annotations" / "train.json").read_bytes()
    for data in ("data", "data/annotations/train.json"):
        if data == "data" or words[0] == "--repair":
            assert main(["validate", data, *words]) == 1
            error = capsys.readouterr().err
            assert "which would be written over; give another --" in error
    assert (folder / "annotations" / "train.json").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["annotations", "train"]


def test_annotations_of_another_data_set_are_not_replaced(tmp_path, capsys):
    folder, other = make("zero area", tmp_path / "data"), write(tmp_path / "other", good())
    assert main(["validate", str(folder), "--repair", str(other)]) == 1
    assert f"no repair wrote {other / 'annotations'}" in capsys.readouterr().err
    assert json.loads((other / "annotations" / "train.json").read_text()) == good()
    words = ["validate", str(folder), "--repair", str(tmp_path / "repaired")]
    assert main(words) == 0 and main(words) == 1
    assert "give --overwrite to replace it, or another --repair" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert main(["validate", str(folder), "--repair", str(other), "--overwrite"]) == 1


def test_pictures_of_another_data_set_are_not_replaced(tmp_path, capsys):
    hub_dataset().save_to_disk(tmp_path / "saved")
    mine, theirs = tmp_path / "mine" / "train", write(tmp_path / "theirs", good()) / "train"
    for folder in (mine, theirs):
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in ("jpg", "png"):
            (folder / f"000001.{suffix}").write_bytes(b"old")
    assert main(["validate", str(tmp_path / "saved"), "--repair", str(mine.parent)]) == 1
    assert f"no repair wrote {mine}" in capsys.readouterr().err
    for data in ("theirs", "saved"):  # the first one makes a link to its pictures
        main(["validate", str(tmp_path / data), "--repair", str(tmp_path / "repaired"), "--overwrite"])
    assert all(file.read_bytes() == b"old" for file in (*mine.iterdir(), *theirs.glob("000001.*")))
    assert len(load_annotations(tmp_path / "repaired", "train").images) == len(hub_dataset())


def test_a_repair_replaces_all_of_the_earlier_one_and_nothing_else(tmp_path, capsys):
    both, one, copy = write(tmp_path / "both", good()), write(tmp_path / "one", good()), tmp_path / "repaired"
    for part in ("val", "test"):
        shutil.copytree(both / "train", both / part)
        shutil.copy(both / "annotations" / "train.json", both / "annotations" / f"{part}.json")
    assert main(["validate", str(both), "--repair", str(copy)]) in (0, 1)
    assert {file.stem for file in (copy / "annotations").iterdir()} == {"train", "val", "test"}
    (copy / "annotations" / "mine.json").write_text("{}")
    assert main(["validate", str(one), "--repair", str(copy), "--overwrite"]) in (0, 1)
    assert {path.name for path in copy.iterdir()} == {"annotations", "repaired.json", "train"}
    assert {file.name for file in (copy / "annotations").iterdir()} == {"mine.json", "train.json"}
    hub_dataset().save_to_disk(tmp_path / "saved")
    for data in ("saved", "one", "saved"):  # copies, a link, copies
        main(["validate", str(tmp_path / data), "--repair", str(copy), "--overwrite"])
        coco = load_annotations(copy, "train")
        assert all(Path(entry["path"]).is_file() for entry in coco.images) and coco.images
        links = [path for path in copy.iterdir() if path.is_symlink()]
        copies = list(copy.rglob("0*.*"))
        assert (len(links), len(copies)) == ((1, 0) if data == "one" else (0, len(hub_dataset())))
    assert len(list((both / "train").iterdir())) == len(list((one / "train").iterdir())) > 0


def test_a_repair_that_fails_in_its_second_part_writes_nothing(tmp_path, capsys, monkeypatch):
    data, copy = write(tmp_path / "data", good()), tmp_path / "repaired"
    shutil.copytree(data / "train", data / "val")
    shutil.copy(data / "annotations" / "train.json", data / "annotations" / "val.json")
    written = []

    def full(file, value, indent=1):
        written.append(Path(file).name)
        if written[-1] == "val.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_json(file, value, indent)

    monkeypatch.setattr(repair, "write_json", full)
    assert main(["validate", str(data), "--repair", str(copy)]) == 1
    assert written == ["train.json", "val.json"] and list(copy.iterdir()) == []
    assert f"nothing was written; make room, or write to another disk: '{copy}'" in capsys.readouterr().err
    monkeypatch.undo()
    main(["validate", str(data), "--repair", str(copy)])
    assert {file.name for file in (copy / "annotations").iterdir()} == {"train.json", "val.json"}


def test_all_faults_of_yolo_and_a_copy_without_them(tmp_path, capsys):
    yolo = write_yolo(tmp_path / "yolo")
    good_row = (yolo / "labels" / "train" / "b.txt").read_text()
    (yolo / "labels" / "train" / "b.txt").write_text(f"7 0.5 0.5 0.1 0.1\n{good_row}8 0.5 0.5 0.1 0.1\nx 1 2 3 4\n")
    (yolo / "images" / "train" / "c.png").write_bytes(b"no picture")
    status, printed = validate(capsys, yolo, "--repair", tmp_path / "repaired")
    assert status == 1 and "| error | classes that data.yaml does not have | 2 |" in printed
    assert (
        "b.txt: line 1: expected a class of 0 to 1" in printed
        and "| error | rows that are no numbers | 1 |" in printed
    )
    assert "| error | images that cannot be read | 1 |" in printed and "| annotations | 3 |" in printed
    coco = load_annotations(tmp_path / "repaired", "train")
    assert [len(rows) for rows in coco.annotations_by_image.values()] == [2, 1]


def test_all_faults_of_a_data_set_and_a_copy_without_them(tmp_path, capsys):
    rows = hub_dataset(area=[1, 2, 3]).remove_columns("area").to_list()
    rows[0]["objects"]["bbox"][0] = [1.0, 2.0, -3.0, 4.0]
    rows[1]["objects"]["category"] = [-1]
    rows[2]["objects"] = None
    dataset = datasets.Dataset.from_list(rows, features=hub_dataset().features)
    dataset.save_to_disk(tmp_path / "saved")
    status, printed = validate(capsys, tmp_path / "saved", "--repair", tmp_path / "repaired")
    assert status == 1 and "| error | boxes of negative or infinite size | 1 |" in printed
    assert "| error | categories that are none | 1 |" in printed and "| annotations | 1 |" in printed
    coco = load_annotations(tmp_path / "repaired", "train")
    assert [len(rows) for rows in coco.annotations_by_image.values()] == [1, 0, 0]
    assert coco.annotations_by_image[1][0]["bbox"] == [0, 0, 96, 64]


def test_what_is_not_read_is_said(tmp_path, capsys):
    folder = write(tmp_path / "data", good())
    other = folder / "annotations" / "instances_minival.json"
    other.write_text(json.dumps(good()))
    (folder / "names.json").write_text(json.dumps({"base": {"1": NAMES[0]}, "novel": {}}))
    status, printed = validate(capsys, folder)
    assert status == 0 and f"Not read: {other}; `decodetr validate FILE" in printed
    (folder / "annotations" / "train.json").rename(folder / "annotations" / "all.json")
    assert main(["validate", str(folder)]) == 1
    error = capsys.readouterr().err
    assert f"several files can be the part 'train': {other.with_name('all.json')}, {other}; take the others" in error
    yolo = write_yolo(tmp_path / "yolo", val="images/train", valid="images/train")
    status, printed = validate(capsys, yolo)
    assert f"Not read: {yolo} (valid)" in printed


def test_a_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "train.json")
    status, printed = validate(capsys, tmp_path / "train.json")
    assert status == 1 and "train.json: expected a regular file, got a device, pipe or socket" in printed
