"""Training over the Hub: what goes up has decodetr's card, and no run ends for what could not be sent."""

import pytest
from helpers.hub_server import TOKEN
from helpers.trainings import make_trainer, train_command
from huggingface_hub import ModelCard

from decodetr import DeCoDetrForObjectDetection, DeCoDetrTrainingArguments, PrototypePool
from decodetr.cli import main
from decodetr.modeling_decodetr.embedding_artifact import random_rows
from decodetr.utils.card_leftovers import card_leftovers

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
PUSH = {"push_to_hub": True, "hub_license": "mit", "hub_model_id": "me/run"}


def card_on(hub, repo_id="me/run"):
    return hub.files(repo_id)["README.md"].decode()


def messages(hub):
    return list(hub.repos["me/run"].messages.values())


def test_a_license_is_asked_for_before_anything_begins(tmp_path, capsys):
    for license in (None, "other"):
        with pytest.raises(ValueError, match="push_to_hub=True needs hub_license, got .*--hub-license apache-2.0"):
            DeCoDetrTrainingArguments(output_dir=str(tmp_path), use_cpu=True, push_to_hub=True, hub_license=license)


def test_checkpoints_go_with_a_card_and_the_model_as_decodetr_push_sends_it(hub, scenes, tmp_path):
    trainer = make_trainer(scenes, tmp_path / "run", save_strategy="steps", save_steps=2, **PUSH)
    trainer.train()
    assert messages(hub)[:2] == ["initial commit", "Training in progress, step 2"]
    assert card_leftovers(card_on(hub)) == [] and "Nothing yet" in card_on(hub)
    assert not (tmp_path / "run" / "README.md").exists()  # which would say that the run is finished
    made = trainer.push_to_hub(tags="cones")
    assert made.commit == hub.repos["me/run"].branches["main"] and messages(hub)[-1] == "End of training"
    assert ModelCard(card_on(hub)).data.tags[-1] == "cones" and ModelCard(card_on(hub)).data.license == "mit"
    names = trainer.deployment_vocabulary.names
    assert DeCoDetrForObjectDetection.from_pretrained("me/run").vocabulary.names == names


def test_of_a_checkpoint_goes_what_loading_and_going_on_read(hub, scenes, tmp_path):
    run, every = tmp_path / "run", {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    kept = {**PUSH, **every, "hub_always_push": True, "hub_token": TOKEN}
    loaded = {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_decodetr.py"}
    for strategy, folders in (
        ("every_save", set()),
        ("all_checkpoints", {"checkpoint-1", "checkpoint-2"}),
        ("checkpoint", {"last-checkpoint"}),
    ):
        repo = f"me/{strategy}"
        args = {**kept, "hub_model_id": repo, "hub_strategy": strategy}
        trainer = make_trainer(scenes, run / strategy, max_steps=2, **args)
        (run / strategy / "pictures").mkdir()
        (run / strategy / "pictures" / "step-1.jpg").write_text("x")
        (run / strategy / ".hidden").write_text("x")
        trainer.train()
        files = hub.files(repo)
        assert loaded <= files.keys() and {name.split("/")[0] for name in files if "/" in name} == folders
        top = {name for name in files if "/" not in name and not name.endswith(".py")}
        assert top == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", ".gitattributes"}
        assert not [name for name in files if "training_args" in name or "/." in name]
        assert not [name for name, content in files.items() if TOKEN.encode() in content]
        assert list(hub.repos[repo].messages.values())[1:] == [f"Training in progress, step {n}" for n in (1, 2)]
        assert not list((run / strategy).glob(".decodetr.push*"))
    there = tmp_path / "fetched" / "last-checkpoint"
    there.mkdir(parents=True)
    for name, content in files.items():
        if name.startswith("last-checkpoint/"):
            (there / name.partition("/")[2]).write_bytes(content)
    assert (there / "optimizer.pt").is_file() and (there / "rng_state.pth").is_file()
    again = make_trainer(scenes, tmp_path / "again", max_steps=3)
    assert again.train(resume_from_checkpoint=str(there)).global_step == 3


def test_what_cannot_be_sent_ends_no_run(hub, scenes, tmp_path, caplog):
    hub.lose("POST /api/models/me/run/commit", times=100)
    trainer = make_trainer(scenes, tmp_path / "run", save_strategy="steps", save_steps=2, **PUSH)
    assert trainer.train().global_step == 4
    assert "Not sent to the Hub: me/run: the connection to the Hub failed" in caplog.text
    hub.losses.clear()
    trainer.save_model()
    assert messages(hub) == ["initial commit", "Model save"] and "training_args.bin" not in hub.files("me/run")
    with open(tmp_path / "run" / "README.md", "a") as card:
        card.write("\n## Mine\n\nTODO\n")
    caplog.clear()
    trainer.save_model()
    assert "a note to oneself, 'TODO'" in caplog.text and "`decodetr push" in caplog.text and len(messages(hub)) == 2
    with pytest.raises(ValueError, match="a note to oneself, 'TODO'"):
        trainer.push_to_hub(blocking=False).result()
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_the_repository_of_a_pool_stays_one(hub, scenes, tmp_path, caplog):
    PrototypePool(random_rows(4, 16)).push_to_hub("me/run", license="mit")
    before = dict(hub.files("me/run"))
    trainer = make_trainer(scenes, tmp_path / "run", save_strategy="steps", save_steps=2, **PUSH)
    assert trainer.train().global_step == 4
    assert hub.files("me/run") == before
    assert "Not sent to the Hub: me/run holds a pool, and this is a model; name another repository" in caplog.text


@pytest.mark.slow
def test_the_card_of_a_finished_run_has_its_results(hub, scenes, tmp_path):
    output = tmp_path / "run"
    words = ["--max_steps", "1", "--save_strategy", "no", "--push-to-hub", "true", "--hub-license", "apache-2.0"]
    assert main(train_command(scenes, output, *words, "--hub-model-id", "me/run")) == 0
    assert messages(hub) == ["initial commit", "End of training"]
    card = card_on(hub)
    assert card == (output / "README.md").read_text() and card_leftovers(card) == []
    assert ModelCard(card).data.eval_results and 'model = "me/run"\n' in card and "decodetr train --data" in card
