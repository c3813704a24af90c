"""Names that stand for example images: where their embeddings lie, and what is refused."""

import numpy as np
import pytest
import torch
from helpers.clip_like import clip_images, clip_texts
from helpers.tiny_teachers import write_tiny_clip
from PIL import Image
from torch.nn import functional as F

from decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.embedding_space import as_texts, centred
from decodetr.pool_builder.crops import crop_region
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.pool_builder.space import choose_scales, space_without_names


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


def picture(seed, size=(40, 30), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_examples_are_embedded_as_regions_are(clip_folder):
    image, other = picture(0), picture(1, mode="L")
    box = (3.2, 4.7, 20.1, 29.0)
    made = Vocabulary.from_images(
        {"my mug": [image, (image, box)], "x": [(np.array(image), box)], "y": [other]}, clip_folder, None
    )
    teacher = ClipEmbedder(clip_folder)
    whole = [crop_region(one, (0, 0, 40, 30), teacher.size) for one in (image, other)]
    rows = torch.from_numpy(teacher.embed_images([whole[0], crop_region(image, box, teacher.size), whole[1]]))
    expected = torch.stack([F.normalize(rows[0] + rows[1], dim=-1), rows[1], rows[2]])
    assert made.names == ["my mug", "x", "y"] and torch.allclose(made.embeddings, expected, atol=1e-5)
    assert made.info["examples"] == {"my mug": 2, "x": 1, "y": 1}
    assert made.info["encoder_fingerprint"] == teacher.info["encoder_fingerprint"]


def test_the_gap_is_closed_by_the_means_of_the_pool(clip_folder):
    teacher = ClipEmbedder(clip_folder)
    generator = torch.Generator().manual_seed(0)
    text_mean, image_mean = 0.5 * F.normalize(torch.randn(2, 8, generator=generator), dim=-1)
    space = {"text_mean": text_mean.tolist(), "image_mean": image_mean.tolist()}
    pool = PrototypePool(torch.eye(8)[:3], info={**teacher.info, "space": space})
    raw = Vocabulary.from_images({"x": [picture(0)], "y": [picture(1)]}, clip_folder, None).embeddings
    moved = Vocabulary.from_images({"x": [picture(0)], "y": [picture(1)]}, clip_folder, pool).embeddings
    along, rows = centred(raw, image_mean), centred(pool.prototypes, text_mean)
    found = F.normalize((along @ rows.T / 0.07).softmax(-1) @ rows, dim=-1)
    assert torch.allclose(centred(moved, text_mean), F.normalize(along + found, dim=-1), atol=1e-5)
    by_means = as_texts(raw, space)
    assert torch.allclose(by_means.norm(dim=-1), torch.ones(2)) and torch.allclose(
        centred(by_means, text_mean), along, atol=1e-5
    )
    assert torch.allclose(as_texts(3 * raw, None), raw, atol=1e-6)


def test_in_a_space_like_clips_examples_come_near_their_text():
    texts = clip_texts(330)
    captions, names, labels = texts[:300], texts[:40], torch.arange(40).repeat_interleave(10)
    regions = clip_images(captions.repeat(3, 1), 3)
    space = space_without_names(regions, captions.repeat(3, 1), captions, logit_scale=100.0)
    space |= choose_scales(space, captions, clip_images(names[labels], 4), labels, names)
    asked = torch.cat([names, texts[300:]])  # what captions speak of, and what none does
    examples = F.normalize(clip_images(asked.repeat_interleave(3, 0), 9).view(70, 3, -1).mean(1), dim=-1)
    rows = centred(asked, torch.tensor(space["text_mean"]))
    cosines = {}
    for kind, moved in {
        "raw": examples, "means": as_texts(examples, space), "moved": as_texts(examples, space, captions)
    }.items():  # fmt: skip
        similarity = centred(moved, torch.tensor(space["text_mean"])) @ rows.T
        own = similarity.diag()
        cosines[kind] = own[:40].mean().item(), own[40:].mean().item()
        assert (similarity.argmax(-1) == torch.arange(70))[:40].all()
    # docs/inference.md has these figures: what captions speak of, and what they do not.
    assert cosines["raw"] == pytest.approx((0.14, 0.14), abs=0.01)
    assert cosines["means"] == pytest.approx((0.60, 0.59), abs=0.01)
    assert cosines["moved"] == pytest.approx((0.89, 0.50), abs=0.01)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({"mug": []}, "the examples of 'mug' must be a list of images, got list"),
        ({"mug": picture(0)}, "the examples of 'mug' must be a list of images, got Image"),
        ({"mug": ["mug.jpg"]}, "example 0 of 'mug': expected a PIL image or an array, or one with a box, got str"),
        ({"mug": [picture(0), (picture(0), (50, 0, 60, 9))]}, "example 1 of 'mug': box .* has no pixel in the image"),
        ({"mug": [np.zeros((4, 4), np.float32)]}, r"example 0 of 'mug': expected a uint8 array \(H, W, 3\)"),
        ({"mug": [Image.new("I;16", (9, 9))]}, "example 0 of 'mug': expected a picture of 8 bits, got mode I;16"),
        ({}, "names must hold at least one name"),
    ],
)
def test_what_is_no_example_is_refused(clip_folder, examples, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_images(examples, clip_folder, None)


def test_a_pool_that_does_not_fit_is_refused(clip_folder):
    examples = {"mug": [picture(0)]}
    with pytest.raises(ValueError, match="the pool was made with 'other'"):
        Vocabulary.from_images(examples, clip_folder, PrototypePool(torch.eye(8), info={"encoder": "other"}))
    with pytest.raises(ValueError, match="does not say where images and texts of its teacher lie"):
        Vocabulary.from_images(examples, clip_folder, PrototypePool(torch.eye(8)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "HSV"])
def test_pictures_of_all_modes_of_eight_bits(clip_folder, mode):
    image = picture(0, mode="RGB").convert(mode)
    made = Vocabulary.from_images({"x": [image], "y": [image.convert("RGB")]}, clip_folder, None)
    assert torch.allclose(made["x"], made["y"], atol=1e-6)
