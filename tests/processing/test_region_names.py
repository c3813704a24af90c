"""Regions are of the pictures that they were made of, whatever ids the data give these now."""

import io
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from decodetr.annotations.hub_dataset import read_dataset
from decodetr.annotations.image_entries import ImageEntries
from decodetr.annotations.sources import load_annotations
from decodetr.annotations.stream import AnnotationStream
from decodetr.processing import DeCoDetrImageProcessor, DetectionDataset, RegionTable, write_regions
from decodetr.processing.detection_dataset import TargetOptions
from decodetr.processing.streamed_dataset import StreamedDetectionDataset
from decodetr.training.data.replay import replay_dataset

PROCESSOR = DeCoDetrImageProcessor(size={"height": 32, "width": 32})
REMEDY = r"Build them again from these data \(`decodetr pool build` with another --output, or --overwrite\)"


def _regions(folder, names):
    """One region each of images of these names, numbered from 1; its left edge is the image's number."""
    unit = [0.6, 0.8]
    row = {"proposal_score": 0.9, "caption": "c", "image_embed": unit, "text_embed": unit, "clip_score": 0.5}
    rows = [
        {**row, "image_id": number, "file_name": name, "box": [number, 0, 20, 20], "kept": True}
        for number, name in enumerate(names, 1)
    ]
    write_regions(folder, rows)
    return RegionTable.load(folder)


def _images(names, first=1):
    size = {"width": 32, "height": 32, "path": ""}
    return ImageEntries.of([{"image_id": first + i, "file_name": name, **size} for i, name in enumerate(names)])


@pytest.mark.parametrize(
    "there, here",
    [
        (["a.jpg", "b.jpg"], ["a.jpg", "b.jpg", "c.jpg"]),  # new ones at the end
        (["a.jpg", "b.jpg"], ["a.jpg"]),
        (["train/a.jpg", "train/b.jpg"], ["a.jpg", "b.jpg"]),  # COCO files with and without the folder
        (["cat/1.jpg", "dog/1.jpg"], ["images\\cat\\1.jpg", "images/dog/1.jpg"]),
        (["/old/cat/1.jpg", "/old/dog/1.jpg"], ["/new/cat/1.jpg", "/new/dog/1.jpg"]),  # the data were moved
        (["/old/cat/1.jpg", "/old/dog/1.jpg"], ["../new/cat/1.jpg"]),
        (["0", "1"], ["b.jpg", "a.jpg"]),  # rows of `datasets`, whose order says nothing about their ids
        (["", "b.jpg"], ["x.jpg", "b.jpg"]),
    ],
)
def test_names_of_the_same_pictures(tmp_path, there, here):
    _regions(tmp_path, there).check_images(_images(here), "train.json")


@pytest.mark.parametrize(
    "there, here, first, count",
    [
        (["b.jpg", "c.jpg", "d.jpg"], ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], (1, "a.jpg", "b.jpg"), "3 of 3"),
        (["a.jpg", "b.jpg", "c.jpg"], ["a.jpg", "c.jpg"], (2, "c.jpg", "b.jpg"), "1 of 2"),
        # A folder came or went, and all folders have files of the same names.
        (["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"], ["b/1.jpg", "b/2.jpg"], (1, "b/1.jpg", "a/1.jpg"), "2 of 2"),
        (["b/1.jpg", "b/2.jpg"], ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"], (1, "a/1.jpg", "b/1.jpg"), "2 of 2"),
        (["cat/1.jpg", "dog/1.jpg"], ["dog/1.jpg", "cat/1.jpg"], (1, "dog/1.jpg", "cat/1.jpg"), "2 of 2"),
    ],
)
def test_names_of_other_pictures(tmp_path, there, here, first, count):
    image_id, new, old = first
    match = rf"image_id {image_id}: expected regions of {new}, as train.json has it, got those of {old} \({count} "
    with pytest.raises(ValueError, match=match + f".*{REMEDY}"):
        _regions(tmp_path, there).check_images(_images(here), "train.json")


def test_names_that_shards_lack_are_not_compared(tmp_path):
    _regions(tmp_path, ["a.jpg", "b.jpg"])
    (file,) = tmp_path.glob("*.parquet")
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "file_name", pa.array([None, "b.jpg"])), file)
    RegionTable.load(tmp_path).check_images(_images(["x.jpg", "b.jpg"]), "train.json")
    with pytest.raises(ValueError, match="image_id 2: expected regions of x.jpg"):
        RegionTable.load(tmp_path).check_images(_images(["x.jpg", "x.jpg"]), "train.json")
    pq.write_table(table.drop_columns("file_name"), file)
    RegionTable.load(tmp_path).check_images(_images(["x.jpg", "x.jpg"]), "train.json")


@pytest.fixture
def yolo(tmp_path):
    """Three pictures, and their regions."""
    root = tmp_path / "yolo"
    for part in ("images/train", "labels/train"):
        (root / part).mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (32, 32), (80 * number, 0, 0)).save(root / f"images/train/b{number}.png")
        (root / f"labels/train/b{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "data.yaml").write_text("names: [thing]\ntrain: images/train\n")
    coco = load_annotations(root, "train")
    return root, _regions(tmp_path / "regions", [image["file_name"] for image in coco.images])


def test_a_picture_more_in_a_folder_whose_regions_are_there(yolo, tmp_path):
    root, regions = yolo
    data = DetectionDataset(load_annotations(root, "train"), PROCESSOR, ["thing"], regions=regions)
    assert [round(32 * float(data[i]["labels"]["region_boxes"][0, 0]) * 2 - 20) for i in range(3)] == [1, 2, 3]
    moved = shutil.copytree(root, tmp_path / "moved")
    DetectionDataset(load_annotations(moved, "train"), PROCESSOR, ["thing"], regions=regions)
    Image.new("RGB", (32, 32)).save(root / "images/train/a.png")
    (root / "labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    coco, match = load_annotations(root, "train"), r"image_id 1: expected regions of images/train/a.png, .*3 of 3"
    with pytest.raises(ValueError, match=match):
        DetectionDataset(coco, PROCESSOR, ["thing"], regions=regions)
    with pytest.raises(ValueError, match=match):
        replay_dataset(coco, PROCESSOR, ["thing"], TargetOptions(regions), images=1)


def _rows(names):
    """A data set of `datasets` without ids, with pictures of these names or of none."""
    rows = []
    for number, name in enumerate(names):
        content = io.BytesIO()
        Image.new("RGB", (32, 32), (number, 0, 0)).save(content, "PNG")
        rows.append({"bytes": content.getvalue(), "path": name})
    box = {"bbox": [[1.0, 1.0, 9.0, 9.0]], "category": ["thing"]}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
                "category": datasets.List(datasets.Value("string")),
            },
        }
    )
    return datasets.Dataset.from_dict({"image": rows, "objects": [box] * len(rows)}, features=features)


def test_rows_of_datasets_have_the_names_of_their_pictures(tmp_path):
    rows = _rows(["/home/x/b.png", "zip://train/c.png::hf://datasets/x/train.zip", None, "0123abc"])
    coco = read_dataset(rows, "rows")
    assert [image["file_name"] for image in coco.images] == ["b.png", "c.png", "2", "3"]
    names = [image["file_name"] for image in coco.images]
    regions = _regions(tmp_path, names)
    DetectionDataset(coco, PROCESSOR, ["thing"], regions=regions)
    for fewer in (rows.select([1, 2, 3]), rows.skip(1)):
        with pytest.raises(ValueError, match=r"image_id 1: expected regions of c.png, .* got those of b.png \(1 of 3"):
            DetectionDataset(read_dataset(fewer, "rows"), PROCESSOR, ["thing"], regions=regions)


def test_rows_of_a_stream_are_compared_as_they_come(tmp_path):
    rows = _rows(["b.png", "c.png", None])
    regions = _regions(tmp_path, ["train/b.png", "train/c.png", "train/d.png"])

    def items(rows):
        stream = AnnotationStream(rows.to_iterable_dataset(), "rows")
        return list(StreamedDetectionDataset(stream, PROCESSOR, ["thing"], regions=regions, shuffle_buffer=0))

    assert np.array([len(item["labels"]["region_boxes"]) for item in items(rows)]).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="image_id 1: expected regions of c.png, as rows, row 0 has it, got those of"):
        items(rows.select([1, 2]))
