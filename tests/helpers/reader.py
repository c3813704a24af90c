"""What the pages speak of, small: photos, data, models and teachers, and a cache of the Hub's layout in which real
names lead to them. And the commands of a page, executed in this process."""

import glob
import shlex
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import httpx2
from PIL import Image

from decodetr import Vocabulary
from decodetr.cli import main
from decodetr.inference.loading import load_model
from decodetr.utils.documents import read_json
from decodetr.utils.files import write_json
from decodetr.utils.shipped import resolve
from helpers.fenced import decodetr_words
from helpers.hub_server import Repo
from helpers.processes import kill, run_command, start
from helpers.shrunk_recipes import write_detector

NAMES = ["cat", "dog", "salt, pepper", "crème brûlée", "wheel", "hard hat"]
HUB = {
    "openai/clip-vit-base-patch32": "clip",
    "llava-hf/llava-1.5-7b-hf": "llava",
    "PekingU/rtdetr_v2_r18vd": "detector",
    "PekingU/rtdetr_v2_r50vd": "detector",
}
# Added to each command, whose last word counts: a page asks for what takes hours on real data.
ADDED = {
    "train": ["--max-steps", "2"],
    "build": ["--max-steps", "2"],
    "scenes compare": ["--steps", "2"],
    "scenes write": ["--train", "8", "--val", "6", "--test", "2", "--image-size", "160", "--workers", "1"],
}


def write_stock(folder):
    """One of each thing that a page may name, made once. Returns the folder."""
    run(["scenes", "write", str(folder / "scenes"), "--train", "16", "--val", "6", "--test", "2"])
    shutil.copytree(folder / "scenes", folder / "data")
    _forget_novel_names(folder / "data")
    document = read_json(folder / "scenes/annotations/train.json", dict)
    (folder / "photos").mkdir()
    for number, row in enumerate(document["images"], start=1):
        picture = Image.open(folder / "scenes/train" / row["file_name"])
        row["file_name"] = f"{number}.jpg"
        picture.convert("RGB").save(folder / "photos" / row["file_name"], quality=95)
    write_json(folder / "boxes.json", document)
    names = Vocabulary.from_pretrained(resolve("scenes-vocabulary")).names
    for place in load_model("scenes-decodetr", names=[*names, *NAMES]):
        place.save_pretrained(folder / "model")
    write_detector(folder / "detector")
    for kind in ("clip", "llava", "pool", "vocabulary", "decodetr"):
        (folder / kind).symlink_to(resolve(f"scenes-{kind}"))
    (folder / "names.txt").write_text("cat\ndog\n")
    (folder / "all_names.txt").write_text("\n".join(names))
    for name, item in HUB.items():
        at = folder / "hub" / f"models--{name.replace('/', '--')}"
        (at / "snapshots").mkdir(parents=True)
        (at / "refs").mkdir()
        (at / "refs" / "main").write_text("0" * 40)
        (at / "snapshots" / ("0" * 40)).symlink_to((folder / item).resolve())
    return folder


def _forget_novel_names(folder):
    """Leave the names that have boxes in training, as in a data set of one's own."""
    split = read_json(folder / "names.json", dict)
    write_json(folder / "names.json", split | {"novel": {}})
    novel = set(map(int, split["novel"]))
    for file in (folder / "annotations").iterdir():
        document = read_json(file, dict)
        for rows, key in (("annotations", "category_id"), ("categories", "id")):
            document[rows] = [row for row in document[rows] if row[key] not in novel]
        write_json(file, document)


def lay_out(folder, stock, called):
    """Copy things of the stock to where a page calls them: {path: thing}."""
    for path, item in called.items():
        source, target = stock / item, folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def run(words):
    """`decodetr ...` in this process."""
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    assert status in (0, None), f"decodetr {shlex.join(words)} ended with {status}"


def run_line(line, completed=()):
    """Run a command of a page, as a shell in the current folder would. Words are added as `ADDED` and the page's own
    table say. Commands that are alternatives write to one place, which is emptied between them."""
    found = decodetr_words(line)
    if found is None:
        subprocess.run(line, shell=True, check=True, timeout=300)
        return
    words = [file for word in found[0] for file in (sorted(glob.glob(word)) if "*" in word else [word])]
    for name, more in ADDED.items():
        if words[: len(name.split())] == name.split():
            words += more
    words += completed
    for option in ("--output", "--output_dir"):
        if option in words:
            shutil.rmtree(words[words.index(option) + 1], ignore_errors=True)
    if words[:2] == ["scenes", "write"]:
        shutil.rmtree(words[2], ignore_errors=True)
    run(words)


def publish(server, name, folder, *branches):
    """Put a folder on a stand-in Hub, as main and other branches."""
    server.repos[name] = Repo(private=False)
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for branch in ("main", *branches):
        server.repos[name].commit(branch, files, branch)


def free_port():
    """A port of this machine on which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@contextmanager
def served(line, address):
    """`decodetr serve` or `decodetr demo` in another process, which answers at an address."""
    process = start(run_command, decodetr_words(line)[0])
    try:
        end = time.monotonic() + 120
        while not _answers(address):
            assert process.is_alive() and time.monotonic() < end, f"{line}: no answer"
            time.sleep(0.2)
        yield
    finally:
        kill(process)


def _answers(address):
    try:
        return httpx2.get(address).status_code == 200
    except httpx2.TransportError:
        return False
