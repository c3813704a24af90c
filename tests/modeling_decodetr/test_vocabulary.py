"""Vocabulary: names are kept to the letter, rows to the bit, and duplicates share one place in the softmax."""

import json
import os
import re
import time

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_config

from decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.semantic_stream import SemanticStream


def test_a_name_that_is_no_text_is_refused_before_it_is_embedded():
    with pytest.raises(
        ValueError, match=r"names must be texts, got 'caf.udce9' at position 1: was it written in UTF-8"
    ):
        Vocabulary.from_text_model(["cat", "caf\udce9"], "no-such-model")


STRANGE = [
    "cat",
    "salt, pepper",
    "crème brûlée",
    "creme brulee",
    "犬",
    "🐕‍🦺",
    " leading and trailing ",
    'say "hi"\n\ttwice',
    "a/b\\c",
    "Cat",
    "0",
    "e\u0301 is not \u00e9",
]


def _rows(count, dim=16, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def _probabilities(names, embeddings, prototypes=4):
    """p (3, K) and the background's, for three fixed r_n."""
    torch.manual_seed(0)
    stream = SemanticStream(tiny_config(num_coarse_prototypes=prototypes, num_fine_prototypes=0), 32, [16])
    vocabulary, pool = Vocabulary(names, embeddings), PrototypePool(_rows(prototypes, seed=5))
    stream.refresh(pool, vocabulary)
    with torch.no_grad():
        log_probs, background = stream.name_log_probs(_rows(3, seed=6), stream.tables(pool, vocabulary))
    return log_probs.exp(), background.exp()


# Duplicates


@pytest.mark.parametrize("order", [["cat", "cat", "dog"], ["dog", "cat", "cat"], ["cat", "dog", "cat", "cat", "dog"]])
def test_duplicates_share_one_place(order):
    rows = dict(zip(["cat", "dog"], _rows(2)))
    once, background = _probabilities(["cat", "dog"], torch.stack([rows["cat"], rows["dog"]]))
    more, same_background = _probabilities(order, torch.stack([rows[name] for name in order]))
    for k, name in enumerate(order):
        assert torch.allclose(more[:, k], once[:, ["cat", "dog"].index(name)], atol=1e-6)
    assert torch.allclose(background, same_background, atol=1e-6)


def test_names_with_equal_embeddings_share_a_place_and_equal_names_with_other_embeddings_do_not():
    rows = _rows(3)
    synonyms, _ = _probabilities(["couch", "sofa", "dog"], rows[[0, 0, 1]])
    alone, _ = _probabilities(["couch", "dog"], rows[[0, 1]])
    assert torch.allclose(synonyms[:, [0, 2]], alone, atol=1e-6)
    assert torch.allclose(synonyms[:, 1], alone[:, 0], atol=1e-6)
    # "bat" the animal and "bat" the club are two entries.
    animal_and_club, _ = _probabilities(["bat", "bat", "dog"], rows)
    distinct, _ = _probabilities(["a", "b", "c"], rows)
    assert torch.equal(animal_and_club, distinct)


def test_duplicates_of_another_length_are_still_one():
    rows = _rows(2)
    scaled, _ = _probabilities(["cat", "cat", "dog"], torch.stack([rows[0], rows[0] * 4, rows[1]]))
    once, _ = _probabilities(["cat", "dog"], rows)
    assert torch.allclose(scaled[:, [0, 2]], once, atol=1e-6)


def test_log_normaliser_by_hand():
    vocabulary = Vocabulary(["a", "b", "c", "d"], torch.eye(4)[[0, 1, 1, 2]])
    logits = torch.tensor([[0.3, -1.0, -1.0, 2.0]])
    assert vocabulary.log_normaliser(logits).item() == pytest.approx(np.log(np.exp(0.3) + np.exp(-1) + np.exp(2)))


# Names


def test_strange_names_round_trip(tmp_path):
    vocabulary = Vocabulary(STRANGE, _rows(len(STRANGE)), {"encoder": "some/clip", "templates": ["a photo of a {}."]})
    vocabulary.save_pretrained(tmp_path)
    loaded = Vocabulary.from_pretrained(tmp_path)
    assert loaded.names == STRANGE
    assert loaded.info == {"encoder": "some/clip", "templates": ["a photo of a {}."]}
    assert sorted(os.listdir(tmp_path)) == ["vocabulary.json", "vocabulary.safetensors"]
    assert "crème brûlée" in (tmp_path / "vocabulary.json").read_text(encoding="utf-8")  # readable, not escaped


def test_names_may_be_any_sequence_and_are_copied():
    names = ("cat", "dog")
    vocabulary = Vocabulary(names, _rows(2))
    assert vocabulary.names == ["cat", "dog"] and len(vocabulary) == 2 and vocabulary.embedding_dim == 16
    mine = ["cat", "dog"]
    vocabulary = Vocabulary(mine, _rows(2))
    mine.append("eel")
    assert vocabulary.names == ["cat", "dog"]


@pytest.mark.parametrize(
    "names, embeddings, message",
    [
        ("cat", torch.eye(3), r"got the string 'cat'; write \['cat'\]"),
        (["cat"], torch.eye(3), "1 names and 3 rows"),
        ([], torch.zeros(0, 3), "non-empty float tensor|at least one name"),
        (["cat", ""], torch.eye(2), "non-empty strings, got '' at position 1"),
        (["cat", " \t"], torch.eye(2), "non-empty strings, got ' .t' at position 1"),
        (["cat", 7], torch.eye(2), "got 7 at position 1"),
        (["cat", None], torch.eye(2), "got None at position 1"),
        (["cat", "dog"], torch.tensor([[1.0, 0], [0, 0]]), "embedding of 'dog' is zero"),
        (["cat", "dog"], torch.tensor([[1.0, 0], [float("nan"), 0]]), "first in row 1"),
        (["cat", "dog"], torch.tensor([[1.0, float("inf")], [0, 1]]), "first in row 0"),
        (["cat", "dog"], torch.ones(2, 3, dtype=torch.int64), "float tensor"),
        (["cat", "dog"], torch.ones(2), "float tensor"),
    ],
)
def test_vocabulary_refuses(names, embeddings, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(names, embeddings)


# Selection


def test_select_follows_the_order_given():
    vocabulary = Vocabulary(STRANGE, _rows(len(STRANGE)), {"encoder": "some/clip"})
    wanted = ["🐕‍🦺", "cat", "salt, pepper", "cat"]
    chosen = vocabulary.select(wanted)
    assert chosen.names == wanted and chosen.info == {"encoder": "some/clip"}
    rows = [STRANGE.index(name) for name in wanted]
    assert torch.equal(chosen.embeddings, vocabulary.embeddings[rows])
    assert chosen.log_share.exp().tolist() == pytest.approx([1, 0.5, 1, 0.5])
    assert vocabulary.names == STRANGE  # itself unchanged


def test_select_takes_the_first_of_equal_names():
    vocabulary = Vocabulary(["bat", "bat"], torch.eye(2))
    assert torch.equal(vocabulary.select(["bat"]).embeddings, torch.eye(2)[:1])


def test_select_names_the_unknown_and_what_is_close():
    vocabulary = Vocabulary(["zebra", "traffic light", "cat"], _rows(3))
    with pytest.raises(ValueError, match="2 of 3 names") as error:
        vocabulary.select(["cat", "zebras", "xylophone"])
    assert "'zebras' (close: zebra)" in str(error.value) and "'xylophone' (close: none)" in str(error.value)
    with pytest.raises(ValueError, match="50 of 50 names") as error:
        vocabulary.select([f"unknown {i}" for i in range(50)])
    assert "unknown 4" in str(error.value) and "unknown 5'" not in str(error.value)  # five hints, not fifty


@pytest.mark.parametrize("names, message", [("cat", r"\['cat'\]"), ([], "non-empty|at least one|no names")])
def test_select_refuses_a_string_and_nothing(names, message):
    for stored in (["cat", "dog"], ["a", "c", "t", "cat"]):
        with pytest.raises(ValueError, match=message):
            Vocabulary(stored, _rows(len(stored))).select(names)


# Rows


@pytest.mark.parametrize("dim", [3, 16, 512, 768, 1024])
def test_rows_are_unit_and_kept_to_the_bit(tmp_path, dim):
    names = [f"name {i}" for i in range(300)]
    first = Vocabulary(names, _rows(300, dim) * torch.logspace(-3, 3, 300)[:, None])
    assert torch.allclose(first.embeddings.norm(dim=-1), torch.ones(300), atol=1e-6)
    again = Vocabulary(first.names, first.embeddings)
    assert torch.equal(first.embeddings, again.embeddings)
    again.save_pretrained(tmp_path)
    loaded = Vocabulary.from_pretrained(tmp_path)
    assert torch.equal(loaded.embeddings, first.embeddings) and torch.equal(loaded.log_share, first.log_share)
    chosen = loaded.select(names[::-1])
    assert torch.equal(chosen.embeddings, first.embeddings.flip(0))


def test_directions_are_those_given():
    rows = _rows(5, 8) * 3
    expected = rows.double().numpy() / np.linalg.norm(rows.double().numpy(), axis=1, keepdims=True)
    assert np.allclose(Vocabulary(list("abcde"), rows).embeddings.numpy(), expected, atol=1e-7)
    half = Vocabulary(list("abcde"), rows.half())
    assert half.embeddings.dtype == torch.float32 and np.allclose(half.embeddings.numpy(), expected, atol=1e-3)


def test_the_caller_keeps_their_tensor():
    rows = torch.eye(3)
    vocabulary = Vocabulary(list("abc"), rows)
    rows.mul_(5)
    assert torch.equal(vocabulary.embeddings, torch.eye(3))


def test_half_precision_leaves_the_table_alone():
    vocabulary = Vocabulary(list("aab"), _rows(2)[[0, 0, 1]])
    exact = {name: buffer.clone() for name, buffer in vocabulary.named_buffers()}
    for name, buffer in vocabulary.half().bfloat16().named_buffers():
        assert buffer.dtype == torch.float32 and torch.equal(buffer, exact[name])


def test_ten_thousand_names(tmp_path):
    names = [f"name {i}" for i in range(10_000)]
    start = time.perf_counter()
    vocabulary = Vocabulary(names, _rows(10_000, 512))
    vocabulary.save_pretrained(tmp_path)
    loaded = Vocabulary.from_pretrained(tmp_path)
    chosen = loaded.select(names[::-1])
    assert time.perf_counter() - start < 20
    assert torch.equal(chosen.embeddings, vocabulary.embeddings.flip(0)) and chosen.names == names[::-1]
    assert not vocabulary.log_share.any()
    probabilities, background = _probabilities(names, _rows(10_000, 16))
    assert torch.allclose(probabilities.sum(-1) + background, torch.ones(3), atol=1e-5)


# Folder


def _metadata(folder, drop=(), **changes):
    metadata = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    metadata = {key: value for key, value in {**metadata, **changes}.items() if key not in drop}
    (folder / "vocabulary.json").write_text(json.dumps(metadata), encoding="utf-8")


def _tensors(folder, **tensors):
    from safetensors.torch import save_file

    save_file(tensors, folder / "vocabulary.safetensors")


DAMAGE = {
    "no names": (lambda f: _metadata(f, drop=("names",)), "vocabulary.json", "names"),
    "names too few": (lambda f: _metadata(f, names=["one"]), "vocabulary.json", "1 names and 3 rows"),
    "names a string": (lambda f: _metadata(f, names="cat"), "vocabulary.json", "list of strings"),
    "names a number": (lambda f: _metadata(f, names=5), "vocabulary.json", "not iterable"),
    "names numbers": (lambda f: _metadata(f, names=[1, 2, 3]), "vocabulary.json", "got 1 at position 0"),
    "another version": (lambda f: _metadata(f, format_version=9), "vocabulary.json", "format_version"),
    "no embeddings": (lambda f: _tensors(f, rows=torch.eye(3)), "vocabulary.safetensors", "embeddings is missing"),
    "NaN": (lambda f: _tensors(f, embeddings=torch.full((3, 2), float("nan"))), "vocabulary.safetensors", "row 0"),
    "zero": (lambda f: _tensors(f, embeddings=torch.eye(3, 2)), "vocabulary.safetensors", "'z' is zero"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_named(tmp_path, damage):
    spoil, file, message = DAMAGE[damage]
    Vocabulary(list("xyz"), torch.eye(3)).save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        Vocabulary.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value) and file in str(error.value)


def test_a_pool_folder_is_no_vocabulary(tmp_path):
    PrototypePool(torch.eye(3)).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "vocabulary.safetensors"))):
        Vocabulary.from_pretrained(tmp_path)


def test_both_tables_share_a_folder(tmp_path):
    pool, vocabulary = PrototypePool(torch.eye(3)), Vocabulary(list("xyz"), torch.eye(3))
    pool.save_pretrained(tmp_path), vocabulary.save_pretrained(tmp_path)
    assert Vocabulary.from_pretrained(tmp_path).names == list("xyz")
    assert torch.equal(PrototypePool.from_pretrained(tmp_path).prototypes, torch.eye(3))
