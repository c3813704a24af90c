"""The evaluation loop and `decodetr eval`, from a COCO-format folder to the report."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.detections import BOX
from helpers.evaluations import ROWS, run_eval, write_coco
from helpers.processes import run_command, run_pair, torchrun
from helpers.tiny_models import tiny_model

from decodetr import eval as decodetr_eval
from decodetr.annotations.names_split import read_split
from decodetr.cli import main
from decodetr.evaluation.loop import evaluate_model
from decodetr.evaluation.report import markdown_report
from decodetr.utils.drawing import default_font


class Oracle(torch.nn.Module):
    """Answers with the ground truth of the images in their order, named by `names`; one query per object, 3 in all."""

    def __init__(self, coco, names):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.coco, self.names, self.next = coco, names, 0
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, pixel_values):
        count = len(pixel_values)
        logits, boxes = torch.full((count, 3, len(self.names)), -9.0), torch.full((count, 3, 4), 0.5)
        for b, image in enumerate(self.coco.images[self.next : self.next + count]):
            size = torch.tensor([image["width"], image["height"]] * 2)
            for q, row in enumerate(self.coco.annotations_by_image.get(image["image_id"], [])):
                x, y, w, h = row["bbox"]
                boxes[b, q] = torch.tensor([x + w / 2, y + h / 2, w, h]) / size
                logits[b, q, self.names.index(self.coco.names[row["category"]])] = 3.0
        self.next += count
        return SimpleNamespace(logits=logits, pred_boxes=boxes, objectness_logits=logits.amax(-1))


@pytest.fixture(scope="module")
def tiny_detector_folder(tmp_path_factory):
    from decodetr import DeCoDetrImageProcessor

    folder = tmp_path_factory.mktemp("detector")
    tiny_model(names=["cat", "dog", "salt, pepper"]).save_pretrained(folder)
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture
def coco_file(tmp_path):
    return write_coco(tmp_path / "data", ["cat", "dog"], ROWS)


def test_evaluate_model_with_an_oracle(coco_file):
    from decodetr import DeCoDetrImageProcessor
    from decodetr.annotations.coco import CocoAnnotations

    coco = CocoAnnotations.load(coco_file)
    names = ["unicorn", "dog", "cat"]
    model = Oracle(coco, names).train()
    processor = DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    result = evaluate_model(model, processor, coco, names, ["dog"], batch_size=2, progress=False)
    assert model.training
    for key in ("AP", "AP_novel", "AP_base", "class_agnostic_AP50", "class_agnostic_AR50_novel"):
        assert result[key] == pytest.approx(100, abs=1e-4), key
    assert result["per_name"]["dog"]["support"] == 2


@pytest.mark.usefixtures("without_pages")
def test_the_report_says_where_the_split_is_from(coco_file, tmp_path, tiny_detector_folder):
    def names_split(*words):
        folder = tmp_path / "out"
        assert run_eval("--model", tiny_detector_folder, "--output", folder, "--overwrite", *words) == 0
        return json.loads((folder / "report.json").read_text())["protocol"]["names_split"]

    data = tmp_path / "data"
    more = ["--data", data, "--annotations", coco_file]
    assert names_split(*more) == names_split("--annotations", coco_file) == "none"
    assert names_split("--annotations", coco_file, "--novel-names", "dog") == "dog"
    (data / "names.json").write_text(json.dumps({"base": {"3": "cat"}, "novel": {"13": "dog"}}))
    assert names_split(*more) == str(data) and names_split(*more, "--names-split", "none") == "none"


def test_command(coco_file, split, tmp_path, capsys, tiny_detector_folder):
    words = ["--model", tiny_detector_folder, "--batch-size", "2"]
    assert run_eval(*words, "--annotations", coco_file, "--names-split", split, "--output", tmp_path / "out") == 0
    text = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    protocol = report["protocol"]
    assert (protocol["images"], protocol["annotations"], protocol["vocabulary_size"]) == (3, 3, 3)
    assert protocol["evaluated_names"] == 2 and protocol["max_detections"] == "100 per image over all names"
    assert len(protocol["annotations_digest"]) == 12 and protocol["revision"].startswith("weights ")
    assert {name: row["group"] for name, row in report["per_name"].items()} == {"cat": "base", "dog": "novel"}
    assert report["metrics"]["AP_small"] is None or 0 <= report["metrics"]["AP_small"] <= 100
    for key in ("AP50_novel", "AP50_base", "class_agnostic_AP50", "class_agnostic_AR100"):
        assert f"| {key} | {report['metrics'][key]:.1f} |" in text
    assert text == markdown_report(report)
    names = (tmp_path / "out" / "report.md").read_text().removeprefix(text)
    assert names.startswith("\n| name | group | objects | AP | AP50 |") and "| dog | novel | 2 | " in names
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Worst images</h2>" in page and page.count("data:image/") >= 4 and "http" not in page
    # From the folder alone, and from what was found: the same numbers.
    assert run_eval(*words, "--data", coco_file.parent.parent) == 0
    assert capsys.readouterr().out.split("| metric")[1] in text
    detections = tmp_path / "out" / "detections.parquet"
    assert run_eval("--detections", detections, "--data", coco_file.parent.parent, "--engine", "pycocotools") == 0
    again = capsys.readouterr().out
    for fact in ("revision", "vocabulary", "pool", "training used"):  # what the model was goes with its detections
        assert next(line for line in text.splitlines() if line.startswith(f"| {fact} |")) in again
    for key in ("AP", "AP50_novel", "AP_medium"):
        assert f"| {key} | {report['metrics'][key]:.1f} |" in again


@pytest.mark.parametrize("started", ["here", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_two_processes_give_the_same_report(coco_file, split, tmp_path, tiny_detector_folder, started):
    """Byte for byte; of three images one process has two. One at a time, as sums in larger batches round otherwise."""
    words = ["eval", "--model", str(tiny_detector_folder), "--data", str(coco_file.parent.parent), "--device", "cpu"]
    words += ["--batch-size", "1", "--output"]
    assert decodetr_eval.main([*words[1:], str(tmp_path / "one")]) == 0
    two = [*words, str(tmp_path / "two")]
    if started == "here":
        printed = "".join(run_pair(run_command, two))
    else:
        printed = torchrun("-m", "decodetr", *two, threads=torch.get_num_threads())
    assert printed.count("| AP50 |") == 1  # one process speaks
    for name in ("report.json", "detections.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_novel_names_and_other_caps(coco_file, tmp_path, capsys, tiny_detector_folder):
    words = ["--model", tiny_detector_folder, "--annotations", coco_file, "--output", tmp_path / "out"]
    assert run_eval(*words, "--novel-names", "dog", "--max-detections", "7") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "AR7" in report["metrics"] and report["metrics"]["AP50_novel"] is not None
    assert report["protocol"]["max_detections"] == "7 per image over all names"
    assert run_eval(*words, "--overwrite", "--novel-names", "dgo") == 1
    assert "none of the 1 novel names" in capsys.readouterr().err


WRONG_WORDS = {
    "nothing to look at": (["--model", "MODEL"], "give --data DIR or --annotations FILE"),
    "neither": (["--annotations", "FILE"], "give one of --model and --detections"),
    "both": (["--annotations", "FILE", "--model", "MODEL", "--detections", "d.json"], "give one of --model and"),
    "unknown protocol": (["--annotations", "FILE", "--model", "MODEL", "--protocol", "lvs"], "lvs: no such protocol"),
    "split of its own": (
        ["--annotations", "FILE", "--model", "MODEL", "--protocol", "ov-coco", "--novel-names", "cat"],
        "go with --protocol custom, got ov-coco",
    ),
    "two splits": (
        ["--annotations", "FILE", "--model", "MODEL", "--names-split", "none", "--novel-names", "dog"],
        "give --names-split or --novel-names, not both",
    ),
    "a CLIP for nothing": (["--annotations", "FILE", "--model", "MODEL", "--clip", "x"], "goes with --oracle teacher"),
    "other data": (
        ["--annotations", "FILE", "--model", "MODEL", "--protocol", "ov-coco"],
        "expected the 65 names of ov-coco",
    ),
    "no frequencies": (["--annotations", "FILE", "--model", "MODEL", "--protocol", "ov-lvis"], "needs the frequency"),
    "a file for a folder": (["--annotations", "FILE", "--model", "MODEL", "--output", "x.json"], "expected a folder"),
    "no model": (["--annotations", "FILE", "--model", "no/such"], "the model 'no/such' cannot be loaded"),
    "no detections": (["--annotations", "FILE", "--detections", "no.parquet"], "no.parquet: no such file"),
    "an oracle of detections": (
        ["--annotations", "FILE", "--detections", "d.json", "--oracle", "boxes"],
        "--oracle and --vocabulary need --model",
    ),
}


@pytest.mark.parametrize("case", WRONG_WORDS)
def test_wrong_words(coco_file, capsys, tiny_detector_folder, case):
    words, message = WRONG_WORDS[case]
    known = {"MODEL": tiny_detector_folder, "FILE": coco_file}
    assert run_eval(*(known.get(word, word) for word in words)) == 1
    assert message in capsys.readouterr().err


def test_command_names_missing_names(tmp_path, tiny_detector_folder, capsys):
    file = write_coco(tmp_path / "data", ["cat", "yak"], {1: [("yak", BOX)]})
    arguments = ["--model", str(tiny_detector_folder), "--annotations", str(file), "--device", "cpu"]
    assert decodetr_eval.main(arguments) == 1
    error = capsys.readouterr().err
    assert "['yak']" in error and "--allow-missing-names" in error
    assert decodetr_eval.main([*arguments, "--allow-missing-names"]) == 0


def test_read_split_refuses(tmp_path):
    file = tmp_path / "names.json"
    for text in ('{"base": {}}', "[]", "{", '{"base": ["cat"], "novel": ["dog"]}'):
        file.write_text(text)
        with pytest.raises(ValueError, match="names.json: expected"):
            read_split(file)
    file.write_text('{"base": {"1": "cat"}, "novel": {"2": "cat"}}')
    with pytest.raises(ValueError, match="both base and novel"):
        read_split(file)


def test_names_are_drawn_with_the_font_that_was_asked_for(coco_file, tiny_detector_folder, tmp_path, capsys):
    words = ["--model", tiny_detector_folder, "--annotations", coco_file]
    serif = default_font().with_name("DejaVuSerif.ttf")
    pictures = []
    for folder, font in (("plain", []), ("other", ["--font", serif]), ("same", ["--font", default_font()])):
        assert run_eval(*words, "--output", tmp_path / folder, *font) == 0
        pictures.append({file.name: file.read_bytes() for file in (tmp_path / folder / "worst").iterdir()})
    assert pictures[0] == pictures[2] and set(pictures[0]) == set(pictures[1])
    assert all(pictures[0][name] != pictures[1][name] for name in pictures[0])
    assert run_eval(*words, "--font", serif) == 1
    assert "--font is of the pictures of a report" in capsys.readouterr().err


def test_help_is_light():
    """--help must not import torch or numpy: no import of theirs, no waiting."""
    script = Path(decodetr_eval.__file__)
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['eval.py', '--help']\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'heavy import'\n"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert output.returncode == 0, output.stderr
    assert "--names-split" in output.stdout


def test_file_names_that_are_no_utf_8_reach_the_report(coco_file, split, tiny_detector_folder, tmp_path, capsys):
    document = json.loads(coco_file.read_text())
    document["images"][0]["file_name"] = "caf\udce9.png"
    os.rename(
        coco_file.parent.parent / "val" / "5.png", os.fsencode(coco_file.parent.parent / "val") + b"/caf\xe9.png"
    )
    coco_file.write_text(json.dumps(document))
    words = ["--model", tiny_detector_folder, "--annotations", coco_file, "--names-split", split]
    assert run_eval(*words, "--output", tmp_path / "out") == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "caf\\udce9.png: " in page and "cannot be shown" not in page
    assert main(["validate", str(coco_file), "--output", str(tmp_path / "validated")]) == 0
    assert json.loads((tmp_path / "validated" / "validation.json").read_text())
    capsys.readouterr()
