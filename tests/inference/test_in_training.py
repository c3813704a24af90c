"""What detects with a model in training finds what it finds in evaluation mode, and leaves the model as it was."""

import copy

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_model
from PIL import Image
from transformers import pipeline

import decodetr
from decodetr import DeCoDetrImageProcessor
from decodetr.demo.sight import look
from decodetr.inference.detection import detect
from decodetr.modeling_decodetr.zero_shot_pipeline import DeCoDetrZeroShotPipeline
from decodetr.serving.model_engine import ModelEngine

SIZE = {"height": 64, "width": 64}
PROCESSOR = DeCoDetrImageProcessor(size=SIZE)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))


def one_call(model):
    found = decodetr.detect(model, IMAGE, threshold=0.0, image_processor=PROCESSOR)
    return found.confidence.tolist(), found.xyxy.tolist()


def served(model):
    engine = ModelEngine(model, PROCESSOR, "tiny")
    return engine.detect([engine.prepare(IMAGE)], engine.search(None), 100, 0.0)


def in_the_demo(model):
    found, *_ = look(model, PROCESSOR, IMAGE, ModelEngine(model, PROCESSOR, "tiny").search(None), 100, 3)
    return found


def by_the_code_in_a_saved_model(model):
    detector = DeCoDetrZeroShotPipeline(model=model, image_processor=PROCESSOR, device=torch.device("cpu"))
    return detector(IMAGE, candidate_labels=["cat"], threshold=0.0)


def by_pipeline(task, **labels):
    def run(model):
        return pipeline(task, model=model, image_processor=PROCESSOR, device="cpu")(IMAGE, threshold=0.0, **labels)

    return run


WAYS = {
    "decodetr.detect": one_call,
    "detect": lambda model: detect(model, PROCESSOR, [IMAGE, IMAGE], 0.0),
    "explain": lambda model: detect(model, PROCESSOR, [IMAGE], 0.0, explain=2),
    "object-detection": by_pipeline("object-detection"),
    "zero-shot": by_pipeline("zero-shot-object-detection", candidate_labels=["cat"]),
    "saved zero-shot": by_the_code_in_a_saved_model,
    "serve": served,
    "demo": in_the_demo,
}


@pytest.fixture(scope="module")
def trained():
    """A model in training with a frozen part, whose batch norms have seen something."""
    model = tiny_model("rt_detr_v2").train()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer += 0.1
    model.semantic_stream.eval()
    return model


@pytest.mark.parametrize("way", WAYS)
def test_a_model_in_training_stays_as_it_was(trained, way):
    model = copy.deepcopy(trained)
    found = WAYS[way](model)
    state = trained.state_dict()
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, state[name])] == []
    assert [module.training for module in model.modules()] == [module.training for module in trained.modules()]
    assert found and found == WAYS[way](copy.deepcopy(trained).eval())
