"""Protocols as data, and the annotation files that `decodetr eval prepare` makes of the official ones."""

import json
import re
import shutil
from pathlib import Path

import pytest

from decodetr.annotations.coco import CocoAnnotations
from decodetr.cli import main
from decodetr.evaluation import PROTOCOLS
from decodetr.evaluation.prepare import prepare
from decodetr.evaluation.protocols import Protocol

OV_COCO = Protocol.load("ov-coco")
OTHERS = {"10": "traffic light", "13": "stop sign"}  # 15 of COCO's 80 names are in neither group


def write(file, images, annotations, categories, **fields):
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": n, "image_id": i, "category_id": c, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0, "note": "kept"}
        for n, (i, c) in enumerate(annotations, start=1)
    ]
    images = [{"file_name": f"{i:012d}.jpg", "width": 64, "height": 64, **image} for i, image in images.items()]
    file.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories, **fields}))


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """COCO's folder with the published number of validation images that have one of the 65 names."""
    folder = tmp_path_factory.mktemp("coco")
    for part in ("train2017", "val2017"):
        (folder / part).mkdir()
    names = {**OV_COCO.base, **OV_COCO.novel, **OTHERS}
    categories = [{"id": int(number), "name": name} for number, name in names.items()]
    ids = [int(number) for number in [*OV_COCO.base, *OV_COCO.novel]]
    some = [(i, ids[i % 65]) for i in range(1, 4837)]
    others = [(i, 10) for i in range(4837, 4990)]  # and ten images without any object
    images = {i: {"id": i} for i in range(1, 5001)}
    write(folder / "annotations/instances_val2017.json", images, some + others, categories)
    train = [(1, 1), (1, 5), (2, 5), (3, 10), (4, 90)]  # person, airplane (novel), traffic light, toothbrush
    train_images = {i: {"id": i} for i in range(1, 6)}
    write(folder / "annotations/instances_train2017.json", train_images, train, categories, info={"year": 2017})
    return folder


def test_ov_coco_is_made_of_the_official_files(coco, tmp_path, capsys):
    assert main(["eval", "prepare", "ov-coco", "--coco", str(coco), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "train: 2 images, 2 annotations, 48 names" in printed and "val: 4,836 images" in printed
    train, val = (
        CocoAnnotations.load(tmp_path / "annotations" / f"{p}.json", check_images=False) for p in ("train", "val")
    )
    assert [image["image_id"] for image in train.images] == [1, 4] and "airplane" not in train.names
    assert (len(val.images), len(val.names)) == (4836, 65) and "traffic light" not in val.names
    # Links: no path of the prepared files leads out of their folder.
    assert val.image_folder == tmp_path / "val" and val.image_folder.resolve() == coco / "val2017"
    assert train.image_folder.resolve() == coco / "train2017"
    split = json.loads((tmp_path / "names.json").read_text())
    assert (split["base"], split["novel"]) == (OV_COCO.base, OV_COCO.novel)
    document = json.loads((tmp_path / "annotations" / "train.json").read_text())
    assert document["annotations"][0]["note"] == "kept" and document["info"]["year"] == 2017
    # The prepared file and the official one are the same evaluation.
    official = CocoAnnotations.load(coco / "annotations/instances_val2017.json", check_images=False)
    assert OV_COCO.differences(val) == OV_COCO.differences(OV_COCO.select_images(official)) == []
    assert OV_COCO.differences(official) == ["5,000 images instead of 4,836"]


def test_another_set_is_refused(coco, tmp_path, capsys):
    official = json.loads((coco / "annotations/instances_val2017.json").read_text())
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "instances_train2017.json").write_text((coco / "annotations/instances_train2017.json").read_text())
    file = folder / "instances_val2017.json"
    words = [
        "eval",
        "prepare",
        "ov-coco",
        "--coco",
        str(coco),
        "--official",
        str(folder),
        "--output",
        str(tmp_path / "o"),
    ]

    def refused(message):
        file.write_text(json.dumps(official))
        assert main(words) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "o").exists()

    official["images"] = official["images"][100:]
    official["annotations"] = official["annotations"][100:]
    refused("4,736 images instead of 4,836")
    assert main([*words, "--any-counts"]) == 0
    assert "val: 4,736 images" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["annotations", "names.json", "train", "val"]
    shutil.rmtree(tmp_path / "o")
    for category in official["categories"]:
        category["id"] += 1000
    for row in official["annotations"]:
        row["category_id"] += 1000
    refused("expected category 1 to be 'person', got None (65 such categories)")
    official["categories"] = [c for c in official["categories"] if c["name"] != "scissors"]
    official["annotations"] = []
    refused("expected category 1 to be 'person'")
    with pytest.raises(FileNotFoundError, match="--coco takes the one with train2017 and val2017"):
        prepare("ov-coco", tmp_path / "o", tmp_path)


def test_ov_lvis(tmp_path):
    """Rare names leave the training file with all traces; images and federated lists stay."""
    categories = [
        {"id": c, "name": f"n{c}", "frequency": "r" if c <= 337 else "c" if c <= 798 else "f"} for c in range(1, 1204)
    ]
    (tmp_path / "coco").mkdir()
    lists = {"neg_category_ids": [1, 500], "not_exhaustive_category_ids": [2, 900]}
    url = "http://images.cocodataset.org/val2017/000000000009.jpg"
    image = {"id": 9, "file_name": None, "coco_url": url, **lists}
    write(tmp_path / "lvis_v1_train.json", {9: image}, [(9, 1), (9, 900)], categories)
    write(
        tmp_path / "lvis_v1_val.json", {i: {"id": i, **lists} for i in range(19_809)}, [(9, 2), (9, 900)], categories
    )
    written = prepare("ov-lvis", tmp_path / "out", tmp_path / "coco", tmp_path)
    assert written["train"] == {"images": 1, "annotations": 1, "categories": 866}
    assert written["val"] == {"images": 19_809, "annotations": 2, "categories": 1203}
    train = CocoAnnotations.load(tmp_path / "out/annotations/train.json", check_images=False)
    picture = Path(train.images[0]["path"])
    assert picture.resolve() == tmp_path / "coco" / "val2017" / "000000000009.jpg"
    assert picture.is_relative_to(tmp_path / "out")  # by a link: no path of the prepared files leads out
    assert [[train.names[c] for c in categories] for categories in train.federation[9]] == [["n500"], ["n900"]]
    val = CocoAnnotations.load(tmp_path / "out/annotations/val.json", check_images=False)
    protocol = Protocol.load("ov-lvis")
    split = protocol.split(val)
    assert protocol.differences(val) == [] and split["novel"] == split["groups"]["rare"] == val.names[:337]
    assert {group: len(names) for group, names in split["groups"].items()} == {
        "rare": 337,
        "common": 461,
        "frequent": 405,
    }
    smaller = val.select_images(range(100))
    assert protocol.differences(smaller) == ["100 images instead of 19,809"]


def test_every_protocol_loads_and_ov_coco_is_the_published_split():
    assert {name: Protocol.load(name).max_detections for name in PROTOCOLS} == {
        "custom": 100,
        "coco": 100,
        "ov-coco": 100,
        "ov-lvis": 300,
    }
    assert (len(OV_COCO.base), len(OV_COCO.novel)) == (48, 17) and not set(OV_COCO.base) & set(OV_COCO.novel)
    assert OV_COCO.novel["5"] == "airplane" and OV_COCO.base["90"] == "toothbrush"


def test_a_protocol_of_ones_own(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(
        json.dumps({"description": "mine", "max_detections": 7, "novel": {"2": "dog"}, "images": "annotated"})
    )
    protocol = Protocol.load(file)
    assert (protocol.name, protocol.max_detections, protocol.novel) == ("mine", 7, {"2": "dog"})
    for text, message in (
        ('{"max_detections": 7}', "expected an object with description"),
        ('{"description": "x", "maxdets": 7}', "expected an object with description and some of"),
        ('{"description": "x", "images": "some"}', 'expected images "all" or "annotated"'),
        ("{", "expected a JSON file"),
        ('{"description": "x", "novel": ["a"]}', "expected base and novel as"),
        ('{"description": "x", "base": {"1": "a"}, "novel": {"2": "a"}}', "are both base and novel"),
        ('{"description": "x", "max_detections": "50"}', "expected max_detections of at least 1"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            Protocol.load(file)
    file.write_text('{"description": "x", "base": {"1": "n1"}}')
    lvis = CocoAnnotations.from_document(
        file,
        {"images": [], "annotations": [], "categories": [{"id": 1, "name": "n1"}, {"id": 2, "name": "n2"}]},
        check_images=False,
    )
    assert Protocol.load(file).split(lvis)["novel"] == ["n2"]
    with pytest.raises(FileNotFoundError, match="give one of custom, coco, ov-coco, ov-lvis, or a file"):
        Protocol.load("ov-voc")


def test_a_file_under_the_name_of_one_of_ours_is_obeyed(tmp_path, capsys, monkeypatch):
    """Of two objects and two detections on each image, max_detections of 1 leaves one."""
    monkeypatch.chdir(tmp_path)
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    write(tmp_path / "val.json", {1: {"id": 1, **lists}}, [(1, 1), (1, 2)], categories)
    rows = [{"image_id": 1, "category_id": c, "bbox": [1, 2, 30, 40], "score": 0.9 - 0.1 * c} for c in (1, 2)]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    rules = {"description": "mine", "max_detections": 1, "novel": {"2": "dog"}}
    names = []
    for file in ("mine.json", "custom.json", "coco.json", "custom"):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / file).write_text(json.dumps(rules))
        words = ["--annotations", "val.json", "--detections", "found.json", "--protocol", f"own/{file}"]
        assert main(["eval", *words]) == 0
        printed = capsys.readouterr().out
        names += re.findall(r"^\| protocol \| (.+) \|$", printed, re.MULTILINE)
        for line in ("| federated | False |", "| AP50_novel | 0.0 |", "| AP50_base | 100.0 |", "| AR1 | 50.0 |"):
            assert line in printed, file
    assert names == ["mine", "custom (a file)", "coco (a file)", "custom (a file)"]


def test_differences_count_the_names_that_are_not_listed(tmp_path):
    """Of base and novel names a protocol may list one group: the other is the rest of the file."""
    categories = [{"id": i, "name": f"n{i}"} for i in (1, 2, 3)]
    document = {"images": [], "annotations": [], "categories": categories}
    coco = CocoAnnotations.from_document(tmp_path / "val.json", document, check_images=False)
    counts = {"names": 3, "base": 2, "novel": 1, "images": 0}
    for split in ({"novel": {"3": "n3"}}, {"base": {"1": "n1", "2": "n2"}}):
        assert Protocol("mine", "mine", counts=counts, **split).differences(coco) == []
        other = Protocol("mine", "mine", counts={**counts, "base": 48}, **split)
        assert other.differences(coco) == ["2 base instead of 48"]
    assert Protocol("mine", "mine", counts={**counts, "base": 0, "novel": 0}).differences(coco) == []


def test_lvis_lists_are_checked(tmp_path):
    categories = [{"id": 1, "name": "a", "frequency": "r"}, {"id": 2, "name": "b", "frequency": "c"}]
    lists = {"neg_category_ids": [1], "not_exhaustive_category_ids": []}

    def refused(message, images=None, changed=None):
        write(tmp_path / "x.json", images or {1: {"id": 1, **lists}}, [], changed or categories)
        with pytest.raises(ValueError, match=message):
            CocoAnnotations.load(tmp_path / "x.json", check_images=False)

    refused(
        r"images\[1\] \(id 2\): expected a list of category ids under 'neg_category_ids'",
        {1: {"id": 1, **lists}, 2: {"id": 2}},
    )
    refused(
        "expected ids of the 2 categories under 'neg_category_ids', got 7",
        {1: {"id": 1, **lists, "neg_category_ids": [1, 7]}},
    )
    refused("got '5'", {1: {"id": 1, **lists, "not_exhaustive_category_ids": "5"}})
    refused(
        r"categories\[1\].*expected a frequency of 'r', 'c' or 'f'", changed=[categories[0], {"id": 2, "name": "b"}]
    )
