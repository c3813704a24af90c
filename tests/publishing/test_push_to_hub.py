"""`push_to_hub` of models, pools and vocabularies: our card goes up, or nothing does, as with `decodetr push`."""

import json
import os
import subprocess
import sys

import pytest
from helpers.exports import SIZE
from helpers.hub_server import hub_environment
from helpers.tiny_models import tiny_model
from helpers.without_decodetr import HIDE
from huggingface_hub import HfApi, ModelCard

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool, Vocabulary
from decodetr.cli import main
from decodetr.modeling_decodetr.embedding_artifact import random_rows
from decodetr.utils.card_leftovers import card_leftovers

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def pool():
    return PrototypePool(random_rows(4, 16), captions=list("abcd"), info={"encoder": "openai/clip"})


def names():
    return Vocabulary(["yak", "gnu"], random_rows(2, 16))


def model():
    return tiny_model("detr", names=["cat", "dog"])


def card_on(hub, repo_id="me/mine"):
    return hub.files(repo_id)["README.md"].decode()


def put_card(hub, text, repo_id="me/mine"):
    """What a person wrote on the Hub. Returns how many commits there are."""
    HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=repo_id)
    return len(hub.repos[repo_id].commits)


@pytest.mark.parametrize("make", [model, pool, names])
def test_our_card_goes_up(hub, make):
    artifact = make()
    artifact.push_to_hub("mine", license="apache-2.0")
    card = card_on(hub)
    assert card_leftovers(card) == [] and "<!-- decodetr:about " in card and '"me/mine"' in card
    assert ModelCard(card).data.license == "apache-2.0" and "## Limits and bias" in card


@pytest.mark.parametrize("make", [model, pool, names])
def test_a_card_without_a_license_is_refused_as_decodetr_push_does(hub, make, tmp_path, capsys):
    artifact = make()
    with pytest.raises(ValueError, match="the card of me/mine cannot be published as it is:\n- ") as refused:
        artifact.push_to_hub("me/mine")
    assert hub.repos == {}
    folder = tmp_path / "mine"
    artifact.save_pretrained(folder)
    DeCoDetrImageProcessor(size=SIZE).save_pretrained(folder) if make is model else None
    assert main(["card", str(folder), "--name", "me/mine", "--output", str(folder)]) == 0
    capsys.readouterr()
    assert main(["push", str(folder), "me/mine"]) == 1
    said = capsys.readouterr().err
    assert said.partition("\n")[2].strip() == str(refused.value).partition("\n")[2].strip()
    assert "no license is stated" in said and hub.repos == {}


def test_what_a_person_wrote_stays_and_is_checked_too(hub):
    pool().push_to_hub("me/mine", license="mit")
    own = card_on(hub) + "\n## Notes\n\nMine, and é.\n"
    put_card(hub, own)
    pool().push_to_hub("me/mine")  # with the license that is there
    assert card_on(hub) == own
    for left, what in (("TODO", "a note to oneself, 'TODO'"), ("[More Information Needed]", "a placeholder")):
        commits = put_card(hub, own + left + "\n")
        with pytest.raises(ValueError, match=what):
            pool().push_to_hub("me/mine")
        assert len(hub.repos["me/mine"].commits) == commits
    with pytest.raises(ValueError, match="a note to oneself"):  # a new branch has the card of the first one
        put_card(hub, own + "TODO\n")
        pool().push_to_hub("me/mine", revision="two")
    assert list(hub.repos["me/mine"].branches) == ["main"]
    put_card(hub, "---\n[\n---\n# Mine\n")
    with pytest.raises(ValueError, match="the card of me/mine: the front matter .* cannot be read"):
        pool().push_to_hub("me/mine")


def test_results_of_the_model_that_was_there_go(hub):
    model().push_to_hub("me/mine", license="mit", tags="cones")
    card = ModelCard(card_on(hub))
    assert card.data.tags[-1] == "cones"
    index = (
        "model-index:\n- name: mine\n  results:\n  - task: {type: object-detection}\n    dataset: {name: x, type: y}"
    )
    index += "\n    metrics:\n    - {type: AP50, value: 90.0}\n"
    put_card(hub, card.content.replace("license: mit\n", f"license: mit\n{index}", 1))
    assert ModelCard(card_on(hub)).data.eval_results[0].metric_value == 90.0
    model().push_to_hub("me/mine")
    assert ModelCard(card_on(hub)).data.eval_results is None and "model-index" not in card_on(hub)
    assert ModelCard(card_on(hub)).data.license == "mit" and "cones" in card_on(hub)


def test_image_processor_and_config_need_a_whole_card(hub):
    processor = DeCoDetrImageProcessor(size=SIZE)
    for part in (processor, model().config):
        with pytest.raises(ValueError, match="me/mine has no card .*push the model first"):
            part.push_to_hub("me/mine")
    assert hub.repos == {}
    made = model().push_to_hub("me/mine", license="mit", image_processor=processor, commit_description="both")
    assert made.commit_message == "Upload model" and len(hub.repos["me/mine"].commits) == 2
    assert f"Images become {SIZE['height']} x {SIZE['width']} pixels" in card_on(
        hub
    ) and "preprocessor_config.json" in hub.files("me/mine")
    before = card_on(hub)
    DeCoDetrImageProcessor(size={"height": 64, "width": 96}).push_to_hub("me/mine")
    assert b'"width": 96' in hub.files("me/mine")["preprocessor_config.json"] and card_on(hub) == before
    put_card(hub, before + "FIXME\n")
    with pytest.raises(ValueError, match="a note to oneself, 'FIXME'"):
        processor.push_to_hub("me/mine")


def test_saving_can_push_and_old_shards_go(hub, tmp_path):
    made = model()
    with pytest.raises(ValueError, match="no license is stated"):
        made.save_pretrained(tmp_path / "mine", push_to_hub=True)
    assert DeCoDetrForObjectDetection.from_pretrained(tmp_path / "mine").vocabulary.names == ["cat", "dog"]
    assert not (tmp_path / "mine" / "README.md").exists() and hub.repos == {}
    made.save_pretrained(tmp_path / "mine", push_to_hub=True, license="mit", private=True)
    assert hub.repos["me/mine"].private and "model.safetensors" in hub.files("me/mine")
    made.push_to_hub("me/mine", max_shard_size="100KB")
    assert "model.safetensors" not in hub.files("me/mine") and "model.safetensors.index.json" in hub.files("me/mine")
    made.save_pretrained(tmp_path / "other", push_to_hub=True, repo_id="me/mine", commit_message="whole")
    assert [name for name in hub.files("me/mine") if name.startswith("model") and ".safe" in name] == [
        "model.safetensors"
    ]
    with pytest.raises(ValueError, match="push_to_hub does not go with distributed_checkpoint"):
        made.save_pretrained(tmp_path / "third", push_to_hub=True, distributed_checkpoint=True)


@pytest.mark.slow
def test_where_decodetr_is_not_installed_the_card_of_the_repository_must_be_whole(hub, tmp_path):
    code = f"""
{HIDE}
import sys
from transformers import AutoModelForObjectDetection
model = AutoModelForObjectDetection.from_pretrained("me/mine", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules.")
for name, license in (("me/new", "mit"), ("me/mine", None), ("me/mine", "mit")):
    try:
        model.push_to_hub(name, license=license)
        print("sent")
    except ValueError as error:
        print(error)
assert "decodetr" not in sys.modules
"""
    model().push_to_hub("me/mine", license="apache-2.0")
    put_card(hub, card_on(hub).replace("license: apache-2.0\n", "", 1))
    environment = hub_environment(hub, tmp_path / "new")
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=os.getcwd())
    assert done.returncode == 0, done.stderr
    first, second, *_, last = done.stdout.splitlines()
    assert first.startswith("me/new has no card (README.md)") and "pip install decodetr" in first
    assert second == "the card of me/mine cannot be published as it is:" and last == "sent"
    assert ModelCard(card_on(hub)).data.license == "mit" and "me/new" not in hub.repos


@pytest.mark.parametrize("there, kind, sent, other", [
    (model, "model", names, "vocabulary"), (model, "model", pool, "pool"), (names, "vocabulary", model, "model"),
    (pool, "pool", lambda: model().config, "model"),
    (names, "vocabulary", lambda: DeCoDetrImageProcessor(size=SIZE), "model"),
])  # fmt: skip
def test_a_repository_of_another_kind_keeps_its_card(hub, there, kind, sent, other):
    there().push_to_hub("me/mine", license="mit")
    before = dict(hub.files("me/mine"))
    with pytest.raises(ValueError, match=f"me/mine holds a {kind}, and this is a {other}; name another repository"):
        sent().push_to_hub("me/mine")
    assert hub.files("me/mine") == before


def test_folders_of_this_machine_are_sent_by_their_last_part(hub, tmp_path):
    made = model()
    home = {"data": "/home/me/my photos", "captions": "C:\\Users\\me\\captions.json", "chosen": {"from": ["~/a/b"]}}
    texts = {"training_names": ["/cat", "dog"], "setting": "V-OVD", "regions": "the model's own"}
    made.config.training_info = {**home, **texts}
    made.config.calibration_info = {"data": "file:///home/me/val", "images": 3}
    made.set_vocabulary(
        Vocabulary(["/cat", "dog"], random_rows(2, 16), {"encoder": "/home/me/clip", "templates": ["/{}"]})
    )
    made.save_pretrained(tmp_path / "mine", push_to_hub=True, license="mit")
    sent = json.loads(hub.files("me/mine")["config.json"])
    assert sent["training_info"] == {
        **texts, "data": "my photos", "captions": "captions.json", "chosen": {"from": ["b"]},
    }  # fmt: skip
    assert sent["calibration_info"] == {"data": "val", "images": 3}
    assert sent["id2label"] == {"0": "/cat", "1": "dog"}
    assert sent["vocabulary_info"]["encoder"] == "clip" and sent["vocabulary_info"]["templates"] == ["/{}"]
    kept = json.loads((tmp_path / "mine" / "config.json").read_text(encoding="utf-8"))
    assert kept["training_info"]["data"] == "/home/me/my photos" and {**kept, **sent} == sent
    assert DeCoDetrForObjectDetection.from_pretrained("me/mine").vocabulary.names == ["/cat", "dog"]
    info = {"encoder": "/home/me/clip", "proposer_training_info": {"data": "/home/me/coco"}, "prompt": "/say"}
    table = PrototypePool(random_rows(4, 16), captions=["/ab", "é", "c", "d"], info=info)
    table.push_to_hub("me/pool", license="mit")
    loaded = PrototypePool.from_pretrained("me/pool")
    assert loaded.captions == table.captions and loaded.digest() == table.digest() and table.info == info
    assert loaded.info == {"encoder": "clip", "proposer_training_info": {"data": "coco"}, "prompt": "/say"}
    assert not any(b"home" in content for name in ("me/mine", "me/pool") for content in hub.files(name).values()
                   if b"def " not in content)  # fmt: skip


def test_arguments_that_transformers_has_dropped_are_named(hub):
    for part, given in ((model(), "use_temp_dir"), (model().config, "safe_serialization")):
        with pytest.raises(TypeError, match=rf"push_to_hub\(\) got .* '{given}'; transformers 5 has dropped it too: "):
            part.push_to_hub("me/mine", **{given: True})
    with pytest.raises(TypeError, match=r"^push_to_hub\(\) got an unexpected keyword argument 'licence'$"):
        model().push_to_hub("me/mine", licence="mit")
    assert hub.asked == []
