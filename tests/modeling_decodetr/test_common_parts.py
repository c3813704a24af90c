"""What the library expects of any of its models, in values; the whole suite is `test_common_suite.py`."""

import torch
from helpers.tiny_models import tiny_batch, tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoProcessor, pipeline

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor


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


def test_the_pipeline_of_a_saved_model_asks_nothing_about_its_code(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "n")
    tiny_model("detr").save_pretrained(tmp_path)
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    assert isinstance(pipeline("object-detection", model=str(tmp_path)).image_processor, DeCoDetrImageProcessor)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), DeCoDetrImageProcessor) and not asked


def test_adapters_are_trained_saved_loaded_and_merged(tmp_path):
    tiny_model("detr").save_pretrained(tmp_path / "base")
    batch = tiny_batch(regions=True)

    def base():
        return DeCoDetrForObjectDetection.from_pretrained(tmp_path / "base")

    def scores(model):
        with torch.no_grad():
            return model.eval()(batch["pixel_values"]).logits

    adapted = get_peft_model(base(), LoraConfig(r=2, target_modules=["q_proj", "predictor", "residual.1"]))
    trained = [p for p in adapted.parameters() if p.requires_grad]
    adapted.train()(**batch).loss.backward()
    torch.optim.SGD(trained, lr=1.0).step()
    adapted.save_pretrained(tmp_path / "adapter")
    expected = scores(adapted)
    assert not torch.allclose(expected, scores(base()), atol=1e-3)
    assert torch.equal(scores(PeftModel.from_pretrained(base(), tmp_path / "adapter")), expected)
    assert torch.equal(scores(DeCoDetrForObjectDetection.from_pretrained(tmp_path / "adapter")), expected)
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "merged")
    assert torch.allclose(scores(merged), expected, atol=1e-4)
