"""Pools and vocabularies go to the Hub and come back; the Hub is a folder here."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr import embedding_artifact


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that keeps repositories as folders below tmp_path."""

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, private=None, exist_ok=False):
            assert exist_ok
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / repo_id)
            return commit_message

    def download(repo_id, revision=None, token=None, local_files_only=False, allow_patterns=None):
        assert revision == "v1" and set(allow_patterns) <= {path.name for path in (tmp_path / repo_id).iterdir()}
        return tmp_path / repo_id

    monkeypatch.setattr(embedding_artifact, "HfApi", Api)
    monkeypatch.setattr(embedding_artifact, "snapshot_download", download)
    return tmp_path


def test_pool_and_vocabulary_travel(hub):
    info = {"captioner": "llava|x", "annotated_names": list("abcdefg"), "prompt": "two\nlines"}
    rows = torch.nn.functional.normalize(torch.randn(3, 4), dim=-1)
    pool = PrototypePool(rows, count=torch.tensor([1, 3, 2]), captions=["a", "b, c", "é"], info=info)
    assert pool.push_to_hub("pool") == "Upload pool"
    loaded = PrototypePool.from_pretrained("me/pool", revision="v1")
    assert torch.equal(loaded.prototypes, pool.prototypes) and loaded.captions == pool.captions
    card = (hub / "me/pool/README.md").read_text()
    assert card.startswith("---\nlibrary_name: decodetr\n") and "3 coarse and 0 fine prototypes of width 4" in card
    assert "The largest stand for: b, c; é; a" in card and "| captioner | llava\\|x |" in card
    assert "| annotated_names | a, b, c, d, e, ... (7) |" in card and "| prompt | two lines |" in card
    names = Vocabulary(["x", "y"], torch.randn(2, 4), {"encoder": "e"})
    assert names.push_to_hub("names", commit_message="mine") == "mine"
    card = (hub / "me/names/README.md").read_text()
    assert "Embeddings of 2 names, width 4" in card and "| encoder | e |" in card
    assert Vocabulary.from_pretrained("me/names", revision="v1").info == {"encoder": "e"}
