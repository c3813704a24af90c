"""The small teachers: captions that can be read back, tokenizers that spell anything, crops of the right things, and
`decodetr scenes teachers` at a tiny size."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer, CLIPModel, LlavaForConditionalGeneration

from decodetr.cli import main
from decodetr.scenes import teachers
from decodetr.scenes.captions import SCENE_TEXTS, answer, clip_caption, mentioned_name
from decodetr.scenes.clip_teacher import begin_with, clip_tokenizer, new_clip
from decodetr.scenes.rendering import draw_scene
from decodetr.scenes.teacher_data import teacher_crops
from decodetr.scenes.world import NAMES


def test_every_full_caption_names_its_object_and_no_other_text_does():
    rng = np.random.default_rng(0)
    for name in NAMES:
        assert {mentioned_name(answer(name, rng)) for _ in range(30)} == {name}
    assert {mentioned_name(answer(None, rng)) for _ in range(50)} == {None}
    assert mentioned_name("a red star") is None and mentioned_name("") is None
    partial = [mentioned_name(clip_caption(NAMES[0], rng, partial=1.0)) for _ in range(50)]
    assert set(partial) == {None}


def test_clip_tokenizer_knows_the_words_and_spells_everything_else(tmp_path):
    tokenizer = clip_tokenizer(SCENE_TEXTS)
    assert len(tokenizer("a red striped star").input_ids) == 6  # four words between the two special tokens
    for text in ("a crème brûlée, 12 €", "日本", "x" * 10):
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids[1:-1]
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("a naïve star").input_ids == tokenizer("a naïve star").input_ids


def test_crops_show_the_named_objects_and_repeat():
    crops, names = teacher_crops("teachers-val", 3, seed=1)
    again, same = teacher_crops("teachers-val", 3, seed=1)
    assert crops.shape[1:] == (48, 48, 3) and crops.dtype == np.uint8
    assert np.array_equal(crops, again) and np.array_equal(names, same)
    drawn = [NAMES.index(thing.name) for i in range(3) for thing in draw_scene(1, "teachers-val", i, 160).objects]
    assert sorted(names[names >= 0]) == sorted(2 * drawn)  # its box, and once more loosely
    assert not np.array_equal(teacher_crops("teachers", 3, seed=1)[0][:1], crops[:1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Teachers of two steps."""
    folder = tmp_path_factory.mktemp("teachers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "VALIDATION_SCENES", 4)
        words = ["--scenes", "8", "--clip-steps", "2", "--llava-steps", "2", "--workers", "1"]
        words += ["--geometry", "drawn"]  # after two steps right names are no nearer than others
        assert main(["scenes", "teachers", str(folder), *words]) == 0
        cards = [(folder / name / "README.md") for name in ("scenes-clip", "scenes-llava")]
        before = [card.stat().st_mtime_ns for card in cards]
        assert main(["scenes", "teachers", str(folder), *words]) == 0  # nothing left to do
        assert [card.stat().st_mtime_ns for card in cards] == before
        assert main(["scenes", "teachers", str(folder), *words, "--seed", "1"]) == 1  # other settings
    return folder


def test_teachers_are_ordinary_folders_in_half_precision_on_disk(trained):
    from safetensors.torch import load_file

    clip = CLIPModel.from_pretrained(trained / "scenes-clip")
    llava = LlavaForConditionalGeneration.from_pretrained(trained / "scenes-llava")
    assert clip.dtype == llava.dtype == torch.float32
    stored = load_file(trained / "scenes-clip" / "model.safetensors")
    exact = {name for name, value in stored.items() if value.dtype == torch.float32}
    assert exact == {"text_projection.weight", "visual_projection.weight", "logit_scale"}
    assert {value.dtype for name, value in stored.items() if name not in exact} == {torch.float16}
    for name, value in clip.vision_model.state_dict().items():  # the tower is the CLIP's, and was not trained
        assert torch.equal(value, llava.model.vision_tower.state_dict()[name]), name
    for name, part in (("scenes-clip", "nearest of 240 names"), ("scenes-llava", "captions of objects")):
        card = (trained / name / "README.md").read_text()
        assert part in card and "{" not in card and "None" not in card
        assert "decodetr scenes teachers DIR --scenes 8 --clip-steps 2 --llava-steps 2 --seed 0" in card


def test_llava_learns_nothing_but_the_answer(trained):
    processor = AutoProcessor.from_pretrained(trained / "scenes-llava")
    clip = CLIPModel.from_pretrained(trained / "scenes-clip")
    from decodetr.scenes.llava_teacher import CaptionCollate

    collate = CaptionCollate(processor)
    image = np.zeros((48, 48, 3), np.uint8)
    batch = collate([{"image": image, "caption": "a red star"}, {"image": image, "caption": "background"}])
    said = [row[row >= 0].tolist() for row in batch["labels"]]
    assert processor.tokenizer.batch_decode(said) == [" a red star</s>", " background</s>"]
    assert batch["attention_mask"][:, -1].all()
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [36, 36]
    assert clip.config.vision_config.patch_size == processor.patch_size


def test_a_teacher_of_another_world_begins_with_what_has_the_same_shape():
    torch.manual_seed(0)
    one, other = new_clip(clip_tokenizer(SCENE_TEXTS), 64), new_clip(clip_tokenizer(SCENE_TEXTS), 32)
    kept = other.visual_projection.weight.clone()
    begin_with(other, one)
    assert torch.equal(
        other.vision_model.embeddings.patch_embedding.weight, one.vision_model.embeddings.patch_embedding.weight
    )
    assert other.visual_projection.weight.shape == (32, 128) and torch.equal(other.visual_projection.weight, kept)
    begin_with(other, None)
    assert torch.equal(other.visual_projection.weight, kept)
