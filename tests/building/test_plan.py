"""The figures of a plan are those of the run."""

import json
import re

import numpy as np
import pytest
from helpers.tiny_models import tiny_model
from helpers.tiny_teachers import write_tiny_clip, write_tiny_llava
from PIL import Image

import decodetr
from decodetr import DeCoDetrImageProcessor
from decodetr.building import commands, plan
from decodetr.cli import main
from decodetr.training.results import calibration
from decodetr.utils.files import write_json

PHOTOS, BOXES, JUDGED = 10, 50, 3


@pytest.fixture(autouse=True)
def one_photo_may_be_kept_aside(monkeypatch):
    """As of fifty photos and more."""
    monkeypatch.setattr(calibration, "_LEAST_IMAGES", 1)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    tiny_model(names=["cat"], embedding_dim=8).save_pretrained(folder / "detector")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "detector")
    write_tiny_clip(folder / "clip")
    write_tiny_llava(folder / "llava")
    return folder


def _write_part(folder, part, count, rng):
    """Pictures with boxes of two names, base and novel, that overlap little."""
    images, rows = [], []
    (folder / part).mkdir(parents=True)
    for number in range(1, count + 1):
        picture = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
        picture.save(folder / f"{part}/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        for place in range(BOXES):
            box = [6 * (place % 10), 12 * (place // 10), 5, 11]
            row = {"id": len(rows) + 1, "image_id": number, "category_id": 1 + place % 2, "bbox": box}
            rows.append({**row, "area": 55, "iscrowd": 0})
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "star"}]
    write_json(
        folder / "annotations" / f"{part}.json", {"images": images, "annotations": rows, "categories": categories}
    )


@pytest.mark.parametrize(
    "world", ["validation", *(pytest.param(world, marks=pytest.mark.slow) for world in ("boxes", "split", "photos"))]
)
def test_each_row_of_a_plan_is_what_the_run_does(given, tmp_path, capsys, caplog, monkeypatch, world):
    monkeypatch.setattr(commands, "GRID_WINDOWS", 2)
    monkeypatch.setattr(plan, "GRID_WINDOWS", 2)
    boxed, rng = world != "photos", np.random.default_rng(0)
    _write_part(tmp_path / "data", "train", PHOTOS, rng)
    if world == "validation":
        _write_part(tmp_path / "data", "val", JUDGED, rng)
    if world == "split":
        write_json(tmp_path / "data/names.json", {"base": {"1": "cup"}, "novel": {"2": "star"}})
    images = tmp_path / "data" / ("" if boxed else "train")
    out = tmp_path / "out"
    decodetr.build(
        given / "detector", images, given / "clip", given / "llava", out, names=["cup"], device="cpu", keep_share=0.9
    )
    said = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line for line in said.partition("disk ")[0].splitlines() if "| " in line}
    counts = json.loads((out / "built/proposals/manifest.json").read_text())["totals"]["counts"]
    assert counts["annotated"] == {"photos": 0, "split": PHOTOS * BOXES / 2}.get(world, PHOTOS * BOXES)
    regions = float(re.search(r"^\| pool .* 10 photos x \(.* (\d+) regions x ", rows["pool"])[1])
    assert regions == pytest.approx((counts["annotated"] + counts["proposed"]) / PHOTOS, abs=2.5)

    kept = 0 if world == "split" else 1  # of a split, it has 25 objects, which are too few
    steps = json.loads((out / "model/trainer_state.json").read_text())["max_steps"]
    assert f"2 views of {PHOTOS - kept} photos x " in rows["model"] and f", {steps} steps x " in rows["model"]
    assert f"Cached features of {2 * (PHOTOS - kept)} images ({PHOTOS - kept} in 2 views)" in caplog.text
    judged = JUDGED if world == "validation" else 0
    after = (kept if boxed else 0) + judged
    assert re.findall(r" steps x [^,]*, (\d+) photos x ", rows["model"]) == ([str(after)] if after else [])
    assert ("report" in rows) == (world in ("validation", "photos"))
    if world == "validation":
        report = json.loads((out / "report/report.json").read_text())
        assert f"| {JUDGED} photos x " in rows["report"] and len(report["images"]) == JUDGED
    if world == "photos":
        assert f"| {2 * PHOTOS} windows x " in rows["coverage"]
        assert json.loads((out / "coverage/proposals/manifest.json").read_text())["totals"]["rows"] == 2 * PHOTOS
        assert "| 1 photos x " in rows["scores"] and "| 1 photos x " in rows["report"]
        assert "so nothing is evaluated" in caplog.text and "--val-share" not in caplog.text, "build has none"
    cached = re.search(r"cached features ([\d.]+) (\w+), while", said)
    told = re.search(r"about ([\d.]+) queries of .* about ([\d.]+) (\w+) in ", caplog.text)
    assert cached[2] == told[3] and float(cached[1]) == pytest.approx(float(told[2]), rel=0.3)
    assert "Options that its messages name are that command's" in said


def test_the_detectors_that_learn_have_the_steps_of_their_training(given, tmp_path, capsys):
    _write_part(tmp_path / "data", "train", PHOTOS, np.random.default_rng(0))
    words = ["build", str(given / "detector"), "--images", str(tmp_path / "data"), "--clip", str(given / "clip")]
    words += ["--captioner", str(given / "llava"), "--output", str(tmp_path / "out"), "--device", "cpu", "--plan"]
    assert main([*words, "--localize", "--steps", "7"]) == 0
    rows = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines()[2:] if "| " in line}
    assert "| 45 steps x 8 photos x 3 x " in rows["boxes"], "a trained one: 15 times the root of 9"
    assert ", 7 steps x " in rows["model"] and "2 views of 9 photos" in rows["model"]


def test_names_that_cannot_be_embedded_are_refused_before_the_pool(given, tmp_path):
    _write_part(tmp_path / "data", "train", 4, np.random.default_rng(0))
    long = "very " * 200
    with pytest.raises(ValueError, match="differ only|too long"):
        decodetr.build(
            given / "detector", tmp_path / "data/train", given / "clip", given / "llava", tmp_path / "out",
            names=[f"{long} cup", f"{long} star"], device="cpu",
        )  # fmt: skip
    assert not (tmp_path / "out/build.json").exists() and not (tmp_path / "out/coverage").exists()
