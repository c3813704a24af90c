"""The cosines of a real CLIP for a small one: what comes out, what stays, what is refused, and the commands."""

import copy
import shutil

import numpy as np
import pytest
import torch
from helpers.tiny_teachers import write_tiny_clip, write_tiny_siglip
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModel, CLIPModel, CLIPProcessor, LlavaForConditionalGeneration

from decodetr.cli import main
from decodetr.modeling_decodetr.text_encoder import encode_texts
from decodetr.scenes import teachers
from decodetr.scenes.clip_geometry import reshape, statistics
from decodetr.scenes.teacher_data import teacher_crops
from decodetr.scenes.world import NAMES
from decodetr.utils.shipped import resolve


@pytest.fixture(scope="module")
def flat():
    """(CLIP, processor, crops, captions): the shipped one without the constants that its geometry may have."""
    folder = resolve("scenes-clip")
    clip, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    for projection in (clip.text_projection, clip.visual_projection):
        projection.weight = torch.nn.Parameter(projection.weight[:64].detach())
        projection.out_features = 64
    clip.config.projection_dim = clip.projection_dim = 64
    clip.logit_scale.data.fill_(np.log(17.7))
    crops, names = teacher_crops("teachers-val", 25, seed=3)
    return clip, processor, crops[names >= 0], [NAMES[name].name for name in names[names >= 0]]


@torch.no_grad()
def embedded(clip, processor, crops, captions):
    """Unit embeddings as the pool builder makes them: (distinct texts, images, caption of each image)."""
    distinct = sorted(set(captions))
    pixels = processor.image_processor(images=list(crops), return_tensors="pt")["pixel_values"]
    images = F.normalize(clip.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    own = torch.tensor([distinct.index(caption) for caption in captions])
    return encode_texts(distinct, clip, processor.tokenizer).clone(), images, own


def mean_cosines(texts, images, own):
    cosines, right = images @ texts.T, torch.zeros(len(images), len(texts), dtype=torch.bool)
    right[torch.arange(len(images)), own] = True
    off = ~torch.eye(len(texts), dtype=torch.bool)
    among = ~torch.eye(len(images), dtype=torch.bool)
    parts = ((texts @ texts.T)[off], cosines[right], cosines[~right], (images @ images.T)[among])
    return [part.mean().item() for part in parts]


@pytest.mark.parametrize(
    ("asked", "width"),
    [({}, 66), ({"text_cosine": 0.8, "right": 0.3, "other": 0.2, "image_cosine": 0.5}, 130)],
)
def test_cosines_are_those_asked_for_and_the_softmax_stays(flat, asked, width):
    clip, processor, crops, captions = flat
    weights = copy.deepcopy(clip.state_dict())
    texts, images, own = embedded(*flat)
    shaped, found = reshape(clip, processor, crops, captions, **asked)
    new_texts, new_images, _ = embedded(shaped, processor, crops, captions)
    assert new_texts.shape[1] == new_images.shape[1] == shaped.config.projection_dim == width
    wanted = {"text_cosine": 0.75, "right": 0.27, "other": 0.19} | asked
    assert mean_cosines(new_texts, new_images, own)[: len(wanted)] == pytest.approx(list(wanted.values()), abs=1e-4)
    before = (clip.logit_scale.exp().item() * images @ texts.T).softmax(-1)
    after = (shaped.logit_scale.exp().item() * new_images @ new_texts.T).softmax(-1)
    assert (before - after).abs().sum(-1).mean() < 0.06  # twice the total variation
    assert (before.argmax(-1) == after.argmax(-1)).float().mean() > 0.97
    # What it says of itself is so, and nothing else of the CLIP has changed.
    assert found["before"] == pytest.approx(statistics(clip, processor, crops, captions), abs=1e-5)
    assert found["after"]["share"] == pytest.approx(after[torch.arange(len(own)), own].mean().item(), abs=1e-4)
    assert found["after"]["text"] == pytest.approx(wanted["text_cosine"], abs=1e-4)
    assert found["after"]["components"] == pytest.approx(found["before"]["components"], rel=0.02)
    changed = {"text_projection.weight", "visual_projection.weight", "logit_scale"}
    for name, value in shaped.state_dict().items():
        assert torch.equal(clip.state_dict()[name], weights[name])
        assert name in changed or torch.equal(value, weights[name]), name


def test_statistics_are_those_of_the_embeddings(flat):
    clip, processor, crops, captions = flat
    texts, images, own = embedded(*flat)
    found = statistics(clip, processor, crops, captions)
    keys = ("text", "right", "other", "image")
    assert [found[key] for key in keys] == pytest.approx(mean_cosines(texts, images, own), abs=1e-4)
    among = (texts @ texts.T).fill_diagonal_(-2)
    assert found["nearest"] == pytest.approx(among.amax(1).mean().item(), abs=1e-4)
    spread = torch.linalg.eigvalsh(torch.cov(texts.T))
    assert found["components"] == pytest.approx((spread.sum() ** 2 / (spread**2).sum()).item(), rel=1e-3)
    assert found["accuracy"] == pytest.approx(((images @ texts.T).argmax(1) == own).float().mean().item())
    assert found["scale"] == pytest.approx(17.7, rel=1e-4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"text_cosine": 0.01}, "expected a text cosine between the old one, 0.0"),
        ({"text_cosine": 1.0}, "and 1, got 1.0"),
        ({"right": 0.1, "other": 0.2}, "higher for right texts than for others"),
        ({"right": 0.99, "other": -0.5}, "no projection gives these cosines"),
        ({"image_cosine": 0.999}, "no projection gives these cosines"),
    ],
)
def test_cosines_that_cannot_be_are_refused(flat, asked, message):
    with pytest.raises(ValueError, match=message):
        reshape(*flat, **asked)


def test_other_models_and_untrained_ones_are_refused(flat, tmp_path):
    _, processor, crops, captions = flat
    siglip = AutoModel.from_pretrained(write_tiny_siglip(tmp_path / "siglip"))
    with pytest.raises(ValueError, match="expected a CLIPModel, got a SiglipModel"):
        reshape(siglip, processor, crops, captions)
    tiny = write_tiny_clip(tmp_path / "clip")
    small = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="is this CLIP trained"):
        reshape(CLIPModel.from_pretrained(tiny), CLIPProcessor.from_pretrained(tiny), small, ["a", "b"])
    with pytest.raises(ValueError, match="a caption for each crop and two different ones, got .* 1 of them different"):
        reshape(flat[0], processor, crops[:2], ["a", "a"])
    with pytest.raises(ValueError, match="got 2 crops and 1 captions"):
        reshape(flat[0], processor, crops[:2], ["a"])


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(flat, tmp_path, monkeypatch):
    """The folder of a CLIP as training made it, with its card, and few crops to measure on."""
    monkeypatch.setattr(teachers, "VALIDATION_SCENES", 12)
    folder = tmp_path / "drawn"
    teachers._save(flat[0], flat[1], folder)
    (folder / "README.md").write_text("# A small CLIP\n\nas training made it\n")
    return folder


@pytest.mark.slow
def test_reshape_writes_a_folder_that_loads_and_a_card_with_both(drawn, tmp_path):
    out = tmp_path / "out"
    assert main(["scenes", "reshape", str(drawn), str(out), "--text-cosine", "0.8", "--workers", "1"]) == 0
    stored, source = load_file(out / "model.safetensors"), load_file(drawn / "model.safetensors")
    for name in teachers._EXACT:
        assert stored[name].dtype == torch.float32
    for name in source.keys() - set(teachers._EXACT):
        assert torch.equal(stored[name], source[name]) and stored[name].dtype == torch.float16, name
    crops, names = teachers.validation_crops()
    captions = [NAMES[name].name for name in names[names >= 0]]
    clip, processor = CLIPModel.from_pretrained(out).eval(), CLIPProcessor.from_pretrained(out)
    assert clip.dtype == torch.float32
    found = statistics(clip, processor, crops[names >= 0], captions)
    assert (found["text"], found["right"], found["other"]) == pytest.approx((0.8, 0.27, 0.19), abs=1e-3)
    card = (out / "README.md").read_text()
    assert (
        card.startswith("# A small CLIP\n\nas training made it\n\n<!-- decodetr:geometry ")
        and card.count("## Geometry") == 1
    )
    table = card.split("## Geometry")[1].splitlines()
    rows = dict(line.strip("| ").split(" | ", 1) for line in table if line.count(" | ") == 2 and line[2] != "|")
    assert rows["two names, mean"].split(" | ")[1] == "0.80" and rows["a crop and its name, mean"].endswith("0.27")
    measured = teachers.measure_clip(out, crops, names)
    right = rows["crop to name: the nearest of 240 names is the right one, %"]
    assert right.split(" | ")[1] == f"{100 * measured['image_to_name']:.1f}"
    # Once more: the card says what it was made from last.
    again = tmp_path / "again"
    narrower = ["--text-cosine", "0.85", "--right", "0.2", "--other", "0.15"]
    assert main(["scenes", "reshape", str(out), str(again), *narrower, "--workers", "1"]) == 0
    card = (again / "README.md").read_text()
    assert card.count("## Geometry") == 1 and "| two names, mean | 0.80 | 0.85 |" in card


def test_reshape_refuses_what_is_no_small_clip_before_it_draws(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(teachers, "validation_crops", lambda workers: pytest.fail("drawn"))
    words = ["--workers", "1"]
    siglip, clip = write_tiny_siglip(tmp_path / "siglip"), write_tiny_clip(tmp_path / "tiny")
    for folder, text in ((siglip, "'siglip' for"), (clip, "'clip' for 16"), (tmp_path / "none", "none")):
        assert main(["scenes", "reshape", str(folder), str(tmp_path / "out"), *words]) == 1
        assert text in capsys.readouterr().err
    assert main(["scenes", "reshape", str(drawn), str(drawn), *words]) == 1
    assert "would be written over" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_teachers_are_reshaped_and_changed_back_without_training(drawn, tmp_path, monkeypatch, capsys):
    folder, work = tmp_path / "teachers", tmp_path / "teachers" / "work"
    words = ["--scenes", "3", "--clip-steps", "1", "--llava-steps", "1", "--workers", "1"]
    llava = folder / "scenes-llava"
    shutil.copytree(drawn, work / "scenes-clip")
    llava.mkdir()
    (llava / "README.md").write_text("trained before")

    def text_cosine():
        clip = CLIPModel.from_pretrained(folder / "scenes-clip").eval()
        texts = encode_texts([name.name for name in NAMES], clip, CLIPProcessor.from_pretrained(drawn).tokenizer)
        return ((texts @ texts.T).sum() - 240).item() / (240 * 239)

    for geometry, expected in (("clip", 0.75), ("drawn", 0.06), ("clip", 0.75)):
        given = [] if geometry == "clip" else ["--geometry", geometry]
        assert main(["scenes", "teachers", str(folder), *words, *given]) == 0
        assert text_cosine() == pytest.approx(expected, abs=0.02)
    stamp = (folder / "scenes-clip" / "README.md").stat().st_mtime_ns
    assert main(["scenes", "teachers", str(folder), *words]) == 0
    assert (folder / "scenes-clip" / "README.md").stat().st_mtime_ns == stamp
    # A CLIP that cannot have these cosines stays as it is.
    assert main(["scenes", "teachers", str(folder), *words, "--geometry", "drawn"]) == 0
    weights = load_file(work / "scenes-clip" / "model.safetensors")
    weights["text_projection.weight"] = -weights["text_projection.weight"]
    from safetensors.torch import save_file

    save_file(weights, work / "scenes-clip" / "model.safetensors", {"format": "pt"})
    capsys.readouterr()
    assert main(["scenes", "teachers", str(folder), *words]) == 1
    assert "--geometry drawn leaves the CLIP as training made it" in capsys.readouterr().err
    assert text_cosine() == pytest.approx(0.06, abs=0.02)


def test_the_shipped_llava_has_the_vision_tower_of_the_shipped_clip():
    clip = CLIPModel.from_pretrained(resolve("scenes-clip"))
    tower = LlavaForConditionalGeneration.from_pretrained(resolve("scenes-llava")).model.vision_tower.state_dict()
    assert all(torch.equal(value, tower[name]) for name, value in clip.vision_model.state_dict().items())
