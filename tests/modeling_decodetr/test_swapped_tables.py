"""Tables that are put into a model: what is refused, what is warned of, and that it trains afterwards."""

import copy
import logging

import pytest
import torch
from helpers.tiny_models import NAMES, tiny_batch, tiny_config, tiny_model

from decodetr import DeCoDetrForObjectDetection, PrototypePool, Vocabulary


def _vocabulary(names=NAMES, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return Vocabulary(names, torch.randn(len(names), 16, generator=generator))


def _pool(rows=12, seed=7, captions=True):
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.nn.functional.normalize(torch.randn(rows, 16, generator=generator), dim=-1)
    return PrototypePool(prototypes, captions=[f"caption {row}" for row in range(rows)] if captions else None)


def _select(model):
    model.set_vocabulary(NAMES[:2])


def _names(model):
    model.set_vocabulary(_vocabulary(["a", "b"]))


def _from_pool(model):
    model.set_pool(_pool())
    model.set_names("pool")


def _centring(model):
    model.config.centred = False
    model.tables()


@pytest.mark.parametrize("swap", [_select, _names, _from_pool, _centring])
def test_a_swap_inside_of_inference_mode_leaves_a_model_that_trains(swap):
    model, batch = tiny_model().train(), tiny_batch(names=2)
    with torch.inference_mode():
        swap(model)
    assert not any(buffer.is_inference() for buffer in model.buffers())
    model(**batch).loss.backward()


def test_tables_that_were_made_in_inference_mode_train():
    model, batch = tiny_model().train(), tiny_batch()
    with torch.inference_mode():
        pool, vocabulary = _pool(), _vocabulary()
    model.set_pool(pool, vocabulary)
    assert not any(buffer.is_inference() for buffer in model.buffers())
    model(**batch).loss.backward()


@pytest.mark.parametrize("given", [torch.eye(16), {"cat": torch.ones(16)}, torch.eye(16).numpy(), None, _pool()])
def test_what_is_no_vocabulary_is_refused(given):
    model = tiny_model()
    with pytest.raises(ValueError, match=r"must be a Vocabulary\(names, embeddings\) or a list of stored names, got"):
        model.set_vocabulary(given)
    if given is not None:
        with pytest.raises(ValueError, match=r"vocabulary must be a Vocabulary\(names, embeddings\), got"):
            model.set_pool(_pool(), given)
    assert model.vocabulary.names == NAMES


@pytest.mark.parametrize("given", [torch.eye(16), None, _vocabulary()])
def test_what_is_no_pool_is_refused(given):
    with pytest.raises(ValueError, match=r"pool must be a PrototypePool\(prototypes, .*, got"):
        tiny_model().set_pool(given)


def _warnings(caplog):
    return [record.getMessage() for record in caplog.records if "load_state_dict changes" in record.getMessage()]


@pytest.mark.parametrize("table", ["vocabulary", "pool"])
def test_weights_of_a_model_with_other_names_or_captions_are_told(table, caplog):
    model, other = tiny_model(), tiny_model()
    model.set_pool(_pool(), _vocabulary())
    other.set_pool(_pool(seed=8) if table == "pool" else _pool(), _vocabulary())
    if table == "vocabulary":
        other.set_vocabulary(NAMES[::-1])  # another order
    with caplog.at_level(logging.WARNING):
        model.load_state_dict(other.state_dict())
    (message,) = _warnings(caplog)
    expected = {
        "vocabulary": ("vocabulary.embeddings", "'salt, pepper'", "model.set_vocabulary"),
        "pool": ("prototype_pool.prototypes", "captions", "model.set_pool"),
    }
    assert all(words in message for words in expected[table])
    caplog.clear()
    getattr(model, f"set_{table}")(other.vocabulary if table == "vocabulary" else other.prototype_pool)
    model.load_state_dict(other.state_dict())
    assert not _warnings(caplog)


def test_weights_that_belong_to_the_names_are_loaded_without_a_word(tmp_path, caplog):
    model = tiny_model()
    model.set_pool(_pool(), _vocabulary())
    state = model.state_dict()
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = DeCoDetrForObjectDetection.from_pretrained(tmp_path)
        loaded.load_state_dict(state)
        copy.deepcopy(model).load_state_dict({name: value.bfloat16() for name, value in state.items()})
        DeCoDetrForObjectDetection(model.config).load_state_dict(state)  # random rows give way
        torch.optim.swa_utils.AveragedModel(model).load_state_dict({f"module.{k}": v for k, v in state.items()}, False)
        model.load_state_dict({"semantic_stream.predictor.bias": torch.zeros(16)}, strict=False)
        moving = DeCoDetrForObjectDetection(tiny_config(pool_update="literal"))
        moving.set_pool(_pool(seed=8), _vocabulary())
        moving.load_state_dict(state)  # an earlier step of a run whose prototypes move
    assert not _warnings(caplog)
