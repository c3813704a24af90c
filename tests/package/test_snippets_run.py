"""The Python of README.md and docs/*.md is executed as it stands: the blocks of a page one after another, in a folder
that has what they name. Hub names lie in a cache of the Hub's layout, which holds the small models of the drawn
scenes under the names of real ones. `-s` prints the counts."""

import sys

import numpy as np
import pytest
from helpers.fenced import blocks
from helpers.paths import ROOT
from PIL import Image

from decodetr.inference.loading import load_model
from decodetr.utils.shipped import resolve

NAMES = ["cat", "dog", "salt, pepper", "crème brûlée", "wheel", "hard hat"]
HUB = {"openai/clip-vit-base-patch32": "scenes-clip"}
# Blocks that are not executed here, by page and number, and why.
NOT_HERE = {
    "build.md": {0: "trains for minutes: tests/building/test_build.py makes the same call"},
    "evaluation.md": {0: "needs an annotated data set: tests/evaluation/test_eval.py", 1: "`...` stand for arrays"},
    "export.md": {0: "needs an export: tests/export"},
    "hub.md": dict.fromkeys(range(3), "needs a Hub: tests/publishing/test_push.py, tests/package/test_round_trip.py"),
    "optimize.md": {0: "tries every runtime for minutes: tests/optimizing"},
    "serving.md": {0: "needs a server: tests/serving"},
    "training.md": {0: "needs data sets: tests/training"},
}


def python_of(page):
    return [code for language, code in blocks(page.read_text(encoding="utf-8")) if language == "python"]


PAGES = {page.name: python_of(page) for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
RUN = [name for name, codes in PAGES.items() if set(range(len(codes))) - set(NOT_HERE.get(name, {}))]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photos, and models under the names that pages give them."""
    folder = tmp_path_factory.mktemp("reader")
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    for name in ("photo.jpg", "street.jpg", "photos/1.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise).save(folder / name)
    model, image_processor = load_model("scenes-decodetr", names=NAMES)
    for name in ("DIR", "out/model"):
        model.save_pretrained(folder / name)
        image_processor.save_pretrained(folder / name)
    (folder / "CLIP").symlink_to(resolve("scenes-clip"))
    for name, shipped in HUB.items():
        at = folder / "hub" / f"models--{name.replace('/', '--')}"
        (at / "snapshots").mkdir(parents=True)
        (at / "refs").mkdir()
        (at / "refs" / "main").write_text("0" * 40)
        (at / "snapshots" / ("0" * 40)).symlink_to(resolve(shipped))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_the_python_of_a_page_runs(name, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model, image_processor = load_model("DIR")
    image = Image.open("photo.jpg")
    found = {"model": model, "image_processor": image_processor, "image": image, "__name__": "__main__"}
    found |= dict(zip(("x0", "y0", "x1", "y1"), (8, 8, 60, 60)))
    ran = 0
    for i, code in enumerate(PAGES[name]):
        if i not in NOT_HERE.get(name, {}):
            exec(compile(code, f"{name}, block {i}", "exec"), found)
            ran += 1
    sys.stdout.write(f"\n{name}: executed {ran} of {len(PAGES[name])}\n")


def test_what_is_not_executed_is_there():
    everything = sum(map(len, PAGES.values()))
    left = sum(map(len, NOT_HERE.values()))
    assert [name for name, numbers in NOT_HERE.items() if max(numbers) >= len(PAGES[name])] == []
    sys.stdout.write(f"\nPython of the pages: executed {everything - left} of {everything}; {NOT_HERE}\n")
    assert left <= 10 and everything >= 16
