"""Models, pools and vocabularies go to the Hub and come back, through the real client: whole or not at all, and what
is refused says what to do."""

import pytest
import torch
from helpers.hub_server import OTHER_TOKEN, use_hub
from helpers.tiny_models import tiny_batch, tiny_model
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool, Vocabulary
from decodetr.utils.card_leftovers import card_leftovers

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
ROWS = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.fixture
def pool():
    return PrototypePool(ROWS, captions=["a", "b", "c"])


def files_of(artifact, folder):
    artifact.save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_pool_and_vocabulary_travel(hub, tmp_path):
    info = {"captioner": "llava|x", "annotated_names": list("abcdefg"), "prompt": "two\nlines"}
    pool = PrototypePool(ROWS, count=torch.tensor([1, 3, 2]), captions=["a", "b, c", "é"], info=info)
    made = pool.push_to_hub("pool", license="mit")
    assert made.commit_message == "Upload pool" and made.commit_url.startswith(f"{hub.endpoint}/me/pool/commit/")
    stored = hub.files("me/pool")
    assert {name: stored[name] for name in ("pool.json", "pool.safetensors")} == files_of(pool, tmp_path / "pool")
    loaded = PrototypePool.from_pretrained("me/pool", revision=made.oid)
    assert torch.equal(loaded.prototypes, pool.prototypes) and loaded.captions == pool.captions
    card = stored["README.md"].decode()
    assert card.startswith("---\nlibrary_name: decodetr\nlicense: mit\n") and "# pool\n" in card
    assert "3 coarse and 0 fine ones of width 4" in card and "The largest stand for:\n- b, c\n- é\n- a\n" in card
    assert "| captioner | llava\\|x |" in card and "| prompt | two lines |" in card
    assert 'place = "me/pool"\n' in card and card_leftovers(card) == []
    names = Vocabulary(["x", "y"], torch.randn(2, 4), {"encoder": "e"})
    assert names.push_to_hub("me/names", license="mit", commit_message="mine").commit_message == "mine"
    stored = hub.files("me/names")
    assert "Embeddings of 2 names, width 4" in stored["README.md"].decode() and "x, y." in stored["README.md"].decode()
    assert {**files_of(names, tmp_path / "names"), "README.md": stored["README.md"], ".gitattributes": b""} == stored
    assert Vocabulary.from_pretrained("me/names").info == {"encoder": "e"}


def test_a_model_travels_with_its_image_processor_and_card(hub):
    model, processor = tiny_model().eval(), DeCoDetrImageProcessor(size={"height": 64, "width": 96})
    model.push_to_hub("me/model", license="mit")
    processor.push_to_hub("me/model")
    assert len(hub.repos["me/model"].commits) == 3  # one each, and that of the new repository
    assert {"README.md", "model.safetensors", "modeling_decodetr.py"} <= set(hub.files("me/model"))
    loaded = AutoModelForObjectDetection.from_pretrained("me/model")
    assert type(loaded) is DeCoDetrForObjectDetection
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    pixels = tiny_batch()["pixel_values"]
    with torch.no_grad():
        assert torch.equal(loaded.eval()(pixels).logits, model(pixels).logits)
    assert dict(AutoImageProcessor.from_pretrained("me/model").size) == {"height": 64, "width": 96}


def test_a_branch_is_a_version_of_its_own(hub, pool):
    pool.push_to_hub("me/pool", license="mit")
    other = PrototypePool(ROWS[:2], captions=["x", "y"])
    other.push_to_hub("me/pool", license="mit", revision="two")
    assert PrototypePool.from_pretrained("me/pool").captions == ["a", "b", "c"]
    assert PrototypePool.from_pretrained("me/pool", revision="two").captions == ["x", "y"]
    with pytest.raises(RevisionNotFoundError, match="me/pool has no such revision: give a branch, a tag or a commit"):
        PrototypePool.from_pretrained("me/pool", revision="three")


def test_a_private_repository_is_for_its_owner(hub, pool):
    pool.push_to_hub("me/pool", license="mit", private=True)
    tiny_model().push_to_hub("me/model", license="mit", private=True)
    assert hub.repos["me/pool"].private and hub.repos["me/model"].private
    for token in (False, OTHER_TOKEN):
        with pytest.raises(RepositoryNotFoundError, match="private or gated repo, make sure you are authenticated"):
            PrototypePool.from_pretrained("me/pool", token=token)
        with pytest.raises(OSError, match="private repository.*hf auth login"):
            DeCoDetrForObjectDetection.from_pretrained("me/model", token=token)
    assert PrototypePool.from_pretrained("me/pool").captions == ["a", "b", "c"]


@pytest.mark.parametrize("make", [lambda: PrototypePool(ROWS), tiny_model], ids=["pool", "model"])
def test_who_may_not_write_is_told_what_to_do(hub, make, monkeypatch, tmp_path):
    artifact = make()
    with pytest.raises(HfHubHTTPError, match="does not know this token: make a token with the right to write"):
        artifact.push_to_hub("me/mine", license="mit", token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="you/mine cannot be written with .*: name a repository of yours"):
        artifact.push_to_hub("you/mine", license="mit")
    use_hub(monkeypatch, hub, tmp_path / "nobody", token=None)
    with pytest.raises(HfHubHTTPError, match="or without one: .*`hf auth login` or in .*HF_TOKEN"):
        artifact.push_to_hub("me/mine", license="mit")
    assert hub.repos == {}


def test_a_wrong_token_reads_nothing(hub, pool):
    pool.push_to_hub("me/pool", license="mit")
    with pytest.raises(HfHubHTTPError, match="does not know this token: make a token with the right to read"):
        PrototypePool.from_pretrained("me/pool", token="hf_wrong")


def test_what_is_not_there_is_named(hub, pool):
    with pytest.raises(RepositoryNotFoundError, match="Repository Not Found.*me/nothing"):
        PrototypePool.from_pretrained("me/nothing")
    pool.push_to_hub("me/pool", license="mit")
    with pytest.raises(FileNotFoundError, match="me/pool holds no vocabulary, .*; it has README.md, pool"):
        Vocabulary.from_pretrained("me/pool")
    with pytest.raises(OSError, match="^me/pool holds no DeCo-DETR; it has README.md, pool.json, pool.safetensors.$"):
        DeCoDetrForObjectDetection.from_pretrained("me/pool")


# The connection is lost


@pytest.mark.parametrize("make", [lambda: PrototypePool(ROWS), tiny_model], ids=["pool", "model"])
@pytest.mark.parametrize("request_", ["PUT /lfs/", "POST /api/models/me/mine/commit"])
def test_an_upload_that_breaks_off_leaves_no_commit(hub, make, request_):
    artifact = make()
    hub.lose(request_, times=100)
    with pytest.raises(ConnectionError, match="me/mine: the connection to the Hub failed .*no half of it is visible"):
        artifact.push_to_hub("me/mine", license="mit")
    assert list(hub.files("me/mine")) == [".gitattributes"] and len(hub.repos["me/mine"].commits) == 1
    hub.losses.clear()
    artifact.push_to_hub("me/mine", license="mit")
    assert len(hub.repos["me/mine"].commits) == 2
    loaded = type(artifact).from_pretrained("me/mine").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in artifact.state_dict().items())


@pytest.mark.parametrize("make", [lambda: PrototypePool(ROWS), tiny_model], ids=["pool", "model"])
def test_a_download_that_breaks_off_gives_nothing_and_goes_on(hub, make):
    artifact = make()
    artifact.push_to_hub("me/mine", license="mit")
    hub.lose("GET /me/mine/resolve", times=100)
    with pytest.raises(OSError):
        type(artifact).from_pretrained("me/mine")
    hub.losses.clear()
    loaded = type(artifact).from_pretrained("me/mine").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in artifact.state_dict().items())


def test_one_loss_is_made_good(hub, pool):
    for request in ("PUT /lfs/", "GET /me/pool/resolve"):
        hub.lose(request, times=1, after=50)
    pool.push_to_hub("me/pool", license="mit")
    assert torch.equal(PrototypePool.from_pretrained("me/pool").prototypes, pool.prototypes)
    assert [loss[1] for loss in hub.losses] == [0, 0]
