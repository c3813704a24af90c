"""The evaluation loop and `decodetr eval`, from a COCO-format folder to the report."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_model

from decodetr import eval as decodetr_eval
from decodetr.eval import evaluate_model, markdown_report, read_split

BOX = [10.0, 10.0, 60.0, 60.0]  # xyxy


def write_coco(folder, names, rows_by_image, size=(96, 64)):
    """A COCO-format folder with blank pictures; rows are (name, xyxy). Returns the annotation file."""
    from PIL import Image

    annotations = []
    for image_id, rows in rows_by_image.items():
        for name, (x0, y0, x1, y1) in rows:
            box = [x0, y0, x1 - x0, y1 - y0]
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 10 * names.index(name) + 3}
            annotations.append(row | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    (folder / "val").mkdir(parents=True)
    images = []
    for image_id in rows_by_image:
        Image.new("RGB", size, (90, 120, 90)).save(folder / "val" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": size[0], "height": size[1]})
    categories = [{"id": 10 * i + 3, "name": name} for i, name in enumerate(names)]
    file = folder / "annotations" / "val.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


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


ROWS = {5: [("cat", [8, 8, 40, 40]), ("dog", [50, 20, 90, 60])], 6: [], 8: [("dog", [0, 0, 96, 64])]}


@pytest.fixture
def coco_file(tmp_path):
    return write_coco(tmp_path / "data", ["cat", "dog"], ROWS)


def test_evaluate_model_with_an_oracle(coco_file):
    from decodetr import DeCoDetrImageProcessor
    from decodetr.processing.coco import CocoAnnotations

    coco = CocoAnnotations.load(coco_file)
    names = ["unicorn", "dog", "cat"]
    model = Oracle(coco, names).train()
    processor = DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    result = evaluate_model(model, processor, coco, names, ["dog"], batch_size=2, progress=False)
    assert model.training
    for key in ("AP", "AP_novel", "AP_base", "class_agnostic_AP50", "class_agnostic_AR50_novel"):
        assert result[key] == pytest.approx(100, abs=1e-4), key
    assert result["per_name"]["dog"]["support"] == 2


def test_command(coco_file, tmp_path, capsys, tiny_detector_folder):
    from decodetr.__main__ import main

    split, report_file = tmp_path / "names.json", tmp_path / "out" / "report.json"
    split.write_text(json.dumps({"base": {"3": "cat"}, "novel": {"13": "dog"}}))
    arguments = ["eval", "--model", str(tiny_detector_folder), "--annotations", str(coco_file), "--device", "cpu"]
    assert main([*arguments, "--names-split", str(split), "--output", str(report_file), "--batch-size", "2"]) == 0
    text = capsys.readouterr().out
    report = json.loads(report_file.read_text())
    assert report["protocol"]["images"] == 3 and report["protocol"]["vocabulary_size"] == 3
    assert set(report["per_name"]) == {"cat", "dog"}
    assert report["metrics"]["AP_small"] is None or 0 <= report["metrics"]["AP_small"] <= 100
    for key in ("AP50_novel", "AP50_base", "class_agnostic_AP50", "class_agnostic_AR100"):
        assert f"| {key} | {report['metrics'][key]:.1f} |" in text
    assert text == markdown_report(report)


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
