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
from decodetr.modeling_decodetr.name_choice import choose_names
from decodetr.modeling_decodetr.safe_loading import load_safely

EVIL = "open({!r}, 'w').close()\nfrom transformers import PreTrainedConfig as E\n"


@pytest.fixture
def clip(tmp_path):
    return shutil.copytree(ROOT / "hub_cards/scenes-clip", tmp_path / "clip")


def _change(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def _bring_code(folder, kind):
    """Code of the folder is the only thing that its config, or its image processor, can be made by."""
    (folder / "processor_config.json").unlink()  # it has the image processor inside
    (folder / "preprocessor_config.json").write_text("{}")
    file, field = {
        "AutoConfig": ("config.json", "model_type"),
        "AutoImageProcessor": ("preprocessor_config.json", "image_processor_type"),
    }[kind]
    _change(folder / file, **{field: "evil", "auto_map": {kind: "evil.E"}})
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


def _named(vocabulary, text_model=None):
    return choose_names(vocabulary, ["gnu"], text_model).names


def test_a_file_does_not_choose_a_folder_beside_it(clip, monkeypatch):
    monkeypatch.chdir(clip.parent)
    names = Vocabulary.from_text_model(["cat"], "clip")
    for place in ("clip", "./clip"):
        stranger = Vocabulary(names.names, names.embeddings, {**names.info, "encoder": place})
        with pytest.raises(ValueError, match="lies in the current folder.*--clip"):
            _named(stranger)
    assert _named(stranger, "clip") == ["gnu"]
    assert _named(names) == ["gnu"]  # the whole path
    with local_only("clip"):  # as the user gave it
        assert load_safely(AutoConfig, "clip").model_type == "clip"
