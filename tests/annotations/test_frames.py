"""16-bit pictures and pictures that EXIF turns: the same training items from COCO, YOLO and `datasets`, streamed or
not, and the same pictures in evaluation, pool building and prediction."""

import json

import datasets
import numpy as np
import pytest
import torch
from helpers.data_forms import NAMES
from PIL import Image, ImageOps

from decodetr import DeCoDetrImageProcessor
from decodetr.annotations.coco import _told, read_annotated
from decodetr.annotations.sources import load_annotations, load_stream
from decodetr.cli import main
from decodetr.processing import DetectionDataset
from decodetr.processing.streamed_dataset import StreamedDetectionDataset
from decodetr.utils.images import STORED_FRAME, UNKNOWN_FRAME, open_image

BOX = [4, 6, 20, 10]  # x, y, w, h in the picture as it is meant


@pytest.fixture(autouse=True)
def nothing_said_yet():
    _told.clear()


def _picture(path, orientation=1, size=(48, 32), deep=False):
    """Write a picture whose upright pixels have `size`, stored as its orientation wants it. Returns it upright."""
    grey = np.random.default_rng(1).integers(0, 256, size[::-1], dtype=np.uint8)
    upright = Image.fromarray(grey.astype(np.uint16) * 257) if deep else Image.fromarray(grey)
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {5: "TRANSPOSE", 6: "ROTATE_90", 8: "ROTATE_270", 3: "ROTATE_180"}.get(orientation)
    stored = upright.transpose(Image.Transpose[back]) if back else upright
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.save(path, exif=exif)
    with Image.open(path) as image:
        assert ImageOps.exif_transpose(image).size == tuple(size)
    return Image.fromarray(grey).convert("RGB")


def _coco(folder, size, box=BOX):
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 0, "bbox": box}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES)],
    }
    (folder / "annotations" / "train.json").write_text(json.dumps(document))


def _items(tmp_path, orientation=1, size=(48, 32), deep=False):
    """{format: training item} of one picture."""
    processor = DeCoDetrImageProcessor(size={"height": 32, "width": 32})
    _picture(tmp_path / "coco" / "train" / "a.png", orientation, size, deep)
    _coco(tmp_path / "coco", size)
    _picture(tmp_path / "yolo" / "images" / "a.png", orientation, size, deep)
    x, y, w, h = BOX
    row = f"0 {(x + w / 2) / size[0]} {(y + h / 2) / size[1]} {w / size[0]} {h / size[1]}"
    (tmp_path / "yolo" / "labels").mkdir()
    (tmp_path / "yolo" / "labels" / "a.txt").write_text(row)
    (tmp_path / "yolo" / "data.yaml").write_text(json.dumps({"names": NAMES, "train": "images"}))
    objects = {
        "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
        "category": datasets.List(datasets.ClassLabel(names=NAMES)),
    }
    rows = {"image": [str(tmp_path / "yolo" / "images" / "a.png")], "objects": [{"bbox": [BOX], "category": [0]}]}
    features = datasets.Features({"image": datasets.Image(), "objects": objects})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    found = {}
    for kind in ("coco", "yolo", "saved"):
        found[kind] = DetectionDataset(load_annotations(tmp_path / kind, "train"), processor, NAMES)[0]
    stream = StreamedDetectionDataset(load_stream(tmp_path / "saved", "train"), processor, NAMES, shuffle_buffer=0)
    return {**found, "streamed": next(iter(stream))}


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
@pytest.mark.parametrize("deep", [False, True])
def test_all_formats_give_the_picture_as_it_is_meant(tmp_path, orientation, deep):
    upright = _picture(tmp_path / "x.png", orientation, deep=deep)
    inputs = DeCoDetrImageProcessor(size={"height": 32, "width": 32})(upright, return_tensors="pt")
    for kind, item in _items(tmp_path, orientation, deep=deep).items():
        torch.testing.assert_close(item["pixel_values"], inputs["pixel_values"][0], msg=kind)
        expected = torch.tensor([[(4 + 10) / 48, (6 + 5) / 32, 20 / 48, 10 / 32]])
        torch.testing.assert_close(item["labels"]["boxes"], expected, msg=kind)


def test_boxes_of_the_pixels_as_stored_keep_them(tmp_path, capsys, caplog):
    """COCO files of old say so by their size: the picture is not turned, anywhere but in `predict`, which is told."""
    upright = _picture(tmp_path / "train" / "a.png", 6, (48, 32))
    _coco(tmp_path, (32, 48), [6, 4, 10, 20])
    coco = load_annotations(tmp_path, "train")
    picture = read_annotated(coco.images[0], coco.file)
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    assert picture.size == (32, 48) and picture.tobytes() == stored.tobytes()
    read_annotated(coco.images[0], coco.file)
    assert [record.message.split(": ", 1)[1] for record in caplog.records] == [STORED_FRAME]  # once
    assert open_image(tmp_path / "train" / "a.png").tobytes() == upright.tobytes()
    assert main(["validate", str(tmp_path)]) == 0
    assert f"| warning | {STORED_FRAME} | 1 |" in capsys.readouterr().out


@pytest.mark.parametrize(("orientation", "size"), [(3, (48, 32)), (6, (32, 32))])
def test_a_frame_that_the_size_cannot_tell_is_a_finding_and_a_warning(tmp_path, orientation, size, capsys, caplog):
    _items(tmp_path, orientation, size)
    assert [record.message.split(": ", 1)[1] for record in caplog.records] == [UNKNOWN_FRAME] * 3  # data sets
    for kind in ("coco", "yolo", "saved"):
        assert main(["validate", str(tmp_path / kind)]) == 0
        assert f"| warning | {UNKNOWN_FRAME} | 1 |" in capsys.readouterr().out, kind


def test_annotations_of_turned_pictures_without_a_size_are_a_finding_too(tmp_path, capsys):
    _items(tmp_path, 6)
    for kind, count in (("coco", 0), ("yolo", 1), ("saved", 1)):
        assert main(["validate", str(tmp_path / kind), "--output", str(tmp_path / f"out-{kind}")]) == 0
        assert (UNKNOWN_FRAME in capsys.readouterr().out) == bool(count), kind
    assert main(["validate", str(tmp_path / "yolo"), "--repair", str(tmp_path / "repaired")]) == 0
    repaired = json.loads((tmp_path / "repaired" / "annotations" / "train.json").read_text())
    assert repaired["images"][0] == {"id": 1, "file_name": "images/a.png", "width": 48, "height": 32}
    assert repaired["annotations"][0]["bbox"] == pytest.approx(BOX, abs=1e-6)


def test_every_data_set_is_told_of_its_frames_once(tmp_path, caplog):
    for name in ("one", "two"):
        for picture in ("a/1.png", "b/2.png"):
            _picture(tmp_path / name / picture, 6, (32, 32))
            entry = {"path": str(tmp_path / name / picture), "file_name": picture, "image_id": 1}
            read_annotated(entry | {"width": 32, "height": 32})
    places = [str(tmp_path / name / "a/1.png") for name in ("one", "two")]
    assert [record.message for record in caplog.records] == [f"{place}: {UNKNOWN_FRAME}" for place in places]


def test_pool_and_evaluation_see_the_same_picture(tmp_path):
    from decodetr.evaluation.loop import _Pictures
    from decodetr.pool_builder.shard_makers import _crops

    upright = _picture(tmp_path / "train" / "a.png", 6, deep=True)
    _coco(tmp_path, (48, 32))
    coco = load_annotations(tmp_path, "train")
    (crop,) = _crops(coco.images, [(4, 6, 24, 16)], None, 0.0)
    assert crop.tobytes() == upright.crop((4, 6, 24, 16)).tobytes()

    class Keeps:
        prepare = staticmethod(lambda image: image)

    assert _Pictures(coco, coco.images, Keeps)[0].tobytes() == upright.tobytes()
