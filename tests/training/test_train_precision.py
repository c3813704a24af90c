"""Half precision and compilation: what must stay float32 does, and a run learns what it learns without."""

import copy
import pickle

import pytest
import torch
from helpers.tiny_models import TINY_DETECTORS, tiny_batch, tiny_model
from helpers.trainings import make_trainer, same_state, state_of

from decodetr import DeCoDetrForObjectDetection
from decodetr.modeling_decodetr.precision import Float32Loss

# Families whose queries are not chosen among the places of the feature maps: rounding changes no choice of theirs.
FIXED_QUERIES = ("detr", "conditional_detr", "deformable_detr", "dab-detr")


class Spy:
    """Takes the place of the detector's loss function and keeps what it is given."""

    def __init__(self, loss_function):
        self.loss_function, self.seen = loss_function, []

    def __call__(self, *args, **kwargs):
        assert not torch.is_autocast_enabled("cpu")
        self.seen += [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        return self.loss_function(*args, **kwargs)


def _model(family):
    """In training, with last layers of box heads that are not zero."""
    model = tiny_model(family).train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.detector.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def _share_on_grid(boxes, dtype):
    """Share of coordinates that a half-precision number holds exactly; 1 for boxes computed in it."""
    inside = boxes[(boxes > 0) & (boxes < 1)]
    return (inside == inside.to(dtype).float()).float().mean().item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("family", TINY_DETECTORS)
def test_matcher_and_losses_get_float32_boxes_and_logits(family, dtype):
    model = _model(family)
    spy = Spy(model.detector.loss_function.loss_function)
    model.detector.loss_function.loss_function = spy
    batch = tiny_batch(regions=True)
    torch.manual_seed(0)
    exact = model(**batch)
    spy.seen.clear()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=dtype):
        outputs = model(**batch)
    floats = [tensor for tensor in spy.seen if tensor.is_floating_point()]
    assert len(floats) >= 4 and {tensor.dtype for tensor in floats} == {torch.float32}
    boxes = [tensor.detach() for tensor in floats if tensor.shape[-1] == 4] + [outputs.pred_boxes.detach()]
    assert all(_share_on_grid(some, dtype) < 0.05 for some in boxes)
    assert outputs.pred_boxes.dtype == outputs.objectness_logits.dtype == outputs.loss.dtype == torch.float32
    tolerance = 0.01 if family in FIXED_QUERIES else 0.15
    assert outputs.loss.item() == pytest.approx(exact.loss.item(), rel=tolerance)
    if family in FIXED_QUERIES:
        assert torch.allclose(outputs.pred_boxes, exact.pred_boxes, atol=2e-3)
    outputs.loss.backward()
    heads = [p for name, p in model.detector.named_parameters() if "bbox" in name and p.requires_grad]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in heads)


@pytest.mark.parametrize("family", ["detr", "d_fine", "deformable_detr"])
def test_heads_leave_autocast_after_copies_and_files_too(family, tmp_path):
    model = _model(family)
    pixels = tiny_batch()["pixel_values"]
    model.save_pretrained(tmp_path)
    copies = (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        DeCoDetrForObjectDetection.from_pretrained(tmp_path),
    )
    with torch.no_grad():
        expected = model.eval()(pixels).pred_boxes
        for other in copies:
            other.eval()
            assert torch.equal(other(pixels).pred_boxes, expected)  # float32 itself is not touched
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert _share_on_grid(other(pixels).pred_boxes, torch.bfloat16) < 0.05
            assert isinstance(other.detector.loss_function, Float32Loss)
        # A copy computes with its own weights.
        for parameter in copies[0].detector.parameters():
            parameter.zero_()
        assert not torch.equal(copies[0](pixels).pred_boxes, expected)
        assert torch.equal(model(pixels).pred_boxes, expected)


@pytest.mark.slow
def test_a_bf16_run_learns_what_a_float32_run_learns(scenes, tmp_path):
    losses = {}
    for bf16 in (False, True):
        trainer = make_trainer(scenes, tmp_path / str(bf16), bf16=bf16, max_steps=6, logging_steps=1, augment=False)
        trainer.train()
        losses[bf16] = torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert len(losses[True]) == 6 and not torch.equal(losses[True], losses[False])
    # One query matched otherwise moves a step by several per cent, with any seed; the first step has no such history.
    assert torch.allclose(losses[True][0], losses[False][0], rtol=0.02)
    assert torch.allclose(losses[True], losses[False], rtol=0.15)
    assert torch.allclose(losses[True].mean(), losses[False].mean(), rtol=0.05)


@pytest.mark.slow
def test_a_compiled_run_is_the_eager_run(scenes, tmp_path):
    """With EMA, momentum, clipping of each stream, another vocabulary in evaluation, checkpoints and a resume."""
    args = {"max_steps": 3, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    args |= {"ema_decay": 0.5, "max_grad_norm": 0.01, "augment": False, "eval_pictures": 0}
    args["config"] = {"pool_update": "literal"}
    eager = make_trainer(scenes, tmp_path / "eager", **args)
    before = eager.model.prototype_pool.prototypes.clone()
    eager.train()
    compiled = make_trainer(
        scenes, tmp_path / "compiled", torch_compile=True, torch_compile_backend="aot_eager", **args
    )
    compiled.train()
    assert type(compiled.model_wrapped).__name__ == "OptimizedModule"
    expected, found = state_of(eager.model), state_of(compiled.model)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name].float(), tensor.float(), atol=1e-4), name
    assert not torch.equal(found["prototype_pool.prototypes"], before)
    metrics = [
        [entry for entry in trainer.state.log_history if "eval_AP50_novel" in entry][0]
        for trainer in (eager, compiled)
    ]
    assert metrics[1]["eval_class_agnostic_AR100"] == pytest.approx(metrics[0]["eval_class_agnostic_AR100"], abs=0.02)
    compiled.save_model()
    saved = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "compiled")
    assert saved.vocabulary.names == compiled.deployment_vocabulary.names
    assert same_state(state_of(saved.detector), state_of(compiled.model.detector))
    resumed = make_trainer(
        scenes, tmp_path / "compiled", torch_compile=True, torch_compile_backend="aot_eager", **args
    )
    resumed.train("last")
    assert resumed.state.global_step == 3
    assert all(torch.allclose(t.float(), found[n].float(), atol=1e-6) for n, t in state_of(resumed.model).items())
