"""LVIS' lists of category ids go through what is mended and repaired, as the ids of annotations do."""

import json

import pytest
from helpers.broken_data import NAMES, good, write

from decodetr.annotations.sources import load_annotations
from decodetr.cli import main

ABSENT, VAGUE = "neg_category_ids", "not_exhaustive_category_ids"


def federated(absent=(), vague=()):
    """`good` as LVIS has it: image 1 has categories 1 and 2, image 2 has 2 and 3, image 6 has none. The lists are of
    the first image."""
    document = good()
    for entry in document["images"]:
        entry |= {ABSENT: [], VAGUE: []}
    document["images"][0] |= {ABSENT: list(absent), VAGUE: list(vague)}
    for entry in document["categories"]:
        entry["frequency"] = "c"
    return document


def lists(folder):
    """Names of the first image's lists."""
    coco = load_annotations(folder, "train")
    return tuple([coco.names[number] for number in part] for part in coco.federation[1])


def repair(tmp_path, capsys, document):
    """(the lists of the first image in a repaired copy, what was printed)."""
    folder = write(tmp_path / "data", document)
    main(["validate", str(folder), "--repair", str(tmp_path / "repaired")])
    printed = capsys.readouterr().out
    assert "cannot be read after all repairs" not in printed
    assert main(["validate", str(tmp_path / "repaired")]) == 0 and "No problem" in capsys.readouterr().out
    return lists(tmp_path / "repaired"), printed


@pytest.mark.parametrize("write_id", [str, float])
def test_ids_that_are_texts_are_numbers_for_training_too(tmp_path, caplog, write_id):
    document = federated([write_id(3)], [write_id(1), 2])
    folder = write(tmp_path / "data", document)
    assert lists(folder) == ([NAMES[2]], [NAMES[0], NAMES[1]])
    assert "2 ids and sizes that are texts, or numbers with a point (whole numbers), the first: images[0]: neg" in (
        caplog.text
    )


def test_a_root_that_a_list_names_is_a_name(tmp_path):
    """Somebody has looked for it."""
    document = federated([0])
    document["categories"].insert(0, {"id": 0, "name": "shapes", "supercategory": "none", "frequency": "c"})
    for entry in document["categories"][1:]:
        entry["supercategory"] = "shapes"
    assert lists(write(tmp_path / "data", document)) == (["shapes"], [])


def test_names_that_are_merged_are_merged_in_lists(tmp_path, capsys):
    """ "cat " (4) becomes "cat" (3), and one that the image has is not absent."""
    document = federated([4, 3, 5], [4])
    document["categories"] += [{"id": 4, "name": "cat ", "frequency": "c"}]
    document["categories"] += [{"id": 5, "name": f"{NAMES[0]} ", "frequency": "c"}]
    found, printed = repair(tmp_path, capsys, document)
    assert found == (["cat"], ["cat"])
    assert "| warning | categories that an image has and lists as absent | 1 | image id 1: 5 in neg" in printed


@pytest.mark.parametrize("absent, vague", [([2], [0]), ([3], [1])])
def test_lists_are_shifted_with_the_annotations(tmp_path, capsys, absent, vague):
    """Unless they are right as they are: there is no category 4."""
    document = federated(absent, vague)
    for row in document["annotations"]:
        row["category_id"] -= 1
    found, printed = repair(tmp_path, capsys, document)
    assert found == (["cat"], [NAMES[0]]) and "category ids are off by one" in printed


def test_categories_that_are_left_out_are_left_out_of_lists(tmp_path, capsys):
    document = federated([7, 3], [None, 2, 2])
    document["categories"].append({"id": 7, "name": None, "frequency": "c"})
    found, printed = repair(tmp_path, capsys, document)
    assert found == (["cat"], [NAMES[1]])
    what = "categories of LVIS' lists that are not in the file"
    assert f"| error | {what} | 2 | image id 1: 7 in neg_category_ids | left out |" in printed


def test_ids_that_are_words_are_numbered_in_lists(tmp_path, capsys):
    document = federated(["c3"], ["c1", [5]])
    for entry in document["categories"]:
        entry["id"] = f"c{entry['id']}"
    for row in document["annotations"]:
        row["category_id"] = f"c{row['category_id']}"
    assert repair(tmp_path, capsys, document)[0] == (["cat"], [NAMES[0]])


def test_lists_that_are_none_stop_a_repair_and_say_so(tmp_path, capsys):
    document = federated()
    document["images"][3][VAGUE] = "2"
    folder = write(tmp_path / "data", document)
    assert main(["validate", str(folder), "--repair", str(tmp_path / "repaired")]) == 1
    printed = capsys.readouterr().out
    assert "expected a list of category ids under 'not_exhaustive_category_ids'" in printed
    assert not (tmp_path / "repaired" / "annotations").exists()
    assert json.loads((folder / "annotations" / "train.json").read_text()) == document
