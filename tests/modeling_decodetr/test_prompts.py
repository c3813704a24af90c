"""A Vocabulary as a sequence of names, and names for which other texts are embedded."""

import pytest
import torch
from helpers.tiny_teachers import write_byte_clip
from torch.nn import functional as F

from decodetr import Vocabulary


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_byte_clip(tmp_path_factory.mktemp("clip"))


def test_a_vocabulary_is_a_sequence_of_its_names():
    vocabulary = Vocabulary(["cat", "dog", "salt, pepper"], torch.eye(3), {"encoder": "some/clip"})
    assert list(vocabulary) == ["cat", "dog", "salt, pepper"] and "dog" in vocabulary and "yak" not in vocabulary
    assert (
        vocabulary[0] == "cat" and vocabulary[-1] == "salt, pepper" and torch.equal(vocabulary["dog"], torch.eye(3)[1])
    )
    some = vocabulary[1:]
    assert some.names == ["dog", "salt, pepper"] and torch.equal(some.embeddings, torch.eye(3)[1:])
    assert some.info == vocabulary.info and vocabulary[["salt, pepper", "cat"]].names == ["salt, pepper", "cat"]
    assert repr(vocabulary) == "Vocabulary('cat', 'dog', 'salt, pepper'; 3 of width 3, encoder some/clip)"
    assert repr(Vocabulary([f"n{i}" for i in range(9)], torch.eye(9))).startswith(
        "Vocabulary('n0', 'n1', 'n2', 'n3', 'n4', ...; 9"
    )
    with pytest.raises(KeyError, match=r"'dgo' is no name of the vocabulary \(close: dog\)"):
        vocabulary["dgo"]
    with pytest.raises(IndexError):
        vocabulary[3]


def test_several_texts_of_a_name_are_averaged_over_all_templates(clip_folder):
    templates = ["{}", "a photo of a {}."]
    names = {"traffic_cone": ["traffic cone", "pylon"], "cat": "cat", "puma": "cougar"}
    made = Vocabulary.from_text_model(names, clip_folder, templates)
    assert made.names == ["traffic_cone", "cat", "puma"]
    assert made.info["prompts"] == {"traffic_cone": ["traffic cone", "pylon"], "puma": ["cougar"]}
    texts = Vocabulary.from_text_model(["traffic cone", "pylon", "cat", "cougar"], clip_folder, "{}")
    filled = Vocabulary.from_text_model(["traffic cone", "pylon", "cat", "cougar"], clip_folder, templates[1])
    sums = texts.embeddings + filled.embeddings
    expected = F.normalize(torch.stack([sums[0] + sums[1], sums[2], sums[3]]), dim=-1)
    assert torch.allclose(made.embeddings, expected, atol=1e-6)
    plain = Vocabulary.from_text_model(["cat"], clip_folder, [*templates, templates[0]])  # one twice counts once
    assert plain.info["templates"] == templates
    assert torch.allclose(made["cat"], plain["cat"], atol=1e-6) and "prompts" not in plain.info


def test_underscores_become_spaces_where_that_is_asked_for(clip_folder):
    names = {"traffic_cone": "traffic_cone", "red_cat": "red_dog"}
    made = Vocabulary.from_text_model(names, clip_folder, underscores_to_spaces=True)
    spaced = Vocabulary.from_text_model(["traffic cone", "red_dog"], clip_folder)
    assert torch.equal(made.embeddings, spaced.embeddings) and made.names == list(names)
    assert made.info["prompts"] == {"traffic_cone": ["traffic cone"], "red_cat": ["red_dog"]}
    assert made.info["underscores_to_spaces"] is True
    kept = Vocabulary.from_text_model(["traffic_cone"], clip_folder)
    assert not torch.allclose(kept["traffic_cone"], made["traffic_cone"], atol=1e-3)
    assert "underscores_to_spaces" not in kept.info


def test_names_that_the_text_model_cannot_tell_apart_are_reported(clip_folder, caplog):
    names = ["cat", *(f"n{i}" for i in range(300)), "Cat", "dog"]  # in another batch than the first
    made = Vocabulary.from_text_model(names, clip_folder)
    assert made.equal_names() == [["cat", "Cat"]] and torch.equal(made["cat"], made["Cat"])
    assert "cannot tell these names apart" in caplog.text and "'cat' = 'Cat'" in caplog.text
    assert made.log_share[names.index("Cat")].exp() == 0.5


def test_a_text_that_is_cut_off_is_reported_with_its_name(clip_folder, caplog):
    Vocabulary.from_text_model({"cat": ["cat", "b" * 40]}, clip_folder)
    assert "1 of 2 names are longer" in caplog.text and "'cat: bbbb" in caplog.text


def test_texts_that_are_none_are_refused(clip_folder):
    for wrong in ([], [" "], [3], None, {}):
        with pytest.raises(ValueError, match="the prompts of 'cat' must be a text or a list of texts, got"):
            Vocabulary.from_text_model({"cat": wrong}, clip_folder)


def test_two_vocabularies_are_joined(clip_folder):
    first = Vocabulary.from_text_model({"cat": "cat", "puma": "cougar"}, clip_folder, "{}")
    second = Vocabulary.from_text_model({"puma": "mountain lion", "yak": "ox"}, clip_folder, "{}")
    both = first.joined(second)
    assert both.names == ["cat", "puma", "yak"] and torch.equal(both.embeddings[1:], second.embeddings)
    assert torch.equal(both["cat"], first["cat"]) and both.info["templates"] == ["{}"]
    assert both.info["prompts"] == {"puma": ["mountain lion"], "yak": ["ox"]}
    with pytest.raises(ValueError, match="other vocabulary .* encoder 'other'"):
        first.joined(Vocabulary(["yak"], torch.eye(16)[:1], {"encoder": "other"}))
