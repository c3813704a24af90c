"""Nothing is asked of the Hub that the user has not named: folders and tables do not decide it."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.pictures import write_image

from decodetr import DeCoDetrConfig, Vocabulary
from decodetr.cli import main
from decodetr.utils.hub import local_only, recorded_place


@pytest.fixture
def asked(monkeypatch):
    """Hosts that were looked up; none is found."""
    addresses = []

    def look_up(host, *args, **kwargs):
        addresses.append(host)
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    return addresses


@pytest.mark.parametrize(
    "detector",
    [
        {"model_type": "detr", "backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:evil/b"}},
        {"model_type": "detr", "backbone_config": {"model_type": "timm_backbone", "backbone": "local-dir:/etc"}},
        {"model_type": "rt_detr_v2", "backbone": "evil/b"},
        {"model_type": "detr", "backbone": "evil", "use_timm_backbone": False},
    ],
)
def test_a_config_does_not_fetch_a_backbone(asked, detector):
    with pytest.raises(ValueError, match="would be fetched when the model is built.*--backbone"):
        DeCoDetrConfig(detector_config={**detector, "num_labels": 1})
    assert not asked


def test_the_folder_of_another_detector_does_not_fetch_a_backbone(asked, tmp_path, capsys):
    config = {"model_type": "rt_detr_v2", "backbone": "evil/b", "architectures": ["RTDetrV2ForObjectDetection"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    image = str(write_image(tmp_path / "a.png"))
    annotations = tmp_path / "val.json"
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    document = {"images": [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}], "annotations": [row]}
    annotations.write_text(json.dumps({**document, "categories": [{"id": 1, "name": "cat"}]}))
    for command in (
        ["eval", "--model", str(tmp_path), "--annotations", str(annotations), "--images", str(tmp_path)],
        ["predict", image, "--model", str(tmp_path), "--output", str(tmp_path / "out"), "--device", "cpu"],
    ):
        assert main(command) == 1
        assert "a folder does not decide what is fetched" in capsys.readouterr().err
    assert not asked


def test_a_vocabulary_does_not_fetch_its_text_model(asked, text_detector, tmp_path, capsys):
    folder, _ = text_detector
    stored = Vocabulary.from_pretrained(_vocabulary_of(folder, tmp_path))
    Vocabulary(stored.names, stored.embeddings, {**stored.info, "encoder": "evil/clip"}).save_pretrained(
        tmp_path / "v"
    )
    command = ["predict", str(write_image(tmp_path / "a.png")), "--model", str(folder), "--device", "cpu"]
    command += ["--vocabulary", str(tmp_path / "v"), "--output", str(tmp_path / "out"), "--names", "gnu"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "evil/clip is not on this machine" in error and "--clip evil/clip fetches it" in error and not asked
    assert main([*command, "--text-model", "evil/clip"]) == 1
    assert set(asked) == {"huggingface.co"} and "'evil/clip' cannot be loaded" in capsys.readouterr().err


def _vocabulary_of(folder, tmp_path):
    from decodetr import DeCoDetrForObjectDetection

    DeCoDetrForObjectDetection.from_pretrained(folder).vocabulary.save_pretrained(tmp_path / "stored")
    return tmp_path / "stored"


def test_the_gate_is_for_folders_and_opens_again(tmp_path):
    from huggingface_hub import constants, is_offline_mode

    before = constants.HF_HUB_OFFLINE
    with local_only(tmp_path):
        assert is_offline_mode()
    with local_only("some/name"):
        assert is_offline_mode() == bool(before)
    with pytest.raises(KeyError), local_only("some/name", "a table says so"):
        assert is_offline_mode()
        raise KeyError
    assert constants.HF_HUB_OFFLINE == before


def test_places_are_recorded_so_that_they_are_found_from_elsewhere(text_detector, tmp_path, monkeypatch):
    _, clip = text_detector
    monkeypatch.chdir(clip.parent)
    assert recorded_place("clip") == str(clip) and recorded_place("openai/clip") == "openai/clip"
    output = tmp_path / "v"
    assert main(["vocabulary", "build", "--names", "cat", "--text-model", "clip", "--output", str(output)]) == 0
    assert Vocabulary.from_pretrained(output).info["encoder"] == str(clip)
    assert Vocabulary.from_text_model(["cat"], "clip").info["encoder"] == str(clip)


def test_setting_names_asks_the_hub_only_for_a_text_model_that_is_given(asked, text_detector):
    from decodetr import DeCoDetrForObjectDetection

    model = DeCoDetrForObjectDetection.from_pretrained(text_detector[0])
    stored = model.vocabulary
    model.set_vocabulary(Vocabulary(stored.names, stored.embeddings, {**stored.info, "encoder": "evil/clip"}))
    with pytest.raises(ValueError, match="evil/clip is not on this machine"):
        model.set_names(["gnu"])
    assert not asked
    with pytest.raises(ValueError, match="'given/clip' cannot be loaded"):
        model.set_names(["gnu"], text_model="given/clip")
    assert set(asked) == {"huggingface.co"} and model.vocabulary.names == stored.names


def test_the_gate_is_for_its_own_thread(tmp_path, monkeypatch):
    """A run that loads a folder for its card must not keep another thread from sending a checkpoint. The gates of the
    model and of the commands are two copies of a file."""
    from huggingface_hub import constants, is_offline_mode

    from decodetr.modeling_decodetr.hub_rule import local_only as of_model

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with ThreadPoolExecutor(1) as other:
        with local_only(tmp_path), local_only(tmp_path):
            assert is_offline_mode() and not other.submit(lambda: bool(is_offline_mode())).result()
        entered, leave = threading.Event(), threading.Event()

        def inside():
            with of_model(tmp_path):
                entered.set()
                return leave.wait(60) and bool(is_offline_mode())

        there = other.submit(inside)
        assert entered.wait(60) and not is_offline_mode()
        with local_only(tmp_path):
            assert is_offline_mode()
        assert not is_offline_mode()
        leave.set()
        assert there.result()
    assert constants.HF_HUB_OFFLINE is False
