"""eval, predict, pool, vocabulary, quickstart and scenes refuse what cannot work before they read data or a model."""

import sys
from types import SimpleNamespace

import pytest
import transformers
from helpers.pool_data import write_data
from helpers.tiny_teachers import write_tiny_clip

from decodetr.cli import main
from decodetr.evaluation.detection_evaluator import metric_names
from decodetr.evaluation.output_evaluator import OutputEvaluator, output_metric_names
from decodetr.pool_builder.lazy_model import Model
from decodetr.processing import CocoAnnotations
from decodetr.utils.preflight import Problems, in_units, require_room, run_checks
from decodetr.utils.shipped import expect


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Data, and a CLIP without and with its weights."""
    folder = tmp_path_factory.mktemp("commands")
    data = write_data(folder / "data")
    (data / "annotations/val.json").write_bytes((data / "annotations/train.json").read_bytes())
    (data / "val").symlink_to(data / "train")
    write_tiny_clip(folder / "clip")
    (folder / "bare").mkdir()
    (folder / "bare/config.json").write_bytes((folder / "clip/config.json").read_bytes())
    return {"DATA": data, "CLIP": folder / "clip", "BARE": folder / "bare"}


@pytest.fixture
def refused(places, tmp_path, monkeypatch, capsys):
    """A function: what a command says that is refused before annotations and models are read."""

    def read(*_, **__):
        raise AssertionError("something long has begun")

    monkeypatch.setattr(CocoAnnotations, "load", read)
    for loaded in (transformers.PreTrainedModel, transformers.AutoModel, transformers.AutoConfig):
        monkeypatch.setattr(loaded, "from_pretrained", read)

    def message(*words):
        here = {**places, "OUT": tmp_path / "out"}
        assert main([str(here.get(word, word)) for word in words]) == 1
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    return message


EVAL = ["eval", "--data", "DATA", "--model", "scenes-decodetr", "--output", "OUT"]
BUILD = ["pool", "build", "--data", "DATA", "--clip", "CLIP", "--captioner", "CLIP", "--output", "OUT"]
QUICK = ["quickstart", "--output", "OUT"]
COMPARE = ["scenes", "compare", "DATA", "--built", "./nowhere", "--output", "OUT"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*EVAL, "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        ([*EVAL, "--max-detections", "0"], "--max-detections must be at least 1, got 0"),
        ([*EVAL, "--vocabulary", "./nowhere"], "the vocabulary './nowhere' cannot be loaded"),
        ([*EVAL, "--model", "./nowhere"], "the model './nowhere' cannot be loaded"),
        ([*EVAL, "--font", "nowhere.ttf"], "--font nowhere.ttf: no such file"),
        ([*EVAL, "--annotations", "nowhere.json"], "--annotations nowhere.json: no such file"),
        ([*EVAL, "--protocol", "nowhere"], "nowhere: no such protocol"),
        ([*EVAL, "--names-split", "nowhere.json"], "--names-split nowhere.json: no such file"),
        (["eval", "prepare", "ov-coco", "--coco", "DATA", "--output", "OUT"], "instances_val2017.json: no such file"),
        (["eval", "compare", "DATA", "DATA", "--resamples", "0", "--output", "OUT"], "--resamples must be at least 1"),
        ([*BUILD, "--kmeans", "faiss"], "pip install 'decodetr[faiss]'"),
        ([*BUILD, "--captioner-bits", "4"], "pip install 'decodetr[quantized]'"),
        ([*BUILD, "--captioner", "BARE"], "the folder has no *.safetensors"),
        ([*BUILD, "--detector", "./nowhere"], "the detector './nowhere' cannot be loaded"),
        ([*BUILD, "--annotations", "nowhere.json"], "--annotations nowhere.json: no such file"),
        ([*BUILD, "--images", "nowhere"], "--images nowhere: no such folder"),
        ([*BUILD, "--data", "./nowhere"], "./nowhere: no such folder"),
        (["predict", "DATA", "--model", "./nowhere", "--output", "OUT"], "the model './nowhere' cannot be loaded"),
        (["predict", "DATA", "--font", "nowhere.ttf", "--output", "OUT"], "--font nowhere.ttf: no such file"),
        (["vocabulary", "build", "--names", "cat", "--text-model", "./no", "--output", "OUT"], "text model './no'"),
        ([*QUICK, "--captioner", "./nowhere"], "the captioner './nowhere' cannot be loaded"),
        ([*QUICK, "--train-images", "0"], "--train-images must be at least 1, got 0"),
        (COMPARE, "nowhere/pool' cannot be loaded"),
        ([*COMPARE, "--steps", "0"], "--steps must be at least 1"),
        (["scenes", "measure", "DATA", "--model", "./nowhere"], "the model './nowhere' cannot be loaded"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_long(refused, monkeypatch, words, message):
    for module in ("faiss", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, module, None)
    assert message in refused(*words)


@pytest.mark.parametrize("words", [EVAL, BUILD, QUICK, ["predict", "DATA", "--output", "OUT"]])
def test_an_output_that_is_a_file_is_refused(places, tmp_path, capsys, words):
    (tmp_path / "out").write_text("mine")
    assert main([str({**places, "OUT": tmp_path / "out"}.get(word, word)) for word in words]) == 1
    assert "expected a folder" in capsys.readouterr().err and (tmp_path / "out").read_text() == "mine"


def test_a_server_of_captions_that_does_not_answer_is_told_before_the_proposals(refused):
    error = refused(*BUILD[:-4], "--captioner", "llava@http://127.0.0.1:9/v1", "--output", "OUT")
    assert "llava@http://127.0.0.1:9/v1: the server of captions does not answer" in error


def test_a_disk_without_room_for_the_pool_is_refused_before_the_proposals(places, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("decodetr.utils.preflight.shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    monkeypatch.setattr(
        "decodetr.pool_builder.pool_run.load_models", lambda *_: {"clip": Model({}, lambda: SimpleNamespace(dim=8))}
    )
    words = [str({**places, "OUT": tmp_path / "out"}.get(word, word)) for word in BUILD]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert (
        "the embeddings of 20 annotated boxes take at least" in error
    )  # of base names and "10 bytes are free there" in error


def test_the_names_of_metrics_are_those_that_an_evaluation_gives(places):
    coco = CocoAnnotations.load(places["DATA"] / "annotations/val.json")
    for novel, groups in ((None, None), (coco.names[:1], None), (coco.names[:1], {"rare": set(coco.names[1:2])})):
        for most in (7, 50):
            evaluator = OutputEvaluator(coco, coco.names, novel, groups=groups, max_detections=most)
            nothing = {"scores": [], "labels": [], "boxes": []}
            ids = [image["image_id"] for image in coco.images]
            evaluator.update(ids, [{**nothing, "localization": nothing} for _ in ids])
            names = output_metric_names(most, list(groups or ()), bool(novel))
            assert list(evaluator.compute()) == names and len(set(names)) == len(names)
    assert metric_names(7, ("novel",), class_agnostic=True) == ["AP", "AP50", "AP75", "AR7", "AR50", "AR50_novel"]


def test_findings_are_told_together_and_each_once():
    def fail(error):
        raise error

    assert run_checks(lambda: 1, lambda: 2) == [1, 2]
    with pytest.raises(FileNotFoundError, match="^a$"):
        run_checks(lambda: 1, lambda: fail(FileNotFoundError("a")), lambda: fail(FileNotFoundError("a")))
    with pytest.raises(ValueError, match="^pip$"):
        run_checks(lambda: fail(ImportError("pip")))
    with pytest.raises(ValueError, match="2 problems, found before any work was done:\n- a\n- b"):
        run_checks(lambda: fail(ValueError("a")), lambda: 1, lambda: fail(OSError("b")))
    with pytest.raises(RuntimeError):  # what no user causes is not hidden
        Problems().call(fail, RuntimeError("bug"))


def test_room_on_the_disk_is_that_of_the_nearest_folder_that_exists(tmp_path):
    require_room(tmp_path / "not/yet", 1, "files", "choose another --output")
    with pytest.raises(
        ValueError, match=r"checkpoints take at least 1.0 EB.* are free there; give --save_total_limit"
    ):
        require_room(tmp_path / "not/yet", 10**18, "checkpoints", "give --save_total_limit 1")
    assert [in_units(n) for n in (5, 1500, 2 * 10**6, 3 * 10**9)] == ["5 bytes", "1.5 kB", "2.0 MB", "3.0 GB"]


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "a/b/c", "nowhere/", "../up"])
def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_name(name):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        expect("model", name, "config.json")


def test_names_of_the_hub_and_shipped_ones_pass():
    for name in (None, "scenes-decodetr", "openai/clip-vit-base-patch32", "gpt2"):
        expect("model", name, "config.json")
