"""Vocabulary.from_text_model, and models whose tables name the text model that made them."""

import sys

import pytest
import torch
from helpers.tiny_models import tiny_model
from helpers.tiny_teachers import write_byte_clip
from torch.nn import functional as F

from decodetr import DeCoDetrForObjectDetection, PrototypePool, Vocabulary

STRANGE = ["salt, pepper", "crème brûlée", "Ж {} {0}", "cat", "日本"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_byte_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(clip_folder):
    """(model, tokenizer) as a user loads them."""
    from transformers import AutoModel, AutoTokenizer

    return AutoModel.from_pretrained(clip_folder), AutoTokenizer.from_pretrained(clip_folder)


def by_hand(clip, name, templates):
    model, tokenizer = clip
    rows = []
    for template in templates:
        inputs = tokenizer(template.replace("{}", name), truncation=True, return_tensors="pt")
        with torch.no_grad():
            rows.append(F.normalize(model.get_text_features(**inputs).pooler_output[0], dim=0))
    return F.normalize(torch.stack(rows).mean(0), dim=0)


def test_embeddings_are_the_unit_mean_of_the_templates(clip_folder, clip):
    templates = ["a photo of a {}.", "{}", "{} and {}"]
    vocabulary = Vocabulary.from_text_model(STRANGE, clip_folder, templates, batch_size=2)
    assert vocabulary.names == STRANGE
    expected = torch.stack([by_hand(clip, name, templates) for name in STRANGE])
    assert torch.allclose(vocabulary.embeddings, expected, atol=1e-5)
    cosine = vocabulary.embeddings @ vocabulary.embeddings.T
    assert cosine.fill_diagonal_(0).max() < 0.999  # the names are told apart
    assert vocabulary.info["templates"] == templates and vocabulary.info["encoder"] == str(clip_folder)


def test_one_name_one_template_and_the_default(clip_folder, clip):
    default = Vocabulary.from_text_model(["cat"], clip_folder)
    assert default.info["templates"] == ["a photo of a {}."]
    assert torch.allclose(default.embeddings[0], by_hand(clip, "cat", ["a photo of a {}."]), atol=1e-5)
    plain = Vocabulary.from_text_model(["cat"], clip_folder, "{}")
    assert plain.info["templates"] == ["{}"]
    assert torch.allclose(plain.embeddings[0], by_hand(clip, "cat", ["{}"]), atol=1e-5)
    model, tokenizer = clip
    loaded = Vocabulary.from_text_model(["cat"], model, "{}", tokenizer=tokenizer)
    assert torch.equal(loaded.embeddings, plain.embeddings)
    assert loaded.info["encoder_fingerprint"] == plain.info["encoder_fingerprint"]


def test_duplicates_share_their_place(clip_folder):
    vocabulary = Vocabulary.from_text_model(["cat", "dog", "cat", "CAT"], clip_folder)  # CLIP lowers every text
    assert vocabulary.log_share.exp().tolist() == pytest.approx([1 / 3, 1, 1 / 3, 1 / 3])


def test_ten_thousand_names(clip_folder, clip):
    names = [f"n{i}" for i in range(10_000)]
    vocabulary = Vocabulary.from_text_model(names, clip_folder, "{}")
    assert vocabulary.embeddings.shape == (10_000, 16) and not vocabulary.log_share.any()
    assert torch.allclose(vocabulary.embeddings[7531], by_hand(clip, "n7531", ["{}"]), atol=1e-5)


def test_a_bad_call_is_explained(clip_folder, clip):
    build = Vocabulary.from_text_model
    for names in ("cat", [], ["cat", " "]):
        with pytest.raises(ValueError, match="names must"):
            build(names, clip_folder)
    with pytest.raises(ValueError, match=r"must contain \{\} .* got 'a photo'"):
        build(["cat"], clip_folder, ["{}", "a photo"])
    for templates in ([], "", [3]):
        with pytest.raises(ValueError, match="templates must be strings|must contain"):
            build(["cat"], clip_folder, templates)
    with pytest.raises(ValueError, match="CLIPModel has no tokenizer; give tokenizer="):
        build(["cat"], clip[0])
    training = type(clip[0])(clip[0].config).train()
    with pytest.raises(ValueError, match="in training mode"):
        build(["cat"], training, tokenizer=clip[1])


def test_a_model_without_text_features_is_refused(tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a BertModel, expected a model with text features"):
        Vocabulary.from_text_model(["cat"], tmp_path)


def test_a_detector_is_no_text_model(tiny_detector_folder):
    with pytest.raises(ValueError, match="holds a model of type 'decodetr', expected a model with text features"):
        Vocabulary.from_text_model(["cat"], tiny_detector_folder)


def test_a_stored_vocabulary_needs_no_text_model(clip_folder, tmp_path, monkeypatch):
    built = Vocabulary.from_text_model(STRANGE, clip_folder)
    built.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "decodetr.modeling_decodetr.text_encoder", None)
    loaded = Vocabulary.from_pretrained(tmp_path)
    assert torch.equal(loaded.embeddings, built.embeddings)
    assert loaded.names == STRANGE and loaded.info == built.info
    with pytest.raises(ImportError):
        Vocabulary.from_text_model(STRANGE, clip_folder)


def test_fingerprints_decide_whether_tables_fit(clip_folder, tmp_path):
    moved, other = write_byte_clip(tmp_path / "moved"), write_byte_clip(tmp_path / "other", seed=1)
    here = Vocabulary.from_text_model(["cat", "dog"], clip_folder)
    model = tiny_model()
    pool = PrototypePool(torch.eye(16)[:4], info=here.info)
    model.set_pool(pool, here)
    model.set_vocabulary(Vocabulary.from_text_model(["yak"], moved))  # another path, the same encoder
    assert model.vocabulary.names == ["yak"]
    stranger = Vocabulary.from_text_model(["yak"], other)
    disguised = Vocabulary(["yak"], stranger.embeddings, {**stranger.info, "encoder": here.info["encoder"]})
    for vocabulary in (stranger, disguised):
        with pytest.raises(ValueError, match="other table") as error:
            model.set_vocabulary(vocabulary)
        for info in (vocabulary.info, here.info):
            assert info["encoder"] in str(error.value) and info["encoder_fingerprint"] in str(error.value)
    nameless = {key: value for key, value in here.info.items() if key != "encoder_fingerprint"}
    model.set_vocabulary(Vocabulary(["yak"], here.embeddings[:1], nameless))  # then the name decides
    with pytest.raises(ValueError, match="other table"):
        model.set_vocabulary(Vocabulary(["yak"], here.embeddings[:1], {"encoder": "some/clip"}))


def test_new_names_survive_saving(clip_folder, tmp_path):
    model = tiny_model().eval()
    model.set_vocabulary(Vocabulary.from_text_model(STRANGE, clip_folder))
    model.save_pretrained(tmp_path)
    loaded = DeCoDetrForObjectDetection.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = model(pixels).logits, loaded(pixels).logits
    assert before.shape[-1] == len(STRANGE) and torch.equal(before, after)
    assert loaded.vocabulary.names == STRANGE and loaded.vocabulary.info == model.vocabulary.info
    assert loaded.config.id2label == dict(enumerate(STRANGE))


def test_names_that_differ_only_beyond_the_text_encoders_length_are_refused(clip_folder):
    with pytest.raises(ValueError, match="differ only after the 32 tokens .* shorten them"):
        Vocabulary.from_text_model(["cat", "a" * 50 + "b", "a" * 50 + "c"], clip_folder)


def test_a_name_that_is_cut_off_is_named(clip_folder, caplog):
    Vocabulary.from_text_model(["cat", "a" * 100], clip_folder)
    assert "1 of 2 names are longer than the 32 tokens" in caplog.text and "'aaaaa" in caplog.text


def test_names_that_fit_give_no_warning_and_duplicates_are_no_clash(clip_folder, caplog):
    Vocabulary.from_text_model(["cat", "cat", "a" * 100, "a" * 100], clip_folder, "{}")
    assert "2 of 4 names" in caplog.text
    caplog.clear()
    Vocabulary.from_text_model(["cat", "dog"], clip_folder)
    assert not caplog.records
