"""The benchmarks at tiny sizes: what they count is right, what they time is told apart, the commands run."""

import json
import subprocess
import sys

import pytest
import torch
from helpers.paths import BENCHMARKS
from helpers.tiny_models import tiny_model, write_tiny_config


@pytest.mark.parametrize("command", ["overhead.py", "train_step.py", "exported.py"])
def test_help_imports_nothing_heavy(command):
    code = f"import runpy, sys; sys.argv = ['x', '--help']; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
    code += f"try: runpy.run_path({str(BENCHMARKS / command)!r}, run_name='__main__')\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and "--output" in done.stdout


@pytest.mark.parametrize("family", ["detr", "rt_detr_v2", "d_fine"])
def test_flops_of_the_parts_are_those_of_their_formulas(family):
    from overhead import flops, parameters

    from decodetr.modeling_decodetr.detectors import run_detector

    model = tiny_model(family).eval()
    images, queries, names, prototypes, d = 2, 5, 3, 12, 16
    pixels = torch.randn(images, 3, 64, 64)
    counted = flops(lambda: model(pixels, semantic_queries=queries), model)
    rows = images * queries
    assert counted["lookup"] / 2 == counted["background"] == 2 * rows * prototypes * d
    assert counted["names"] == 2 * rows * names * d
    assert counted["predictor"] == 2 * rows * d * d and counted["residual"] == 2 * rows * 2 * d * d
    pooling = model.semantic_stream.region_pooling
    assert counted["h_theta"] == 2 * rows * (32 + pooling.out_features) * d + 2 * rows * d * d
    with torch.no_grad():
        _, maps = run_detector(model.detector, pixels)
    projections = sum(2 * images * m[0, 0].numel() * m.shape[1] * model.config.region_channels for m in maps)
    assert counted["regions"] == projections
    points = rows * pooling.grid**2
    assert counted["grid_sample_semantic"] == len(maps) * 8 * points * model.config.region_channels
    assert (counted["grid_sample_detector"] > 0) == (family != "detr")
    parts = "regions h_theta lookup residual predictor names background fusion".split()
    assert sum(counted[part] for part in parts) + counted["detector"] == counted["total"]
    assert counted["rest"] == 0
    numbers = parameters(model)
    assert numbers["pool"] == prototypes * d and numbers["vocabulary"] == names * d
    assert numbers["detector"] + numbers["semantic_stream"] == sum(p.numel() for p in model.parameters())


def test_watching_the_parts_leaves_the_model_as_it_was():
    from overhead import measure_parts

    model, pixels = tiny_model().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(pixels).logits
        ticks = iter(range(1000))
        spent = measure_parts(lambda: model(pixels), model, lambda: next(ticks))
        assert torch.equal(model(pixels).logits, before)
    assert all(value > 0 for name, value in spent.items() if name != "rest")
    assert "forward" not in vars(model.detector) and "lookup" not in vars(model.prototype_pool)
    assert next(ticks) == spent["total"] + 1  # nothing is watched any more


def test_overhead_of_a_model_without_regions_and_its_names(tmp_path):
    from overhead import latency_of_names, measure_parts, parser

    model, pixels = tiny_model(semantic_inputs="query").eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert "regions" not in measure_parts(lambda: model(pixels), model, lambda: 0)
    args = parser().parse_args(["--name-counts", "1", "65", "--runs", "2"])
    measured = latency_of_names(lambda: model(pixels), model, pixels, args)
    assert list(measured) == ["1", "65"] and len(model.vocabulary) == 3
    assert measured["1"]["model_ratio"]["median"] == 1.0 and measured["65"]["model_ratio"]["median"] > 0
    assert measured["1"]["swap"]["runs"] == measured["1"]["first swap"]["runs"] == 2


def test_overhead_command(tmp_path, capsys):
    import overhead

    config = write_tiny_config(tmp_path / "tiny")
    report = tmp_path / "report.json"
    words = ["--models", str(config), "--names", "4", "--name-counts", "2", "7", "--image-size", "64", "96"]
    assert overhead.main([*words, "--runs", "2", "--warmup", "1", "--output", str(report)]) == 0
    text = capsys.readouterr().out
    assert "64x96" in text and "Where it goes: tiny" in text and "+7.3 % parameters" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows and all(line.endswith("|") for line in rows)
    stored = json.loads(report.read_text())
    assert stored["environment"]["torch"] == torch.__version__ and stored["environment"]["threads"] >= 1
    tiny = stored["models"]["tiny"]
    assert tiny["image_size"] == [64, 96] and tiny["prototypes"] == 12 and tiny["names"]["7"]["reference"] == 2
    assert tiny["latency"]["ratio"]["runs"] == 2


@pytest.mark.slow
def test_train_step_command(tmp_path, capsys):
    import train_step

    config = write_tiny_config(tmp_path)
    report = tmp_path / "report.json"
    sizes = "--images 4 --batch-size 2 --warmup 0 --runs 2 --steps 1 --builds 2 --train-steps 3".split()
    sizes += "--workers 0 1 --loader-steps 4 --memory-runs 0".split()
    assert train_step.main(["--config", str(config), *sizes, "--output", str(report)]) == 0
    text = capsys.readouterr().out
    assert "semantic stream over cached features" in text and "waiting for data" in text
    stored = json.loads(report.read_text())
    modes = {"bare", "joint", "semantic", "cached"}
    assert set(stored["seconds"]) == modes | {"load images", "load features"}
    assert all(summary["runs"] == 2 and summary["min"] > 0 for summary in stored["seconds"].values())
    assert set(stored["ratio_to_bare"]) == modes and stored["ratio_to_bare"]["bare"]["median"] == 1.0
    assert stored["cache"]["seconds_per_image"]["runs"] == 2 and stored["cache"]["train_seconds_per_step"] > 0
    # Only the joint steps have a detection loss; all three learn names and prototypes.
    losses = stored["losses"]
    assert set(losses["joint"]) == {"loss_det", "loss_distill", "loss_align"}
    assert set(losses["semantic"]) == set(losses["cached"]) == {"loss_distill", "loss_align"}
    assert all(torch.tensor(list(terms.values())).isfinite().all() for terms in losses.values())
    for found in stored["loading"].values():
        wait, step = found["wait"], found["step"]
        assert wait["runs"] == step["runs"] == 3 and 0 < found["share"] < 1  # one of four is the first quarter
        assert found["images_per_second"] <= 2 / (wait["min"] + step["min"])
    assert stored["memory"] is None and stored["image_size"] == [64, 64] and stored["queries"] == 12


@pytest.mark.slow
def test_memory_of_the_modes(tmp_path):
    import train_step

    config = write_tiny_config(tmp_path)
    words = [
        "--config",
        str(config),
        "--images",
        "2",
        "--batch-size",
        "2",
        "--image-size",
        "160",
        "--memory-runs",
        "1",
    ]
    args = train_step.parser().parse_args(words)
    found = train_step.memory_of_processes(tmp_path, words, args, ["bare"])["bare"]
    assert found["ratio_to_bare"] == 1 and found["runs"] == [found["training"]]
    assert 0 < found["step"] <= found["training"] < 2**30
    # The bare step holds the activations of an image; the cached one those of a few queries.
    assert train_step.measure_memory("cached", tmp_path, args)["step"] < found["step"] / 2


def test_steps_move_what_they_should(tmp_path):
    import step_trainers
    import train_step

    from decodetr.processing import detection_collate

    config = write_tiny_config(tmp_path)
    args = train_step.parser().parse_args(["--config", str(config), "--images", "2", "--batch-size", "2"])
    model, _, plain = step_trainers.prepare(tmp_path, args)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = detection_collate([plain[0], plain[1]])
    for mode, moved in (("joint", {"detector", "semantic_stream"}), ("semantic", {"semantic_stream"})):
        trainer = step_trainers.make_trainer(model, plain, tmp_path, args, streams=mode)
        step_trainers.step(trainer, batch)
        after = trainer.model.state_dict()
        changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
        assert changed == moved
        assert all(p.grad is None for p in trainer.model.parameters())


def test_the_bare_detector_takes_the_steps_of_the_joint_one(tmp_path):
    import step_trainers
    import train_step

    from decodetr.processing import detection_collate

    config = write_tiny_config(tmp_path)
    args = train_step.parser().parse_args(["--config", str(config), "--images", "2", "--batch-size", "2"])
    model, _, plain = step_trainers.prepare(tmp_path, args)
    batch = detection_collate([plain[0], plain[1]])
    bare = step_trainers.make_bare_trainer(model, tmp_path, args)
    joint = step_trainers.make_trainer(model, plain, tmp_path, args, streams="joint")
    ours = step_trainers.bare_batch(batch, model)
    assert all(
        label["class_labels"].eq(0).all() and set(label) == {"class_labels", "boxes"} for label in ours["labels"]
    )
    for trainer, rows in ((bare, ours), (joint, batch)):
        torch.manual_seed(0)  # dropout and denoising
        step_trainers.step(trainer, rows)
    moved = 0
    for name, value in joint.model.detector.state_dict().items():
        assert torch.equal(value, bare.model.state_dict()[name]), name
        moved += not torch.equal(value, model.detector.state_dict()[name])
    assert moved > 10 and type(bare).__name__ == "Trainer"


def test_train_step_starts_from_a_trained_model(tmp_path):
    import step_trainers
    import train_step

    model = tiny_model(preprocessing={"size": {"height": 64, "width": 64}})
    model.save_pretrained(tmp_path / "model")
    args = train_step.parser().parse_args(["--model", str(tmp_path / "model"), "--images", "1"])
    prepared, _, plain = step_trainers.prepare(tmp_path, args)
    for name, value in model.named_parameters():
        assert torch.equal(prepared.get_parameter(name), value)
    assert torch.equal(prepared.prototype_pool.prototypes, model.prototype_pool.prototypes)
    assert plain[0]["pixel_values"].shape == (3, 64, 64) and len(prepared.vocabulary) == 180
    args = train_step.parser().parse_args(["--config", "rt_detr_v2", "--images", "1", "--image-size", "96"])
    with torch.device("meta"):
        assert step_trainers.build(args).config.detector_config.num_queries == 300


@pytest.mark.slow
def test_pool_clustering_command(tmp_path, capsys):
    import pool_clustering

    words = "--sizes 700 --methods minibatch lloyd plain --coarse 12 --fine 20".split()
    assert pool_clustering.main([*words, "--output", str(tmp_path / "r.json")]) == 0
    assert "floor: all pairs inside, s" in capsys.readouterr().out
    results = json.loads((tmp_path / "r.json").read_text())["results"]
    assert set(results) == {"700 minibatch", "700 lloyd", "700 plain"}
    ours, plain = results["700 lloyd"], results["700 plain"]
    assert ours["coarse"] == plain["coarse"] == 12 and ours["inertia"] == pytest.approx(plain["inertia"], rel=0.1)
    assert plain["eps"] == results["700 minibatch"]["eps"] and ours["fine"] <= 20
    assert all(0 < found["peak_gb"] < 4 and found["pairs"] >= 700**2 / 12 for found in results.values())


@pytest.mark.slow
def test_evaluation_gives_the_same_ap_by_every_engine(tmp_path, capsys, monkeypatch):
    import evaluation

    pytest.importorskip("lvis")
    file, written = tmp_path / "e.json", []
    real = evaluation.write_set
    monkeypatch.setattr(
        evaluation, "write_set", lambda folder, **counts: written.append(counts) or real(folder, **counts)
    )
    words = ["--share", "0.002", "--engines", *evaluation.ENGINES, "--output", str(file)]
    assert evaluation.main(words) == 0
    results = json.loads(file.read_text())
    for size, engines in (("ov-coco", evaluation.ENGINES[:3]), ("lvis", evaluation.ENGINES)):
        ap = {results[f"{size} {engine}"]["AP"] for engine in engines}
        assert max(ap) - min(ap) < 1e-6 and 0 < min(ap) < 100, (size, ap)
    assert [counts["images"] for counts in written] == [9, 39] and written[1]["names"] == 1203
    assert "| lvis: lvis |" in capsys.readouterr().out


@pytest.mark.slow
def test_overhead_of_evaluation_counts_both(monkeypatch):
    import evaluation

    found = evaluation.measure_overhead(images=8, runs=1)
    assert found["evaluation"]["median"] == pytest.approx(found["inference"]["median"] * found["ratio"]["median"])


@pytest.mark.slow
def test_exported_models_are_timed_beside_eager(tmp_path, monkeypatch, capsys):
    import exported

    from decodetr import DeCoDetrImageProcessor

    names = [f"name {i}" for i in range(exported.COMMON)]
    monkeypatch.setattr(exported, "MANY", exported.COMMON)
    tiny = tiny_model("detr", names=names).eval(), DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    monkeypatch.setattr(exported, "build", lambda family: tiny)
    words = ["--models", "detr", "--queries", "9", "--runs", "2", "--threads", "1"]
    assert exported.main([*words, "--output", str(tmp_path / "a.json")]) == 0
    (one,) = json.loads((tmp_path / "a.json").read_text())["results"]
    assert one["parity"]["found"] == 60 and one["dynamic"] == ["batch", "names"] and one["load_seconds"] > 0
    assert one["many_names"]["exported"]["runs"] == 2 and one["over_eager"]["median"] > 0
    assert "DETR-R50" in capsys.readouterr().out
