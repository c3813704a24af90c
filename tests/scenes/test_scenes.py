"""The drawn world: its names and split, its pictures against their boxes, and the folders it writes."""

import argparse
import errno
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from decodetr.cli import scenes as command
from decodetr.scenes import (
    COLOURS,
    HELD_OUT_SHAPE,
    NAMES,
    PATTERNS,
    SHAPES,
    SceneSettings,
    draw_scene,
    names_document,
    rendering,
    write_scenes,
)
from decodetr.scenes.world import BASE_NAMES, few_names

TWELVE = [
    "orange solid square",
    "orange striped arrow",
    "yellow solid arrow",
    "yellow dotted ring",
    "green dotted circle",
    "cyan solid circle",
    "cyan dotted diamond",
    "blue striped square",
    "blue striped heart",
    "purple dotted diamond",
    "pink solid diamond",
    "pink solid ring",
]
SMALL = SceneSettings(train=8, val=4, test=3, image_size=96, seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "world", SMALL)


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def load(folder, name):
    return json.loads((folder / "annotations" / f"{name}.json").read_text())


# --- names and split -------------------------------------------------------------------------------------------------


def test_names_are_the_unique_product_of_their_parts():
    assert len(NAMES) == len({name.name for name in NAMES}) == len(COLOURS) * len(PATTERNS) * len(SHAPES) == 240
    assert [name.id for name in NAMES] == list(range(1, 241))
    assert all(name.name == f"{name.colour} {name.pattern} {name.shape}" for name in NAMES)


def test_split_is_a_quarter_and_mostly_new_combinations_of_base_parts():
    novel, base = [n for n in NAMES if n.novel], [n for n in NAMES if not n.novel]
    assert len(novel) == 60
    never_boxed = [n for n in novel if n.shape == HELD_OUT_SHAPE]
    assert len(never_boxed) == 24 and not any(n.shape == HELD_OUT_SHAPE for n in base)
    for name in novel:
        if name.shape == HELD_OUT_SHAPE:
            continue
        for first, second in combinations(("colour", "pattern", "shape"), 2):
            pair = (getattr(name, first), getattr(name, second))
            assert any((getattr(b, first), getattr(b, second)) == pair for b in base), (name.name, pair)
    # No colour or pattern is rare among the base names, so none can stand for "novel".
    assert max(Counter(n.colour for n in base).values()) <= 1.2 * min(Counter(n.colour for n in base).values())
    assert max(Counter(n.pattern for n in base).values()) <= 1.2 * min(Counter(n.pattern for n in base).values())


def test_names_document_has_every_id_once():
    document = names_document()
    assert len(document["base"]) == 180 and len(document["novel"]) == 60
    assert {**document["base"], **document["novel"]} == {str(name.id): name.name for name in NAMES}


def test_few_base_names_are_always_the_same_and_among_those_of_more():
    eight, twelve, many = (few_names(BASE_NAMES, count) for count in (8, 12, 48))
    assert set(eight) < set(twelve) < set(many) < set(BASE_NAMES) and len(many) == 48
    assert twelve == sorted(twelve, key=BASE_NAMES.index)
    assert twelve == TWELVE  # the figures of docs/scenes.md are of these
    assert few_names(BASE_NAMES, 180) == list(BASE_NAMES)
    document = names_document(12)
    assert list(document["base"].values()) == twelve and len(document["novel"]) == 228
    assert {**document["base"], **document["novel"]} == {str(name.id): name.name for name in NAMES}
    for count in (0, 181):
        with pytest.raises(ValueError, match=f"--base-names must be from 1 to 180, .* got {count}"):
            few_names(BASE_NAMES, count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": 0}, "train"),
        ({"base_names": 181}, "base_names must be an integer from 1 to 180, got 181"),
        ({"seed": 2**32}, "seed"),
        ({"image_size": 10}, "64 to 1024"),
        ({"val": 2.0}, "got 2.0"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SceneSettings(**change)


# --- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_objects_are_boxed_by_their_visible_pixels_and_stay_visible(split):
    counts, sides, occluded = Counter(), [], 0
    for index in range(60):
        scene = draw_scene(1, split, index, 160)
        assert scene.image.size == (160, 160) and scene.image.mode == "RGB"
        counts[len(scene.objects)] += 1
        for k, thing in enumerate(scene.objects, start=1):
            rows, columns = np.nonzero(scene.owner == k)
            assert thing.box == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
            assert thing.area == len(rows)
            assert rendering.MIN_VISIBLE <= thing.visible <= 1
            occluded += thing.visible < 0.95
            if thing.visible == 1:
                sides.append(max(thing.box[2:]))
    assert set(counts) <= set(range(1, 9)) and len(counts) >= 6
    assert occluded > 10
    assert min(sides) >= 14 and max(sides) <= 90 and max(sides) > 2 * min(sides)


def test_boxes_are_tight_on_drawn_pixels(monkeypatch):
    grey = (120, 120, 120)
    monkeypatch.setattr(rendering, "_draw_background", lambda rng, look, side: Image.new("RGB", (side, side), grey))
    monkeypatch.setattr(rendering, "_expose", lambda rng, look, image: image)
    checked = 0
    for index in range(80):
        scene = draw_scene(3, "val", index, 160)
        if len(scene.objects) != 1:
            continue
        rows, columns = np.nonzero((np.asarray(scene.image) != grey).any(axis=2))
        x, y, w, h = scene.objects[0].box
        drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(drawn - [x, y, x + w, y + h]).max() <= 1, index  # one pixel of antialiased fringe
        checked += 1
    assert checked >= 5


@pytest.mark.parametrize("size", [16, 40, 72])
def test_parts_change_pixels_as_they_say(size):
    """The colour is the most frequent hue of its objects, and a pattern adds a second tone that a solid has not."""

    def spread(name):
        tile, alpha = rendering.draw_object(np.random.default_rng(0), name, size, 0.0)
        height, width = np.asarray(alpha).shape
        centre = np.asarray(tile, dtype=float)[height // 4 : -(height // 4), width // 4 : -(width // 4)].mean(axis=2)
        return centre.std()

    for name in NAMES:
        if name.shape == "square":
            assert (spread(name) < 1) == (name.pattern == "solid"), name
            assert name.pattern == "solid" or spread(name) > 30, name


def test_scenes_depend_on_seed_split_and_index_only():
    pictures = {
        key: draw_scene(*key, 64).image.tobytes()
        for key in [(s, split, i) for s in (0, 1) for split in ("train", "val", "test", "other") for i in (0, 1)]
    }
    assert len(set(pictures.values())) == len(pictures)
    assert draw_scene(1, "val", 1, 64).image.tobytes() == pictures[1, "val", 1]


# --- the written folder ----------------------------------------------------------------------------------------------


def test_train_has_base_annotations_only_and_train_full_has_all(folder):
    train, full = load(folder, "train"), load(folder, "train_full")
    novel = {name.id for name in NAMES if name.novel}
    assert train["images"] == full["images"] and len(train["images"]) == SMALL.train
    assert not novel & {c["id"] for c in train["categories"]} and len(train["categories"]) == 180
    assert not novel & {a["category_id"] for a in train["annotations"]}
    assert novel & {a["category_id"] for a in full["annotations"]} and len(full["categories"]) == 240
    # The same object has the same id, and nothing but novel objects is missing.
    assert train["annotations"] == [a for a in full["annotations"] if a["category_id"] not in novel]
    assert "novel" not in (folder / "annotations" / "train.json").read_text().replace("novel objects are drawn", "")


@pytest.mark.parametrize("name", ["train", "train_full", "val", "test"])
def test_files_are_complete_coco(folder, name):
    document = load(folder, name)
    names = {str(c["id"]): c["name"] for c in document["categories"]}
    listed = json.loads((folder / "names.json").read_text())
    assert names == (listed["base"] if name == "train" else {**listed["base"], **listed["novel"]})
    images = {image["id"]: image for image in document["images"]}
    for image in images.values():
        with Image.open(folder / document["info"]["image_folder"] / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (96, 96)
    ids = [a["id"] for a in document["annotations"]]
    assert len(ids) == len(set(ids)) and min(ids) >= 1
    for row in document["annotations"]:
        assert set(row) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
        x, y, w, h = row["bbox"]
        image = images[row["image_id"]]
        assert all(isinstance(value, float) for value in (*row["bbox"], row["area"])) and row["iscrowd"] == 0
        assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= image["width"] and y + h <= image["height"]
        assert 0 < row["area"] <= w * h


def test_annotations_are_those_of_the_drawn_scene(folder):
    rows = [a for a in load(folder, "val")["annotations"] if a["image_id"] == 2]
    things = draw_scene(SMALL.seed, "val", 1, SMALL.image_size).objects
    assert [(r["category_id"], tuple(r["bbox"]), r["area"]) for r in rows] == [
        (t.name.id, t.box, t.area) for t in things
    ]


def test_any_number_of_workers_writes_the_same_bytes(folder, tmp_path):
    assert contents(write_scenes(tmp_path / "two", SMALL, workers=2)) == contents(folder)


def test_an_interrupted_folder_is_finished_and_a_complete_one_left_alone(folder, tmp_path):
    before = contents(folder)
    for missing in ("names.json", "annotations/val.json", "train/000003.jpg"):
        (folder / missing).unlink()
        (folder / ".decodetr-staging-killed").mkdir()
        (folder / ".decodetr-staging-killed" / "000099.jpg").write_bytes(b"half a picture")
        write_scenes(folder, SMALL)
        assert contents(folder) == before, missing
    times = {f: f.stat().st_mtime_ns for f in folder.rglob("*")}
    write_scenes(folder, SMALL)
    assert times == {f: f.stat().st_mtime_ns for f in folder.rglob("*")}


def test_other_settings_need_overwrite_which_replaces_only_scenes(tmp_path):
    first = replace(SMALL, train=3, val=2, test=1)
    second = replace(first, train=2, seed=8)
    folder = write_scenes(tmp_path / "world", first)
    (folder / "regions").mkdir()
    (folder / "regions" / "mine.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(ValueError, match=r"train: there 3, asked 2.*seed: there 7, asked 8.*--overwrite"):
        write_scenes(folder, second)
    assert contents(folder) == before
    write_scenes(folder, second, overwrite=True)
    assert sorted(f.name for f in (folder / "train").iterdir()) == ["000001.jpg", "000002.jpg"]
    assert (folder / "regions" / "mine.txt").read_text() == "mine"
    assert load(folder, "val")["info"]["seed"] == 8


def test_earlier_scenes_stay_until_the_new_ones_are_whole(tmp_path, monkeypatch):
    first = replace(SMALL, train=3, val=2, test=1)
    folder = write_scenes(tmp_path / "world", first)
    before = contents(folder)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("decodetr.scenes.write._write_preview", full)
        with pytest.raises(OSError, match="nothing was written; make room"):
            write_scenes(folder, replace(first, train=2, seed=8), overwrite=True)
    assert contents(folder) == before


def test_few_base_names_change_the_training_boxes_and_the_split_alone(folder, tmp_path):
    few = write_scenes(tmp_path / "few", replace(SMALL, base_names=48))
    first, second = contents(folder), contents(few)
    changed = {"annotations/train.json", "names.json", "scenes.json", "preview.png"}
    assert {file for file in first if first[file] != second[file]} == changed and first.keys() == second.keys()
    split = json.loads((few / "names.json").read_text())
    train, full = load(few, "train"), load(few, "train_full")
    assert {str(c["id"]): c["name"] for c in train["categories"]} == split["base"] and len(split["base"]) == 48
    assert train["annotations"] == [a for a in full["annotations"] if str(a["category_id"]) in split["base"]]
    assert 0 < len(train["annotations"]) < len(load(folder, "train")["annotations"])
    with pytest.raises(ValueError, match="base_names: there 48, asked None"):
        write_scenes(few, SMALL)
    # Folders from before there was a choice stay complete.
    assert "base_names" not in (folder / "scenes.json").read_text()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_refused(tmp_path, overwrite):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty and has no scenes.json"):
        write_scenes(tmp_path, SMALL, overwrite=overwrite)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]
    for text, message in (("{}", "was not written by"), ("{", "expected a JSON file")):
        (tmp_path / "scenes.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            write_scenes(tmp_path, SMALL, overwrite=overwrite)


def test_bad_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="workers must be an integer of at least 1, got 0"):
        write_scenes(tmp_path / "world", SMALL, workers=0)


# --- the command -----------------------------------------------------------------------------------------------------


def test_command_writes_what_it_was_asked(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    defaults = parser.parse_args(["write", "x"])
    assert all(getattr(defaults, field.name) == field.default for field in fields(SceneSettings))
    argv = ["write", str(tmp_path / "w"), "--train", "2", "--val", "1", "--test", "1", "--image-size", "64"]
    assert command.run(parser.parse_args([*argv, "--seed", "3", "--workers", "1"])) == 0
    assert "4 images" in capsys.readouterr().out
    settings = json.loads((tmp_path / "w" / "scenes.json").read_text())
    assert (settings["train"], settings["image_size"], settings["seed"]) == (2, 64, 3)
    with Image.open(tmp_path / "w" / "preview.png") as preview:
        assert preview.width > 1000


def test_the_command_line_needs_no_heavy_import():
    code = "import sys, decodetr.cli.scenes; sys.exit(bool({'numpy', 'PIL', 'torch', 'tqdm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
