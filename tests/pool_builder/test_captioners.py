"""Captioners and embedders beyond LLaVA-1.5 and CLIP, of the real classes, and what happens when memory runs out."""

import importlib.util
import logging

import numpy as np
import pytest
import torch
from helpers.pool_data import write_data
from helpers.tiny_teachers import (
    write_tiny_clip,
    write_tiny_llava,
    write_tiny_llava_next,
    write_tiny_qwen,
    write_tiny_siglip,
)
from PIL import Image

from decodetr import PrototypePool
from decodetr.cli import main
from decodetr.pool_builder.batches import ShrinkingBatches
from decodetr.pool_builder.captioner import Captioner
from decodetr.pool_builder.crops import crop_region
from decodetr.pool_builder.embedder import ClipEmbedder

WRITERS = {"llava-1.5": write_tiny_llava, "llava-next": write_tiny_llava_next, "qwen2.5-vl": write_tiny_qwen}


def _pictures(*sizes):
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_batch_of_all_shapes_says_what_the_librarys_chat_call_says(kind, tmp_path):
    captioner = Captioner(WRITERS[kind](tmp_path), prompt="Describe this.", max_new_tokens=4)
    assert (captioner.size is None) == (kind != "llava-1.5")
    sizes = [(captioner.size,) * 2] * 4 if captioner.size else [(40, 30), (60, 20), (20, 60), (33, 33)]
    crops = _pictures(*sizes)
    captions = captioner.caption(crops)
    assert len(set(captions)) > 1
    for crop, caption in zip(crops, captions):
        content = [{"type": "image", "image": crop}, {"type": "text", "text": "Describe this."}]
        inputs = captioner.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        tokens = captioner.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        text = captioner.processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert caption == " ".join(text.split())


@pytest.mark.parametrize("kind", ["llava-next", "qwen2.5-vl"])
def test_a_pool_by_another_captioner_and_siglip(kind, tmp_path):
    data = write_data(tmp_path / "data")
    words = ["pool", "build", "--data", str(data), "--output", str(tmp_path / "out"), "--detector", "grid"]
    words += ["--captioner", str(WRITERS[kind](tmp_path / "captioner")), "--max-new-tokens", "4", "--device", "cpu"]
    words += ["--clip", str(write_tiny_siglip(tmp_path / "siglip")), "--delta", "-1", "--num-coarse", "4"]
    assert main([*words, "--num-fine", "2", "--max-proposals", "3", "--batch-size", "5"]) == 0
    pool = PrototypePool.from_pretrained(tmp_path / "out" / "pool")
    assert pool.embedding_dim == 16 and pool.info["encoder"] == "siglip" and pool.info["proposer"] == "grid"
    assert pool.info["regions"] == 50 and len(pool) == 6


def test_siglips_embeddings_are_its_own(tmp_path):
    embedder = ClipEmbedder(write_tiny_siglip(tmp_path / "siglip"))
    crops, texts = _pictures((16, 16), (16, 16)), ["a red cup", "a dog", ""]
    pixels = embedder.image_processor(images=crops, return_tensors="pt")
    tokens = embedder.tokenizer(texts, padding="max_length", max_length=12, return_tensors="pt")
    with torch.no_grad():
        expected = embedder.model(input_ids=tokens["input_ids"], **pixels)
    assert embedder.embed_images(crops) == pytest.approx(expected.image_embeds.numpy(), abs=1e-5)
    assert embedder.embed_texts(texts) == pytest.approx(expected.text_embeds.numpy(), abs=1e-5)
    assert embedder.count_truncated([*texts, "red " * 20]) == 1
    other = ClipEmbedder(write_tiny_siglip(tmp_path / "other", seed=1))
    assert embedder.info["encoder_fingerprint"] and other.info["encoder_fingerprint"]
    assert embedder.info["encoder_fingerprint"] != other.info["encoder_fingerprint"]


def test_context_and_natural_crops():
    image = _pictures((30, 20))[0]
    assert crop_region(image, [10, 5, 20, 10]).tobytes() == image.crop((10, 5, 20, 10)).tobytes()
    assert crop_region(image, [10, 5, 20, 10], context=0.2).tobytes() == image.crop((8, 4, 22, 11)).tobytes()
    assert crop_region(image, [1, 1, 29, 19], context=1).size == (30, 20)
    assert crop_region(image, [10, 5, 20, 10], 12, 0.2).size == (12, 12)


def test_batches_shrink_when_memory_runs_out(caplog):
    sizes = []

    def double(items):
        sizes.append(len(items))
        if len(items) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return [2 * item for item in items]

    batches = ShrinkingBatches(list, double)
    with caplog.at_level(logging.WARNING):
        assert batches(list(range(11))) == [2 * item for item in range(11)]
    assert sizes == [11, 5, 2, 2, 2, 2, 2, 1] and batches.limit == 2
    assert "out of memory with 11 crops at once; going on with 5" in caplog.text
    sizes.clear()
    assert batches([1, 2, 3]) == [2, 4, 6] and sizes == [2, 1]  # it has learned

    def never(items):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(torch.OutOfMemoryError):
        ShrinkingBatches(list, never)([1, 2])

    def wrong(items):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        ShrinkingBatches(list, wrong)([1, 2])


def test_what_is_prepared_is_used_as_long_as_it_fits():
    seen = []

    def function(items):
        seen.append(items)
        if len(items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return list(items)

    batches = ShrinkingBatches(tuple, function)
    assert batches([1, 2], [3, 4]) == [3, 4]
    assert batches([1, 2, 3, 4], [5, 6, 7, 8]) == [1, 2, 3, 4] and batches.limit == 2
    assert seen[1:] == [[5, 6, 7, 8], (1, 2), (3, 4)]


def test_an_empty_list_needs_no_call():
    assert ShrinkingBatches(list, lambda items: 1 / 0)([]) == []


def test_precision_and_missing_bitsandbytes(tmp_path):
    folder, asked = write_tiny_llava(tmp_path), {"prompt": "Describe this.", "max_new_tokens": 2}
    assert Captioner(folder, **asked, dtype="bfloat16").model.dtype == torch.bfloat16
    assert Captioner(folder, **asked, device_map="auto").caption(_pictures((24, 24))) != [""]
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ImportError, match=r"pip install 'decodetr\[quantized\]'"):
            Captioner(folder, **asked, bits=4)


def test_a_captioner_without_chat_template_says_so(tmp_path):
    from transformers import LlavaProcessor

    folder = write_tiny_llava(tmp_path / "llava")
    processor = LlavaProcessor.from_pretrained(folder)
    processor.chat_template = processor.tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink()
    processor.save_pretrained(folder)
    with pytest.raises(ValueError, match="chat template"):
        Captioner(folder, prompt="Describe this.", max_new_tokens=2)


def test_clip_embeds_as_before(tmp_path):
    """The width is measured, whatever the config calls it."""
    assert ClipEmbedder(write_tiny_clip(tmp_path, dim=8)).dim == 8


def test_captions_from_a_server(tmp_path, monkeypatch):
    """What is sent is a chat completion with the crop in it; the server here is a function."""
    import base64
    import io
    from types import SimpleNamespace

    import huggingface_hub

    sent = []

    class Client:
        def __init__(self, base_url, api_key):
            self.url = base_url
            assert api_key == "EMPTY"

        def chat_completion(self, messages, **settings):
            image, text = messages[0]["content"]
            picture = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].split(",")[1])))
            sent.append((self.url, text["text"], picture.size, settings))
            message = SimpleNamespace(content=f" {picture.width} by\n{picture.height} ")
            return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")])

    monkeypatch.setattr(huggingface_hub, "InferenceClient", Client)
    data = write_data(tmp_path / "data")
    words = ["pool", "build", "--data", str(data), "--output", str(tmp_path / "out"), "--device", "cpu"]
    words += ["--captioner", "some/llava@http://localhost:8000/v1", "--prompt", "name", "--max-new-tokens", "9"]
    assert main([*words, "--clip", str(write_tiny_clip(tmp_path / "clip")), "--delta", "-1", "--num-coarse", "3"]) == 0
    pool = PrototypePool.from_pretrained(tmp_path / "out" / "pool")
    assert (pool.info["captioner"], pool.info["prompt"][:18]) == ("some/llava", "What is the main o")
    assert sent.pop(0)[2] == (64, 64)  # the grey square by which the server is tried before the proposals
    assert len(sent) == 20 and {url for url, *_ in sent} == {"http://localhost:8000/v1"}
    assert sent[0][3] == {"model": "some/llava", "max_tokens": 9, "temperature": 0.0, "seed": 0}
    assert all(text == pool.info["prompt"] for _, text, *_ in sent)
    assert set(pool.captions) <= {f"{w} by {h}" for _, _, (w, h), _ in sent}
