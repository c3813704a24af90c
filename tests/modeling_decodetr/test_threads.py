"""One model in several threads, as a web server has it; and what a call leaves behind, which is nothing."""

import copy
import gc
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.tiny_models import TINY_DETECTORS, tiny_batch, tiny_model
from PIL import Image

from decodetr import DeCoDetrImageProcessor, Vocabulary
from decodetr.inference.detection import detect

THREADS = 4


@pytest.fixture(autouse=True)
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _pictures(count=6):
    return [torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(count)]


def _wrong_answers(function, pictures, alone, calls=60):
    """How many of the answers that threads get at the same time are not those of the same picture alone."""
    start = threading.Barrier(THREADS)

    def serve(first):
        start.wait()
        wrong = 0
        for i in range(first, calls, THREADS):
            answer = function(pictures[i % len(pictures)])
            wrong += not torch.allclose(answer, alone[i % len(pictures)], atol=1e-4)
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(serve, range(THREADS)))


@pytest.mark.parametrize("family", sorted(TINY_DETECTORS))
def test_threads_get_the_answers_of_a_single_thread(family):
    model, pictures = tiny_model(family).eval(), _pictures()

    @torch.inference_mode()
    def answer(pixels):
        return model(pixels).logits

    alone = [answer(pixels) for pixels in pictures]
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)
    calls = 60 if family == "detr" else 24  # what a call keeps is kept in the same place for every family
    assert _wrong_answers(answer, pictures, alone, calls) == 0


@pytest.mark.slow
@pytest.mark.parametrize("warm", [True, False])
def test_threads_with_a_compiled_model_get_the_answers_of_a_single_thread(warm):
    model, pictures = tiny_model("detr").eval(), _pictures()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")

    @torch.inference_mode()
    def answer(pixels):
        return compiled(pixels).logits

    with torch.inference_mode():
        alone = [model(pixels).logits for pixels in pictures]
    if warm:
        assert torch.allclose(answer(pictures[0]), alone[0], atol=1e-4)
    assert _wrong_answers(answer, pictures, alone) == 0


def test_training_in_one_thread_leaves_inference_in_another_alone():
    trained, served = tiny_model("detr").train(), tiny_model("detr", seed=1).eval()
    pictures = _pictures()

    @torch.inference_mode()
    def answer(pixels):
        return served(pixels).logits

    alone = [answer(pixels) for pixels in pictures]
    batch, done = tiny_batch(), threading.Event()
    for label in batch["labels"]:
        label["ignore_boxes"] = torch.tensor([[0.5, 0.5, 0.9, 0.9]])

    def train():
        while not done.is_set():
            trained(**batch).loss.backward()

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        assert _wrong_answers(answer, pictures, alone) == 0
    finally:
        done.set()
        trainer.join()


def test_ignored_queries_of_one_thread_are_not_those_of_another():
    """The gradient of a thread without `ignore_boxes` weights is that of the same thread alone."""
    mine, others = (tiny_model("detr", ignore_weight=weight, region_iou_threshold=0.0).eval() for weight in (1.0, 0.0))
    batch, done = tiny_batch(), threading.Event()
    for label in batch["labels"]:
        label["ignore_boxes"] = torch.tensor([[0.5, 0.5, 0.99, 0.99]])

    def gradient(model):
        weight = model.detector.class_labels_classifier.weight
        return torch.autograd.grad(model(**batch, localization_only=True).loss, weight)[0]

    alone, weighted = gradient(mine), gradient(others)
    assert not torch.allclose(alone, weighted)

    def train():
        while not done.is_set():
            gradient(others)

    other = threading.Thread(target=train)
    other.start()
    try:
        assert all(torch.allclose(gradient(mine), alone, atol=1e-6) for _ in range(20))
    finally:
        done.set()
        other.join()


class _Broken(torch.nn.Module):
    def forward(self, *args, **kwargs):
        raise RuntimeError("out of memory")


def test_a_detector_that_fails_leaves_nothing_behind():
    model = tiny_model("detr").train()
    decoder = model.detector.model.decoder
    maps = []
    watch = model.detector.model.backbone.register_forward_hook(
        lambda module, args, output: maps.append(weakref.ref(output[-1][0]))
    )
    model.detector.model.decoder = _Broken()
    with pytest.raises(RuntimeError, match="out of memory"):
        model(tiny_batch()["pixel_values"])
    model.detector.model.decoder = decoder
    watch.remove()
    gc.collect()
    assert len(maps) == 1 and maps[0]() is None
    copied = copy.deepcopy(model).eval()
    pixels = tiny_batch()["pixel_values"]
    with torch.no_grad():
        assert torch.equal(copied(pixels).logits, model.eval()(pixels).logits)


def test_the_detector_by_itself_leaves_nothing_behind():
    model, maps = tiny_model("detr").eval(), []
    model.detector.model.backbone.register_forward_hook(
        lambda module, args, output: maps.append(weakref.ref(output[-1][0]))
    )
    model.detector(tiny_batch()["pixel_values"])
    gc.collect()
    assert len(maps) == 1 and maps[0]() is None


def test_a_copy_sees_its_own_maps():
    model, pixels = tiny_model("detr").eval(), tiny_batch()["pixel_values"]
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.detector.model.backbone.parameters():
            parameter.mul_(1.5)
        expected = model(pixels).logits
        assert not torch.allclose(other(pixels).logits, expected, atol=1e-4)
        assert torch.equal(model(pixels).logits, expected)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("family", ["detr", "rt_detr_v2"])
def test_it_can_be_exported(family, strict):
    model, pixels = tiny_model(family).eval(), tiny_batch()["pixel_values"]
    with torch.no_grad():
        exported = torch.export.export(model, (), {"pixel_values": pixels}, strict=strict).module()
        assert torch.allclose(exported(pixel_values=pixels).logits, model(pixels).logits, atol=1e-5)


def test_it_trains_with_checkpointed_gradients():
    without = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    model, batch = tiny_model("detr", detector=without).train(), tiny_batch(regions=True)

    def gradients():
        return torch.autograd.grad(model(**batch).loss, [p for p in model.parameters() if p.requires_grad])

    plain = gradients()
    model.gradient_checkpointing_enable()
    for a, b in zip(plain, gradients()):
        assert torch.allclose(a, b, atol=1e-6)


def test_names_swapped_during_inference_give_old_or_new_answers():
    model, pixels = tiny_model("detr", background_threshold=0.3).eval(), _pictures(1)[0]
    tables = [
        Vocabulary(names, torch.randn(len(names), 16, generator=torch.Generator().manual_seed(len(names))))
        for names in (["a", "b", "c"], ["d", "e", "f"], ["g", "h"])
    ]
    expected = []
    with torch.inference_mode():
        for vocabulary in tables:
            model.set_vocabulary(vocabulary)
            expected.append(model(pixels).logits)
    done = threading.Event()

    def swap():
        while not done.is_set():
            for vocabulary in tables:
                model.set_vocabulary(vocabulary)

    swapper = threading.Thread(target=swap)
    swapper.start()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with torch.inference_mode():
            for _ in range(80):
                logits = model(pixels).logits
                same = [other for other in expected if other.shape == logits.shape]
                assert any(torch.allclose(logits, other, atol=1e-5) for other in same)
    finally:
        sys.setswitchinterval(before)
        done.set()
        swapper.join()


def test_detections_carry_the_names_that_they_were_scored_with():
    model, processor = tiny_model("detr").eval(), DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    one, two = (Vocabulary(names, torch.eye(16)[: len(names)]) for names in (["a", "b", "c"], ["only"]))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 90, 3), np.uint8))
    calls, forward = [], model.forward

    def swapping(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        calls.append(len(model.vocabulary))
        model.set_vocabulary(two)  # as another thread may, between the scores and their names
        return outputs

    model.set_vocabulary(one)
    model.forward = swapping
    found = detect(model, processor, [picture], threshold=0.0)[0]
    assert calls == [3] and set(found["names"]) == {"a", "b", "c"} and len(found["names"]) == 36
    assert set(detect(model, processor, [picture], threshold=0.0)[0]["names"]) == {"only"}
