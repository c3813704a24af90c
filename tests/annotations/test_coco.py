"""CocoAnnotations: what it reads, where it finds images, and how it reports what is wrong."""

import json
import pickle
from copy import deepcopy

import numpy as np
import pytest
from PIL import Image

from decodetr.processing import CocoAnnotations, read_image

GOOD = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 3, "file_name": "sub/b.png", "width": 20, "height": 50},
    ],
    "categories": [{"id": 9, "name": "salt, pepper"}, {"id": 2, "name": "café"}],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 9, "bbox": [1, 2, 3.5, 4], "area": 14.0, "iscrowd": 0},
        {"id": 5, "image_id": 7, "category_id": 2, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        {"id": 2, "image_id": 3, "category_id": 2, "bbox": [0, 0, 10, 10], "area": 80.0},
    ],
}


def _write(root, data=None, images="train", name="annotations/train.json"):
    data = deepcopy(GOOD) if data is None else data
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data))
    for image in GOOD["images"]:
        path = root / images / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (image["width"], image["height"]), (10, 20, 30)).save(path)
    return file


def test_reads_names_images_and_annotations(tmp_path):
    coco = CocoAnnotations.load(_write(tmp_path))
    assert coco.names == ["café", "salt, pepper"]
    assert coco.category_ids == [2, 9]
    assert coco.images[1] == {
        "image_id": 3,
        "file_name": "sub/b.png",
        "width": 20,
        "height": 50,
        "path": str(tmp_path / "train" / "sub/b.png"),
    }
    assert coco.image_folder == tmp_path / "train"
    assert dict(coco.annotations_by_image) == {
        7: [{"id": 5, "category": 0, "bbox": [0, 0, 40, 30], "area": 1200, "iscrowd": 1}],  # area from the box
        3: [
            {"id": 1, "category": 1, "bbox": [1, 2, 3.5, 4], "area": 14, "iscrowd": 0},
            {"id": 2, "category": 0, "bbox": [0, 0, 10, 10], "area": 80, "iscrowd": 0},
        ],
    }
    assert dict(pickle.loads(pickle.dumps(coco)).annotations_by_image) == dict(coco.annotations_by_image)


def test_corners_and_crowds(tmp_path):
    index = CocoAnnotations.load(_write(tmp_path)).annotations_by_image
    assert index.corners(3).tolist() == [[1, 2, 4.5, 6], [0, 0, 10, 10]]
    assert index.corners(7).tolist() == [[0, 0, 40, 30]] and index.corners(7, crowds=False).shape == (0, 4)
    assert index.arrays(3)["bbox"].tolist() == [[1, 2, 3.5, 4], [0, 0, 10, 10]]  # as before
    assert index.arrays(7, crowds=False)["id"].tolist() == []
    assert index.column("id").tolist() == [5, 1, 2] and index.column("id", crowds=False).tolist() == [1, 2]


def test_images_without_annotations_and_an_empty_file(tmp_path):
    data = deepcopy(GOOD)
    data["annotations"] = []
    coco = CocoAnnotations.load(_write(tmp_path, data))
    assert dict(coco.annotations_by_image) == {7: [], 3: []}
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    assert len(CocoAnnotations.load(empty)) == 0


@pytest.mark.parametrize(
    "images, name, info, given",
    [
        ("train", "annotations/train.json", None, None),
        ("train", "annotations/instances_train.json", None, None),
        ("pictures", "annotations/train.json", {"image_folder": "pictures"}, None),
        (".", "annotations/train.json", None, None),
        (".", "train.json", None, None),
        ("train", "train.json", None, None),
        ("other", "annotations/train.json", {"image_folder": "pictures"}, "other"),
    ],
)
def test_image_folder(tmp_path, images, name, info, given):
    data = deepcopy(GOOD) | ({"info": info} if info else {})
    file = _write(tmp_path, data, images, name)
    coco = CocoAnnotations.load(file, tmp_path / given if given else None)
    assert coco.image_folder.resolve() == (tmp_path / images).resolve()


def test_missing_images_and_folders(tmp_path):
    file = _write(tmp_path)
    (tmp_path / "train/sub/b.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"train\.json: images\[1\] \(id 3\).*b\.png.*1 of 2 images are missing"
    ):
        CocoAnnotations.load(file)
    assert len(CocoAnnotations.load(file, check_images=False)) == 2
    with pytest.raises(FileNotFoundError, match="nowhere, does not exist; give the folder"):
        CocoAnnotations.load(file, tmp_path / "nowhere")
    data = deepcopy(GOOD) | {"info": {"image_folder": "gone"}}
    with pytest.raises(FileNotFoundError, match="info.image_folder names, .*gone, does not exist"):
        CocoAnnotations.load(_write(tmp_path, data))
    with pytest.raises(FileNotFoundError, match="no such annotation file"):
        CocoAnnotations.load(tmp_path / "none.json")


def _set(key, row, **fields):
    def change(data):
        data[key][row].update(fields)

    return change


def _drop(key, row, field):
    return lambda data: data[key][row].pop(field)


@pytest.mark.parametrize(
    "change, message",
    [
        (_set("annotations", 1, bbox=[0, 0, -1, 5]), r"annotations\[1\] \(id 5\).*not negative, got \[0, 0, -1, 5\]"),
        (_set("annotations", 1, bbox=[0, float("nan"), 1, 5]), r"annotations\[1\] \(id 5\).*finite.*nan"),
        (_set("annotations", 2, bbox=[0, float("inf"), 1, 5]), r"annotations\[2\] \(id 2\).*finite.*inf"),
        (_set("annotations", 2, bbox=[0, 1, 5]), r"annotations\[2\] \(id 2\).*four numbers, got \[0, 1, 5\]"),
        (_set("annotations", 2, bbox=["a", 1, 5, 5]), r"annotations\[2\] \(id 2\).*four numbers, got \['a'"),
        (_drop("annotations", 0, "bbox"), r"annotations\[0\] \(id 1\).*four numbers, got None"),
        (_set("annotations", 2, image_id=99), r"annotations\[2\] \(id 2\).*one of the 2 images, got image_id 99"),
        (_set("annotations", 2, image_id="b"), r"annotations\[2\] \(id 2\).*integer 'image_id', got 'b'"),
        (_set("annotations", 2, image_id=True), r"annotations\[2\] \(id 2\).*integer 'image_id', got True"),
        (_set("annotations", 2, image_id=10**400), r"annotations\[2\] \(id 2\).*integer 'image_id', got inf"),
        (_set("annotations", 2, category_id=2**63), r"annotations\[2\] \(id 2\).*64-bit 'category_id', got 9223"),
        (_set("annotations", 2, bbox=["1", "1", "5", "5"]), r"annotations\[2\] \(id 2\).*four numbers, got \['1'"),
        (_set("annotations", 2, bbox=[True, 1, 5, 5]), r"annotations\[2\] \(id 2\).*four numbers, got \[True"),
        (_set("annotations", 2, bbox=[10**400, 1, 5, 5]), r"annotations\[2\] \(id 2\).*finite.*inf"),
        (
            _set("annotations", 2, category_id=4),
            r"annotations\[2\] \(id 2\).*one of the 2 category ids.*category_id 4",
        ),
        (_set("annotations", 2, id=5), r"annotations\[2\]: expected a unique id, got 5 again"),
        (_set("annotations", 2, area=-1), r"annotations\[2\] \(id 2\).*area of 0 or more, got -1"),
        (_set("annotations", 2, iscrowd=2), r"annotations\[2\] \(id 2\).*iscrowd 0 or 1, got 2"),
        (_set("images", 1, id=7), r"images\[1\]: expected a unique id, got 7 again"),
        (_set("images", 1, width=-1), r"images\[1\] \(id 3\).*at least 1 pixel, got -1 and 50"),
        (_set("images", 1, width=10**400), r"images\[1\] \(id 3\).*at least 1 pixel, got inf and 50"),
        (_set("images", 1, width=3, height=None), r"images\[1\] \(id 3\).*at least 1 pixel, got 3 and None"),
        (_drop("images", 0, "file_name"), r"images\[0\] \(id 7\).*file_name, got None"),
        (_set("images", 0, id=2**70), r"images\[0\].*64-bit 'id'"),
        (_set("categories", 1, id=9), r"categories\[1\]: expected a unique id, got 9 again"),
        (_set("categories", 1, name="salt, pepper"), r"expected a unique name, got 'salt, pepper'"),
        (_set("categories", 1, name=" "), r"categories\[1\] \(id 2\): expected a name, got ' '"),
        (_set("categories", 1, name=7), r"categories\[1\] \(id 2\): expected a name, got 7; write it as a text"),
        (_set("categories", 1, name=None), r"categories\[1\] \(id 2\): expected a name, got None"),
        (_set("categories", 1, name="\ud800"), r"categories\[1\] \(id 2\): expected a name, got '.ud800'"),
        (lambda data: data.pop("categories"), r"expected a list under 'categories', got None"),
        (lambda data: data["images"].append(3), r"images\[2\]: expected an object, got 3"),
    ],
)
def test_errors_name_file_row_expected_got(tmp_path, change, message):
    data = deepcopy(GOOD)
    change(data)
    with pytest.raises(ValueError, match=message) as error:
        CocoAnnotations.load(_write(tmp_path, data))
    assert "train.json" in str(error.value)


@pytest.mark.parametrize("text", ["", '{"images": [', "[1, 2]"])
def test_unreadable_json(tmp_path, text):
    file = tmp_path / "broken.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="broken.json: expected a JSON"):
        CocoAnnotations.load(file)


def test_boxes_without_area_are_a_warning(tmp_path, caplog):
    data = deepcopy(GOOD)
    data["annotations"][1]["bbox"] = [4, 4, 0, 3]
    CocoAnnotations.load(_write(tmp_path, data))
    assert "1 boxes have no area, the first in annotations[1] (id 5)" in caplog.text


def test_lvis_files_have_a_url_instead_of_a_name(tmp_path):
    data = deepcopy(GOOD)
    for image in data["images"]:
        image["coco_url"] = "http://images.cocodataset.org/train2017/" + image.pop("file_name").split("/")[-1]
    coco = CocoAnnotations.load(_write(tmp_path, data), check_images=False)
    assert coco.images[1]["file_name"] == "train2017/b.png"


def test_read_image(tmp_path):
    pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    pixels[:, :10, 0] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to look at it
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    turned = np.rot90(pixels, -1)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "turned.png")), turned)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "turned.png", size=(10, 20))), turned)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "turned.png", size=(20, 10))), pixels)

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "ok.jpg")
    whole = (tmp_path / "ok.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    for name in ("cut.jpg", "text.jpg"):
        with pytest.raises(ValueError, match=rf"{name} \(image id 12\): expected a readable image.*; replace"):
            read_image(tmp_path / name, 12)
    with pytest.raises(FileNotFoundError, match="gone.jpg: no such image"):
        read_image(tmp_path / "gone.jpg")
