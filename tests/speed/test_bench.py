"""`decodetr bench`: which rows there are, what they say, what is kept and what is refused."""

import dataclasses
import json
from typing import get_args

import numpy as np
import pytest
import torch

from decodetr import DeCoDetrImageProcessor
from decodetr.cli import main
from decodetr.optimizing.ways import WAYS
from decodetr.runtime.description import Description
from decodetr.runtime.sessions import openvino_core
from decodetr.speed import bench
from decodetr.speed.bench import Bench, BenchOptions, Group, Setting, same_share
from decodetr.speed.catalog import HOWS
from decodetr.speed.contestants import Contestant, of_random_weights
from decodetr.speed.report import text_of, write_report
from decodetr.speed.ways import How
from decodetr.utils.files import write_json

CPU = torch.device("cpu")


def _options(**changes):
    base = {"models": ("detr",), "queries": (12,), "names": (3,), "what": ("forward",), "device": "cpu"}
    return BenchOptions(**{**base, "runs": 1, "warmup": 0, **changes})


def test_every_model_has_a_row_at_every_setting(tiny, tiny_detector_folder):
    options = _options(models=("detr", str(tiny_detector_folder)), names=(3, 5), queries=(12, 8), peers=("owlv2",))
    document = Bench(options).run()
    title = tiny_detector_folder.name
    ours = ["DETR-R50, bare", "DETR-R50"]
    others = [f"{title}, bare", title, "OWLv2-B/16", "OWLv2-B/16, names embedded once"]
    found = [(group["setting"]["names"], group["setting"]["queries"]) for group in document["groups"]]
    assert found == [(3, 12), (5, 12), (3, 8), (5, 8)]
    for group in document["groups"]:
        first = group["setting"]["queries"] == 12  # others have the queries that they were made with
        assert [row["title"] for row in group["rows"]] == (ours + others if first else ours)
        assert [row["queries"] for row in group["rows"]][:2] == [group["setting"]["queries"]] * 2
        assert not any("skipped" in row for row in group["rows"])
    text = text_of(document)
    assert "forward, 5 names, batch 1, N = 8" in text and "| 12 |" in text and "16 x" not in text


def test_times_and_ratios_are_those_of_the_clock(tiny, monkeypatch):
    """A call of the bare detector takes 2 s and one of the model 3 s, in the second round twice as long."""
    now, costs = [0.0], {}
    monkeypatch.setattr(bench, "clock", lambda device: now[0])
    monkeypatch.setattr("decodetr.speed.timing.clock", lambda device: now[0])
    contestants = of_random_weights("detr", 12, None, CPU, torch.float32)
    for one, seconds in zip(contestants, (2.0, 3.0)):
        calls = costs.setdefault(one.title, [])

        def forward(batch, real=one.forward, seconds=seconds, calls=calls):
            calls.append(batch)
            now[0] += seconds * (2 if len(calls) > 2 else 1)  # the first, two rounds
            return real(batch)

        monkeypatch.setattr(one, "forward", forward)
    group = Group(Setting(3, 2, 12, "forward"), contestants, _options(warmup=0, runs=2, batch_sizes=(2,)))
    with torch.inference_mode():
        bare, ours = group.measure({"float32": {"gflops": 1e-3, "gbytes": 1e9}})
    assert bare["seconds"] == {"median": 3.0, "q1": 2.5, "q3": 3.5, "min": 2.0, "max": 4.0, "runs": 2}
    assert ours["seconds"]["median"] == 4.5 and ours["over_bare"]["median"] == 1.5
    assert "over_bare" not in bare and bare["over_reference"]["median"] == pytest.approx(2 / 3)
    assert ours["over_reference"]["min"] == ours["over_reference"]["max"] == 1.0
    assert ours["share_of_floor"] == pytest.approx(ours["flops"] / 1e6 / 4.5)
    assert ours["flops"] > bare["flops"] > 0 and ours["parameters"] > bare["parameters"]
    assert ours["tables"] == (12 + 3) * 16 and bare["tables"] == 0
    assert [len(calls) for calls in costs.values()] == [3, 3]
    assert all(batch["pixel_values"].shape == (2, 3, 64, 64) for calls in costs.values() for batch in calls)


def test_flops_are_those_of_the_formulas():
    """A convolution of 3 x 3, an attention of the CPU's fused kernel and a linear layer."""

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.linear = torch.nn.Linear(8, 5)

        def forward(self, pixel_values):
            x = self.convolution(pixel_values).flatten(2).transpose(1, 2)[:, None]  # (B, 1, H W, 8)
            return self.linear(torch.nn.functional.scaled_dot_product_attention(x, x, x))

    one = Contestant("", "peer", Module(), None)
    with torch.inference_mode():
        counted = bench.flops(one, {"pixel_values": torch.ones(2, 3, 4, 6)})
    places = 4 * 6
    assert counted == 2 * (2 * places * 8 * 27 + 4 * places * places * 8 + 2 * places * 8 * 5)


def test_another_model_in_a_folder_is_measured_anew(tiny, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(Group, "measure", lambda group, bounds: measured.append(group) or [])
    monkeypatch.setattr(
        Bench, "_saved", lambda self, name, where: of_random_weights("detr", 12, None, CPU, torch.float32)
    )
    folder, output = tmp_path / "mine", str(tmp_path / "out")
    folder.mkdir()
    for content, times in (("{}", 1), ("{ }", 1), ('{"a": 1}', 2)):
        (folder / "config.json").write_text(content, encoding="utf-8")
        document = Bench(_options(models=(str(folder),), output=output)).run()
        assert len(measured) == times and len(document["groups"]) == 1


def test_a_model_that_fails_takes_no_earlier_figure_away(tiny, tmp_path, monkeypatch):
    rows = [{"title": "mine", "how": "eager", "seconds": {"median": 1.0}}]
    monkeypatch.setattr(Group, "measure", lambda group, bounds: rows)
    monkeypatch.setattr(
        Bench, "_saved", lambda self, name, where: of_random_weights("detr", 12, None, CPU, torch.float32)
    )
    folder, output = tmp_path / "mine", str(tmp_path / "out")
    folder.mkdir()
    found = []
    for state in range(3):
        (folder / "config.json").write_text(str(state), encoding="utf-8")
        rows = [{**rows[0], **({"skipped": "RuntimeError: no"} if state == 1 else {})}]
        found.append(Bench(_options(models=(str(folder),), output=output)).run()["groups"])
        rows = [{key: value for key, value in rows[0].items() if key != "skipped"}]
    assert len(found[0]) == 1 and len(found[1]) == 2 and found[1][0] == found[0][0]
    assert len(found[2]) == 1 and "skipped" not in found[2][0]["rows"][0]  # it works again


def test_the_whole_way_from_a_file_is_timed(tiny, monkeypatch):
    opened = []
    real = bench.open_image
    monkeypatch.setattr(bench, "open_image", lambda data: (opened.append(len(data)), real(data))[1])
    bare, ours = Bench(_options(what=("file",), batch_sizes=(2,), runs=3, warmup=1)).run()["groups"][0]["rows"]
    assert ours["seconds"]["runs"] == 3 and "flops" not in ours
    # Of each contestant two pictures for the size, two in the first call, two in each round of warm-up and measuring,
    # and before each turn two more, because a call is short.
    assert len(opened) == 2 * (2 + 2 + 4 * (2 + 2))


def test_a_call_of_ours_finds_what_predict_finds(tiny):
    from decodetr.inference.detection import detect
    from decodetr.utils.images import open_image

    _, ours = of_random_weights("rt_detr_v2", 12, None, CPU, torch.float32)
    ours.set_names(4, 1)
    picture = open_image(bench.picture_bytes())
    assert picture.size == (128, 96)
    with torch.inference_mode():
        ours.module.config.score_threshold = 0.0
        (found,) = ours.detect([picture])
        (expected,) = detect(ours.module, ours.image_processor, [picture], threshold=None)
        outputs = ours.forward(ours.prepare([picture]))
        (finished,) = ours.finish(outputs, [(96, 128)])
    count = len(found["scores"])
    assert found["scores"] == expected["scores"] == finished["scores"][:count] and count >= 10
    assert found["boxes"] == finished["boxes"][:count]
    assert set(found["labels"]) <= {f"name {i}" for i in range(4)}


def test_as_many_queries_are_read_as_are_asked_for(tiny):
    document = Bench(
        _options(models=("rt_detr_v2",), queries=(40,), queries_read=("rule", "all", 7), image_size=128)
    ).run()
    bare, rule, every, some = document["groups"][0]["rows"]
    assert [row.get("read") for row in (bare, rule, every, some)] == [None, 40, 40, 7]  # random weights are not sure
    assert [row["title"].partition(", ")[2] for row in (rule, every, some)] == ["", "all read", "7 read"]
    assert bare["flops"] < some["flops"] < rule["flops"] == every["flops"]
    assert all("over_bare" in row and "over_reference" in row for row in (rule, every, some))
    assert rule["over_reference"]["median"] == 1.0


def test_every_way_has_a_row_and_is_compared_with_eager_mode(tiny):
    hows = ("eager", "channels-last", "bfloat16", "openvino", "openvino-bfloat16")
    options = _options(models=("detr",), how=hows, queries_read=(5,), runs=2)
    document = Bench(options).run()
    rows = {(row["title"], row["how"]): row for row in document["groups"][0]["rows"]}
    ours = {how: rows["DETR-R50, 5 read", how] for how in hows}
    if "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert "no units for bfloat16" in ours.pop("openvino-bfloat16")["skipped"]
    assert [how for how in ours if "skipped" in ours[how]] == []
    assert {how: one.get("same_as_eager") for how, one in ours.items() if "bfloat16" not in how} == {
        "eager": None,
        "channels-last": 1.0,
        "openvino": 1.0,
    }
    assert {one["flops"] for one in ours.values()} == {ours["eager"]["flops"]}
    assert {one["read"] for one in ours.values()} == {5} and set(document["floors"]) == {"float32", "bfloat16"}
    assert "over_bare" in ours["openvino"] and rows["DETR-R50, bare", "openvino"]["same_as_eager"] == 1.0
    # The fastest way of ours is what all rows are compared with.
    fastest = min(ours, key=lambda how: ours[how]["seconds"]["median"])
    assert ours[fastest]["over_fastest"]["min"] == ours[fastest]["over_fastest"]["max"] == 1.0
    assert f"over DETR-R50, 5 read by {fastest}" in text_of(document)


def test_peers_have_the_same_rows_and_one_that_cannot_be_converted_says_why(tiny):
    for peer, how in (("grounding-dino", "bfloat16"), ("omdet-turbo", "openvino")):
        document = Bench(_options(how=("eager", how), peers=(peer,))).run()
        rows = {(row["title"], row["how"]): row for row in document["groups"][0]["rows"]}
        if how == "openvino":
            assert "Guard" in rows["OmDet-Turbo-T, language cache off", how]["skipped"]
        else:
            assert "skipped" not in rows["Grounding DINO-T", how]


def test_bfloat16_is_not_measured_where_there_are_no_units(tiny, monkeypatch):
    """OpenVINO would take float32, and the row would say otherwise."""
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    monkeypatch.setattr("decodetr.speed.ways.openvino_settings", lambda *asked: settings)
    rows = Bench(_options(how=("openvino-bfloat16",))).run()["groups"][0]["rows"]
    assert [row["skipped"] for row in rows] == ["ValueError: this processor has no units for bfloat16"] * 2


def test_the_ways_are_those_of_optimize():
    assert get_args(How) == HOWS and set(HOWS) <= set(WAYS)


def test_weights_of_other_ways_are_a_copy(tiny):
    bare, ours = of_random_weights("detr", 12, None, CPU, torch.float32)
    half, last = ours.in_way("bfloat16"), ours.in_way("channels-last")
    assert half.dtype == torch.bfloat16 == next(half.module.parameters()).dtype
    assert ours.dtype == last.dtype == torch.float32 == next(ours.module.parameters()).dtype
    wide = {
        one.how: next(p for p in one.module.parameters() if p.ndim == 4 and p.shape[-1] > 1) for one in (ours, last)
    }
    assert wide["channels-last"].is_contiguous(memory_format=torch.channels_last)
    assert wide["eager"].is_contiguous()
    last.set_names(7, 1)
    assert len(last.module.vocabulary) == 7 != len(ours.module.vocabulary)


@pytest.mark.slow
def test_compiled_models_are_compared_with_themselves(tiny, monkeypatch):
    """By a backend that only traces: what a compiler makes of it is the compiler's business."""
    compiled = []
    real = torch.compile

    def compile_of(module, mode):
        compiled.append((type(module).__name__, mode))
        return real(module, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_of)
    options = _options(models=("detr",), how=("eager", "compile"), queries_read=(5,))
    rows = Bench(options).run()["groups"][0]["rows"]
    assert [(row["kind"], row["how"]) for row in rows] == [
        ("bare", "eager"),
        ("bare", "compile"),
        ("ours", "eager"),
        ("ours", "compile"),
    ]
    assert compiled == [("DetrForObjectDetection", "default"), ("DeCoDetrForObjectDetection", "default")]
    for row in rows[1::2]:
        assert row["same_as_eager"] == 1.0 and "over_eager" in row
    assert rows[3]["read"] == 5 and rows[3]["flops"] == rows[2]["flops"] and "same_as_eager" not in rows[2]


def test_what_is_there_is_kept_and_what_is_missing_is_measured(tiny, tmp_path, monkeypatch):
    measured = []
    real = Group.measure

    def measure(group, bounds):
        measured.append((group.setting.names, [one.title for one in group.entries]))
        if group.setting.names == 7:
            raise KeyboardInterrupt
        return real(group, bounds)

    monkeypatch.setattr(Group, "measure", measure)
    output = str(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        Bench(_options(names=(3, 7), output=output)).run()
    before = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
    assert [group["setting"]["names"] for group in before["groups"]] == [3]
    measured.clear()
    document = Bench(_options(names=(3, 4), output=output)).run()
    assert [names for names, _ in measured] == [4]
    assert document["groups"][0] == before["groups"][0] and len(document["groups"]) == 2
    measured.clear()
    again = Bench(_options(names=(4, 3), output=output)).run()
    assert not measured and again == document
    # Others beside it would have no neighbours in time: they are a group of their own, and what is there stays.
    more = Bench(_options(names=(3,), models=("detr", "d_fine"), output=output)).run()
    assert [names for names, _ in measured] == [3] and more["groups"][:2] == again["groups"]
    assert len(more["groups"]) == 3 and text_of(more).count("forward, 3 names, batch 1, N = 12:") == 2
    with pytest.raises(ValueError, match=r"measured otherwise \(runs was 1 and is 3\).*--overwrite"):
        Bench(_options(runs=3, output=output)).run()
    replaced = Bench(_options(runs=3, output=output, overwrite=True)).run()
    assert [group["setting"]["names"] for group in replaced["groups"]] == [3]


def test_rows_that_take_too_long_are_skipped_and_said(tiny, tmp_path):
    output = str(tmp_path)
    options = _options(peers=("grounding-dino", "owlv2"), names=(20,), limit_s=1e-9, output=output)
    document = Bench(options).run()
    rows = {row["title"]: row for row in document["groups"][0]["rows"]}
    assert all("--limit-s 1e-09" in row["skipped"] and "seconds" not in row for row in rows.values())
    assert "20 names take 3 passes: a call takes at least" in rows["Grounding DINO-T"]["skipped"]
    assert "it embeds the names, which alone takes" in rows["OWLv2-B/16, names embedded once"]["skipped"]
    assert "- not measured: DETR-R50, eager: a call takes" in text_of(document)
    assert len(write_report(document, output)) == 1  # nothing to draw
    # A higher limit measures them.
    document = Bench(_options(peers=("grounding-dino", "owlv2"), names=(20,), limit_s=600, output=output)).run()
    assert not any("skipped" in row for row in document["groups"][0]["rows"]) and len(document["groups"]) == 1
    assert [row["passes"] for row in document["groups"][0]["rows"]][2:] == [3, 1, 1]


def test_what_the_library_cannot_run_is_said_and_the_rest_is_measured(tiny, monkeypatch):
    from decodetr.speed.peers import Owlv2

    def fails(self, outputs, sizes):
        raise RuntimeError("no kernel for Half\nmore")

    monkeypatch.setattr(Owlv2, "finish", fails)
    document = Bench(_options(peers=("owlv2",), what=("file",))).run()
    rows = document["groups"][0]["rows"]
    assert [row.get("skipped") for row in rows] == [None, None, *["RuntimeError: no kernel for Half"] * 2]


def test_the_report_has_tables_and_plots(tiny, tmp_path, capsys):
    words = ["bench", "--models", "detr", "--name-counts", "3", "9", "--queries", "12", "--what", "forward"]
    assert main([*words, "--runs", "1", "--device", "cpu", "--threads", "1", "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert {file.name for file in tmp_path.iterdir()} == {"bench.json", "bench.md", "names.png", "parameters.png"}
    assert (tmp_path / "bench.md").read_text(encoding="utf-8") in said
    assert "| DETR-R50, bare | eager | 64 x 64 | 12 |" in said and "over its bare detector" in said
    document = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert document["machine"]["threads"] == 1 and document["settings"]["runs"] == 1
    assert [group["setting"]["names"] for group in document["groups"]] == [3, 9]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--models", "nothing/here/at all"], "'nothing/here/at all' cannot be loaded"),
        (["--peers", "grounding-din"], "--peers: expected some of grounding-dino, mm-grounding-dino, owlv2"),
        (["--name-counts", "0"], "--name-counts must be at least 1, got 0"),
        (["--batch-sizes", "1", "-2"], "--batch-sizes must be at least 1, got -2"),
        (["--image-size", "650"], "--image-size must be standard or a multiple of 32, got '650'"),
        (["--queries-read", "0"], "--queries-read must be rule, all or numbers of at least 1, got '0'"),
        (["--runs", "0"], "--runs must be at least 1, got 0"),
        (["--limit-s", "nan"], "--limit-s must be above 0"),
        (["--device", "cuda:77"], "--device cuda:77: expected one of"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_built(words, message, capsys, monkeypatch):
    monkeypatch.setattr(Bench, "run", lambda self: pytest.fail("it began"))
    assert main(["bench", *words]) == 1
    assert message in capsys.readouterr().err


def test_compiling_needs_a_compiler(capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["bench", "--how", "compile"]) == 1
    assert "--how compile needs a C++ compiler, and there is no no-such-compiler" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--dtype", "bfloat16"], ["--device", "meta"]])
def test_openvino_starts_from_float32_on_the_cpu(words, capsys, monkeypatch):
    monkeypatch.setattr("decodetr.cli.bench.pick_device", lambda name: torch.device(name.replace("auto", "cpu")))
    assert main(["bench", "--how", "eager", "openvino-bfloat16", *words]) == 1
    assert "--how openvino starts from float32 on the CPU" in capsys.readouterr().err


def test_openvino_is_an_extra(capsys, monkeypatch):
    monkeypatch.setattr("decodetr.cli.bench.find_spec", lambda name: None)
    assert main(["bench", "--how", "openvino"]) == 1
    assert "pip install 'decodetr[openvino]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bench.json", "bench.md", "names.png"])
def test_files_of_others_are_not_replaced(name, tmp_path, capsys):
    (tmp_path / name).write_text("{}", encoding="utf-8")
    assert main(["bench", "--output", str(tmp_path), "--overwrite"]) == 1
    assert f"would replace {tmp_path / name}, which it did not write" in capsys.readouterr().err
    assert (tmp_path / name).read_text(encoding="utf-8") == "{}"


def test_two_folders_of_one_name_are_refused(tmp_path, capsys):
    for part in ("a", "b"):
        (tmp_path / part / "mine").mkdir(parents=True)
        (tmp_path / part / "mine" / "config.json").write_text("{}", encoding="utf-8")
    assert main(["bench", "--models", str(tmp_path / "a" / "mine"), str(tmp_path / "b" / "mine")]) == 1
    assert "are both called mine" in capsys.readouterr().err


def test_detections_are_the_same_by_label_place_and_score():
    one = {"scores": [0.5, 0.4], "labels": [0, 1], "boxes": [[0, 0, 10, 10], [5, 5, 20, 20]]}
    turned = {key: values[::-1] for key, values in one.items()}
    assert same_share([turned], [one]) == 1.0
    assert same_share([{**one, "labels": [0, 0]}], [one]) == 0.5
    assert same_share([{**one, "scores": [0.5, 0.45]}], [one]) == 0.5
    assert same_share([{**one, "boxes": [[0, 0, 10, 8], [5, 5, 20, 20]]}], [one]) == 0.5
    nothing = {"scores": [], "labels": [], "boxes": []}
    assert same_share([nothing], [one]) == 0.0 and same_share([one], [nothing]) == 1.0


class _Graph:
    """A session that finds what it is told."""

    def __init__(self):
        self.seen, self.facts, self.inputs = [], {}, ["pixel_values"]

    def run(self, inputs):
        self.seen.append({name: value.shape for name, value in inputs.items()})
        images = len(inputs["pixel_values"])
        boxes = np.tile(np.array([0.5, 0.5, 1.0, 1.0], dtype=np.float32), (images, 4, 1))
        return {"logits": np.zeros((images, 4, 3), dtype=np.float32), "pred_boxes": boxes}


def _export(folder, **changes):
    fields = dict.fromkeys(one.name for one in dataclasses.fields(Description))
    fields |= {"runtime": "onnx", "names": ["a", "b", "c"], "names_input": False, "post_processing": "outside"}
    fields |= {"queries": 4, "embedding_dim": 8, "num_prototypes": 6, "family": "detr", "dtype": "float32"}
    fields |= {
        "dynamic": ["batch"],
        "image_size": [64, 64],
        "size_divisor": 1,
        "score_scale": 1.0,
        "score_bias": 0.0,
        "source": "mine",
    }
    fields |= {"default_threshold": 0.3, "background_threshold": 0.5, "centred": False, "pool_use": "none"}
    fields |= {"weights_digest": "", "files": {}, "versions": {}, "parity": {}, "pool_info": {}, "vocabulary_info": {}}
    fields["preprocessing"] = DeCoDetrImageProcessor(size={"height": 64, "width": 64}).to_dict()
    write_json(folder / "export.json", Description(**{**fields, **changes}).to_json())
    return str(folder)


def test_an_exported_model_is_measured_in_its_runtime(tiny, tmp_path, monkeypatch):
    graph = _Graph()
    monkeypatch.setattr("decodetr.runtime.exported_detector.open_session", lambda *words: graph)
    folder = _export(tmp_path / "fast")
    options = _options(models=(folder,), names=(3, 5), batch_sizes=(2,), what=("forward", "file"), how=("eager",))
    forward, file, *others = Bench(options).run()["groups"]
    assert all(group["rows"][0]["title"] == "fast, onnx" for group in (forward, file, *others))
    row = forward["rows"][0]
    assert row["seconds"]["runs"] == 1 and row["image_size"] == [64, 64] and row["queries"] == 4
    assert "over_bare" not in row and "flops" not in row and "seconds" in file["rows"][0]
    assert all(seen == {"pixel_values": (2, 3, 64, 64)} for seen in graph.seen) and len(graph.seen) >= 4
    assert all("its 3 names are baked into the graph" in group["rows"][0]["skipped"] for group in others)
    fixed = _export(tmp_path / "fixed", batch_size=1)
    (group,) = Bench(_options(models=(fixed,), batch_sizes=(2,))).run()["groups"]
    assert "the graph takes batches of 1" in group["rows"][0]["skipped"]
    with pytest.raises(ValueError, match="--image-size 96: .* makes pictures of 64 x 64"):
        Bench(_options(models=(folder,), image_size=96)).run()
