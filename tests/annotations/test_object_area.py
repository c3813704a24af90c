"""Areas, by which AP_small, AP_medium and AP_large choose: of boxes that are read in another way than written."""

import json

import datasets
import pytest
from helpers.broken_data import good, write
from PIL import Image

from decodetr.annotations.hub_dataset import read_dataset
from decodetr.annotations.object_area import GREATER, NOTHING, OF_OTHER_BOX, RELATIVE, object_area
from decodetr.annotations.sources import load_annotations
from decodetr.cli import main

# given, box as written, box in pixels, pixels of the image where boxes are shares: area, what was wrong
BY_HAND = {
    "of the box": (2000, [10, 8, 40, 50], [10, 8, 40, 50], None, 2000, ""),
    "of a mask": (700, [10, 8, 40, 50], [10, 8, 40, 50], None, 700, ""),
    "with both edges": (2091, [10, 8, 40, 50], [10, 8, 40, 50], None, 2091, ""),
    "greater than the box": (2200, [10, 8, 40, 50], [10, 8, 40, 50], None, 2000, GREATER),
    "nothing": (0, [10, 8, 40, 50], [10, 8, 40, 50], None, 2000, NOTHING),
    "a share": (0.3, [0.1, 0.2, 0.5, 0.6], [20, 30, 100, 90], 30000, 9000, RELATIVE),
    "a share of a mask": (0.1, [0.1, 0.2, 0.5, 0.6], [20, 30, 100, 90], 30000, 3000, RELATIVE),
    "pixels of shares": (8000, [0.1, 0.2, 0.5, 0.6], [20, 30, 100, 90], 30000, 8000, ""),
    "a share of corners": (0.3, [0.1, 0.2, 0.5, 0.6], [20, 30, 80, 60], 30000, 4800, OF_OTHER_BOX),
    "a share of a mask in corners": (0.1, [0.1, 0.2, 0.5, 0.6], [20, 30, 80, 60], 30000, 3000, RELATIVE),
    "of corners": (18000, [100, 80, 150, 120], [100, 80, 50, 40], None, 2000, OF_OTHER_BOX),
    "of corners near the origin": (2000, [0.4, 0.4, 50, 40], [0.4, 0.4, 49.6, 39.6], None, 1964.16, OF_OTHER_BOX),
    "of corners at the origin": (2000, [0, 0, 50, 40], [0, 0, 50, 40], None, 2000, ""),
    "of a mask in corners": (900, [100, 80, 150, 120], [100, 80, 50, 40], None, 900, ""),
    "before it was clipped": (60000, [150, 100, 300, 200], [150, 100, 50, 50], None, 2500, OF_OTHER_BOX),
    "of a mask before it was clipped": (9000, [150, 100, 300, 200], [150, 100, 50, 50], None, 2500, GREATER),
    "around polygons": (900, None, [10, 8, 40, 50], None, 900, ""),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_by_hand(case):
    *given, area, wrong = BY_HAND[case]
    assert object_area(*given) == (pytest.approx(area), wrong)


def repaired(tmp_path, capsys, change, *words):
    """(first annotation of a repaired copy, sizes of the table, what was printed) of a file of 96 x 64 pixels."""
    document = good()
    for row in document["annotations"]:
        change(row)
    folder = write(tmp_path / "data", document)
    main(["validate", str(folder), "--repair", str(tmp_path / "repaired"), *words])
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "repaired" / "annotations" / "train.json").read_text())["annotations"]
    sizes = next(line.split("|")[2] for line in printed.splitlines() if line.startswith("| small medium large"))
    return rows[0], [int(number) for number in sizes.split(",")], printed


@pytest.mark.parametrize(
    "box, area, words", [([0.1, 0.25, 0.5, 0.5], 0.25, "coco"), ([0.3, 0.5, 0.5, 0.5], 0.25, "yolo")]
)
def test_shares_of_the_image_are_pixels(tmp_path, capsys, box, area, words):
    row, sizes, printed = repaired(
        tmp_path, capsys, lambda row: row.update(bbox=[*box], area=area), "--box-format", words
    )
    assert row["area"] == pytest.approx(0.25 * 96 * 64) == row["bbox"][2] * row["bbox"][3]
    assert f"| warning | {RELATIVE} | " in printed and "0.25 of [" in printed
    assert sizes == [0, 10, 0]


def test_corners_and_clipped_boxes(tmp_path, capsys):
    def to_corners(row):
        x, y, w, h = row["bbox"]
        row.update(bbox=[x, y, x + w, y + h], area=(x + w) * (y + h))

    row, _, printed = repaired(tmp_path, capsys, to_corners, "--box-format", "pascal_voc")
    assert row["bbox"] == [10, 8, 40, 50] and row["area"] == 2000 and f"{OF_OTHER_BOX} | 10 |" in printed
    other = tmp_path / "clipped"
    row, sizes, printed = repaired(other, capsys, lambda row: row.update(bbox=[86, 44, 200, 100], area=20000))
    assert row["bbox"] == [86, 44, 10, 20] and row["area"] == 200 and sizes == [10, 0, 0]
    assert f"| warning | {OF_OTHER_BOX} | 10 |" in printed


def test_masks_stay_and_the_table_is_of_them(tmp_path, capsys):
    """A box of 40 x 50 pixels is of medium size, the 900 pixels of its mask are a small object."""
    row, sizes, printed = repaired(tmp_path, capsys, lambda row: row.update(area=900))
    assert row["area"] == 900 and sizes == [10, 0, 0] and "No problem was found" in printed


@pytest.mark.parametrize(
    "box_format, box, area, expected",
    [
        ("coco", [10, 8, 40, 50], 700, 700),
        ("coco", [10, 8, 40, 50], 9000, 9000),  # COCO's tools take it too
        ("pascal_voc", [10, 8, 50, 58], 2900, 2000),
        ("pascal_voc", [10, 8, 50, 58], 700, 700),
        ("yolo", [0.5, 0.5, 0.5, 0.5], 0.25, 1536),
        ("yolo", [0.5, 0.5, 0.5, 0.5], 0.125, 768),
        ("yolo", [0.5, 0.5, 0.5, 0.5], 768, 768),
        ("yolo", [0.5, 0.5, 0.5, 0.5], None, 1536),
    ],
)
def test_data_sets_that_are_read_with_another_style(caplog, box_format, box, area, expected):
    """Training and evaluation read these without a repair."""
    rows = {
        "image": [Image.new("RGB", (96, 64))],
        "objects": [{"bbox": [box], "category": ["cat"], "area": [area]}],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float64"))),
                "category": datasets.List(datasets.Value("string")),
                "area": datasets.List(datasets.Value("float64")),
            },
        }
    )
    coco = read_dataset(datasets.Dataset.from_dict(rows, features=features), "set", box_format=box_format)
    assert coco.annotations_by_image.column("area").tolist() == [pytest.approx(expected)]
    assert ("areas that are" in caplog.text) == (area is not None and area != expected)


def test_areas_of_0_are_said_when_a_file_is_read(tmp_path, caplog):
    document = good()
    for row in document["annotations"]:
        row["area"] = 0
    load_annotations(write(tmp_path / "data", document), "train")
    (said,) = [record.getMessage() for record in caplog.records if NOTHING in record.getMessage()]
    rows = len(document["annotations"])
    assert f"{rows} of {rows} {NOTHING}, the first in annotations[0]" in said and "AP_small" in said
    caplog.clear()
    for row in document["annotations"]:
        del row["area"]
    load_annotations(write(tmp_path / "other", document), "train")
    assert not caplog.text
