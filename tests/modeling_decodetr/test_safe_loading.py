"""What a stranger's folder gets from `load_safely`: no code of it runs, no pickle is read, nothing is asked."""

import io
import json
import shutil

import pytest
import torch
from helpers.paths import ROOT
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel, CLIPProcessor

from decodetr import Vocabulary
from decodetr.modeling_decodetr.hub_rule import local_only
from decodetr.modeling_decodetr.safe_loading import load_safely

EVIL = "open({!r}, 'w').close()\nfrom transformers import PreTrainedConfig\nclass E(PreTrainedConfig): model_type = 'e'\n"


@pytest.fixture
def clip(tmp_path):
    return shutil.copytree(ROOT / "hub_cards/scenes-clip", tmp_path / "clip")


def _change(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def _bring_code(folder, kind):
    name = {"AutoConfig": "config", "AutoTokenizer": "tokenizer_config"}.get(kind, "preprocessor_config")
    field = {"AutoConfig": "model_type", "AutoTokenizer": "tokenizer_class"}.get(kind, "image_processor_type")
    for file in folder.glob("processor_config.json"):  # it would have the image processor inside
        file.unlink()
    (folder / "preprocessor_config.json").touch()
    (folder / "preprocessor_config.json").write_text("{}")
    code = ["evil.E", None] if kind == "AutoTokenizer" else "evil.E"
    _change(folder / f"{name}.json", **{field: "evil", "auto_map": {kind: code}})
    _change(folder / "config.json", **({} if kind == "AutoConfig" else {"model_type": "vit"}))
    (folder / "evil.py").write_text(EVIL.format(str(folder / "OWNED")))


@pytest.mark.parametrize("kind", [AutoConfig, AutoImageProcessor])
def test_a_yes_on_the_terminal_does_not_run_code_of_a_folder(clip, kind, monkeypatch, capsys):
    _bring_code(clip, kind.__name__)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(ValueError, match="brings Python code .* a type that transformers has") as error:
        load_safely(kind, clip)
    assert "trust_remote_code" not in str(error.value) and "[y/N]" not in capsys.readouterr().out
    assert not (clip / "OWNED").exists()


def test_a_model_without_code_is_loaded_as_ever(clip):
    assert load_safely(AutoConfig, clip).model_type == "clip"
    ours, theirs = load_safely(CLIPModel, clip), CLIPModel.from_pretrained(clip)
    assert torch.equal(ours.text_projection.weight, theirs.text_projection.weight)
    for kind in (CLIPProcessor, AutoTokenizer):  # the answer is no setting of what is loaded
        load_safely(kind, clip).save_pretrained(clip / kind.__name__)
        assert not any("trust_remote_code" in f.read_text() for f in (clip / kind.__name__).glob("*config.json"))


@pytest.mark.parametrize("named", [None, "adapter_model.bin"])
def test_a_pickle_is_refused_with_what_converts_it(clip, named):
    torch.save(load_file(clip / "model.safetensors"), clip / (named or "pytorch_model.bin"))
    (clip / "model.safetensors").unlink()
    if named:
        _change(clip / "config.json", transformers_weights=named)
    for load in (lambda: load_safely(AutoModel, clip), lambda: Vocabulary.from_text_model(["cat"], clip)):
        with pytest.raises(OSError, match="no weights in safetensors.*save_pretrained.*safetensors/convert"):
            load()


def test_a_file_does_not_choose_a_folder_beside_it(clip, monkeypatch):
    monkeypatch.chdir(clip.parent)
    names = Vocabulary.from_text_model(["cat"], "clip")
    for place in ("clip", "./clip"):
        stranger = Vocabulary(names.names, names.embeddings, {**names.info, "encoder": place})
        with pytest.raises(ValueError, match="lies in the current folder.*--clip"):
            stranger_names(stranger)
    assert stranger_names(stranger, "clip").names == ["gnu"]
    assert stranger_names(names).names == ["gnu"]  # the whole path
    with local_only("clip"):  # as the user gave it
        assert load_safely(AutoConfig, "clip").model_type == "clip"


def stranger_names(vocabulary, text_model=None):
    from decodetr.modeling_decodetr.name_choice import choose_names

    return choose_names(vocabulary, ["gnu"], text_model)
