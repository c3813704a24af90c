"""What the library expects of any of its models, in values; the whole suite is `test_common_suite.py`."""

import torch
from tiny_models import tiny_batch, tiny_model

from decodetr import DeCoDetrForObjectDetection


def test_hidden_states_are_those_of_the_decoder():
    model, pixels = tiny_model("detr").eval(), tiny_batch()["pixel_values"]
    plain, full = model(pixels), model(pixels, output_hidden_states=True)
    assert plain.hidden_states is None and len(full.hidden_states) == 3
    assert all(state.shape == (2, 12, 32) for state in full.hidden_states)
    model.config.output_hidden_states = True
    assert all(torch.equal(a, b) for a, b in zip(model(pixels).hidden_states, full.hidden_states))
    some = model(pixels, output_hidden_states=[0, -1]).hidden_states
    assert (
        some[1] is None and torch.equal(some[0], full.hidden_states[0]) and torch.equal(some[2], full.hidden_states[2])
    )
    full.hidden_states[1].retain_grad()
    full.logits.sum().backward()
    assert full.hidden_states[1].grad.abs().sum() > 0


def test_attentions_are_distributions_of_the_decoder():
    model, pixels = tiny_model("detr").eval(), tiny_batch()["pixel_values"]
    assert model(pixels).attentions is None
    model.set_attn_implementation("eager")
    outputs = model(pixels, output_attentions=True)
    assert len(outputs.attentions) == len(outputs.cross_attentions) == 2
    assert outputs.attentions[0].shape == (2, 2, 12, 12) and outputs.cross_attentions[0].shape[:3] == (2, 2, 12)
    assert torch.allclose(outputs.attentions[0].sum(-1), torch.ones(2, 2, 12), atol=1e-5)


def test_a_model_from_the_meta_device_gets_the_tables_of_any_other():
    config = tiny_model("detr").config
    with torch.device("meta"):
        model = DeCoDetrForObjectDetection(config)
    assert all(buffer.is_meta for buffer in model.buffers())
    model.to_empty(device="cpu")
    model.init_weights()
    for seed in (1, 2):
        other = dict(tiny_model("detr", seed=seed).named_buffers())
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, other[name]), name
