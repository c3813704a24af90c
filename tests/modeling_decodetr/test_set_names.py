"""`model.set_names`: stored names, new ones through the recorded text model, and those of the pool."""

import pytest
import torch
from helpers.tiny_models import tiny_model

from decodetr import DeCoDetrForObjectDetection, PrototypePool, Vocabulary

TEMPLATES = ["{}", "one {}"]  # of text_detector


@pytest.fixture
def model(text_detector):
    return DeCoDetrForObjectDetection.from_pretrained(text_detector[0])


def test_stored_names_need_no_text_model(model, monkeypatch, caplog):
    monkeypatch.setattr(Vocabulary, "from_text_model", None)
    row = model.vocabulary["dog"].clone()
    model.set_names(["dog"])
    assert model.vocabulary.names == ["dog"] and torch.equal(model.vocabulary["dog"], row) and not caplog.records


def test_a_name_that_is_there_twice_is_taken_once(model):
    model.set_names(["dog", "gnu", "dog", "gnu"])
    assert model.vocabulary.names == ["dog", "gnu"]


def test_new_names_are_embedded_as_the_stored_ones_were(model, text_detector, tmp_path, caplog):
    dog = model.vocabulary["dog"].clone()
    model.set_names(["gnu", "dog", "yak"])
    expected = Vocabulary.from_text_model(["gnu", "yak"], text_detector[1], TEMPLATES)
    assert model.vocabulary.names == ["gnu", "dog", "yak"] and torch.equal(model.vocabulary["dog"], dog)
    assert torch.equal(model.vocabulary.embeddings[[0, 2]], expected.embeddings)
    assert "2 names without a stored embedding were embedded by" in caplog.text and "'gnu', 'yak'" in caplog.text
    model.save_pretrained(tmp_path)
    loaded = DeCoDetrForObjectDetection.from_pretrained(tmp_path)
    assert loaded.vocabulary.names == ["gnu", "dog", "yak"] and loaded.config.id2label[0] == "gnu"
    loaded.set_names(["cat"])
    cat = Vocabulary.from_text_model(["cat"], text_detector[1], TEMPLATES)["cat"]
    assert torch.equal(loaded.vocabulary["cat"], cat)


def test_texts_of_a_name_are_recorded_and_taken_again(model, text_detector):
    names = {"puma": ["cougar", "mountain lion"], "cat": "cat"}
    cat = model.vocabulary["cat"].clone()
    model.set_names(names)
    puma = Vocabulary.from_text_model(names, text_detector[1], TEMPLATES)["puma"]
    assert torch.equal(model.vocabulary["puma"], puma) and torch.equal(model.vocabulary["cat"], cat)
    model.set_names(["cat"])
    model.set_names(["puma"])  # by the record, not by its own letters
    assert torch.equal(model.vocabulary["puma"], puma)
    model.set_names({"puma": "puma"})
    plain = Vocabulary.from_text_model(["puma"], text_detector[1], TEMPLATES)
    assert torch.equal(model.vocabulary["puma"], plain["puma"])


def test_the_rule_on_underscores_holds_for_new_names(model, text_detector):
    model.set_vocabulary(Vocabulary.from_text_model(["cat"], text_detector[1], "{}", underscores_to_spaces=True))
    model.set_names(["big_cat"])
    spaced = Vocabulary.from_text_model(["big cat"], text_detector[1], "{}")
    assert torch.equal(model.vocabulary["big_cat"], spaced["big cat"])


def test_what_cannot_be_embedded_changes_nothing(model, tmp_path):
    before = model.vocabulary
    info = {**before.info, "encoder": str(tmp_path / "gone")}
    model.set_vocabulary(Vocabulary(before.names, before.embeddings, info))
    with pytest.raises(ValueError, match=r"'dgo' \(close: dog\).*could not be embedded either.*text_model=NAME"):
        model.set_names(["cat", "dgo"])
    with pytest.raises(ValueError, match="'cat': the stored embeddings were made from other texts"):
        model.set_names({"cat": "tiger"})
    with pytest.raises(ValueError, match=r'must be a list, a dict or "pool", got \'cat\''):
        model.set_names("cat")
    assert model.vocabulary.names == ["cat", "dog"]


@pytest.mark.parametrize("record", [3, ["gnu"], None, {"yak": 3}])
def test_a_record_that_is_none_is_passed_over(model, text_detector, record):
    stored = model.vocabulary
    model.set_vocabulary(Vocabulary(stored.names, stored.embeddings, {**stored.info, "prompts": record}))
    model.set_names(["gnu", "cat"])
    gnu = Vocabulary.from_text_model(["gnu"], text_detector[1], TEMPLATES)["gnu"]
    assert torch.equal(model.vocabulary["gnu"], gnu)
    if record == {"yak": 3}:
        with pytest.raises(ValueError, match="the prompts of 'yak' must be a text or a list of texts, got 3"):
            model.set_names(["yak"])


def test_a_text_model_that_has_moved_is_given(model, text_detector):
    before = model.vocabulary
    model.set_vocabulary(Vocabulary(before.names, before.embeddings, {**before.info, "encoder": "moved/away"}))
    model.set_names(["gnu"], text_model=text_detector[1])
    expected = Vocabulary.from_text_model(["gnu"], text_detector[1], TEMPLATES)
    assert torch.equal(model.vocabulary["gnu"], expected["gnu"])


def test_the_captions_of_the_pool_become_names(model, text_detector):
    model.set_names("pool")
    pool = model.prototype_pool
    assert set(model.vocabulary.names) <= set(pool.captions) and not model.tables().background.any()
    for name in model.vocabulary:
        assert torch.allclose(model.vocabulary[name], pool.prototypes[pool.captions.index(name)], atol=1e-6)
    assert model(torch.zeros(1, 3, 64, 64)).logits.shape[-1] == len(model.vocabulary)
    model.set_names(["cat"])  # by the text model and the templates of before
    cat = Vocabulary.from_text_model(["cat"], text_detector[1], TEMPLATES)["cat"]
    assert torch.equal(model.vocabulary["cat"], cat)


def test_captions_that_mean_the_same_are_one_name():
    rows = torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 1, 0], [0.6, 0.8, 0], [0, 0, 1.0], [0.0, -1, 0]])
    captions, count = ["a", "b", "c", "d", "e", "e"], torch.tensor([5, 9, 2, 3, 7, 1])
    pool = PrototypePool(rows, count=count, captions=captions, info={"encoder": "some/clip", "seed": 3})
    # From the largest on: b takes d (0.96). a (0.8), e and c (0.6) are farther away. One text is one name.
    merged = Vocabulary.from_pool(pool, 0.9)
    assert merged.names == ["b", "e", "a", "c"] and torch.equal(merged["b"], rows[1])
    assert merged.info == {"encoder": "some/clip", "names_of": "pool", "merged_from": 0.9}
    assert Vocabulary.from_pool(pool, 0.75).names == ["b", "e", "c"]
    # Cosines are those of centred rows, and the threshold is what the pool has measured.
    space = {"text_mean": [0.4, 0.4, 0.0], "background_threshold": 0.5}
    centred = Vocabulary.from_pool(PrototypePool(rows, count=count, captions=captions, info={"space": space}))
    unit = torch.nn.functional.normalize(rows - torch.tensor(space["text_mean"]), dim=-1)
    kept = [captions.index(name) for name in centred]
    assert centred.info["merged_from"] == 0.5
    assert (unit[kept] @ unit[kept].T).fill_diagonal_(-1).max() < 0.5 <= (unit[:5] @ unit[kept].T).amax(1).min()
    with pytest.raises(ValueError, match="the pool has no captions"):
        Vocabulary.from_pool(PrototypePool(rows))


def test_names_of_a_random_pool_are_refused():
    with pytest.raises(ValueError, match="the pool has no captions"):
        tiny_model().set_names("pool")
