"""The folder of a PrototypePool: every bit survives, and foreign or damaged files are refused by name."""

import json
import os
import pickle
import shutil

import pytest
import torch

from decodetr import PrototypePool


def _two_levels(captions=True):
    """Two coarse prototypes, three fine ones under them."""
    return PrototypePool(
        torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1),
        level=torch.tensor([0, 0, 1, 1, 1]),
        parent=torch.tensor([-1, -1, 0, 1, 0]),
        count=torch.tensor([10, 20, 4, 20, 6]),
        captions=["a cat", "salt, pepper", "crème brûlée", "犬 🐕", 'say "hi"\n\ttwice'] if captions else None,
        info={"encoder": "some/clip", "delta": 0.2, "seed": 3, "nested": {"tries": [1, 2]}},
    )


@pytest.mark.parametrize("captions", [True, False])
def test_save_and_load_keep_every_bit(tmp_path, captions):
    pool = _two_levels(captions)
    pool.save_pretrained(tmp_path / "deep" / "pool")
    loaded = PrototypePool.from_pretrained(tmp_path / "deep" / "pool")
    assert sorted(os.listdir(tmp_path / "deep" / "pool")) == ["pool.json", "pool.safetensors"]
    assert dict(pool.named_buffers()).keys() == dict(loaded.named_buffers()).keys()
    for name, buffer in pool.named_buffers():
        other = getattr(loaded, name)
        assert buffer.dtype == other.dtype and torch.equal(buffer, other), name
    assert loaded.captions == pool.captions and loaded.info == pool.info


def test_saving_twice_writes_the_same_bytes(tmp_path):
    _two_levels().save_pretrained(tmp_path / "a")
    PrototypePool.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    for file in ("pool.json", "pool.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_half_a_pool_is_saved_whole(tmp_path):
    pool = _two_levels()
    exact = pool.prototypes.clone()
    pool.half().save_pretrained(tmp_path)
    assert torch.equal(PrototypePool.from_pretrained(tmp_path).prototypes, exact)


def test_info_cannot_break_the_folder(tmp_path):
    """Provenance is free text of the user; its keys must not replace those that make a folder readable."""
    info = {"format": "mine", "format_version": 7, "encoder": "some/clip"}
    PrototypePool(torch.eye(4), captions=list("abcd"), info=info).save_pretrained(tmp_path)
    loaded = PrototypePool.from_pretrained(tmp_path)
    assert loaded.captions == list("abcd") and loaded.info["encoder"] == "some/clip"


def _rewrite(folder, **changes):
    """Replace tensors of a saved pool without any of the class's checks."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "pool.safetensors")
    tensors.update(changes)
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "pool.safetensors")


def _metadata(folder, **changes):
    metadata = json.loads((folder / "pool.json").read_text(encoding="utf-8"))
    metadata.update(changes)
    (folder / "pool.json").write_text(json.dumps(metadata), encoding="utf-8")


class _Payload:
    """Unpickling it makes a file, so that a test sees whether anything was unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _truncate(folder):
    data = (folder / "pool.safetensors").read_bytes()
    (folder / "pool.safetensors").write_bytes(data[: len(data) - 40])


def _pickle(folder):
    with open(folder / "pool.safetensors", "wb") as file:
        pickle.dump(_Payload(folder / "unpickled"), file)


def _torch_pickle(folder):
    torch.save({"prototypes": _Payload(folder / "unpickled")}, folder / "pool.safetensors")


DAMAGE = {
    "truncated": (_truncate, "pool.safetensors", "cannot be read"),
    "empty": (lambda f: (f / "pool.safetensors").write_bytes(b""), "pool.safetensors", "cannot be read"),
    "pickle": (_pickle, "pool.safetensors", "cannot be read"),
    "torch pickle": (_torch_pickle, "pool.safetensors", "cannot be read"),
    "NaN row": (
        lambda f: _rewrite(f, prototypes=torch.tensor([[1.0, 0]] * 3 + [[float("nan"), 1]] + [[0.0, 1]])),
        "pool.safetensors",
        "row 3",
    ),
    "parent is fine": (
        lambda f: _rewrite(f, parent=torch.tensor([-1, -1, 0, 4, 0])),
        "pool.safetensors",
        "parent of a fine prototype must be the row of a coarse one",
    ),
    "parent outside": (
        lambda f: _rewrite(f, parent=torch.tensor([-1, -1, 0, 99, 0])),
        "pool.safetensors",
        "parent of a fine prototype",
    ),
    "level of another length": (lambda f: _rewrite(f, level=torch.zeros(3).long()), "pool.safetensors", r"\(5,\)"),
    "integer prototypes": (lambda f: _rewrite(f, prototypes=torch.ones(5, 8).long()), "pool.safetensors", "float"),
    "no prototypes": (lambda f: _rewrite(f, prototypes=None, parent=None), "pool.safetensors", "prototypes, parent"),
    "later version": (lambda f: _metadata(f, format_version=2), "pool.json", r"'decodetr-pool', 1\), got"),
    "another format": (lambda f: _metadata(f, format="decodetr-vocabulary"), "pool.json", "decodetr-vocabulary"),
    "a list": (lambda f: (f / "pool.json").write_text("[1, 2]"), "pool.json", "format"),
    "no JSON": (lambda f: (f / "pool.json").write_text("{'format'"), "pool.json", "not valid JSON"),
    "no UTF-8": (lambda f: (f / "pool.json").write_bytes(b'{"format": "\xff\xfe"}'), "pool.json", "not valid JSON"),
    "captions too few": (lambda f: _metadata(f, captions=["one"]), "pool.json", "got 1"),
    "captions a number": (lambda f: _metadata(f, captions=5), "pool.json", "captions"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_foreign_or_damaged_folder_is_named(tmp_path, damage):
    spoil, file, message = DAMAGE[damage]
    _two_levels().save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        PrototypePool.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value) and file in str(error.value)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("file", ["pool.json", "pool.safetensors"])
def test_a_missing_file_is_named(tmp_path, file):
    _two_levels().save_pretrained(tmp_path)
    os.remove(tmp_path / file)
    with pytest.raises(FileNotFoundError, match="pool.safetensors and pool.json") as error:
        PrototypePool.from_pretrained(tmp_path)
    assert str(tmp_path / file) in str(error.value)


def test_a_folder_of_pickles_is_not_loaded(tmp_path):
    torch.save({"prototypes": torch.eye(3)}, tmp_path / "pool.bin")
    torch.save({"prototypes": torch.eye(3)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="other formats are not loaded"):
        PrototypePool.from_pretrained(tmp_path)


def test_a_missing_folder_is_not_looked_for_on_the_hub(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        PrototypePool.from_pretrained(tmp_path / "nowhere")
    _two_levels().save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        PrototypePool.from_pretrained(tmp_path / "pool.safetensors")


def test_a_failed_save_leaves_the_old_pool(tmp_path):
    pool = _two_levels()
    pool.save_pretrained(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    broken = PrototypePool(torch.eye(3), info={"encoder": object()})
    with pytest.raises(TypeError):
        broken.save_pretrained(tmp_path)
    for file in ("pool.json", "pool.safetensors"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "copy" / file).read_bytes()
