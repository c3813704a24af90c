"""What the rows of YOLO's label files are: declared in data.yaml, or what all of them agree on."""

import json

import pytest
from helpers.data_forms import NAMES, write_yolo

from decodetr.annotations.findings import Findings
from decodetr.annotations.yolo import read_yolo

POSE = "0 0.5 0.5 0.5 0.25 0.4 0.45 2 0.6 0.55 1"  # a box and two keypoints of three numbers


def dataset(folder, labels, **config):
    """Three pictures of 96 x 64, 40 x 80 and 64 x 64 with these label files."""
    write_yolo(folder, **config)
    for name in "abc":
        text = labels.get(name)
        file = folder / "labels" / "train" / f"{name}.txt"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "data.yaml"


def boxes(coco):
    return [row["bbox"] for rows in coco.annotations_by_image.values() for row in rows]


@pytest.mark.parametrize(
    "row, config",
    [
        ("0 0.5 0.5 0.5 0.25", {}),
        ("0 0.5 0.5 0.5 0.25", {"label_format": "box"}),
        (POSE, {"kpt_shape": [2, 3]}),
        ("0 0.5 0.5 0.5 0.25 0.4 0.45 0.6 0.55", {"kpt_shape": [2, 2]}),
        ("0 0.5 0.5 0.5 0.25 0 0 0 0 0 0", {"kpt_shape": [2, 3]}),
        ("0 0.5 0.5 0.5 0.25 0.9", {"label_format": "confidence"}),
        ("0 0.25 0.375 0.75 0.375 0.75 0.625 0.25 0.625", {}),  # an oriented box
        ("0 0.25 0.375 0.75 0.5 0.5 0.625", {"label_format": "polygon"}),
        ("0 0.25 0.375 0.75 0.5 0.5 0.625 0.3 0.5 0.3 0.4", {}),
    ],
)
def test_every_form_gives_the_same_box(tmp_path, row, config):
    coco = read_yolo(dataset(tmp_path / "yolo", {"c": f"{row}\n\n{row}"}, **config), "train")
    assert boxes(coco) == [pytest.approx([16, 24, 32, 16])] * 2


def test_boxes_among_polygons_and_among_poses_are_boxes(tmp_path):
    box = "1 0.5 0.5 0.5 0.25"
    polygon = "0 0.25 0.375 0.75 0.5 0.5 0.625"
    for number, (other, config) in enumerate([(polygon, {}), (POSE, {"kpt_shape": [2, 3]})]):
        coco = read_yolo(dataset(tmp_path / str(number), {"c": f"{box}\n{other}"}, **config), "train")
        assert boxes(coco) == [pytest.approx([16, 24, 32, 16])] * 2


REFUSED = {
    "a pose or a polygon": (
        {"a": POSE, "b": POSE},
        {},
        r"a.txt: line 1: the 10 numbers of each of 2 rows can be a polygon of 5 points, or a box and 2 keypoints of 3 "
        r"numbers; say in data.yaml .*kpt_shape",
    ),
    "keypoints of two numbers": (
        {"a": "0 0.5 0.5 0.5 0.25 0.4 0.45 0.6 0.5 0.6 0.55"},
        {},
        "a polygon of 5 points, or a box and 3 keypoints of 2",
    ),
    "an odd pose": ({"a": POSE + " 0.5 0.5 2"}, {}, "expected 4 numbers.*got 13, .*are they boxes and keypoints"),
    "confidences": ({"a": "0 0.5 0.5 0.1 0.1 0.9"}, {}, "expected 4 numbers.*got 5, .*a confidence or an angle"),
    "one confidence": (
        {"a": "0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1", "b": "\n0 0.5 0.5 0.1 0.1 0.9"},
        {},
        "b.txt: line 2: expected 4 numbers, or the corners of a polygon, as in the other 2 rows of .*, got 5",
    ),
    "another number of keypoints": (
        {"a": f"{POSE}\n{POSE} 0.5 0.5 2"},
        {"kpt_shape": [2, 3]},
        r"a.txt: line 2: expected 4 numbers, or the 4 \+ 2 \* 3 that kpt_shape of .* says, got 13",
    ),
    "a polygon among declared boxes": (
        {"a": "0 0.25 0.375 0.75 0.5 0.5 0.625"},
        {"label_format": "box"},
        "expected 4 numbers, as label_format of .* says, got 6",
    ),
    "a wrong word": ({}, {"label_format": "boxes"}, "expected label_format: box, confidence, polygon, got 'boxes'"),
    "a wrong shape": ({}, {"kpt_shape": [17]}, r"expected kpt_shape: \[number of keypoints, 2 or 3\]"),
    "a shape of texts": ({}, {"kpt_shape": ["x", 3]}, r"expected kpt_shape: \[number of keypoints, 2 or 3\]"),
    "infinite class": ({"a": "1e400 0.5 0.5 0.1 0.1"}, {}, "a.txt: line 1: expected finite numbers"),
    "too few numbers": ({"a": "0 0.5 0.5"}, {}, "expected 4 numbers after the class, got 2"),
    "a class alone": ({"a": "0"}, {}, "expected 4 numbers after the class, got 0"),
    "another encoding": (
        {"a": "0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1 é".encode("cp1252")},
        {},
        "a.txt: line 2: not a text in UTF-8",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_are_refused(tmp_path, case):
    labels, config, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        read_yolo(dataset(tmp_path / "yolo", labels, **config), "train")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_labels_and_lists_of_other_encodings(tmp_path, encoding):
    file = dataset(tmp_path / "yolo", {"c": "0 0.5 0.5 0.5 0.25".encode(encoding)}, train="list.txt")
    (tmp_path / "yolo" / "list.txt").write_bytes("images/train/c.png\nimages/train/a.png".encode(encoding))
    coco = read_yolo(file, "train")
    assert [image["file_name"] for image in coco.images] == ["images/train/c.png", "images/train/a.png"]
    assert boxes(coco) == [pytest.approx([16, 24, 32, 16])]


def test_lists_in_another_spelling(tmp_path, caplog):
    file = dataset(tmp_path / "yolo", {"c": "0 0.5 0.5 0.5 0.25"}, train="list.txt")
    (tmp_path / "yolo" / "list.txt").write_text("images\\train\\c.png\nimages/train/A.png\n")
    coco = read_yolo(file, "train")
    assert [image["file_name"] for image in coco.images] == ["images/train/c.png", "images/train/a.png"]
    assert "2 listed files in another spelling" in caplog.text


def test_a_pipe_is_no_label_file(tmp_path):
    import os

    file = dataset(tmp_path / "yolo", {"a": "0 0.5 0.5 0.5 0.25"})
    os.mkfifo(tmp_path / "yolo" / "labels" / "train" / "b.txt")
    with pytest.raises(ValueError, match="b.txt: expected a regular file, got a device, pipe"):
        read_yolo(file, "train")


def test_all_faults_are_told(tmp_path):
    labels = {"a": "0 0.5 0.5 0.1 0.1\n7 0.5 0.5 0.1 0.1\ncat 1 2 3 4\n9 0.5 0.5 0.1 0.1", "b": "0 0.5 0.5 -0.1 0.1"}
    file = dataset(tmp_path / "yolo", labels)
    (tmp_path / "yolo" / "images" / "train" / "c.png").write_bytes(b"no picture")
    findings = Findings()
    coco = read_yolo(file, "train", findings)
    told = {finding.what: (finding.level, finding.count, finding.example.split(": ")[1]) for finding in findings}
    assert told == {
        "images that cannot be read": ("error", 1, "expected a readable image (AVIF, BMP, GIF, JPEG, JPEG2000, MPO, "
        "PNG, PPM, TIFF, WEBP), got UnidentifiedImageError"),
        "classes that data.yaml does not have": ("error", 2, "line 2"),
        "rows that are no numbers": ("error", 1, "line 3"),
        "boxes of negative size": ("error", 1, "line 1"),
    }  # fmt: skip
    assert len(coco.images) == 2 and len(boxes(coco)) == 1


@pytest.mark.parametrize(
    "names, expected",
    [
        ("{0: off, 1: 007}", ["off", "007"]),
        ("[yes, 1.0]", ["yes", "1.0"]),
        ("\n  0: 2024-01-31\n  1: 'null'", ["2024-01-31", "null"]),
        ("\n- 1:30\n- 0x10", ["1:30", "0x10"]),
    ],
)
def test_names_are_what_the_file_says(tmp_path, names, expected):
    file = dataset(tmp_path / "yolo", {"c": "1 0.5 0.5 0.5 0.25"})
    file.write_text(f"train: images/train\nnames: {names}\n")
    assert read_yolo(file, "train").names == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("names: {0: a, 1: ~}", "names: 1: expected a name, got nothing; write it, in quotes"),
        ("names: [a, [b]]", r"names: 1: expected a name, got \['b'\]"),
        ("names: {0: a, b: c}", r"expected names numbered 0 to 1, got \['0', 'b'\]"),
        ("names: {0: a, 00: c}", "expected names numbered 0 to 1"),
        ("names: {0: a, 0: b}", "line 1: the key '0' is there twice"),
        ("names: 5", "expected `names` as a list"),
        ("names: &a [*a]", "line 1: an alias refers to itself"),
        ("names: " + "[" * 5000, "nested more than 100 deep"),
        ("names: [a]\nnc: [1]", "expected nc names"),
        ("names: [a]\nnc: many", "expected nc names, many, got 1"),
        ("names: [a]\npath: 5\ntrain: pictures", "no such folder or list of images: .*5/pictures; correct `path` or"),
        ("names: [a]\npath: [x]", r"path: expected the path of a folder or of a list, got \['x'\]"),
        ("names: [a]\ntrain: [1]", "no such folder or list of images: .*yolo/1; correct"),
        ("names: [a]\ntrain: [[a]]", r"train: expected the path of a folder or of a list, got \['a'\]"),
        ("names: [a]\ntrain: {a: b}", "train: expected the path of a folder or of a list, got {'a': 'b'}"),
    ],
)
def test_data_yaml_that_is_refused(tmp_path, text, message):
    file = dataset(tmp_path / "yolo", {})
    file.write_text(text + ("" if "train" in text else "\ntrain: images/train"))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read_yolo(file, "train")
    assert str(error.value).startswith(str(file))


def test_json_is_yaml(tmp_path):
    file = dataset(tmp_path / "yolo", {"c": "1 0.5 0.5 0.5 0.25"})
    file.write_text(json.dumps({"names": NAMES, "train": "images/train", "nc": 2}))
    assert read_yolo(file, "train").names == NAMES
