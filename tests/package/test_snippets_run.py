"""README.md and docs/*.md are executed as they stand: commands and Python of a page, one after another, in a folder
that has what they name. Hub names lie in a cache of the Hub's layout, which holds small models under the names of
real ones. `-s` prints the counts."""

import shutil
import sys
from contextlib import ExitStack

import pytest
import torch
from helpers import hub_server
from helpers.fenced import blocks, commands, decodetr_words
from helpers.paths import ROOT
from helpers.reader import free_port, lay_out, publish, run_line, served, write_stock
from helpers.tiny_models import tiny_model
from PIL import Image

from decodetr import DeCoDetrImageProcessor
from decodetr.annotations.coco import CocoAnnotations
from decodetr.export.export_run import export_model
from decodetr.export.settings import ExportSettings
from decodetr.inference.loading import load_model
from decodetr.processing import DetectionDataset

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
CHAIN = {"DIR": "data", "DETECTOR": "detector", "CLIP": "clip", "LLAVA": "llava", "MODEL": "model"}
SEEN = {"DIR": "model", "photo.jpg": "photos/1.jpg", "street.jpg": "photos/2.jpg", "photos": "photos"}
# What a page calls its things, and what they are here.
CALLED = {
    "README.md": {"photos": "photos"} | CHAIN,
    "build.md": CHAIN | {"photos": "photos", "VLM": "llava", "names.txt": "names.txt"},
    "cards.md": {"MODEL": "model", "scenes": "scenes"},
    "command_line.md": CHAIN,
    "data.md": {"DATA": "data", "NAMES": "vocabulary"},
    "demo.md": {"DIR": "model", "A": "vocabulary", "B": "vocabulary", "PICTURES": "photos"},
    "evaluation.md": CHAIN
    | {"DIR": "scenes", "data": "scenes", "IMAGES": "scenes/val", "SPLIT": "scenes/names.json"}
    | {"FILE": "scenes/annotations/val.json"},
    "export.md": CHAIN | SEEN,
    "finetune.md": CHAIN,
    "hub.md": {"FOLDER": "decodetr", "photos": "photos", "DIR": "data"},
    "index.md": {"photos": "photos"},
    "inference.md": SEEN | {"more": "photos", "DATA": "data"},
    "migration.md": SEEN,
    "names.md": SEEN | {"CLIP": "clip", "POOL": "pool", "boxes.json": "boxes.json", "examples/mug": "photos"},
    "photo_world.md": {
        "DIR/world": "scenes",
        "DIR/detector": "detector",
        "names.txt": "all_names.txt",
        "FIRST_SIX": "photos",
    }
    | {"DIR/teachers/photo-clip-unshaped": "clip"}
    | {"DIR/teachers/photo-clip": "clip", "DIR/teachers/photo-llava": "llava"},
    "pools.md": CHAIN | {"DETECTOR": "model", "names": "vocabulary", "photo.jpg": "photos/1.jpg"},
    "scenes.md": {"CLIP": "clip", "scenes": "scenes"},
    "serving.md": SEEN,
    "training.md": CHAIN,
}
# Commands before a page, for what it takes for granted.
BEFORE = {
    "cards.md": ["decodetr eval --model MODEL --data scenes --output report"],
    "export.md": ["decodetr vocabulary build --names cat,dog --clip CLIP --output other_vocabulary"],
    "inference.md": ["decodetr eval --model DIR --data DATA --output report"],
}
# Words that complete a command of a page, or make it smaller.
COMPLETED = {
    "decodetr eval --model MODEL --annotations": ["--output", "other"],
    "decodetr pool build --data scenes": ["--num-coarse", "20", "--num-fine", "40"],
    "decodetr scenes compare scenes": ["--variants", "captions", "--seeds", "0"],
    "decodetr scenes compare DIR/world": ["--seeds", "0"],
}
# Text of pages that is another one here.
SUBSTITUTED = {"max_steps=1000": "max_steps=2"}
PORTS = {"serving.md": "8000", "demo.md": "7860"}
# What is not executed: first words of a command, or of a block of Python, and why.
PROGRAMS = {
    "pip": "installs packages",
    "apt-get": "installs packages",
    "make": "installs packages, or trains for minutes",
    "hf": "asks for a token, or uploads to a Space",
    "accelerate": "processes of several GPUs: tests/training/test_train_distributed.py",
    "torchrun": "two processes: tests/training/test_train_distributed.py",
    "python": "minutes: tests/benchmarks",
    "CHROME_PATH": "needs a browser and npm",
    "decodetr bench": "models of full size, for minutes: tests/speed",
    "decodetr quickstart": "four minutes: tests/scenes",
}
NOT_HERE = {
    "data.md": {"decodetr train": "a stream of the Hub: tests/training/test_streamed_training.py"},
    "evaluation.md": {
        "decodetr eval --model MODEL --protocol": "needs COCO: tests/evaluation",
        "decodetr eval prepare": "needs COCO and LVIS: tests/evaluation",
    },
    "hub.md": {"decodetr train ...": "the options alone: tests/training/test_hub_push.py"},
    "optimize.md": {
        "decodetr predict": "tries every runtime for minutes: tests/optimizing",
        "import": "the same",
    },
    "photo_world.md": {"decodetr train --data DRAWINGS": "drawings that no command writes: tests/benchmarks"},
    "pools.md": {"decodetr pool build ...": "a cluster of Ray: tests/pool_builder"},
    "scenes.md": {
        "decodetr scenes teachers": "trains for an hour: tests/scenes",
        "decodetr scenes reshape": "a CLIP that has its drawn cosines: tests/scenes/test_clip_geometry.py",
    },
    "training.md": {
        "decodetr train --data DIR --config": "a file of one's own: tests/training/test_train.py",
        "decodetr train --recipe decodetr-fast --data DIR --vocabulary": "weights: tests/cli/test_recipe_cards.py",
        "decodetr train --recipe mine.yaml": "the same",
    },
}


def pieces(page):
    """(command or code, is it Python) of a page, in order."""
    found = []
    for language, code in blocks(page.read_text(encoding="utf-8")):
        if language == "python":
            found.append((code, True))
        elif language in ("", "bash", "sh"):
            found += [(line, False) for line in commands(code) if _is_command(line)]
    return found


def _is_command(line):
    return decodetr_words(line) is not None or line.split()[0] in PROGRAMS


PAGES = {page.name: pieces(page) for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}


def reason(page, text):
    """Why a command or block is not executed here, or None."""
    for words, why in (PROGRAMS | NOT_HERE.get(page, {})).items():
        if text.startswith(words):
            return why
    return None


RUN = [name for name, found in PAGES.items() if any(not reason(name, text) for text, _ in found)]


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return write_stock(tmp_path_factory.mktemp("stock"))


@pytest.fixture
def names_in_python(stock):
    """What the Python of a page takes for granted."""
    model, image_processor = load_model(stock / "model")
    image = Image.open(stock / "photos/1.jpg")
    photos = sorted((stock / "photos").iterdir())
    coco = CocoAnnotations.load(stock / "data/annotations/train.json")
    data = DetectionDataset(coco, image_processor, model.vocabulary.names)
    found = {"model": model, "image_processor": image_processor, "image": image, "images": [image]}
    found |= {"many_files": photos, "pool": model.prototype_pool, "vocabulary": model.vocabulary}
    found |= dict(zip(("x0", "y0", "x1", "y1"), (8, 8, 60, 60)))
    found |= {"train_dataset": data, "val_dataset": data}
    found |= {"batches": batches(model, image_processor, stock / "scenes/annotations/val.json")}
    with torch.inference_mode():
        found["outputs"] = model(**image_processor(images=image, return_tensors="pt"))
    return found | {"__name__": "__main__"}


@torch.inference_mode()
def batches(model, image_processor, file):
    """(image ids, outputs, sizes) of the images of a file, one image a batch."""
    found = []
    for row in CocoAnnotations.load(file).images:
        image = Image.open(row["path"]).convert("RGB")
        outputs = model(**image_processor(images=image, return_tensors="pt"))
        found.append(([row["image_id"]], outputs, [image.size[::-1]]))
    return found


@pytest.fixture
def names_of_the_hub(request, stock, monkeypatch):
    """For the page about the Hub a stand-in, for others a cache."""
    if request.node.callspec.params["name"] != "hub.md":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(stock / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        return
    monkeypatch.setitem(hub_server.ACCOUNTS, hub_server.TOKEN, "ACCOUNT")
    server = request.getfixturevalue("hub")
    tiny, image_processor = tiny_model(names=["cat", "dog"]), DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    export_model(tiny, image_processor, stock / "exported", ExportSettings("onnx"))
    publish(server, "ACCOUNT/NAME", stock / "model", "v2", "COMMIT")
    publish(server, "ACCOUNT/NAMES", stock / "vocabulary")
    publish(server, "ACCOUNT/POOL", stock / "pool", "v2")
    publish(server, "ACCOUNT/EXPORTED", stock / "exported")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_a_page_runs(name, stock, names_in_python, names_of_the_hub, tmp_path, monkeypatch):
    folder = tmp_path / "reader"
    lay_out(folder, stock, CALLED.get(name, {}))
    monkeypatch.chdir(folder)
    for line in BEFORE.get(name, []):
        run_line(line)
    port, ran = str(free_port()), [0, 0]
    with ExitStack() as servers:
        for text, is_python in PAGES[name]:
            if reason(name, text):
                continue
            text = _with_port(name, substituted(text), port)
            if is_python:
                if name == "build.md":  # the same in Python
                    shutil.rmtree("out")
                exec(compile(text, name, "exec"), names_in_python)
            elif text.startswith(("decodetr serve", "decodetr demo")):
                path = "ready" if "serve" in text else ""
                servers.enter_context(served(text, f"http://127.0.0.1:{port}/{path}"))
            else:
                run_line(text, next((more for words, more in COMPLETED.items() if text.startswith(words)), []))
            ran[is_python] += 1
    assert any(ran)
    sys.stdout.write(f"\n{name}: executed {ran[0]} commands, {ran[1]} blocks of Python\n")


def substituted(text):
    for old, new in SUBSTITUTED.items():
        text = text.replace(old, new)
    return text


def _with_port(name, text, port):
    if name in PORTS:
        text = text.replace(PORTS[name], port)
        if text.startswith(("decodetr serve", "decodetr demo")):
            text += f" --port {port}"
    return text


def test_what_is_not_executed_is_counted():
    found = [(name, text, is_python, reason(name, text)) for name in PAGES for text, is_python in PAGES[name]]
    counted = {}
    for kind, is_python in (("commands", False), ("blocks of Python", True)):
        whys = [why for _, _, python, why in found if python is is_python]
        counted[kind] = (whys.count(None), len(whys))
        sys.stdout.write(f"\n{kind}: executed {whys.count(None)} of {len(whys)}")
    for name, text, _, why in found:
        if why:
            sys.stdout.write(f"\n  {name}: {text.splitlines()[0][:70]}: {why}")
    for name, table in NOT_HERE.items():
        unused = [words for words in table if not any(text.startswith(words) for text, _ in PAGES[name])]
        assert unused == [], name
    assert counted["blocks of Python"][0] >= 18 and counted["commands"][0] >= 55
