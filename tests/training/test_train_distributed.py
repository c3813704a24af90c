"""Two gloo processes train, evaluate and save what one process with twice the batch does: DDP, and FSDP 2.

One pair of processes goes through the runs of helpers/two_process_runs.py; the reference is computed here.
"""

import json

import pytest
import torch
from helpers.paths import TESTS
from helpers.processes import run_pair, torchrun
from helpers.trainings import make_trainer, same_state
from helpers.two_process_runs import (
    RUNS,
    few_images,
    learning_batch_norms,
    main,
    run,
    short_of_boxes_and_images,
)
from safetensors.torch import load_file
from transformers import TrainingArguments

from decodetr import DeCoDetrForObjectDetection, DeCoDetrTrainingArguments

SHORT = ("ddp", "ddp, nothing on rank 1", "ddp, cached")  # of RUNS. The others take longer than all else here
ALL = ("here", "torchrun")  # ways to start all RUNS


@pytest.fixture(scope="module")
def two_processes(request, scenes, one_process, tmp_path_factory):
    """After one process has trained, because copies of it need not import again what a training imports."""
    folder = tmp_path_factory.mktemp("two_processes")
    if request.param == "torchrun":
        torchrun(TESTS / "helpers" / "two_process_runs.py", scenes, folder)
    else:
        run_pair(main, scenes, folder, *(RUNS if request.param == "here" else SHORT))
    return folder


@pytest.fixture(scope="module")
def one_process(scenes, tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("one_process"), {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in SHORT:
        trained, metrics = run(scenes, folder / name, name, batch=4, single=True)
        found[name] = folder / name, metrics, trained.state.log_history
    torch.set_num_threads(threads)
    return found


def _weights(folder):
    """Floating-point weights of a saved model, pool and vocabulary among them."""
    state = DeCoDetrForObjectDetection.from_pretrained(folder).state_dict()
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def _assert_close(found, expected, atol=1e-5):
    assert found.keys() == expected.keys() and "prototype_pool.prototypes" in found
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=atol, rtol=0), (name, (found[name] - tensor).abs().max())


@pytest.mark.parametrize(
    "two_processes, name",
    [
        *(("short", name) for name in SHORT),
        *(pytest.param(way, name, marks=pytest.mark.slow) for way in ALL for name in RUNS),
    ],
    indirect=["two_processes"],
)
def test_two_processes_train_as_one(two_processes, one_process, scenes, name):
    reference = name if name in one_process else "ddp, cached" if "cached" in name else "ddp"
    folder, metrics, logs = one_process[reference]
    expected, found = _weights(folder), _weights(two_processes / name)
    _assert_close(found, expected)
    start = load_file(scenes / "standin/pool/pool.safetensors")["prototypes"]
    assert not torch.allclose(found["prototype_pool.prototypes"], start, atol=1e-5)  # the momentum step moved it
    ranks = [torch.load(two_processes / f"{name} {rank}.pt", weights_only=False) for rank in (0, 1)]
    assert ranks[0]["kind"].endswith("FSDP" if name.startswith("fsdp") else "MULTI_CPU")
    assert len(ranks[0]["logs"]) == len(logs)
    for key, value in metrics.items():
        if "class_agnostic" in key:
            assert ranks[0]["metrics"][key] == ranks[1]["metrics"][key]  # all processes have them
            assert ranks[0]["metrics"][key] == pytest.approx(value, abs=0.01), key
    for entry, expected in zip(ranks[0]["logs"], logs):
        for key in ("loss", "grad_norm", "loss_align", "loss_distill", "loss_bbox"):
            assert (key in entry) == (key in expected)
            if key in entry:
                assert entry[key] == pytest.approx(expected[key], rel=1e-3), key


def test_processes_whose_batch_norms_learn_decide_alike(scenes, one_process, tmp_path):
    run_pair(learning_batch_norms, scenes, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert not same_state(first["drifted"][0], second["drifted"][0])  # each saw images of its own
    for ours, theirs in zip([*first["logs"], first["metrics"]], [*second["logs"], second["metrics"]]):
        values = [{k: v for k, v in entry.items() if "AP" in k or "AR" in k} for entry in (ours, theirs)]
        assert values[0] == pytest.approx(values[1], abs=0, rel=0, nan_ok=True) and len(values[0]) > 10
    assert len(first["logs"]) == 3 and first["best"] == second["best"]
    assert all(torch.equal(a, b) for a, b in zip(first["scores"], second["scores"]))
    assert same_state(first["statistics"], second["statistics"]) and len(first["statistics"]) > 20
    # Each of them resumes with what the first one had.
    saved = load_file(tmp_path / "run/checkpoint-1/model.safetensors")
    of_first = {name: tensor for name, tensor in first["drifted"][0].items() if name in saved}
    assert len(of_first) > 20 and all(torch.equal(saved[name], tensor) for name, tensor in of_first.items())


def test_processes_with_few_images_and_other_loss_terms_go_on(scenes, tmp_path):
    run_pair(short_of_boxes_and_images, scenes, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    # Each process had the three images several times in its batch of eight.
    alone = make_trainer(scenes, tmp_path / "one", augment=False, per_device_eval_batch_size=8)
    expected = alone.predict(few := few_images(alone))
    metrics = {key.replace("test_", "eval_"): value for key, value in expected.metrics.items() if "A" in key}
    for own in found:
        measured = {key: value for key, value in own["metrics"].items() if "A" in key}
        assert measured == pytest.approx(metrics, abs=0.01, nan_ok=True) and len(measured) > 10
        assert [row["image_id"] for row in own["rows"]] == [image["image_id"] for image in few.coco.images]
        for row, other in zip(own["rows"], expected.predictions, strict=True):
            assert torch.allclose(row["scores"], other["scores"], atol=1e-5)
    # The second process has no boxes, and so no denoising terms: their mean is that of the first.
    first, second = (own["terms"] for own in found)
    assert len(first) == len(second) == len(found[0]["logs"]) == 2
    for entry, other, ours, theirs in zip(found[0]["logs"], found[1]["logs"], first, second):
        assert "loss_bbox_dn_0" in ours.keys() - theirs.keys()
        for name in ours | theirs:
            values = [terms[name] for terms in (ours, theirs) if name in terms]
            assert entry[name] == other[name] == pytest.approx(sum(values) / len(values), rel=1e-4, abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("two_processes", ALL, indirect=True)
def test_divided_weights_are_saved_whole_and_resumed(two_processes):
    folder = two_processes / "fsdp"
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"]["AutoModelForObjectDetection"] == "modeling_decodetr.DeCoDetrForObjectDetection"
    assert config["architectures"] == ["DeCoDetrForObjectDetection"] and (folder / "modeling_decodetr.py").is_file()
    files = ("checkpoint-4/model.safetensors", "checkpoint-4/ema.safetensors")
    own, average = (load_file(folder / file) for file in files)
    final = DeCoDetrForObjectDetection.from_pretrained(folder).state_dict()
    assert all(torch.equal(final[name], tensor) for name, tensor in average.items())
    assert not torch.equal(own["semantic_stream.predictor.weight"], final["semantic_stream.predictor.weight"])
    _assert_close(_weights(two_processes / "resumed"), _weights(folder), atol=0)
    assert (folder / "pictures/step-4.jpg").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("two_processes", ALL, indirect=True)
def test_fsdp_is_refused_where_accelerate_would_leave_it_out(two_processes):
    found = torch.load(two_processes / "fsdp 0.pt", weights_only=False)
    assert "Accelerate has FSDP for several GPU processes alone" in found["refused"]


@pytest.mark.parametrize("processes, accelerator", [("2", False), ("2", True), ("1", False)])
def test_processes_without_an_accelerator_are_one_run(monkeypatch, tmp_path, processes, accelerator):
    """The library makes a group of processes on CPUs only if it is told so. Else each is a run of its own."""
    told = []
    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: told.append(self.use_cpu) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        DeCoDetrTrainingArguments(output_dir=str(tmp_path))
    assert told == [processes == "2" and not accelerator]
