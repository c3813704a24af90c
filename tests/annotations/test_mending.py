"""Annotation files that say what they mean in another way: read as they are meant, with a warning."""

import json
import time
import unicodedata
from copy import deepcopy

import pytest
from helpers.broken_data import NAMES, good, write
from PIL import Image

from decodetr.annotations.coco import CocoAnnotations
from decodetr.annotations.coco_mending import mend
from decodetr.annotations.findings import FirstError
from decodetr.annotations.sources import load_annotations
from decodetr.annotations.written_paths import find_written
from decodetr.cli import main

EXPECTED = good()


def load(tmp_path, document):
    return load_annotations(write(tmp_path / "data", document), "train")


def boxes(coco):
    index = coco.annotations_by_image
    rows = [(image, coco.names[row["category"]], row["bbox"]) for image in index for row in index[image]]
    return sorted(rows, key=str)


@pytest.mark.parametrize("write_id", [str, float, lambda number: f"{number:012d}"])
def test_ids_that_are_texts_are_numbers(tmp_path, caplog, write_id):
    document = good()
    for key, fields in (
        ("images", ["id"]),
        ("categories", ["id"]),
        ("annotations", ["id", "image_id", "category_id"]),
    ):
        for entry in document[key]:
            entry.update({field: write_id(entry[field]) for field in fields})
    found, expected = load(tmp_path, document), load(tmp_path / "other", EXPECTED)
    assert boxes(found) == boxes(expected) and found.images[0]["image_id"] == 1
    assert "39 ids and sizes that are texts, or numbers with a point (whole numbers), the first: images[0]: id" in (
        caplog.text
    )


def test_ignore_is_told_as_an_object(tmp_path, caplog):
    document = good()
    document["annotations"][0]["ignore"], document["annotations"][1]["ignore"] = 1, 0
    assert boxes(load(tmp_path, document)) == boxes(load(tmp_path / "other", EXPECTED))
    assert '1 annotations with "ignore", which are objects here' in caplog.text
    assert caplog.text.count('"ignore"') == 1


def test_ids_that_are_one_as_numbers_are_refused(tmp_path):
    document = good()
    document["images"][0]["id"], document["images"][1]["id"] = "1", "01"
    with pytest.raises(ValueError, match=r"images\[1\]: expected a unique id, got 1 again"):
        load(tmp_path, document)


@pytest.mark.parametrize("size", [{}, {"width": None, "height": 0}, {"width": "96", "height": "64"}, {"width": 96}])
def test_sizes_are_read_from_the_pictures(tmp_path, caplog, size):
    document = good()
    del document["images"][2]["width"], document["images"][2]["height"]
    document["images"][2].update(size)
    coco = load(tmp_path, document)
    assert [coco.images[2][side] for side in ("width", "height")] == [96, 64]
    said = "ids and sizes that are texts" if size.get("width") == "96" else "1 images without width and height"
    assert said in caplog.text and "images[2]" in caplog.text


SPELLINGS = {
    "a backslash": ("sub/a b.png", "sub\\a b.png"),
    "the folder itself": ("sub/a b.png", "train/sub/a b.png"),
    "a Windows path": ("sub/a b.png", "C:\\Users\\me\\train\\sub\\a b.png"),
    "a path of another machine": ("sub/a b.png", "/home/me/data/train/sub/a b.png"),
    "per cent": ("sub/a b.png", "sub/a%20b.png"),
    "case": ("sub/a b.png", "Sub/A B.PNG"),
    "a dot": ("sub/a b.png", ".\\sub\\a b.png"),
    "decomposed": ("é.png", unicodedata.normalize("NFD", "é.png")),
    "composed": (unicodedata.normalize("NFD", "é.png"), "é.png"),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_files_in_another_spelling_are_found(tmp_path, caplog, case):
    actual, written = SPELLINGS[case]
    document = good()
    folder = write(tmp_path / "data", document)
    (folder / "train" / "sub").mkdir()
    (folder / "train" / "1.png").rename(folder / "train" / actual)
    document["images"][0]["file_name"] = written
    (folder / "annotations" / "train.json").write_text(json.dumps(document))
    coco = load_annotations(folder, "train")
    assert coco.images[0]["path"] == str(folder / "train" / actual)
    assert "1 files in another spelling (as they are in the folder), the first: images[0]" in caplog.text


def test_files_that_could_be_two_are_not_guessed(tmp_path):
    for name in ("a.png", "A.PNG", "b/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert find_written(tmp_path, ["a.Png", "B\\C.png"]) == {"B\\C.png": "b/c.png"}
    assert find_written(tmp_path, ["x/b/c.png", "b/c.png"]) == {}  # one of them is another picture
    assert find_written(tmp_path, ["x/b/c.png", "y/b/c.png"]) == {}
    assert find_written(tmp_path, ["../b/c.png", "nothing", "a\0"]) == {"../b/c.png": "b/c.png"}
    assert find_written(tmp_path / "none", ["a"]) == {}


def test_a_file_of_two_images_is_said_once(tmp_path, caplog, capsys):
    document = good()
    document["images"][1]["file_name"] = document["images"][0]["file_name"]
    coco = load(tmp_path, document)
    said = "1 files that are listed twice, the first: images[1]"
    assert len(coco) == len(document["images"]) and caplog.text.count(said) == 1
    main(["validate", str(tmp_path / "data")])
    assert capsys.readouterr().out.count("files that are listed twice") == 1
    document["images"][1]["file_name"] = f"./{document['images'][0]['file_name']}"
    with pytest.raises(ValueError, match=r"train.json: images\[1\] \(id 2\): expected a file of its own, got './"):
        load(tmp_path / "other", document)
    main(["validate", str(tmp_path / "other" / "data"), "--repair", str(tmp_path / "repaired")])
    assert "files that are listed under two names" in capsys.readouterr().out
    assert len(load_annotations(tmp_path / "repaired", "train")) == len(document["images"]) - 1


def test_many_files_that_are_not_there_are_looked_for_in_seconds(tmp_path):
    begin = time.perf_counter()
    assert find_written(tmp_path, [f"{number}.png" for number in range(40_000)]) == {}
    assert time.perf_counter() - begin < 10  # it was a minute


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").touch()
    (tmp_path / "sub" / "again").symlink_to(tmp_path)
    assert find_written(tmp_path, ["SUB/a.png"]) == {"SUB/a.png": "sub/a.png"}


def _with_root(**root):
    document = good()
    document["categories"].insert(0, {"id": 0, "name": "shapes-2", "supercategory": "none"} | root)
    for entry in document["categories"][1:]:
        entry["supercategory"] = "shapes-2"
    return document


def test_a_root_above_all_categories_is_no_name(tmp_path, caplog):
    coco = load(tmp_path, _with_root())
    assert coco.names == NAMES and boxes(coco) == boxes(load(tmp_path / "other", EXPECTED))
    assert (
        "1 categories that are no name of objects" in caplog.text and "categories[0] (id 0): 'shapes-2'" in caplog.text
    )


def test_a_root_is_looked_for_in_the_annotations_only_where_there_can_be_one():
    class Rows(list):
        def __iter__(self):
            looked.append(None)
            return super().__iter__()

    looked, rows = [], Rows([{"id": 1, "image_id": 1, "category_id": 9}])
    categories = [{"id": number, "name": f"thing {number}"} for number in range(50)]
    mended = mend({"images": [], "annotations": rows, "categories": categories}, FirstError())
    assert mended["categories"] == categories and len(looked) < 10  # LVIS: 1,203 categories, 1.3 million annotations


def test_a_root_of_the_name_of_its_only_category_is_none(tmp_path):
    document = _with_root(name="cat")
    document["categories"] = [document["categories"][0], {"id": 3, "name": "cat", "supercategory": "cat"}]
    document["annotations"] = [row for row in document["annotations"] if row["category_id"] == 3]
    assert load(tmp_path, document).names == ["cat"]


def test_supercategories_that_are_groups_leave_their_names(tmp_path):
    coco = good()  # as COCO has it: person in the group person, with or without a person in the file
    for entry, group in zip(coco["categories"], ("cat", "food", "cat")):
        entry["supercategory"] = group
    assert load(tmp_path / "a", coco).names == NAMES
    annotated = _with_root()
    annotated["annotations"][0]["category_id"] = 0
    assert load(tmp_path / "b", annotated).names == ["shapes-2", *NAMES]
    grouped = _with_root()
    grouped["categories"][3]["supercategory"] = "animal"
    assert load(tmp_path / "c", grouped).names == ["shapes-2", *NAMES]
    alone = deepcopy(EXPECTED)
    alone["categories"] = [{"id": 1, "name": "cat", "supercategory": "none"}]
    alone["annotations"] = []
    assert load(tmp_path / "d", alone).names == ["cat"]


def test_a_vocabulary_of_annotations_has_no_root(tmp_path):
    from decodetr.annotations.coco_checks import read_categories, read_document

    file = write(tmp_path / "data", _with_root()) / "annotations" / "train.json"
    assert read_categories(file, read_document(file)["categories"])[1] == NAMES
    assert CocoAnnotations.load(file).category_ids == [1, 2, 3]
