"""Large annotation files are parsed once; images and annotations are arrays that look like lists of dicts."""

import json
import pickle

import numpy as np
import pytest
from helpers.broken_data import good, write

from decodetr.annotations import coco as module
from decodetr.annotations.annotation_index import AnnotationIndex
from decodetr.annotations.coco import CocoAnnotations
from decodetr.annotations.image_entries import Federation, ImageEntries, ImagePlaces
from decodetr.utils.documents import parse_json
from decodetr.utils.made_once import NotKept


@pytest.fixture
def file(tmp_path, monkeypatch):
    """An annotation file that counts as large."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LARGE", 0)
    document = good()
    for image in document["images"]:
        image |= {"neg_category_ids": [document["categories"][0]["id"]], "not_exhaustive_category_ids": []}
    for category in document["categories"]:
        category["frequency"] = "r"
    return write(tmp_path / "data", document) / "annotations" / "train.json"


def _everything(coco):
    index = coco.annotations_by_image
    lists = {image_id: [part.tolist() for part in parts] for image_id, parts in coco.federation.items()}
    rows = {image_id: index[image_id] for image_id in index}
    facts = coco.file, coco.image_folder, coco.names, coco.category_ids, coco.frequencies, coco.left_over
    return [*facts, list(coco.images), rows, lists, coco.digest()]


def test_what_is_kept_is_what_was_parsed(file, monkeypatch):
    (file.parent.parent / "train" / "unnamed.jpg").write_bytes(b"")
    parsed = _everything(CocoAnnotations._parse(file, None, True))
    first = CocoAnnotations.load(file)
    monkeypatch.setattr(module, "read_document", None)
    again = CocoAnnotations.load(file)
    assert _everything(first) == _everything(again) == parsed and parsed[5]
    assert again.annotations_by_image.column("bbox").flags.writeable


def test_a_file_that_changed_is_parsed_again_and_a_lost_picture_is_named(file):
    before = len(CocoAnnotations.load(file))
    document = json.loads(file.read_text())
    gone = document["images"][-1]
    document["images"].pop()
    document["annotations"] = [row for row in document["annotations"] if row["image_id"] != gone["id"]]
    file.write_text(json.dumps(document))
    assert len(CocoAnnotations.load(file)) == before - 1
    picture = file.parent.parent / "train" / document["images"][0]["file_name"]
    picture.unlink()
    with pytest.raises(FileNotFoundError, match=rf"images\[0\] .*expected the image {picture}"):
        CocoAnnotations.load(file)


def test_where_nothing_can_be_kept_the_file_is_parsed(file, monkeypatch, caplog):
    def refuse(*words):
        raise NotKept("the disk is full")

    monkeypatch.setattr("decodetr.annotations.parsed.made_once", refuse)
    assert len(CocoAnnotations.load(file)) == 6
    assert "it is parsed again by each process that reads it: the disk is full" in caplog.text


def test_an_error_of_the_file_is_its_error(file):
    document = json.loads(file.read_text())
    document["annotations"][0]["bbox"] = [1, 2]
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"annotations\[0\] .*expected a bbox of four numbers"):
        CocoAnnotations.load(file)


def test_image_entries_are_a_list_of_dicts():
    stored = object()
    rows = [
        {"image_id": 7, "file_name": "é.jpg", "width": 3, "height": 4, "path": "/a/é.jpg"},
        {"image_id": 2, "file_name": "b\udcff.jpg", "width": 5, "height": 6, "path": "/a/b\udcff.jpg"},
        {"image_id": 9, "file_name": "", "width": 1, "height": 1, "path": "/c", "size_declared": False},
    ]
    entries = ImageEntries.of(rows)
    assert entries == rows and entries[-1] == rows[2] and entries[1:] == rows[1:] and entries[::-2] == rows[::-2]
    assert entries.take(np.array([2, 0])) == [rows[2], rows[0]] and len(entries) == 3
    assert type(entries[0]["image_id"]) is int and pickle.loads(pickle.dumps(entries)) == rows
    with pytest.raises(IndexError):
        entries[3]
    objects = ImageEntries.of([{**row, "path": stored} for row in rows])
    assert objects[1]["path"] is stored and objects.take(np.array([1]))[0]["path"] is stored
    assert ImageEntries.of([]) == []


def test_places_and_lists_of_images_are_those_of_a_dict():
    ids = [30, 10, 20]
    places = ImagePlaces(ids)
    assert [places.get(image_id) for image_id in (10, 20, 30, 5, 25, 99)] == [1, 2, 0, None, None, None]
    assert places.of(np.array([20, 7, 30])).tolist() == [2, -1, 0]
    assert ImagePlaces([]).get(3) is None and ImagePlaces([]).of(np.array([3])).tolist() == [-1]
    lists = {30: (np.array([1, 2]), np.array([], dtype=np.int64)), 10: (np.array([0]), np.array([3]))}
    federation = Federation.of(lists)
    assert list(federation) == [30, 10] and 20 not in federation
    assert all(np.array_equal(a, b) for key in lists for a, b in zip(federation[key], lists[key]))


def test_objects_are_changed_as_they_are_read():
    def without(entry):
        return {key: value for key, value in entry.items() if key != "segmentation"}

    text = '{"segmentation": 1, "a": [{"segmentation": [[1, 2]], "b": {"segmentation": {}, "c": 3}}]}'
    assert parse_json(text, "here", each=without) == {"a": [{"b": {"c": 3}}]}


def test_an_index_of_some_images_shares_the_annotations_of_the_whole():
    rng, n = np.random.default_rng(0), 500
    ids, image_rows = rng.permutation(1000)[:60], rng.integers(0, 60, n)
    numbers = (np.arange(n), rng.integers(0, 5, n), rng.random((n, 4)), rng.random(n), rng.integers(0, 2, n))
    whole, rows = AnnotationIndex(ids, image_rows, *numbers), np.sort(rng.permutation(60)[:23])
    shared = whole.of_images(rows)
    copied = whole.take(np.flatnonzero(np.isin(whole.image_rows, rows)), ids[rows])
    assert list(shared) == list(copied) == ids[rows].tolist()
    assert all(shared[image_id] == copied[image_id] == whole[image_id] for image_id in shared)
    np.testing.assert_array_equal(shared.image_rows, copied.image_rows)
    for name in ("id", "bbox", "category"):
        np.testing.assert_array_equal(shared.column(name), copied.column(name))
        np.testing.assert_array_equal(shared.column(name, crowds=False), copied.column(name, crowds=False))
    third = np.arange(0, len(copied.column("id")), 3)
    assert [*shared.take(third, ids[rows]).values()] == [*copied.take(third, ids[rows]).values()]
    first = ids[rows][0]
    assert np.shares_memory(shared.arrays(first)["bbox"], whole.arrays(first)["bbox"])
