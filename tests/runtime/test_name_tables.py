"""What numpy makes of names is what the model makes of them."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_model

from decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.vocabulary import random_rows
from decodetr.runtime.name_tables import log_share, unit


def test_equal_rows_share_a_place():
    rows = unit(np.array([[3, 0], [0, 1], [1, 0], [0, 2], [5, 0], [-0.0, 1]], dtype=np.float32))
    np.testing.assert_allclose(log_share(rows), -np.log([3, 3, 3, 3, 3, 3]))
    vocabulary = Vocabulary(["a", "b", "c", "a"], torch.tensor([[3.0, 0], [0, 1], [1, 1], [1, 0]]))
    np.testing.assert_allclose(log_share(vocabulary.embeddings.numpy()), vocabulary.log_share.numpy())


@pytest.fixture(scope="module")
def model():
    """A model whose pool has measured means, and whose names stand for some of its prototypes."""
    model = tiny_model("detr", background_threshold=0.4).eval()
    mean = torch.nn.functional.normalize(torch.ones(16), dim=0) * 0.3
    pool = PrototypePool(
        model.prototype_pool.prototypes,
        model.prototype_pool.level,
        model.prototype_pool.parent,
        model.prototype_pool.count,
        info={"encoder": "clip", "space": {"text_mean": mean.tolist(), "image_mean": mean.tolist()}},
    )
    model.set_pool(pool)
    return model


def test_tables_are_those_of_the_model(model, tmp_path):
    from decodetr.export.export_run import describe, write_tables
    from decodetr.export.settings import ExportSettings
    from decodetr.runtime.name_tables import NameSpace

    settings = ExportSettings("onnx", names_input=True)
    description = describe(model, settings, {}, (64, 64), "tiny")
    write_tables(model, tmp_path)
    space = NameSpace(tmp_path, description)
    names = [f"name {i}" for i in range(20)]
    vocabulary = Vocabulary(names, random_rows(20, 16, seed=5), {"encoder": "clip"})
    vocabulary.save_pretrained(tmp_path / "more")
    for found, expected in (
        (space.stored(), model.tables()),
        (space.of_folder(tmp_path / "more"), model.semantic_stream.tables_with(model.tables(), vocabulary)),
    ):
        assert found.names == expected.vocabulary.names
        np.testing.assert_allclose(found.rows, expected.names.numpy(), atol=1e-6)
        np.testing.assert_array_equal(found.log_share, expected.vocabulary.log_share.numpy())
        np.testing.assert_array_equal(found.background, expected.background.numpy())
    assert 0 < space.of_folder(tmp_path / "more").background.sum() < 12, "the threshold divides the prototypes"
    assert space.of_folder(tmp_path / "more", ["name 3"]).names == ["name 3"]
    with pytest.raises(ValueError, match=r"lacks 1 of the 1 names, such as 'name 33' \(close: name 3, "):
        space.of_folder(tmp_path / "more", ["name 33"])
    Vocabulary(names, random_rows(20, 8, seed=5)).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ValueError, match="narrow: the embeddings are 8 wide, those of the model 16"):
        space.of_folder(tmp_path / "narrow")
    Vocabulary(names, random_rows(20, 16, seed=5), {"encoder": "other"}).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="was made with encoder 'other', the tables of the model with 'clip'"):
        space.of_folder(tmp_path / "other")
