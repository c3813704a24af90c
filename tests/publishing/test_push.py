"""`decodetr push`: what goes, what stays, and what is refused before anything is sent."""

import json
import shutil
import zipfile

import pytest
import torch
from helpers.exports import NAMES, SIZE, assert_same, pictures
from helpers.hub_server import use_hub
from helpers.tiny_models import tiny_model

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool, Vocabulary
from decodetr.cli import main
from decodetr.modeling_decodetr.embedding_artifact import random_rows
from decodetr.publishing.contents import contents
from decodetr.runtime import ExportedDetector

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
CARD = "---\nlicense: apache-2.0\nlibrary_name: decodetr\n---\n# Mine\n![seen](pictures/seen.png)\n"


def with_card(folder, card=CARD):
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "pictures").mkdir(exist_ok=True)
    for name in ("seen.png", "unseen.png"):
        (folder / "pictures" / name).write_bytes(b"png")
    return folder


@pytest.fixture(scope="session")
def model():
    return tiny_model("detr", names=["cat", "dog"]).eval()


@pytest.fixture(scope="session")
def made(model, onnx_folder, tmp_path_factory):
    """A folder of each kind."""
    top = tmp_path_factory.mktemp("made")
    processor = DeCoDetrImageProcessor(size=SIZE)
    model.save_pretrained(top / "model")
    processor.save_pretrained(top / "model")
    PrototypePool(random_rows(4, 16), captions=list("abcd")).save_pretrained(top / "pool")
    Vocabulary(["cat", "yak"], random_rows(2, 16)).save_pretrained(top / "vocabulary")
    shutil.copytree(onnx_folder, top / "onnx")
    described = json.loads((onnx_folder / "export.json").read_text())
    (top / "onnx" / "export.json").write_text(json.dumps({**described, "source": "mine"}))  # no place of this machine
    for folder in top.iterdir():
        with_card(folder)
    return top


@pytest.fixture
def run_folder(made, tmp_path):
    """A model among what its training left."""
    folder = tmp_path / "run"
    shutil.copytree(made / "model", folder)
    for name in ("training_args.bin", "optimizer.pt", "trainer_state.json", "checkpoint-7/model.safetensors", ".env"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"secret")
    (folder / "LICENSE").write_text("mine")
    return folder


@pytest.mark.parametrize("kind", ["model", "pool", "vocabulary", "onnx"])
def test_each_kind_goes_with_its_card(hub, made, kind, capsys):
    assert main(["push", str(made / kind), f"me/{kind}"]) == 0
    printed = capsys.readouterr().out
    stored = hub.files(f"me/{kind}")
    local = {f.relative_to(made / kind).as_posix(): f.read_bytes() for f in (made / kind).rglob("*") if f.is_file()}
    del local["pictures/unseen.png"]
    assert stored == {**local, ".gitattributes": b""}
    last = printed.splitlines()[-1]
    assert last == f"{hub.endpoint}/me/{kind} (commit {hub.repos[f'me/{kind}'].branches['main'][:8]})"
    assert "stays here: pictures/unseen.png\n" in printed


def test_an_exported_model_is_loaded_by_its_name(hub, made, model, monkeypatch, tmp_path):
    assert main(["push", str(made / "onnx"), "me/onnx", "-q"]) == 0
    assert main(["push", str(made / "vocabulary"), "me/names", "--private"]) == 0
    assert hub.repos["me/names"].private
    here, there = ExportedDetector(made / "onnx"), ExportedDetector("me/onnx")
    assert_same(there.detect(pictures(), threshold=0), here.detect(pictures(), threshold=0), score=0, box=0)
    there.set_names(vocabulary="me/names")
    assert there.names == ["cat", "yak"]
    with pytest.raises(FileNotFoundError, match="me/onnx.*it is an exported model; .decodetr predict --model me/onnx"):
        there.set_names(vocabulary="me/onnx")
    use_hub(monkeypatch, hub, tmp_path / "empty", token=None)
    with pytest.raises(FileNotFoundError, match="me/names.*may not be read"):
        there.set_names(vocabulary="me/names")
    with pytest.raises(FileNotFoundError, match="me/nothing: no exported model is there.*Hub repository"):
        ExportedDetector("me/nothing")


def test_what_a_run_left_stays(hub, run_folder, capsys):
    (run_folder / "results.csv").write_text("x")
    assert main(["push", str(run_folder), "mine"]) == 0
    printed = capsys.readouterr().out
    assert "stays here: .env, checkpoint-7/, optimizer.pt, pictures/unseen.png, results.csv, trainer_state" in printed
    assert printed.count("(7)") == 1
    stored = set(hub.files("me/mine"))
    assert {"config.json", "model.safetensors", "modeling_decodetr.py", "README.md", "LICENSE"} < stored
    assert not any(content == b"secret" for content in hub.files("me/mine").values())
    assert main(["push", str(run_folder), "mine", "--everything"]) == 0
    more = set(hub.files("me/mine")) - stored
    assert more == {"results.csv", "trainer_state.json", "pictures/unseen.png"}


def test_nothing_is_sent_by_a_dry_run(hub, run_folder, capsys):
    assert main(["push", str(run_folder), "me/mine", "--dry-run"]) == 0
    assert "nothing was sent" in capsys.readouterr().out
    assert hub.repos == {} and hub.asked == []


def test_folders_of_this_machine_are_sent_by_their_last_part(hub, made, tmp_path):
    folder = shutil.copytree(made / "onnx", tmp_path / "onnx")
    content = json.loads((folder / "export.json").read_text())
    content |= {"source": "/home/me/mine", "training_info": {"data": "/home/me/photos"}}
    (folder / "export.json").write_text(json.dumps(content))
    assert main(["push", str(folder), "me/mine"]) == 0
    sent = json.loads(hub.files("me/mine")["export.json"])
    assert sent == {**content, "source": "mine", "training_info": {"data": "photos"}}
    assert json.loads((folder / "export.json").read_text()) == content


LINKS = """
![a](<my pic.jpg>) ![b](b_(1).jpg "t") ![c][1] [![d](d.jpg)](e.json#top) <img src=f.jpg> ![g](g%20h.jpg?raw=true)
<picture><source srcset="dark.jpg 2x, darker.jpg"><img src='./pictures/i.jpg'></picture>
![j](j\\_k.jpg) ![l](l&amp;m.jpg)

[1]: n.jpg
[2]: <o p.jpg> "title"
"""


def test_all_that_a_card_shows_goes(made, tmp_path):
    folder = shutil.copytree(made / "pool", tmp_path / "pool")
    shown = ["my pic.jpg", "b_(1).jpg", "n.jpg", "d.jpg", "e.json", "f.jpg", "g h.jpg", "dark.jpg", "darker.jpg"]
    shown += ["pictures/i.jpg", "j_k.jpg", "l&m.jpg", "o p.jpg"]
    for name in (*shown, "2x.jpg", "my", "b_.jpg"):
        (folder / name).write_bytes(b"jpg")
    (folder / "README.md").write_text(CARD + LINKS, encoding="utf-8")
    sent = set(contents(folder).sent)
    assert sent - {"README.md", "pool.json", "pool.safetensors", "pictures/seen.png"} == set(shown)


def test_a_branch_and_a_message(hub, made, capsys):
    assert main(["push", str(made / "pool"), "me/pool"]) == 0
    words = ["--revision", "v2", "--commit-message", "the second"]
    assert main(["push", str(made / "pool"), "me/pool", *words, "--everything"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{hub.endpoint}/me/pool/tree/v2 (commit ")
    repo = hub.repos["me/pool"]
    assert repo.messages[repo.branches["v2"]] == "the second" and repo.messages[repo.branches["main"]] == "Upload pool"
    assert "pictures/unseen.png" in hub.files("me/pool", "v2") and "pictures/unseen.png" not in hub.files("me/pool")


def test_shards_of_an_earlier_push_go(hub, made, model, tmp_path):
    model.save_pretrained(tmp_path / "model", max_shard_size="100KB")
    DeCoDetrImageProcessor(size=SIZE).save_pretrained(tmp_path / "model")
    with_card(tmp_path / "model")
    assert main(["push", str(tmp_path / "model"), "me/model"]) == 0
    assert "model.safetensors.index.json" in hub.files("me/model")
    assert main(["push", str(made / "model"), "me/model"]) == 0
    assert [name for name in hub.files("me/model") if name.startswith("model.")] == ["model.safetensors"]
    assert not [name for name in hub.files("me/model") if name.startswith("model-")]
    loaded = DeCoDetrForObjectDetection.from_pretrained("me/model").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


# Refused


def refused(capsys, *words):
    assert main(["push", *map(str, words)]) == 1
    return capsys.readouterr().err


def test_a_repository_of_another_kind_stays_as_it_is(hub, made, capsys):
    assert main(["push", str(made / "pool"), "me/mine"]) == 0
    before = dict(hub.repos["me/mine"].branches)
    said = refused(capsys, made / "vocabulary", "me/mine", "--revision", "other")
    assert f"me/mine holds a pool, and {made / 'vocabulary'} is a vocabulary; name another repository" in said
    assert hub.repos["me/mine"].branches == before


@pytest.mark.parametrize(
    "card, message",
    [
        (None, "README.md is missing: it is the card"),
        (CARD.replace("license: apache-2.0\n", ""), "no license is stated"),
        (CARD + "[More Information Needed]\n", "a placeholder, '\\[More Information Needed\\]'"),
        (CARD + "{{ license }}\n", "a field of a template"),
    ],
)
def test_a_card_that_is_not_done_is_refused(hub, made, card, message, tmp_path, capsys):
    shutil.copytree(made / "pool", tmp_path / "pool")
    (tmp_path / "pool" / "README.md").unlink()
    if card is not None:
        (tmp_path / "pool" / "README.md").write_text(card)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        contents(tmp_path / "pool")
    assert "README.md" in refused(capsys, tmp_path / "pool", "me/pool") and hub.asked == []


def test_what_is_damaged_is_refused(hub, made, tmp_path, capsys):
    folders = {}
    for kind, file in {"model": "model.safetensors", "pool": "pool.safetensors", "onnx": "model.onnx"}.items():
        folders[kind] = shutil.copytree(made / kind, tmp_path / kind)
        (folders[kind] / file).write_bytes((folders[kind] / file).read_bytes()[:-3000])
    for folder in folders.values():
        assert str(folder) in refused(capsys, folder, "me/mine")
    assert hub.asked == []


def test_other_folders_are_refused_with_what_they_are(hub, made, model, tmp_path, capsys):
    assert "there is no such folder" in refused(capsys, tmp_path / "nothing", "me/mine")
    shutil.copytree(made / "model", tmp_path / "built" / "model")
    assert f"its model is {tmp_path / 'built' / 'model'}" in refused(capsys, tmp_path / "built", "me/mine")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text("{}")
    assert "it is a report of `decodetr eval`" in refused(capsys, tmp_path / "report", "me/mine")
    assert "it has built, report" in refused(capsys, tmp_path, "me/mine")
    for name in ("a/b/c", "me/bad name"):
        assert f"'{name}'" in refused(capsys, made / "pool", name)
        assert f"'{name}'" in refused(capsys, made / "pool", name, "--dry-run")
    model.detector.save_pretrained(tmp_path / "detr")
    said = refused(capsys, tmp_path / "detr", "me/mine", "--dry-run")
    assert "holds a model of type 'detr', expected a DeCo-DETR" in said and "README.md" not in said
    assert hub.asked == []


def test_who_may_not_write_is_told(hub, made, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    said = refused(capsys, made / "pool", "me/pool")
    assert "The Hub does not know this token" in said and f"{hub.endpoint}/settings/tokens" in said
    assert hub.repos == {}


@pytest.mark.parametrize("request_", ["PUT /lfs/", "POST /api/models/me/mine/commit", "POST /api/models/me/mine/pre"])
def test_an_upload_that_breaks_off_is_invisible_and_can_be_tried_again(hub, made, request_, capsys):
    hub.lose(request_, times=100)
    assert "me/mine: the connection to the Hub failed" in refused(capsys, made / "onnx", "me/mine")
    assert list(hub.files("me/mine")) == [".gitattributes"]
    hub.losses.clear()
    assert main(["push", str(made / "onnx"), "me/mine"]) == 0
    assert {"model.onnx", "export.json"} < set(hub.files("me/mine"))


def test_a_download_that_breaks_off_is_not_used(hub, made):
    assert main(["push", str(made / "onnx"), "me/mine"]) == 0
    hub.lose("GET /me/mine/resolve", times=100)
    with pytest.raises(ConnectionError, match="no half of it is used"):
        ExportedDetector("me/mine")
    hub.losses.clear()
    assert ExportedDetector("me/mine").names == NAMES


def test_a_program_of_torch_is_checked_without_running_what_is_pickled_in_it(made, tmp_path):
    folder = shutil.copytree(made / "onnx", tmp_path / "pt2")
    (folder / "model.onnx").unlink()
    described = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps({**described, "runtime": "pt2", "files": {}}))

    def write(digest):
        with zipfile.ZipFile(folder / "model.pt2", "w") as archive:
            archive.writestr("model/extra/decodetr.json", json.dumps({"weights_digest": digest}))

    write(described["weights_digest"])
    assert "model.pt2" in contents(folder).sent
    write("another")
    with pytest.raises(ValueError, match="model.pt2 and export.json beside it are of two exports"):
        contents(folder)
    (folder / "model.pt2").write_bytes(b"PK")
    with pytest.raises(ValueError, match="model.pt2 cannot be read"):
        contents(folder)


def test_a_model_of_the_package_needs_no_extra_file():
    from decodetr.utils.shipped import HUB_CARDS

    found = contents(HUB_CARDS / "scenes-vocabulary")
    assert found.sent == ["README.md", "vocabulary.json", "vocabulary.safetensors"] and found.left == []


def test_a_link_sends_no_file_from_elsewhere(run_folder, tmp_path):
    (tmp_path / "id_rsa").write_text("mine")
    (run_folder / "LICENSE").unlink()
    (run_folder / "LICENSE").symlink_to(tmp_path / "id_rsa")
    with pytest.raises(ValueError, match="LICENSE is a link to .*id_rsa, which is outside of the folder"):
        contents(run_folder)
