"""What the cards of the recipes say to do: commands that are made of one table, parsed, and run at tiny size."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
from helpers.shrunk_recipes import small_swins, write_detector, write_shrunk
from helpers.tiny_teachers import write_tiny_clip, write_tiny_llava
from PIL import Image
from recipe_cards import CAPTIONER, CARDS, CLIP, DETECTOR, RECIPES, TITLES, commands, computed, where_computed

from decodetr import DeCoDetrForObjectDetection
from decodetr.cli import main
from decodetr.evaluation.protocols import Protocol

WAYS = [(recipe, data) for recipe, (_, kinds) in RECIPES.items() for data in kinds]
LAUNCH = re.compile(r"accelerate launch --num_processes \d+ -m decodetr\.train")
SMALL_POOL = "--delta -0.25 --num-coarse 5 --num-fine 3 --max-proposals 4 --min-objectness 0 --max-new-tokens 4"
LVIS_NAMES = {"r": ["yak", "harp"], "c": ["cup", "cat"], "f": ["dog", "hat"]}


def _card(recipe):
    return (CARDS / recipe / "README.md").read_text(encoding="utf-8")


def _section(recipe, data):
    """(commands, one a line, and what stands below them) of a section of a card."""
    text = _card(recipe).split(f"## {TITLES[data]}\n")[1].split("\n## ")[0]
    _, block, below = text.split("```")
    return block.replace("\\\n", " ").strip().splitlines(), below


def test_every_recipe_has_a_card_with_all_its_ways():
    assert sorted(RECIPES) == sorted(file.parent.name for file in CARDS.glob("*/recipe.yaml"))
    for recipe in RECIPES:
        assert re.findall(r"^## (.*)$", _card(recipe), re.MULTILINE) == [TITLES[data] for data in RECIPES[recipe][1]]
    kinds = {data for _, data in WAYS}
    assert kinds == set(TITLES) and len(WAYS) == 15


@pytest.mark.parametrize(("recipe", "data"), WAYS)
def test_cards_have_the_commands_and_what_they_take(recipe, data):
    lines, below = _section(recipe, data)
    assert [shlex.split(line) for line in lines] == [shlex.split(line) for line in commands(recipe, data)]
    rows = re.findall(
        r"^\| `(boxes|run)` \| ([\d.]+) \| ([\d.]+ GB)(?:: too large)? \| ([\d.]+ [GM]B) \|$", below, re.MULTILINE
    )
    if "**Computed, not measured**" in below:
        assert len(rows) == sum("--recipe" in line for line in lines)
    else:
        assert where_computed(recipe)[data] in below


@pytest.mark.slow
def test_figures_of_a_card_are_those_of_the_plan():
    assert computed("decodetr-fast")["own"] in _card("decodetr-fast")


# The commands, at tiny size


def _pictures(folder, count, rng):
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48), 0).save(folder / f"{i:012d}.jpg")


def _document(part, categories, ids, count, rng, **lists):
    images, rows = [], []
    for i in range(count):
        file = f"{i:012d}.jpg"
        url = f"http://images.cocodataset.org/{part}/{file}"
        images.append({"id": i, "file_name": file, "coco_url": url, "width": 64, "height": 48, **lists})
        for n in range(3):
            x, y = rng.integers(0, 30, 2).tolist()
            row = {"id": 3 * i + n + 1, "image_id": i, "category_id": int(ids[(3 * i + n) % len(ids)])}
            rows.append({**row, "bbox": [x, y, 20 + n, 15 + n], "area": 400, "iscrowd": 0})
    return {"images": images, "annotations": rows, "categories": categories}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with COCO, LVIS and DIR in the layouts of the official files, and tiny teachers."""
    folder, rng = tmp_path_factory.mktemp("ways"), np.random.default_rng(0)
    coco, lvis = folder / "COCO", folder / "LVIS"
    for part, count in (("train2017", 12), ("val2017", 4)):
        _pictures(coco / part, count, rng)
    (coco / "annotations").mkdir()
    lvis.mkdir()
    split = Protocol.load("ov-coco")
    categories = [{"id": int(i), "name": name} for i, name in (split.base | split.novel).items()]
    some = [*list(split.base)[:4], *list(split.novel)[:2]]
    lvis_categories = [
        {"id": n, "name": name, "frequency": frequency}
        for n, (name, frequency) in enumerate(((name, f) for f, names in LVIS_NAMES.items() for name in names), 1)
    ]
    for part, count in (("train", 12), ("val", 4)):
        document = _document(f"{part}2017", categories, some, count, rng)
        (coco / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(document))
        lists = {"neg_category_ids": [4], "not_exhaustive_category_ids": [6]}
        document = _document(f"{part}2017", lvis_categories, [1, 2, 3, 5, 6], count, rng, **lists)
        for image in document["images"]:
            del image["file_name"]
        (lvis / f"lvis_v1_{part}.json").write_text(json.dumps(document))
    own = folder / "DIR"
    (own / "annotations").mkdir(parents=True)
    for part, count in (("train", 12), ("val", 4)):
        shutil.copytree(coco / f"{part}2017", own / part)
        names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        document = _document(part, names, [1, 2], count, rng)
        (own / "annotations" / f"{part}.json").write_text(json.dumps(document))
    write_tiny_clip(folder / "clip", dim=16)
    write_tiny_llava(folder / "llava")
    write_detector(folder / "detector")
    return folder


def _tiny(line, recipe, here, shrunk):
    """The words of a command with everything of this machine in place of what is published."""
    words = shlex.split(LAUNCH.sub("decodetr train", line))
    assert words.pop(0) == "decodetr"
    places = {CLIP: "clip", CAPTIONER: "llava", DETECTOR: "detector", "COCO": "COCO", "LVIS": "LVIS", "DIR": "DIR"}
    places["DIR/annotations/train.json"] = "DIR/annotations/train.json"
    words = [str(here / places[word]) if word in places else str(shrunk) if word == recipe else word for word in words]
    if words[:2] == ["eval", "prepare"]:
        words.append("--any-counts")
    if words[:2] == ["pool", "build"]:
        words += SMALL_POOL.split()
    return words


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "data"), WAYS)
def test_the_commands_of_a_card_run(recipe, data, here, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_swins(monkeypatch)
    shrunk = write_shrunk(recipe, tmp_path)
    for line in _section(recipe, data)[0]:
        words = _tiny(line, recipe, here, shrunk)
        code = main(words)
        error = capsys.readouterr().err
        assert code == 0, f"{' '.join(words)}\n{error[-2000:]}"
    model = DeCoDetrForObjectDetection.from_pretrained("run")
    info = model.config.training_info
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["metrics"]["AP50"] >= 0 and model.prototype_pool.captions
    if data == "own":
        assert sorted(model.vocabulary.names) == ["cat", "dog"]
        return
    novel = list(Protocol.load("ov-coco").novel.values()) if data == "ov-coco" else LVIS_NAMES["r"]
    # An open-vocabulary result: no part has seen a box of a novel name, and names of both groups are measured.
    assert not set(info["annotated_names"]) & set(novel) and set(novel) <= set(model.vocabulary.names)
    assert not info.get("novel_names_seen")
    assert {"AP_novel", "AP_base"} <= report["metrics"].keys()
