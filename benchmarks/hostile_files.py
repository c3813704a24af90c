"""What hostile and damaged files do to the commands: exit status, seconds, memory and the answer, one row each.

    python benchmarks/hostile_files.py [--only WORDS] [--output FILE]

Every file is made in a temporary folder, and every command runs in a separate process. A row is bad where the process
took more than 20 s or 2 GB, printed a traceback, or was killed. Then the exit status is 1.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from decodetr.utils.documents import read_json

HUB_CARDS = Path(__file__).resolve().parent.parent / "hub_cards"
SECONDS, BYTES = 20, 2 << 30
DEEP = "[" * 100_000


def _picture(folder, name="a.png", size=(96, 64)):
    from PIL import Image

    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 60)).save(file)
    return file


def _coco(folder, **changes):
    """A data set of one picture. `changes` replace what its annotation file has at the top."""
    _picture(folder, "val/a.png")
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 96, "height": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 30, 30], "area": 900, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "red solid circle"}],
        **changes,
    }
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "val.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def _yolo(folder, text, label="0 .5 .5 .2 .2\n"):
    _picture(folder, "images/train/a.png")
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "a.txt").write_text(label, encoding="utf-8")
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return folder


def _alias_bomb():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefg", "bcdefgh")]
    return "\n".join([*lines, "names: *h", "train: images/train", ""])


def _model(folder, **config):
    """A copy of the shipped model whose config is changed."""
    for file in (HUB_CARDS / "scenes-decodetr").iterdir():
        if file.suffix in (".json", ".safetensors"):
            (folder / file.name).write_bytes(file.read_bytes())
    content = read_json(folder / "config.json")
    content.update(config)
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _write(file, content):
    (file.write_bytes if isinstance(content, bytes) else file.write_text)(content)
    return file


def _predict_picture(content, name="photo.jpg"):
    return lambda folder: ["predict", _write(folder / name, content), "--output", folder / "found"]


def _fifo(path):
    os.mkfifo(path)
    return path


def _link(path, target):
    path.symlink_to(target)
    return path


def _huge_pictures(folder):
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    side = 13_100
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((side // 8 + 2) * side), 9)
    for number in range(3):
        content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        (folder / f"{number}.png").write_bytes(content)
    return folder


def _coco_of(**changes):
    return lambda folder: ["validate", _coco(folder, **changes)]


def _coco_image(file_name):
    return _coco_of(images=[{"id": 1, "file_name": file_name, "width": 96, "height": 64}])


def _coco_box(box):
    return _coco_of(annotations=[{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 900, "iscrowd": 0}])


def _yolo_of(text, label="0 .5 .5 .2 .2\n"):
    return lambda folder: ["validate", _yolo(folder, text, label)]


def _predict_with(make):
    def command(folder):
        picture = _picture(folder, "pictures/a.png")
        return ["predict", picture, "--model", make(folder), "--output", folder / "found"]

    return command


def _damaged_model(change):
    def make(folder):
        change(_model(folder))
        return folder

    return _predict_with(make)


def _train_config(text):
    def command(folder):
        data = _coco(folder)
        (folder / "annotations" / "val.json").rename(folder / "annotations" / "train.json")
        (folder / "val").rename(folder / "train")
        config = _write(folder / "config.yaml", text)
        return ["train", "--data", data, "--config", config, "--output_dir", folder / "out", "--max_steps", "1"]

    return command


def _evaluate(option, content, suffix=".json"):
    def command(folder):
        file = _write(folder / f"given{suffix}", content)
        model = [] if option == "--detections" else ["--model", "scenes-decodetr"]
        return ["eval", "--data", _coco(folder), *model, option, file, "--output", folder / "r"]

    return command


def _vocabulary(file, content):
    def command(folder):
        (folder / "names").mkdir()
        for stored in (HUB_CARDS / "scenes-vocabulary").glob("vocabulary.*"):
            (folder / "names" / stored.name).write_bytes(stored.read_bytes())
        _write(folder / "names" / file, content)
        picture = _picture(folder, "pictures/a.png")
        return ["predict", picture, "--vocabulary", folder / "names", "--output", folder / "found"]

    return command


def _pool(content):
    def command(folder):
        for stored in (HUB_CARDS / "scenes-pool").glob("pool.*"):
            (folder / stored.name).write_bytes(stored.read_bytes())
        _write(folder / "pool.json", content)
        return ["pool", "inspect", folder, "--output", folder / "inspected"]

    return command


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n/Helvetica findfont\n%%EOF\n"
NAMES = "train: images/train\nnames: [red solid circle]\n"

# name: function of an empty folder that fills it and returns the words of a `decodetr` command
CASES = {
    "picture: PostScript called photo.jpg": _predict_picture(EPS),
    "picture: empty file": _predict_picture(b""),
    "picture: text": _predict_picture(b"hello" * 1000),
    "picture: cut off": lambda f: [
        "predict",
        _write(f / "cut.png", _picture(f).read_bytes()[:80]),
        "--output",
        f / "found",
    ],
    "picture: pipe": lambda f: ["predict", _fifo(f / "a.jpg"), "--output", f / "found"],
    "picture: link to /dev/zero": lambda f: ["predict", _link(f / "a.jpg", "/dev/zero"), "--output", f / "found"],
    "pictures: three of 170 megapixels": lambda f: ["predict", _huge_pictures(f), "--output", f / "found"],
    "pictures: a folder that links to itself": lambda f: [
        "predict",
        _link(_picture(f).parent / "again", f).parent,
        "--output",
        f / "found",
    ],
    "names: pipe": lambda f: ["predict", _picture(f), "--names-file", _fifo(f / "names.txt"), "--output", f / "found"],
    "names: cp1252": lambda f: [
        "predict",
        _picture(f),
        "--names-file",
        _write(f / "names.txt", "café\n".encode("cp1252")),
        "--output",
        f / "found",
    ],
    "names: unbalanced quote": lambda f: ["predict", _picture(f), "--names", 'cat,"salt', "--output", f / "found"],
    "device: cuda without one": lambda f: ["predict", _picture(f), "--device", "cuda", "--output", f / "found"],
    "device: nope": lambda f: ["predict", _picture(f), "--device", "nope", "--output", f / "found"],
    "COCO: 100,000 brackets": lambda f: [
        "validate",
        _write(_coco(f) / "annotations" / "val.json", DEEP).parent.parent,
    ],
    "COCO: pipe as annotation file": lambda f: ["validate", _fifo(f / "val.json")],
    "COCO: picture /dev/zero": _coco_image("/dev/zero"),
    "COCO: picture outside the folder": _coco_image("../../../../../../etc/hostname"),
    "COCO: file_name is a number": _coco_image(5),
    "COCO: file_name with a NUL byte": _coco_image("a\0b.png"),
    "COCO: number of 400 digits": _coco_box([int("9" * 400), 0, 5, 5]),
    "COCO: box of texts": _coco_box(["a", "b", "c", "d"]),
    "COCO: categories is a mapping": _coco_of(categories={"1": "cat"}),
    "COCO: names with newlines and HTML": _coco_of(categories=[{"id": 1, "name": "a\n|<script>alert(1)</script>"}]),
    "YOLO: aliases unfold to 10^8": _yolo_of(_alias_bomb()),
    "YOLO: an alias of itself": _yolo_of("train: images/train\nnames: &a [*a]\n"),
    "YOLO: 5,000 brackets": _yolo_of("names: " + "[" * 5000),
    "YOLO: path is a number": _yolo_of(f"path: 5\n{NAMES}"),
    "YOLO: train is a list of numbers": _yolo_of("train: [1]\nnames: [a]\n"),
    "YOLO: names by mixed keys": _yolo_of("train: images/train\nnames: {0: a, b: c}\n"),
    "YOLO: a Python object": _yolo_of("names: !!python/object/apply:os.system [echo hacked]\ntrain: images/train\n"),
    "YOLO: huge numbers in a label": _yolo_of(NAMES, "0 1e999 nan .2 .2\n99999999999999999999 .5 .5 .1 .1\n"),
    "YOLO: UTF-16 data.yaml": lambda f: [
        "validate",
        _write(_yolo(f, NAMES) / "data.yaml", NAMES.encode("utf-16")).parent,
    ],
    "YOLO: pipe as label file": lambda f: [
        "validate",
        _fifo_in_place(_yolo(f, NAMES) / "labels" / "train" / "a.txt").parents[2],
    ],
    "model: cut off": _damaged_model(
        lambda f: _write(f / "model.safetensors", (f / "model.safetensors").read_bytes()[:5000])
    ),
    "model: a pickle": _damaged_model(
        lambda f: (f / "model.safetensors").unlink() or _write(f / "pytorch_model.bin", b"\x80\x04cos\nsystem\n.")
    ),
    "model: config of 100,000 brackets": _damaged_model(lambda f: _write(f / "config.json", DEEP)),
    "model: preprocessor of 100,000 brackets": _damaged_model(lambda f: _write(f / "preprocessor_config.json", DEEP)),
    "model: config is a list": _damaged_model(lambda f: _write(f / "config.json", "[]")),
    "model: embedding_dim is a text": _predict_with(lambda f: _model(f, embedding_dim="64")),
    "model: id2label with gaps": _predict_with(lambda f: _model(f, id2label={"0": "a", "7": "b"})),
    "model: other names": _predict_with(lambda f: _model(f, id2label={str(i): f"n{i}" for i in range(240)})),
    "model: another width": _predict_with(lambda f: _model(f, region_channels=8)),
    "model: backbone on the Hub": _predict_with(
        lambda f: _model(
            f,
            detector_config={
                "model_type": "detr",
                "num_labels": 1,
                "use_timm_backbone": True,
                "backbone": "hf-hub:somebody/something",
                "use_pretrained_backbone": True,
                "backbone_config": None,
            },
        )
    ),
    "vocabulary: 100,000 brackets": _vocabulary("vocabulary.json", DEEP),
    "vocabulary: not safetensors": _vocabulary("vocabulary.safetensors", b"\xff" * 100),
    "pool: 100,000 brackets": _pool(DEEP),
    "eval: protocol of 100,000 brackets": _evaluate("--protocol", DEEP),
    "eval: detections of 100,000 brackets": _evaluate("--detections", DEEP),
    "eval: split of 100,000 brackets": _evaluate("--names-split", DEEP),
    "eval: split is two lists": _evaluate("--names-split", '[["a"], ["b"]]'),
    "train: config of 5,000 brackets": _train_config("detector_config: " + "[" * 5000),
    "train: config that contains itself": _train_config("detector_config: &a {model_type: *a}\n"),
}


def _fifo_in_place(path):
    path.unlink()
    return _fifo(path)


def measure(name):
    """Run a case: (exit status or None when it took too long, seconds, bytes, what it printed)."""
    with tempfile.TemporaryDirectory() as folder:
        words = [str(word) for word in CASES[name](Path(folder))]
        command = [sys.executable, "-m", "decodetr", *words]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        try:
            text, _ = process.communicate(timeout=3 * SECONDS)
            status = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            text, status = process.communicate()[0], None
        seconds = time.perf_counter() - start
        return status, seconds, text.decode("utf-8", errors="replace").replace(folder, "TMP")


def say(text):
    """A line of the report, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORDS", help="cases whose name contains this")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--output", metavar="FILE", help="write the rows as JSON")
    args = parser.parse_args()
    if args.one:  # a separate process for each case, so that ru_maxrss of its children is the case's alone
        status, seconds, text = measure(args.one)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        say(json.dumps({"case": args.one, "status": status, "seconds": seconds, "bytes": peak, "text": text}))
        return 0
    rows = []
    for name in CASES:
        if args.only and args.only not in name:
            continue
        done = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        row["bad"] = (
            row["status"] is None
            or row["status"] not in (0, 1, 2)
            or row["seconds"] > SECONDS
            or row["bytes"] > BYTES
            or "Traceback" in row["text"]
        )
        rows.append(row)
        lines = [line for line in row["text"].splitlines() if line.strip()] or [""]
        answer = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])
        mark, memory = "BAD " if row["bad"] else "", row["bytes"] / 2**30
        say(f"{mark}{name} | exit {row['status']} | {row['seconds']:.1f} s | {memory:.2f} GB | {answer[:200]}")
    say(f"{sum(row['bad'] for row in rows)} of {len(rows)} bad")
    if args.output:
        Path(args.output).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any(row["bad"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
