"""On a GPU: what the CPU finds, in float32 and under autocast. Run by `pytest -m gpu`."""

import pytest
import torch
from helpers.tiny_models import TINY_DETECTORS, tiny_batch, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def _on(device, batch):
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {name: _on(device, value) for name, value in batch.items()}
    return [_on(device, value) for value in batch] if isinstance(batch, list) else batch


@pytest.mark.parametrize("family", TINY_DETECTORS)
def test_detections_are_those_of_the_cpu(family):
    model, pixels = tiny_model(family).eval(), tiny_batch()["pixel_values"]
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected, found = model(pixels), model.cuda()(pixels.cuda())
    # Families that choose their queries may order equal ones otherwise.
    order = [outputs.objectness_logits.cpu().flatten().sort().values for outputs in (expected, found)]
    assert torch.allclose(*order, atol=1e-3)
    scores = [outputs.logits.cpu().amax(-1).flatten().sort().values for outputs in (expected, found)]
    assert torch.allclose(*scores, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", TINY_DETECTORS)
def test_the_semantic_losses_leave_the_detector_alone(family, dtype):
    model = tiny_model(family, semantic_dropout=0.3).train().cuda()
    batch = _on("cuda", tiny_batch(regions=True))
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        outputs = model(**batch)
    semantic = outputs.loss_dict["loss_distill"] + outputs.loss_dict["loss_align"]
    semantic.backward()
    assert semantic.isfinite() and all(
        parameter.grad is None or not parameter.grad.any() for parameter in model.detector.parameters()
    )
    assert any(p.grad is not None and p.grad.any() for p in model.semantic_stream.parameters())
