"""COCO, YOLO and `datasets` data sets of the same pictures and boxes give the same training items."""

import json

import datasets
import pytest
from helpers.data_forms import NAMES, assert_same, hub_dataset, items, picture, write_yolo
from PIL import Image

from decodetr.annotations.hub_dataset import read_dataset
from decodetr.annotations.sources import has_part, kind_of, load_annotations, load_stream
from decodetr.annotations.yolo import read_yolo
from decodetr.cli import main


def test_yolo(tmp_path, expected):
    folder = write_yolo(tmp_path / "yolo")
    assert kind_of(folder) == kind_of(folder / "data.yaml") == "yolo"
    assert has_part(folder, "train") and not has_part(folder, "val")
    coco = load_annotations(folder, "train")
    assert_same(items(coco), expected)
    assert coco.names == NAMES and coco.images[0]["file_name"] == "images/train/a.png"
    listed = folder / "list.txt"
    listed.write_text("images/train/b.png\n\nimages/train/a.png\n")
    numbered = {"names": dict(enumerate(NAMES)), "path": str(folder), "train": ["list.txt"]}
    (tmp_path / "other.yaml").write_text(json.dumps(numbered).replace('"0"', "0").replace('"1"', "1"))
    assert [image["file_name"][-5:] for image in read_yolo(tmp_path / "other.yaml", "train").images] == [
        "b.png",
        "a.png",
    ]
    # As Roboflow exports it: one level too high.
    (folder / "data.yaml").write_text(json.dumps({"names": NAMES, "train": "../images/train"}))
    assert len(read_yolo(folder / "data.yaml", "train")) == 3
    # As exported without that part: what is missing is said, not that it lies elsewhere.
    (folder / "data.yaml").write_text(json.dumps({"names": NAMES, "train": "../train/images"}))
    with pytest.raises(FileNotFoundError, match=r"train: no such folder .*train/images; correct 'train', or take it"):
        read_yolo(folder / "data.yaml", "train")


@pytest.mark.parametrize("path", ["../datasets/shapes", "/home/somebody/shapes"])
def test_a_path_of_another_machine_is_passed_over_with_a_word(tmp_path, path, caplog):
    folder = write_yolo(tmp_path / "yolo")
    (folder / "data.yaml").write_text(json.dumps({"names": NAMES, "path": path, "train": "images/train"}))
    with caplog.at_level("WARNING"):
        assert len(read_yolo(folder / "data.yaml", "train")) == 3
    assert f"path: '{path}' has no 'images/train'" in caplog.text


def test_yolo_polygons_become_boxes(tmp_path):
    folder = write_yolo(tmp_path / "yolo")
    (folder / "labels" / "train" / "c.txt").write_text("1 0.25 0.5 0.5 0.25 0.75 0.75")
    coco = read_yolo(folder / "data.yaml", "train")
    assert coco.annotations_by_image[3][0]["bbox"] == [16, 16, 32, 32]


YOLO_MISTAKES = {
    "pixels": ("0 48 32 10 10", "a.txt: line 1: expected numbers in 0..1"),
    "unknown class": ("2 0.5 0.5 0.1 0.1", "expected a class of 0 to 1"),
    "half a class": ("0.5 0.5 0.5 0.1 0.1", "expected a class of 0 to 1"),
    "words": ("cat 0.5 0.5 0.1 0.1", "expected numbers, got 'cat"),
    "five numbers": ("0 0.5 0.5 0.1 0.1 0.9", "expected 4 numbers, or the corners of a polygon, got 5"),
    "NaN": ("0 nan 0.5 0.1 0.1", "expected finite numbers"),
    "negative": ("0 0.5 0.5 -0.1 0.1", "no negative size"),
}


@pytest.mark.parametrize("case", YOLO_MISTAKES)
def test_yolo_mistakes_in_labels(tmp_path, case):
    text, message = YOLO_MISTAKES[case]
    folder = write_yolo(tmp_path / "yolo")
    (folder / "labels" / "train" / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_yolo(folder / "data.yaml", "train")


@pytest.mark.parametrize(
    "config, message",
    [
        ({"names": {"0": "a", "2": "b"}}, "expected names numbered 0 to 1"),
        ({"names": []}, "expected `names` as a list"),
        ({"names": ["a", "a"], "nc": 2}, "more than once"),
        ({"nc": 3}, "expected nc names, 3, got 2"),
        ({"train": None}, "expected a folder under 'train'; the file has no part"),
        ({"train": "nowhere"}, "no such folder or list of images"),
    ],
)
def test_yolo_mistakes_in_the_file(tmp_path, config, message):
    folder = write_yolo(tmp_path / "yolo", **config)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_yolo(folder / "data.yaml", "train")


def test_yolo_mistakes_in_images(tmp_path, expected):
    folder = write_yolo(tmp_path / "yolo")
    image = folder / "images" / "train" / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture("a").transpose(Image.Transpose.ROTATE_90).save(image, exif=exif)  # stored lying
    assert_same(items(read_yolo(folder / "data.yaml", "train")), expected)
    image.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="a.png: expected a readable image"):
        read_yolo(folder / "data.yaml", "train")
    (folder / "data.yaml").write_text("names: [")
    with pytest.raises(ValueError, match="expected YAML"):
        read_yolo(folder / "data.yaml", "train")
    (folder / "data.yaml").write_text("[]")
    with pytest.raises(ValueError, match="expected YOLO's data.yaml"):
        read_yolo(folder / "data.yaml", "train")


@pytest.mark.parametrize("box_format", ["coco", "pascal_voc", "yolo"])
@pytest.mark.parametrize("as_lists", [True, False])
def test_datasets(expected, box_format, as_lists):
    coco = read_dataset(hub_dataset(box_format, as_lists=as_lists), "mine", box_format=box_format)
    assert_same(items(coco), expected)


def test_categories_of_datasets(expected):
    ids = {"image_id": [7, 5, 6], "width": [96, 40, 64], "height": [64, 80, 64]}
    coco = read_dataset(hub_dataset(key="label", **ids), "mine")
    assert [image["image_id"] for image in coco.images] == [7, 5, 6] and coco.names == NAMES
    numbers = hub_dataset(category=datasets.Value("int64"), key="categories")
    assert_same(items(read_dataset(numbers, "mine", names=NAMES)), expected)
    with pytest.raises(ValueError, match="numbers without names; give --class-names"):
        read_dataset(numbers, "mine")
    with pytest.raises(ValueError, match="row 0: expected one of the 1 categories, got 1"):
        read_dataset(numbers, "mine", names=["one"])
    texts = read_dataset(hub_dataset(category=datasets.Value("string")), "mine")
    assert_same(items(texts), expected)


def test_saved_and_local_datasets(tmp_path, expected, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    whole = datasets.DatasetDict({"train": hub_dataset(), "validation": hub_dataset()})
    whole.save_to_disk(tmp_path / "saved")
    assert kind_of(tmp_path / "saved") == "datasets"
    assert has_part(tmp_path / "saved", "val") and not has_part(tmp_path / "saved", "test")
    assert_same(items(load_annotations(tmp_path / "saved", "val")), expected)
    with pytest.raises(ValueError, match="expected a split called test, got train, validation"):
        load_annotations(tmp_path / "saved", "test")
    hub_dataset().save_to_disk(tmp_path / "one")
    assert_same(items(load_annotations(tmp_path / "one", "train")), expected)
    (tmp_path / "parquet" / "data").mkdir(parents=True)
    hub_dataset().to_parquet(tmp_path / "parquet" / "data" / "train-00000-of-00001.parquet")
    assert_same(items(load_annotations(tmp_path / "parquet", "train")), expected)


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas", "arrow"])
@pytest.mark.parametrize("columns", [None, ["image"]])
def test_data_sets_that_were_saved_with_a_format(tmp_path, expected, kind, columns):
    hub_dataset(image_id=[3, 1, 2]).with_format(kind, columns=columns).save_to_disk(tmp_path / "saved")
    coco = load_annotations(tmp_path / "saved", "train")
    assert_same(items(coco), expected)
    stream = load_stream(tmp_path / "saved", "train")
    rows = [stream.read(row) for row in stream.rows([0], 0, 0, 1)]
    assert [image_id for _, image_id, *_ in rows] == [image["image_id"] for image in coco.images] == [3, 1, 2]
    assert [found["bbox"].tolist() for *_, found in rows] == [
        [row["bbox"] for row in rows] for rows in coco.annotations_by_image.values()
    ]


def test_datasets_of_another_form(tmp_path):
    with pytest.raises(ValueError, match=r"expected the columns image and objects, \['image', 'objects'\] missing"):
        read_dataset(datasets.Dataset.from_dict({"text": ["a"]}), "mine")
    with pytest.raises(ValueError, match="expected objects with bbox and category"):
        read_dataset(hub_dataset().remove_columns("objects").add_column("objects", [1, 2, 3]), "mine")
    with pytest.raises(ValueError, match="expected images under image"):
        read_dataset(hub_dataset().remove_columns("image").add_column("image", ["a", "b", "c"]), "mine")
    with pytest.raises(
        ValueError, match="row 0: expected finite boxes without negative size.*is --box-format pascal_voc"
    ):
        read_dataset(hub_dataset(), "mine", box_format="pascal_voc")
    with pytest.raises(ValueError, match="a different integer image_id in every row"):
        read_dataset(hub_dataset(image_id=[1, 1, 2]), "mine")
    with pytest.raises(ValueError, match="box format must be one of"):
        read_dataset(hub_dataset(), "mine", box_format="xyxy")
    broken = hub_dataset().cast_column("image", datasets.Image(decode=False))
    broken = broken.map(
        lambda row, i: {"image": {"bytes": b"no" if i == 1 else row["image"]["bytes"], "path": None}},
        with_indices=True,
    )
    with pytest.raises(ValueError, match="mine, row 1: expected a readable image"):
        read_dataset(broken.cast_column("image", datasets.Image()), "mine")


def test_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match="no/such/place: no such folder; expected a folder in the form of"):
        load_annotations("no/such/place", "train")
    with pytest.raises(FileNotFoundError, match="datasets says"):
        load_annotations("nobody/nothing-of-the-kind", "train")  # a Hub name, without network
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no annotations and no pictures.*Looked for: data\.yaml.*: nothing$"):
        load_annotations(tmp_path / "empty", "train")


def test_the_other_commands_take_them(tmp_path, capsys):
    """Proposals of a grid over YOLO and over a saved data set: the same regions."""
    import pyarrow.parquet as pq

    hub_dataset(category=datasets.Value("int64")).save_to_disk(tmp_path / "saved")
    sources = (
        (write_yolo(tmp_path / "yolo"), []),
        (tmp_path / "saved", ["--class-names", 'crème brûlée,"salt, pepper"']),
    )
    tables = []
    for data, words in sources:
        out = tmp_path / f"out-{data.name}"
        command = ["pool", "proposals", "--data", str(data), "--detector", "grid", "--output", str(out), *words]
        assert main([*command, "--device", "cpu"]) == 0, capsys.readouterr().err
        (shard,) = (out / "proposals").glob("*.parquet")
        tables.append(pq.read_table(shard).select(["image_id", "box", "proposal_score"]).to_pylist())
    assert len(tables[0]) > 10 and tables[0] == tables[1]


@pytest.mark.parametrize("content", ["[]", "{}", "[" * 5000, '{"splits": 5}', "", '{"splits": ["none"]}'])
@pytest.mark.parametrize("file", ["state.json", "dataset_dict.json"])
def test_damaged_saved_data_sets_are_named(tmp_path, file, content):
    saved = hub_dataset() if file == "state.json" else datasets.DatasetDict({"train": hub_dataset()})
    saved.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / file).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match="saved"):
        load_annotations(tmp_path / "saved", "train")


def test_rows_without_objects_and_without_areas(expected):
    """Nulls where there is nothing to say: a row without objects, an area, a crowd."""
    fields = {"bbox": datasets.Value("float32"), "category": datasets.ClassLabel(names=NAMES)}
    rows = hub_dataset().to_list()
    for row in rows:
        objects = row["objects"]
        objects["area"] = [None] * len(objects["bbox"])
        objects["iscrowd"] = [None] * len(objects["bbox"])
    rows[2]["objects"] = None
    objects = {
        "bbox": datasets.List(datasets.List(fields["bbox"], length=4)),
        "category": datasets.List(fields["category"]),
        "area": datasets.List(datasets.Value("float32")),
        "iscrowd": datasets.List(datasets.Value("int64")),
    }
    features = datasets.Features({"image": datasets.Image(), "objects": objects})
    coco = read_dataset(datasets.Dataset.from_list(rows, features=features), "mine")
    assert_same(items(coco), expected)
    assert [row["area"] for row in coco.annotations_by_image[1]] == [1200, 6144]
    assert [row["iscrowd"] for row in coco.annotations_by_image[1]] == [0, 0]


@pytest.mark.parametrize(
    "box_format, said", [("pascal_voc", "two corners"), ("yolo", "0..1: relative"), ("coco", None)]
)
def test_boxes_of_another_form_are_said(tmp_path, caplog, box_format, said):
    hub_dataset(box_format).save_to_disk(tmp_path / "saved")
    load_annotations(tmp_path / "saved", "train")
    remedy = f"`decodetr validate {tmp_path / 'saved'} --repair DIR`"
    assert (said in caplog.text and remedy in caplog.text) if said else not caplog.text
