"""decodetr.optimize keeps the fastest way of those that keep the detections, and remembers it."""

import json
import logging
import shutil
import threading

import numpy as np
import pytest
import torch
from helpers.exports import named_model
from helpers.tiny_models import NAMES, tiny_model
from PIL import Image

import decodetr
from decodetr import DeCoDetrImageProcessor, Vocabulary
from decodetr.cli import main
from decodetr.export.settings import ExportSettings
from decodetr.inference.detection import detect
from decodetr.optimizing import optimize as module
from decodetr.optimizing.check import Check
from decodetr.optimizing.memory import circumstances
from decodetr.optimizing.torch_detector import TorchDetector
from decodetr.optimizing.ways import WAYS, Way, check_way
from decodetr.runtime.exported_detector import ExportedDetector


@pytest.fixture(scope="module")
def model():
    return tiny_model("detr").eval()


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A folder for the graphs of several tests."""
    return tmp_path_factory.mktemp("optimized")


@pytest.fixture
def processor():
    return DeCoDetrImageProcessor(size={"height": 64, "width": 64})


@pytest.fixture
def pictures():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)) for _ in range(3)]


class _Fake:
    """What eager detects, moved, and as slow as it says."""

    def __init__(self, eager, shift):
        self.eager, self.shift = eager, shift

    def detect(self, *args, **kwargs):
        found = self.eager.detect(*args, **kwargs)
        return [{**one, "boxes": [[x + self.shift for x in box] for box in one["boxes"]]} for one in found]


@pytest.fixture
def fakes(monkeypatch):
    """Ways of known times: eager 4, "same" 2, "wrong" 1 with other boxes, "broken" and "silent" cannot be made."""
    made = []

    def way(name, shift):
        def make(case):
            made.append(name)
            return _Fake(TorchDetector(case.model, case.image_processor), shift)

        return Way(make)

    def broken(case):
        raise RuntimeError("no such instruction\nand more")

    def silent(case):
        raise AssertionError

    ways = {"eager": WAYS["eager"], "same": way("same", 0.0), "wrong": way("wrong", 40.0), "broken": Way(broken)}
    ways["silent"] = Way(silent)
    times = {"eager": 4.0, "same": 2.0, "wrong": 1.0}
    monkeypatch.setattr(module, "WAYS", ways)
    monkeypatch.setattr("decodetr.optimizing.ways.WAYS", ways)

    def in_turn(functions, **_):
        for function in functions.values():
            function()
        return {name: [times[name]] * 3 for name in functions}

    monkeypatch.setattr(module, "in_turn", in_turn)
    return made


def test_the_fastest_way_that_keeps_the_detections_is_chosen(model, processor, pictures, fakes, tmp_path):
    found = decodetr.optimize(model, pictures, image_processor=processor, memory=tmp_path)
    rows = found.report["ways"]
    assert found.way == "same" and list(rows) == ["eager", "same", "wrong", "broken", "silent"]
    assert rows["same"]["ap"] == rows["eager"]["ap"] > 90 and rows["wrong"]["ap"] < 50
    assert rows["same"]["ratio"]["median"] == 0.5 and rows["broken"]["problem"] == "no such instruction"
    assert rows["silent"]["problem"] == "AssertionError"
    table = found.table()
    assert "same (chosen)" in table and "no such instruction" in table and "eager float32 detects in 3" in table
    loose = decodetr.optimize(model, pictures, image_processor=processor, memory=tmp_path, max_ap_loss=100)
    assert loose.way == "wrong"


def test_a_choice_is_remembered_until_something_changes(model, processor, pictures, fakes, tmp_path):
    first = decodetr.optimize(model, pictures, image_processor=processor, memory=tmp_path)
    assert fakes == ["same", "wrong", "same"]  # tried, tried, taken
    fakes.clear()
    second = decodetr.optimize(model, pictures, image_processor=processor, memory=tmp_path)
    assert fakes == ["same"] and second.report == json.loads(next(first.folder.glob("report-*.json")).read_text())
    decodetr.optimize(model, pictures, image_processor=processor, memory=tmp_path, again=True)
    assert fakes == ["same", "same", "wrong", "same"]
    fakes.clear()
    calibrated = tiny_model("detr", score_bias=0.5).eval()
    other = decodetr.optimize(calibrated, pictures, image_processor=processor, memory=tmp_path)
    assert other.folder != first.folder and len(fakes) == 3
    renamed = tiny_model("detr").eval()
    renamed.set_vocabulary(Vocabulary(["x"], torch.randn(1, 16)))
    again = decodetr.optimize(renamed, pictures, image_processor=processor, memory=tmp_path)
    assert again.folder == first.folder  # names can be swapped in any way
    next(first.folder.glob("report-*.json")).write_text('{"asked": 1}')
    assert decodetr.optimize(model, pictures, image_processor=processor, memory=tmp_path).way == "same"


def _with(model, field, value):
    """Another config of the same weights."""
    config = model.config if field in model.config.to_dict() else model.config.detector_config
    assert getattr(config, field) != value
    setattr(config, field, value)


@pytest.mark.parametrize(
    "field, value",
    [
        *(("name_temperature", 0.2), ("residual_weight", 0.1), ("centred", False), ("nms_iou", 0.5)),
        *(("background_level", 0.9), ("score_threshold", 0.7), ("activation_function", "gelu")),
    ],
)
def test_graphs_of_another_config_are_others(processor, field, value):
    model, other = tiny_model("detr"), tiny_model("detr")
    other.load_state_dict(model.state_dict())
    other.config.training_info = {"names": ["a"]}  # tells where it is from
    assert circumstances(other, processor) == circumstances(model, processor)
    _with(other, field, value)
    assert circumstances(other, processor) != circumstances(model, processor)


def test_graphs_of_another_space_or_preprocessing_are_others(model, processor):
    other = tiny_model("detr")
    other.load_state_dict(model.state_dict())
    other.prototype_pool.info["space"] = {"name_temperature": 0.2}
    larger = DeCoDetrImageProcessor(size={"height": 96, "width": 64})
    assert circumstances(other, processor) != circumstances(model, processor) != circumstances(model, larger)


def test_threads_that_ask_for_the_same_at_once_measure_once(model, processor, pictures, fakes, tmp_path):
    found = []

    def work():
        found.append(decodetr.optimize(model, pictures, image_processor=processor, memory=tmp_path))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.way for one in found] == ["same"] * 3 and found[0].report == found[1].report == found[2].report
    assert sorted(fakes) == ["same"] * 4 + ["wrong"]  # tried once, taken by each


@pytest.mark.parametrize(
    "error, tried",
    [
        (OSError("No space left on device"), 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2),
        (ValueError("torch cannot export this detr"), 1),
    ],
)
def test_what_failed_of_a_full_disk_or_memory_is_tried_again(
    model, processor, pictures, fakes, monkeypatch, tmp_path, error, tried
):
    calls = []

    def fails(case):
        calls.append(case)
        raise error

    monkeypatch.setitem(module.WAYS, "broken", Way(fails))
    for _ in range(2):
        found = decodetr.optimize(model, pictures, image_processor=processor, memory=tmp_path)
    assert len(calls) == tried and found.way == "same"


def test_ranges_of_int8_are_those_of_the_pictures_of_a_measurement(
    model, processor, pictures, onnx_folder, monkeypatch, tmp_path
):
    seen = []

    def quantize(exported, folder, images):
        seen.append(images)
        shutil.copytree(onnx_folder, folder, dirs_exist_ok=True)

    monkeypatch.setattr("decodetr.optimizing.ways._export", lambda case, kind: None)
    monkeypatch.setattr("decodetr.optimizing.ways.quantize", quantize)
    eager = TorchDetector(model, processor)
    monkeypatch.setattr("decodetr.optimizing.ways.ExportedDetector", lambda folder, **how: eager)
    way = Way(WAYS["openvino-int8"].make)
    monkeypatch.setattr(module, "WAYS", {"eager": WAYS["eager"], "openvino-int8": way})
    monkeypatch.setattr("decodetr.optimizing.ways.WAYS", module.WAYS)
    options = {"image_processor": processor, "memory": tmp_path, "runs": 1}
    for given, again in ((pictures[:2], False), (pictures[2:], False), (pictures[2:], True)):
        decodetr.optimize(model, given, way="openvino-int8", again=again, **options)
    assert seen == [pictures[:2], pictures[2:]]  # the choice is there in the second call
    decodetr.optimize(model, pictures, ways=["openvino-int8"], **options)  # ranges of another choice stay
    assert seen[2:] == [pictures] and len(list(tmp_path.glob("*/*/*/export.json"))) == 2


def test_a_way_that_is_named_is_taken(model, processor, pictures, fakes, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = decodetr.optimize(model, pictures, image_processor=processor, memory=tmp_path, way="wrong")
    assert found.way == "wrong" and "wrong loses" in caplog.text
    with pytest.raises(ValueError, match="broken: no such instruction"):
        decodetr.optimize(model, pictures, image_processor=processor, memory=tmp_path, way="broken")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"ways": ["tensorrt"]}, "'tensorrt' is none of eager"),
        ({"way": "fast"}, "'fast' is none of"),
        ({"pictures": []}, "expected at least one that can be read, got none"),
        ({"max_ap_loss": -1}, "max_ap_loss must lie"),
        ({"runs": 0}, "runs be at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(model, processor, pictures, tmp_path, options, words):
    options = {"pictures": pictures, **options}
    with pytest.raises(ValueError, match=words):
        decodetr.optimize(model, options.pop("pictures"), image_processor=processor, memory=tmp_path, **options)


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="model: expected a folder, .* got Linear; "):
        decodetr.optimize(torch.nn.Linear(2, 2))


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr("decodetr.optimizing.ways.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"openvino needs openvino: pip install 'decodetr\[openvino\]'"):
        check_way("--optimize", "openvino", torch.device("cpu"))
    with pytest.raises(ValueError, match="float16 does not run on cpu"):
        check_way("--optimize", "float16", torch.device("cpu"))
    with pytest.raises(ValueError, match="expected auto or one of eager"):
        check_way("--optimize", "quick", torch.device("cpu"))
    assert check_way("--optimize", "eager", torch.device("cpu")) is None


def _same(found, expected, tolerance):
    assert [one["names"] for one in found] == [one["names"] for one in expected]
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one["scores"], other["scores"], atol=tolerance)
        np.testing.assert_allclose(one["boxes"], other["boxes"], atol=100 * tolerance)


@pytest.mark.parametrize(
    "way", ["channels-last", *(pytest.param(way, marks=pytest.mark.slow) for way in ("onnx", "openvino"))]
)
def test_real_ways_detect_what_eager_does_and_swap_names(model, processor, pictures, graphs, way):
    found = model.optimize(pictures, image_processor=processor, memory=graphs, way=way, runs=1)
    expected = detect(model, processor, pictures, threshold=0.0)
    assert found.way == way and isinstance(
        found.detector, TorchDetector if way == "channels-last" else ExportedDetector
    )
    _same(found.detect(pictures, threshold=0.0), expected, 1e-4)
    some = found.detect(pictures, names=[NAMES[2]], threshold=0.0)
    tables = model.tables()
    tables = model.semantic_stream.tables_with(tables, model.vocabulary.select([NAMES[2]]))
    _same(some, detect(model, processor, pictures, threshold=0.0, tables=tables), 1e-4)


def test_names_of_a_call_are_those_of_the_model_now(processor, pictures, onnx_folder, monkeypatch, tmp_path):
    """The graph was exported when the model had other names, of which one has another embedding now."""
    asked = []

    def export(model, image_processor, folder, settings):
        asked.append(settings)
        shutil.copytree(onnx_folder, folder)

    monkeypatch.setattr("decodetr.optimizing.ways.export_model", export)
    options = {"image_processor": processor, "memory": tmp_path, "way": "onnx", "runs": 1}
    named_model().optimize(pictures, **options)
    renamed = named_model()
    torch.manual_seed(3)
    renamed.set_vocabulary(Vocabulary(["new", NAMES[0]], torch.randn(2, 16)))
    found = renamed.optimize(pictures, **options)
    assert asked == [ExportSettings("onnx", names_input=True, semantic_queries=12)]
    for names in (["new"], [NAMES[0]]):
        tables = renamed.semantic_stream.tables_with(renamed.tables(), renamed.vocabulary.select(names))
        expected = detect(renamed, processor, pictures, threshold=0.0, tables=tables)
        _same(found.detect(pictures, names=names, threshold=0.0), expected, 1e-4)
    with pytest.raises(ValueError, match="no stored embedding"):
        found.detect(pictures, names=[NAMES[1]])


def test_a_kept_graph_that_cannot_be_loaded_is_made_again(processor, pictures, onnx_folder, monkeypatch, tmp_path):
    """Of an older decodetr, or damaged: nobody has to find and delete it."""
    asked = []

    def export(model, image_processor, folder, settings):
        asked.append(folder)
        shutil.copytree(onnx_folder, folder, dirs_exist_ok=True)

    monkeypatch.setattr("decodetr.optimizing.ways.export_model", export)
    options = {"image_processor": processor, "memory": tmp_path, "way": "onnx", "runs": 1}
    for made in (1, 1):
        assert named_model().optimize(pictures, **options).way == "onnx" and len(asked) == made
    with open(asked[0] / "model.onnx", "ab") as file:
        file.write(b"x")
    assert named_model().optimize(pictures, **options).way == "onnx" and len(asked) == 2


@pytest.mark.parametrize("size, dynamic", [({"shortest_edge": 64, "longest_edge": 96}, True), (None, False)])
def test_a_graph_takes_the_sizes_that_the_image_processor_makes(model, pictures, tmp_path, monkeypatch, size, dynamic):
    asked = []
    monkeypatch.setattr("decodetr.optimizing.ways.export_model", lambda *given: asked.append(given[3]) or 1 / 0)
    processor = DeCoDetrImageProcessor(size=size or {"height": 64, "width": 64})
    found = decodetr.optimize(
        model, pictures[:1], image_processor=processor, memory=tmp_path, ways=["openvino"], runs=1
    )
    assert found.way == "eager" and [one.dynamic_size for one in asked] == [dynamic]


def test_annotated_pictures_are_looked_at_where_no_others_are_given(
    model, processor, pictures, fakes, monkeypatch, tmp_path
):
    shown = detect(model, processor, pictures[:2], threshold=0.0)
    read = []

    def of_data(data, names, most):
        read.append((data, most))
        return Check.of_detections(pictures[:2], shown, shown)

    looked, way = [], WAYS["eager"].make
    monkeypatch.setattr(module.Check, "of_data", of_data)
    monkeypatch.setitem(module.WAYS, "same", Way(lambda case: looked.append(case.pictures) or way(case)))
    found = decodetr.optimize(model, data="some", image_processor=processor, memory=tmp_path, runs=1)
    assert found.way == "same" and looked[0] == pictures[:2] and read == [("some", 128)]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"images": "a.png"}, r"images must be a list, got str; write \[image\]"),
        ({"images": [3]}, "expected PIL images, arrays or files, got int"),
        ({"images": [], "threshold": 2}, "threshold must be in 0 to 1, got 2"),
        ({"images": [], "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"images": [], "names": "cat"}, "labels must be a list of names, at least one, got 'cat'"),
    ],
)
def test_a_model_in_torch_refuses_what_an_exported_one_refuses(model, processor, given, message):
    with pytest.raises(ValueError, match=message):
        TorchDetector(model, processor).detect(**given)


def test_a_model_in_torch_takes_any_number_of_pictures(model, processor, pictures):
    detector = TorchDetector(model, processor)
    assert detector.detect([]) == []
    found = detector.detect(iter(pictures), threshold=0.0, batch_size=2)
    _same(found, detect(model, processor, pictures, threshold=0.0), 1e-4)


@pytest.mark.parametrize(
    "way", ["bfloat16", *(pytest.param(f"openvino-{kind}", marks=pytest.mark.slow) for kind in ("bfloat16", "int8"))]
)
def test_coarse_ways_run(model, processor, pictures, graphs, way):
    found = model.optimize(pictures, image_processor=processor, memory=graphs, way=way, runs=1)
    assert found.way == way
    expected = detect(model, processor, pictures, threshold=0.0)
    for one, other in zip(found.detect(pictures, threshold=0.0), expected):
        assert abs(max(one["scores"]) - max(other["scores"])) < 0.1
    if way == "bfloat16":  # on a CPU, which is slow with channels first
        wide = [one for one in found.detector.model.parameters() if one.ndim == 4 and min(one.shape[1:]) > 1]
        assert wide and all(one.is_contiguous(memory_format=torch.channels_last) for one in wide)


@pytest.mark.slow
def test_files_of_a_way_are_used_again(model, processor, pictures, graphs, monkeypatch):
    for folder in graphs.glob("*/openvino-float32"):  # as a run leaves it that was killed while it exported
        shutil.rmtree(folder)
        (folder / ".decodetr-staging-x").mkdir(parents=True)
    first = model.optimize(pictures, image_processor=processor, memory=graphs, way="openvino", runs=1)
    monkeypatch.setattr("decodetr.optimizing.ways.export_model", None)
    again = model.optimize(pictures, image_processor=processor, memory=graphs, way="openvino", runs=1, again=True)
    _same(again.detect(pictures, threshold=0.0), first.detect(pictures, threshold=0.0), 0)
    graph = first.folder / "openvino-float32/model.xml"
    graph.write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(ValueError, match="keeps cannot be used: .*model.xml cannot be loaded.*Remove this folder"):
        model.optimize(pictures, image_processor=processor, memory=graphs, way="openvino")
    shutil.rmtree(first.folder)  # then all is made again
    with pytest.raises(ValueError, match="'NoneType' object is not callable"):
        model.optimize(pictures, image_processor=processor, memory=graphs, way="openvino")


def test_ap_by_hand():
    """Two objects, of which one is found at the right place."""
    shown = [{"names": ["a", "b"], "scores": [0.9, 0.8], "boxes": [[0, 0, 10, 10], [20, 20, 40, 40]]}]
    check = Check.of_detections([None], shown, shown)
    assert check.ap(shown) == 100
    moved = [{**shown[0], "boxes": [[0, 0, 10, 10], [60, 60, 80, 80]]}]
    assert check.ap(moved) == 50
    assert check.ap([{"names": ["c"], "scores": [1.0], "boxes": [[0, 0, 1, 1]]}]) == 0
    empty = {"names": [], "scores": [], "boxes": []}
    fallback = Check.of_detections([None], shown, [empty])  # nothing is above the threshold: the best ones count
    assert fallback.ap(shown) == 100 and list(fallback.truth.names) == ["a", "b"]


@pytest.mark.parametrize("there", [False, True])
def test_a_way_in_bfloat16_is_refused_where_it_would_compute_in_float32(monkeypatch, there):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True, "amx_bf16": there})
    monkeypatch.setattr("decodetr.optimizing.ways.find_spec", lambda name: object())
    problem = WAYS["openvino-bfloat16"].hindrance(torch.device("cpu"))
    assert problem == (None if there else "needs a processor with units for bfloat16, which this one has not")
    assert WAYS["bfloat16"].hindrance(torch.device("cpu")) is None  # emulated, and slow


def test_a_memory_that_may_not_be_entered_is_said_before_any_work(tmp_path, tiny_detector_folder, monkeypatch, capsys):
    (tmp_path / "home").write_text("a file: root may enter every folder")
    with pytest.raises(PermissionError, match="home may not be entered or written; set the .* HF_HOME"):
        decodetr.optimize("no model", memory=tmp_path / "home" / "memory")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    words = ["predict", tmp_path, "--model", tiny_detector_folder, "--output", tmp_path / "out", "--optimize", "auto"]
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    assert main([*map(str, words), "--device", "cpu"]) == 1
    assert "nothing can be kept there" in capsys.readouterr().err and not (tmp_path / "out").exists()
