"""What is exported detects what the model detects."""

import json
import os
import shutil
import threading
from dataclasses import replace

import numpy as np
import onnx
import PIL
import pytest
from helpers.exports import NAMES, SIZE, assert_same, exported, named_model, pictures, torch_detections
from helpers.tiny_models import tiny_model
from PIL import Image

from decodetr import DeCoDetrImageProcessor, Vocabulary
from decodetr.export.export_run import export_model
from decodetr.export.formats import foreign_operators
from decodetr.export.graph import DetectionGraph
from decodetr.export.parity import check_parity
from decodetr.export.settings import ExportSettings
from decodetr.export.tracing import trace
from decodetr.inference.detection import detect
from decodetr.inference.exported_model import ExportedModel
from decodetr.modeling_decodetr.embedding_artifact import random_rows
from decodetr.runtime import ExportedDetector
from decodetr.runtime.description import find_export


@pytest.fixture(scope="module")
def model():
    return named_model()


@pytest.fixture(scope="module")
def folder(onnx_folder):
    """ONNX, with names as input."""
    described = json.loads((onnx_folder / "export.json").read_text())
    parity = described["parity"]
    assert parity["batches"] == [1, 4] and parity["found"] == parity["compared"] == 5 * 12
    assert described["dynamic"] == ["batch", "names"]
    return onnx_folder


@pytest.fixture
def old_graph(folder, monkeypatch):
    """An export with names as input writes the graph of `folder`, and does all else as ever: for what the graph does
    not depend on."""

    def write(program, settings, staging, metadata):
        graph = onnx.load(folder / "model.onnx")
        onnx.helper.set_model_props(graph, metadata)
        onnx.save(graph, staging / "model.onnx")

    monkeypatch.setattr("decodetr.export.export_run._program", lambda graph, settings, size: (None, settings))
    monkeypatch.setattr("decodetr.export.export_run.write_program", write)


@pytest.fixture(scope="module")
def trace_once():
    """`trace`, which takes as long as a format is written: a program is the same for all formats."""
    programs = {}

    def traced(graph, size):
        key = str(replace(graph.settings, format="onnx")), size
        if key not in programs:
            programs[key] = trace(graph, size)
        return programs[key]

    return traced


@pytest.fixture(scope="module")
def detector(folder):
    return ExportedDetector(folder)


def test_detections_are_those_of_the_model(model, detector):
    images = pictures()
    assert_same(detector.detect(images, threshold=0.0), torch_detections(model, images))
    assert_same(detector.detect(images[:1], threshold=0.0, top_k=5), torch_detections(model, images[:1], top_k=5))
    assert_same(detector.detect(images), torch_detections(model, images, None))  # thresholds of the config
    assert detector.detect([]) == []


def test_results_of_another_graph_of_the_same_weights_are_not_gone_on_with(folder, tmp_path):
    for name in ("copy", "other"):
        shutil.copytree(folder, tmp_path / name)
    graph = onnx.load(tmp_path / "other/model.onnx")
    constant = next(one for one in graph.graph.initializer if one.data_type == onnx.TensorProto.FLOAT)
    constant.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(constant) + 1, constant.name))
    onnx.save(graph, tmp_path / "other/model.onnx")
    said = json.loads((folder / "export.json").read_text())
    said["files"].pop("model.onnx")  # whose digest is then of the file
    for name in ("copy", "other"):
        (tmp_path / name / "export.json").write_text(json.dumps(said))
    found = [ExportedModel(place) for place in (folder, tmp_path / "copy", tmp_path / "other")]
    assert len({one.config.weights_digest for one in found}) == 1
    digests = [one.digest() for one in found]
    assert digests[0] == digests[1] != digests[2]


def test_pictures_of_rf_detrs_steps_are_resized_so_without_torch_too(model, old_graph, tmp_path):
    processor = DeCoDetrImageProcessor(size=SIZE, antialias=False, rescale_first=True)
    exported(model, tmp_path / "onnx", "onnx", processor=processor, names_input=True)
    own = json.loads((tmp_path / "onnx" / "export.json").read_text())["preprocessing"]
    assert own["antialias"] is False and own["rescale_first"] is True
    noise = np.random.default_rng(0).integers(0, 256, (3, 300, 457, 3), dtype=np.uint8)
    images = [*pictures(), *map(Image.fromarray, noise)]
    expected, usual = (
        detect(model, each, images, 0.0, min_score=0) for each in (processor, DeCoDetrImageProcessor(size=SIZE))
    )
    found = ExportedDetector(tmp_path / "onnx").detect(images, threshold=0.0, batch_size=4)
    assert_same(found, expected)
    logs = [np.log(np.concatenate([one["scores"] for one in rows])) for rows in (found, expected, usual)]
    np.testing.assert_allclose(logs[0], logs[1], atol=1e-3)
    assert np.abs(logs[2] - logs[1]).max() > 0.1  # else the pictures say nothing


def test_files_and_arrays_are_pictures_too(detector, tmp_path):
    image = pictures()[0]
    image.save(tmp_path / "a.png")
    expected = detector.detect([image], threshold=0.0)
    assert detector.detect([tmp_path / "a.png"], threshold=0.0) == expected
    assert detector.detect([np.asarray(image)], threshold=0.0) == expected


@pytest.mark.parametrize(
    "given, message",
    [
        ({"images": Image.new("RGB", (4, 4))}, r"images must be a list, got Image; write \[image\]"),
        ({"images": [np.zeros((4, 4))]}, r"expected arrays \(H, W, 3\) of uint8, got float64 \(4, 4\)"),
        ({"images": [3]}, "expected PIL images, arrays or files, got int"),
        ({"images": [], "top_k": 0}, "top_k must be at least 1, got 0"),
        ({"images": [], "threshold": 2}, "threshold must be in 0 to 1, got 2"),
        ({"images": [], "names": ["dogg"]}, r"1 of 1 names have no stored embedding: 'dogg' \(close: dog\)"),
        ({"images": [], "names": "dog"}, r"names must be a list, got 'dog'; write \['dog'\]"),
        ({"images": [], "names": []}, "names must be non-empty texts, at least one"),
    ],
)
def test_what_cannot_be_detected_is_refused(detector, given, message):
    with pytest.raises(ValueError, match=message):
        detector.detect(**given)


def test_names_are_swapped_without_exporting_again(model, folder, tmp_path):
    detector, images = ExportedDetector(folder, threads=1), pictures()
    other = Vocabulary([f"name {i}" for i in range(40)], random_rows(40, 16, seed=3))
    other.save_pretrained(tmp_path / "names")
    swapped = named_model()
    for vocabulary, swap in (
        (model.vocabulary.select(["dog"]), {"names": ["dog"]}),
        (model.vocabulary.select(["salt, pepper", "cat"]), {"names": ["salt, pepper", "cat"]}),
        (other, {"vocabulary": tmp_path / "names"}),
        (other.select(["name 7", "name 3"]), {"vocabulary": tmp_path / "names", "names": ["name 7", "name 3"]}),
        (model.vocabulary, {}),
    ):
        swapped.set_vocabulary(vocabulary)
        detector.set_names(**swap)
        assert detector.names == vocabulary.names
        assert_same(detector.detect(images, threshold=0.0), torch_detections(swapped, images))
    swapped.set_vocabulary(model.vocabulary.select(["dog"]))
    assert_same(detector.detect(images, ["dog"], threshold=0.0), torch_detections(swapped, images))
    assert detector.names == NAMES, "names of one call are of that call"
    with pytest.raises(ValueError, match="no stored embedding"):
        detector.set_names(["bird"])
    assert detector.names == NAMES
    detector.set_names(vocabulary=tmp_path / "names")
    swapped.set_vocabulary(other.select(["name 3"]))
    assert_same(detector.detect(images, ["name 3"], threshold=0.0), torch_detections(swapped, images))
    assert detector.detect(images, ["dog"]) is not None, "which is stored"


def test_names_come_with_their_embeddings(model, folder):
    loaded = ExportedDetector(folder)
    rows = model.vocabulary.embeddings[[2, 0]].numpy()
    before = loaded.detect(pictures(), threshold=0.0)
    loaded.set_embeddings(["new", "other"], 7 * rows, {"encoder": "some"})  # of any length
    assert loaded.names == ["new", "other"] and loaded.vocabulary_info == {"encoder": "some"}
    known = ExportedDetector(folder)
    known.set_names([NAMES[2], NAMES[0]])
    renamed = {"new": NAMES[2], "other": NAMES[0]}
    found = loaded.detect(pictures(), threshold=0.0)
    found = [{**one, "names": [renamed[name] for name in one["names"]]} for one in found]
    assert_same(found, known.detect(pictures(), threshold=0.0))
    for names, wrong in ((["x"], rows), (["x", "y"], rows[:, :-1]), (["x", "y"], rows * np.nan)):
        with pytest.raises(ValueError, match="finite numbers, got an array"):
            loaded.set_embeddings(names, wrong)
    assert loaded.names == ["new", "other"] and len(before) == 3
    found = loaded.detect(pictures(), ["other"], threshold=0.0)  # of one call
    found = [{**one, "names": [renamed[name] for name in one["names"]]} for one in found]
    assert_same(found, known.detect(pictures(), [NAMES[0]], threshold=0.0))
    with pytest.raises(ValueError, match="'dog' .*no stored embedding|no stored embedding: 'dog'"):
        loaded.detect([], ["dog"])  # whose embedding may be of another vocabulary
    loaded.set_names(["other"])
    loaded.set_names()
    assert loaded.names == ["new", "other"]


def test_any_number_of_pictures_is_opened_a_few_at_once(folder, detector):
    loaded, sizes, opened = ExportedDetector(folder), [], []
    run = loaded.session.run

    def counted(inputs):
        sizes.append((len(inputs["pixel_values"]), len(opened)))
        return run(inputs)

    def images():
        for image in pictures() * 3:
            opened.append(1)
            yield image

    loaded.session.run = counted
    found = loaded.detect(images(), threshold=0.0, batch_size=4)
    assert sizes == [(4, 4), (4, 8), (1, 9)]
    assert_same(found, detector.detect(pictures(), threshold=0.0) * 3, 1e-5, 0.02)


def test_files_of_two_exports_are_not_mixed(model, folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"model.xml: no such graph; .* has model.onnx"):
        ExportedDetector(tmp_path / "model.xml")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    for place in (tmp_path / "alone/model.onnx", tmp_path / "alone"):
        with pytest.raises(FileNotFoundError, match=r"onnx: no export.json is beside it, .* give the whole folder"):
            ExportedDetector(place)
    (tmp_path / "alone/config.json").write_text("{}")
    assert find_export(tmp_path / "alone") is None, "many models of the Hub have a graph beside their weights"
    said = json.loads((folder / "export.json").read_text())
    for change in ({"weights_digest": "0" * 64}, {"vocabulary_digest": "0" * 64}, {"names_input": False}):
        (tmp_path / "export.json").write_text(json.dumps({**said, **change}))
        with pytest.raises(ValueError, match="model.onnx and export.json beside it are of two exports"):
            ExportedDetector(tmp_path)
    graph = onnx.load(folder / "model.onnx")
    del graph.metadata_props[:]  # as other programs leave it
    onnx.save(graph, tmp_path / "model.onnx")
    (tmp_path / "export.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="model.onnx is not the file that export.json beside it lists"):
        ExportedDetector(tmp_path)
    said["files"].pop("model.onnx")  # as docs/export.md says
    (tmp_path / "export.json").write_text(json.dumps(said))
    assert ExportedDetector(tmp_path).names == NAMES


def test_threads_share_a_detector(detector, folder):
    image = pictures()[:1]
    alone = {names: detector.detect(image, list(names), threshold=0.0) for names in (("cat",), ("dog", "cat"))}
    shared, wrong = ExportedDetector(folder, threads=1), []

    def work(names):
        for _ in range(5):
            shared.set_names(list(names))
            found = shared.detect(image, list(names), threshold=0.0)
            try:
                assert_same(found, alone[names], 1e-5, 1e-3)
            except AssertionError as error:
                wrong.append(error)

    workers = [threading.Thread(target=work, args=(names,)) for names in [*alone, *alone]]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_the_graph_is_of_plain_operators_and_says_what_it_is(folder):
    assert foreign_operators(folder / "model.onnx") == []
    graph = onnx.load(folder / "model.onnx")
    shapes = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.graph.input}
    batch, names = shapes["pixel_values"][0], shapes["name_rows"][0]
    assert shapes.pop("pixel_values") == [batch, 3, 64, 64]
    assert shapes == {"name_rows": [names, 16], "log_share": [names], "background": [12]}
    assert {batch, names} == {"batch", "names"}
    assert [o.name for o in graph.graph.output] == ["logits", "pred_boxes"]
    (said,) = [json.loads(one.value) for one in graph.metadata_props if one.key == "decodetr"]
    own = json.loads((folder / "export.json").read_text())
    assert said["names"] == own["names"] == NAMES and said["pool_digest"] == own["pool_digest"]
    assert own["source"] == "/home/me/mine" and said["source"] == "mine"
    assert {key: own[key] for key in said} == {**said, "source": own["source"]}
    assert own["preprocessing"]["size"] == SIZE
    beside = "format format_version files parity vocabulary_info pool_info training_info"
    assert said.keys() == own.keys() - set(beside.split())
    assert own["versions"]["pillow"] == said["versions"]["pillow"] == PIL.__version__


def test_an_operator_of_others_is_found(folder, tmp_path):
    graph = onnx.load(folder / "model.onnx")
    graph.graph.node[3].domain = "com.microsoft"
    onnx.save(graph, tmp_path / "model.onnx")
    assert foreign_operators(tmp_path / "model.onnx") == [f"com.microsoft::{graph.graph.node[3].op_type}"]


def test_what_is_there_is_replaced_only_when_asked(model, folder, tmp_path, capsys):
    processor = DeCoDetrImageProcessor(size=SIZE)
    with pytest.raises(ValueError, match="has the result of an earlier `decodetr export`; give --overwrite"):
        export_model(model, processor, folder, ExportSettings("onnx"))
    (tmp_path / "model.onnx").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="would replace .*model.onnx, which it did not write"):
            export_model(model, processor, tmp_path, ExportSettings("onnx"), overwrite)
    assert (tmp_path / "model.onnx").read_text() == "mine"


def test_openvino_reports_to_nobody(monkeypatch):
    import openvino_telemetry

    from decodetr.utils.no_reports import no_reports

    monkeypatch.delenv("CI", raising=False)
    told = []
    with no_reports():
        checker = openvino_telemetry.main.OptInChecker()
        told.append(checker.check(enable_opt_in_dialog=False, disable_in_ci=True).name)
    assert told == ["DECLINED"] and "CI" not in os.environ


@pytest.mark.slow
def test_openvino_with_baked_names_and_post_processing_inside_replaces_an_export(model, folder, tmp_path):
    """Names, thresholds and the best pairs are in the graph; the files of the other format go."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = ExportSettings("openvino", post_processing="inside", top_k=9)
    made = export_model(model, DeCoDetrImageProcessor(size=SIZE), tmp_path, settings, overwrite=True)
    assert made.description.parity["found"] == made.description.parity["compared"] == 5 * 9
    assert {file.name for file in tmp_path.iterdir()} == {"export.json", "model.xml", "model.bin"}
    detector, images = ExportedDetector(tmp_path / "model.xml"), pictures()
    assert_same(detector.detect(images, threshold=0.0, top_k=9), torch_detections(model, images, top_k=9))
    with pytest.raises(ValueError, match="top_k must be at most 9, which the graph gives, got 10"):
        detector.detect(images, top_k=10)
    with pytest.raises(ValueError, match="its 4 names are baked into the graph; `decodetr export --names-input`"):
        detector.set_names(["dog"])


@pytest.mark.parametrize("kind", ["onnx", "openvino", "pt2"])
def test_names_as_input_with_post_processing_inside(kind, model, trace_once, tmp_path, monkeypatch):
    """A tiny detector has fewer pairs than the usual number of detections: 12 queries and, at worst, one name."""
    monkeypatch.setattr("decodetr.export.export_run.trace", trace_once)
    made = exported(model, tmp_path, kind, names_input=True, post_processing="inside")
    assert made.description.top_k == 12 and made.description.dynamic == ["batch", "names"]
    detector, images = ExportedDetector(tmp_path, allow_pickle=True), pictures()
    swapped = named_model()
    for names in (NAMES, ["dog"], ["salt, pepper", "cat"]):
        swapped.set_vocabulary(model.vocabulary.select(names))
        detector.set_names(names)
        found = detector.detect(images, threshold=0.0)
        assert [len(one["names"]) for one in found] == [12, 12, 12]
        assert_same(found, torch_detections(swapped, images, top_k=12))


def test_a_graph_that_detects_something_else_is_found_out(model, folder, detector):
    """By a box, a score or a name alone."""
    settings = ExportSettings("onnx", names_input=True)
    graph = DetectionGraph(model, settings).eval()

    class Changed:
        def __init__(self, change):
            self.change = change

        def run(self, inputs):
            found = {name: values.copy() for name, values in detector.session.run(inputs).items()}
            self.change(found)
            return found

    def move(found):
        found["pred_boxes"] += 0.01

    def lift(found):
        found["logits"][:, 3] += 1

    def swap(found):
        found["logits"] = found["logits"][..., ::-1] + [0, 0.5, 1, 0]

    def flatten(found):
        found["logits"][:] = -20

    assert check_parity(graph, Changed(lambda found: None), settings, (64, 64))["found"] == 60
    # Where all scores are below 1e-6, as of names that are not in the pictures.
    graph.model.config.score_bias, before = -15.0, graph.model.config.score_bias
    try:
        with pytest.raises(ValueError, match="of 60 queries only 0 were found again"):
            check_parity(graph, Changed(flatten), settings, (64, 64))
        shifted = Changed(lambda found: found["logits"].__isub__(np.float32(before + 15)))
        assert check_parity(graph, shifted, settings, (64, 64))["found"] == 60
    finally:
        graph.model.config.score_bias = before
    for change, left in ((move, 0), (lift, 55), (swap, 0)):
        with pytest.raises(ValueError, match=rf"of 60 queries only {left} were found again"):
            check_parity(graph, Changed(change), settings, (64, 64))


@pytest.mark.parametrize(
    "family, processor, settings, message",
    [
        ("detr", {"size": {"shortest_edge": 64, "longest_edge": 90}}, {}, "several sizes .*--dynamic-size, or give"),
        ("detr", {"pad_size": {"height": 64, "width": 64}}, {}, "pads images to one size, .*--image-size"),
        (
            "rt_detr_v2",
            {"size": SIZE},
            {"dynamic_size": True},
            "multiples of 32.*makes one fixed size; leave",
        ),
        ("rt_detr_v2", {"size": SIZE}, {"image_size": (64, 70)}, "multiples of 32, got 64 x 70; correct"),
        ("detr", {"size": SIZE}, {"post_processing": "inside", "top_k": 37}, "12 queries x 3 names .*at most 36"),
        (
            "detr",
            {"size": SIZE},
            {"post_processing": "inside", "names_input": True, "top_k": 13},
            "12 queries and at least one name to choose from; give at most 12",
        ),
        (
            "detr",
            {"size": SIZE},
            {"image_size": (64, 64), "dynamic_size": True},
            "give --image-size or --dynamic-size",
        ),
        ("detr", {"size": SIZE}, {"semantic_queries": 13}, "--queries 13: the detector has 12"),
        ("detr", {"size": SIZE}, {"dtype": "bfloat16"}, "give --dtype float16, or --format openvino"),
        ("detr", {"size": SIZE}, {"dtype": "int8"}, "dtype must be one of float32, float16, bfloat16, got 'int8'"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, family, processor, settings, message):
    model = tiny_model(family).eval()
    with pytest.raises(ValueError, match=message):
        exported(model, tmp_path / "out", "onnx", processor=DeCoDetrImageProcessor(**processor), **settings)
    assert not (tmp_path / "out").exists()


def test_damaged_exports_are_refused(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    own = json.loads((folder / "export.json").read_text())
    for change, message in (
        ({"format_version": 9}, "expected format and format_version .*; export the model again"),
        ({"queries": "many"}, "queries: expected int, got 'many'"),
        ({"runtime": "tensorrt"}, "runtime: expected one of onnx, openvino, pt2"),
        ({"files": {"../model.onnx": {"bytes": 1, "sha256": ""}}}, "files: expected bytes and sha256 of some of name"),
        ({"files": {"model.onnx": {"bytes": 1}}}, r"files: expected .*, got 'model.onnx': {'bytes': 1}; export the"),
        ({"num_prototypes": 13}, r"prototypes: expected float32 \(13, 16\), got float32 \(12, 16\)"),
    ):
        (tmp_path / "export.json").write_text(json.dumps(own | change))
        with pytest.raises(ValueError, match=message):
            ExportedDetector(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps(own))
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match="model.onnx is not the file .* got 8 with"):
        ExportedDetector(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps(own | {"files": {}}))
    with pytest.raises(ValueError, match="model.onnx cannot be loaded: .*; export the model again"):
        ExportedDetector(tmp_path)
    with pytest.raises(FileNotFoundError, match="no exported model is there: expected a folder with export.json"):
        ExportedDetector(tmp_path / "nowhere")
