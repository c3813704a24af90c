"""Example images on disk: a folder for each name, or boxes of an annotation file."""

import json

import pytest
from helpers.pictures import write_image

from decodetr.annotations.sources import load_annotations
from decodetr.inference.examples import examples_of_boxes, examples_of_folders


def test_a_sub_folder_is_a_name(tmp_path):
    for name, colors in {"my mug": [(1, 2, 3), (4, 5, 6)], "a": [(7, 8, 9)]}.items():
        for i, color in enumerate(colors):
            write_image(tmp_path / name / f"{i}.png", color=color)
    (tmp_path / ".cache").mkdir()
    found = examples_of_folders(tmp_path)
    assert list(found) == ["a", "my mug"]
    assert [image.getpixel((0, 0)) for image in found["my mug"]] == [(1, 2, 3), (4, 5, 6)]
    assert [image.getpixel((0, 0)) for image in examples_of_folders(tmp_path, 1)["my mug"]] == [(1, 2, 3)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no images"):
        examples_of_folders(tmp_path)
    with pytest.raises(FileNotFoundError, match="a has no sub-folders; expected one with example pictures"):
        examples_of_folders(tmp_path / "a")
    for other in ("gone", "a/0.png"):
        with pytest.raises(
            FileNotFoundError, match=f"--images .*{other} is no folder; expected one with a sub-folder"
        ):
            examples_of_folders(tmp_path / other)


def test_pictures_beside_the_sub_folders_are_told(tmp_path, caplog):
    for name in ("cat/0.png", "dog.png", ".hidden.png"):
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    assert list(examples_of_folders(tmp_path)) == ["cat"]
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"--images {tmp_path}: pictures beside the sub-folders" in said and "not used: 'dog.png'; move each" in said


def _write(folder, rows):
    images = [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in (1, 2)]
    for i in (1, 2):
        write_image(folder / "images" / f"{i}.png", color=(i, i, i))
    annotations = [
        {"id": n, "image_id": image, "category_id": category, "bbox": box, "area": 1, "iscrowd": crowd}
        for n, (image, category, box, crowd) in enumerate(rows)
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 7, "name": "yak"}]
    file = folder / "boxes.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return load_annotations(None, "val", file, folder / "images")


def test_boxes_are_cut_out_the_largest_first(tmp_path):
    rows = [
        (1, 5, [0, 0, 10, 10], 0), (1, 5, [0, 0, 30, 20], 0), (2, 5, [70.5, 10, 30, 30], 0),
        (2, 3, [0, 0, 5.5, 7], 0), (1, 3, [0, 0, 60, 60], 1),
    ]  # fmt: skip
    found = examples_of_boxes(_write(tmp_path, rows))
    assert {name: sorted(image.size for image in images) for name, images in found.items()} == {
        "cat": [(6, 7)],  # a crowd is no example
        "dog": [(10, 10), (10, 30), (30, 20)],  # clipped to the picture, rounded outward
    }
    largest = examples_of_boxes(_write(tmp_path, rows), 2)["dog"]
    assert [(image.size, image.getpixel((0, 0))[0]) for image in largest] == [((30, 20), 1), ((10, 30), 2)]
    with pytest.raises(ValueError, match="boxes.json: expected boxes of examples, got none"):
        examples_of_boxes(_write(tmp_path, [(1, 3, [0, 0, 60, 60], 1)]))
