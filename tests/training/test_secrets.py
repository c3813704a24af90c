"""Tokens and passwords stay out of what a run writes and sends."""

import copy
import io
import pickle

import pytest
import torch
from PIL import Image

from decodetr import DeCoDetrTrainingArguments
from decodetr.cards.places import shown_command
from decodetr.cli import main
from decodetr.modeling_decodetr.hub_repository import shown_place
from decodetr.pool_builder.served_captioner import ServedCaptioner

SECRET = "hf_verysecret"


def test_a_card_shows_a_command_without_secrets():
    shown = shown_command(
        [
            *("--data", "/home/me/cones", f"--hub-token={SECRET}", "--HUB_TOKEN", SECRET, "--push-to-hub", "true"),
            *("--api-key", SECRET, "--Secret", SECRET, "--db-password", SECRET, "--keep", "5", "--my-keys", SECRET),
            *("--url", f"https://me:{SECRET}@host/v1", "--max-new-tokens", "32"),
        ]
    )
    assert shown == (
        "--data cones '--hub-token=***' --HUB_TOKEN '***' --push-to-hub true --api-key '***' --Secret '***' "
        "--db-password '***' --keep 5 --my-keys '***' --url https://host/v1 --max-new-tokens 32"
    )


def test_records_show_addresses_without_their_user():
    assert shown_place({"captioner": [f"llava@http://me:{SECRET}@host:8000/v1", "me@host.org", "ab://c/d@e"]}) == {
        "captioner": ["llava@http://host:8000/v1", "me@host.org", "ab://c/d@e"]
    }


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_server_that_does_not_answer_is_named_without_its_password():
    captioner = ServedCaptioner(f"llava@http://me:{SECRET}@127.0.0.1:9/v1", prompt="?", max_new_tokens=2)
    with pytest.raises(ConnectionError, match="llava@http://127.0.0.1:9/v1: the server of captions") as error:
        captioner.describe([Image.new("RGB", (8, 8))])
    assert SECRET not in str(error.value)


def test_a_token_is_no_argument(tmp_path, capsys):
    start = ["train", "--config", "config.yaml", "--data", str(tmp_path), "--output", str(tmp_path / "run")]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"hub-token: {SECRET}\n")
    for words, where in (
        ([*start, "--hub-token", SECRET], "--hub-token"),
        ([*start, f"--hub_token={SECRET}"], "--hub-token"),
        ([*start, "--plan", "coco", "--hub-token", SECRET], "--hub-token"),
        ([*start, "--recipe", str(recipe)], f"{recipe}: hub_token"),
    ):
        assert main(words) == 1
        error = capsys.readouterr().err
        assert f"{where}: a token is a secret" in error and "HF_TOKEN" in error and "`hf auth login`" in error
        assert SECRET not in error


def test_pickled_arguments_have_no_token_and_copies_have_it(tmp_path):
    args = DeCoDetrTrainingArguments(output_dir=str(tmp_path), use_cpu=True, hub_token=SECRET)
    stream = io.BytesIO()
    torch.save(args, stream)
    assert SECRET.encode() not in stream.getvalue() and SECRET.encode() not in pickle.dumps(args)
    assert pickle.loads(pickle.dumps(args)).learning_rate == args.learning_rate
    assert args.hub_token == copy.copy(args).hub_token == copy.deepcopy(args).hub_token == SECRET
