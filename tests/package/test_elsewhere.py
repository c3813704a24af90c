"""What is saved loads with its own code where decodetr is not installed. One process does all of it, since a new one
takes six seconds to import what it needs."""

import ast
import json
import os
import subprocess
import sys

import pytest
import torch
from helpers.tiny_models import tiny_batch, tiny_model
from helpers.without_decodetr import HIDE
from transformers import AutoImageProcessor

from decodetr import DeCoDetrImageProcessor
from decodetr.processing import DeCoDetrImageProcessorPil

PROCESSORS = [DeCoDetrImageProcessor, DeCoDetrImageProcessorPil]
_ELSEWHERE = (
    HIDE
    + """
import gc
import sys

gc.disable()  # it would look for garbage in all that is imported
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForObjectDetection

model = AutoModelForObjectDetection.from_pretrained("model", trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained("model", trust_remote_code=True)
pixels = torch.load("pixels.pt")
with torch.no_grad():
    outputs = model(pixels)
found = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(40, 60)] * len(pixels))
torch.save({"logits": outputs.logits, "boxes": found[0]["boxes"]}, "out.pt")

for name in sys.argv[1:]:
    processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=True)
    assert type(processor).__module__.startswith("transformers_modules."), type(processor)
    pixels = processor(Image.new("RGB", (20, 10)), return_tensors="pt")["pixel_values"]
    outputs = {"logits": torch.tensor([[[3.0]]]), "pred_boxes": torch.tensor([[[0.5, 0.5, 1.0, 1.0]]])}
    result = processor.post_process_object_detection(outputs, 0.5, [(10, 20)])[0]
    processor.save_pretrained(f"{name} again")
    print(f"{type(processor).__name__} {tuple(pixels.shape)} {result['boxes'].tolist()}")
assert "decodetr" not in sys.modules
"""
)


@pytest.fixture(scope="module")
def saved():
    """A model."""
    return tiny_model().eval()


@pytest.fixture(scope="module")
def elsewhere(saved, tmp_path_factory):
    """(folder with the model, a processor of each class, and what the process made of them; the lines it printed)."""
    folder = tmp_path_factory.mktemp("elsewhere")
    saved.save_pretrained(folder / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "model")
    for processor_class in PROCESSORS:
        processor_class(size={"height": 48, "width": 32}).save_pretrained(folder / processor_class.__name__)
    torch.save(tiny_batch()["pixel_values"], folder / "pixels.pt")
    (folder / "elsewhere.py").write_text(_ELSEWHERE)
    environment = {**os.environ, "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "elsewhere.py", *(processor_class.__name__ for processor_class in PROCESSORS)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout.splitlines()


def test_a_saved_model_has_every_file_that_its_code_imports(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    DeCoDetrImageProcessor().save_pretrained(tmp_path)
    files = {file.stem: ast.parse(file.read_text(encoding="utf-8")) for file in tmp_path.glob("*.py")}
    assert "modeling_decodetr" in files
    for tree in files.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module in files, node.module
            elif isinstance(node, ast.Import | ast.ImportFrom):
                assert "decodetr" not in ast.unparse(node).split("import")[0]


@pytest.mark.slow
def test_a_model_loads(saved, elsewhere):
    folder, _ = elsewhere
    out = torch.load(folder / "out.pt")
    with torch.no_grad():
        assert torch.equal(out["logits"], saved(torch.load(folder / "pixels.pt")).logits)
    assert isinstance(AutoImageProcessor.from_pretrained(folder / "model"), DeCoDetrImageProcessor)


@pytest.mark.slow
@pytest.mark.parametrize("processor_class", PROCESSORS)
def test_an_image_processor_loads(elsewhere, processor_class):
    folder, printed = elsewhere
    name, module = processor_class.__name__, processor_class.__module__.split(".")[-1]
    config = json.loads((folder / name / "preprocessor_config.json").read_text())
    assert config["auto_map"] == {"AutoImageProcessor": f"{module}.{name}"}
    assert f"{name} (1, 3, 48, 32) [[0.0, 0.0, 20.0, 10.0]]" in printed and len(printed) == len(PROCESSORS)
    assert (folder / f"{name} again" / f"{module}.py").is_file()  # and can be saved from there again
