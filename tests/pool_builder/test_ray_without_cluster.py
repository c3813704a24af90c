"""What `--engine ray` decides and refuses before a cluster does anything, and its workers without one."""

import importlib.util
import pickle

import pyarrow as pa
import pytest
from helpers.pool_builds import build_command
from helpers.pool_data import write_data

from decodetr.cli import main
from decodetr.pool_builder import ray_worker
from decodetr.pool_builder.lazy_model import Model
from decodetr.pool_builder.pool_run import load_models, training_images
from decodetr.pool_builder.ray_engine import room_for
from decodetr.pool_builder.ray_worker import ShardWorker, Starts, look_around, versions
from decodetr.pool_builder.settings import PoolData, PoolSettings, PoolTask
from decodetr.pool_builder.shard_makers import RegionMaker, Shard, TextMaker
from decodetr.pool_builder.shards import StageFolder


def _nodes(*resources):
    return [{"Alive": True, "Resources": found} for found in resources]


BIG, SMALL, HEAD = {"CPU": 16.0, "GPU": 4.0}, {"CPU": 10.0, "GPU": 1.0}, {"CPU": 8.0}


@pytest.mark.parametrize(
    ("devices", "device", "nodes", "threads", "expected"),
    [
        (1, "auto", _nodes(BIG, SMALL, HEAD), 8, (4, 1, 4, 5)),  # GPUs decide, each with its share of the CPUs
        (None, "cuda", _nodes(BIG, BIG), 8, (16, 4, 16, 2)),  # --device-map: all GPUs of a node
        (None, "auto", _nodes(BIG, SMALL), 8, (4, 1, 4, 5)),  # as many as every node has
        (1, "cpu", _nodes(BIG, HEAD), 8, (8, 0, 8, 3)),  # as many threads as here
        (1, "auto", _nodes(HEAD, {"CPU": 3.0}), 2, (2, 0, 2, 5)),
        (0, "auto", _nodes(BIG, HEAD), 8, (1, 0, 1, 24)),  # a server computes elsewhere
    ],
)
def test_what_a_worker_is_given(devices, device, nodes, threads, expected):
    room = room_for(Model({}, dict, devices), nodes, device, threads)
    assert (room.cpus, room.gpus, room.threads, room.workers) == expected


def test_a_cluster_without_room_is_refused():
    dead = {**_nodes(BIG)[0], "Alive": False}
    with pytest.raises(ValueError, match="--device cuda: the cluster has no GPU"):
        room_for(Model({}, dict), [dead, *_nodes(HEAD)], "cuda", 1)
    with pytest.raises(ValueError, match="a worker takes 16 CPUs.*no node has more than 8; .*OMP_NUM_THREADS to 8"):
        room_for(Model({}, dict), _nodes(HEAD), "cpu", 16)


REFUSED = {
    "no engine": (["--workers", "2"], "--workers 2 is of --engine ray; give that too"),
    "address alone": (["--ray-address", "auto"], "--ray-address auto is of --engine ray"),
    "no worker": (["--engine", "ray", "--workers", "0"], "--workers must be at least 1, got 0"),
    "a Ray client": (
        ["--engine", "ray", "--ray-address", "ray://head:10001"],
        "start the command on a node, and give",
    ),
    "a GPU by number": (["--engine", "ray", "--device", "cuda:1"], "Ray chooses among GPUs; give auto, cuda or cpu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_at_once(models, tmp_path, capsys, case):
    more, message = REFUSED[case]
    assert main(build_command(write_data(tmp_path / "data"), models, tmp_path / "out", *more)) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_without_ray_and_under_torchrun_it_says_what_to_do(models, tmp_path, capsys, monkeypatch):
    command = build_command(write_data(tmp_path / "data"), models, tmp_path / "out", "--engine", "ray")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    assert main(command) == 1
    assert "--engine ray needs ray, which is not installed: pip install 'decodetr[ray]'" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(command) == 1
    assert "start it once, without torchrun or accelerate" in capsys.readouterr().err


def _task(data, output, models, **fields):
    names = {"clip": str(models / "clip"), "detector": str(models / "detector")}
    found = PoolData(str(data), None, None, None, {})
    return PoolTask("build", output, PoolSettings(batch_size=4), found, names, "cpu", engine="ray", **fields)


def test_a_node_says_what_it_lacks(models, tmp_path):
    data = write_data(tmp_path / "data")
    mark, images = tmp_path / "mark", [(str(data / "train" / "0.png"), (data / "train" / "0.png").stat().st_size)]
    mark.write_text("abc")
    task = _task(data, tmp_path, models)
    assert look_around(task, (mark, "abc"), images, versions()) == []
    other = {**versions(), "torch": "1.0"}
    missing = [*images, (str(tmp_path / "gone.png"), 7), (str(data / "train" / "1.png"), 7)]
    problems = look_around(task, (mark, "xyz"), missing, other)
    assert len(problems) == 3
    assert f"torch {versions()['torch']} instead of 1.0: install the same versions everywhere" in problems[0]
    assert problems[1] == f"it does not see --output {tmp_path}: give a folder on a file system that all nodes share"
    assert "does not see the images, such as " in problems[2] and "gone.png" in problems[2]
    task.models["clip"] = str(tmp_path / "no-clip")
    assert "no-clip" in look_around(task, (mark, "abc"), images, versions())[0]


def test_makers_travel_without_models_and_make_the_same_rows(models, tmp_path):
    data = write_data(tmp_path / "data")
    task = _task(data, tmp_path / "out", models)
    found, coco = load_models(task), training_images(task.data)
    maker = RegionMaker(coco, task.settings, found["detector"])
    made = maker(0)
    packed = pickle.dumps(RegionMaker(coco, task.settings, found["detector"]))
    assert len(packed) < 40_000 < (models / "detector" / "model.safetensors").stat().st_size
    there = pickle.loads(packed)(0)
    assert there.table.equals(made.table) and there.counts == made.counts and made.table.num_rows > 20
    texts = pickle.dumps(TextMaker(pa.array(["a cat", "two dogs"]), found["clip"]))
    assert len(texts) < 20_000
    clip = found["clip"].load()
    rows = pickle.loads(texts)(0).table
    assert rows["text_embed"].to_pylist() == clip.embed_texts(["a cat", "two dogs"]).astype("float16").tolist()


def test_a_model_that_is_another_one_elsewhere_is_refused(models, tmp_path):
    from helpers.tiny_teachers import write_tiny_clip

    task = _task(write_data(tmp_path / "data"), tmp_path / "out", models)
    task.models["clip"] = str(write_tiny_clip(tmp_path / "clip"))
    packed = pickle.dumps(load_models(task)["clip"])
    write_tiny_clip(tmp_path / "clip", seed=1)
    with pytest.raises(ValueError, match="another clip than where the command was started.*encoder_fingerprint"):
        pickle.loads(packed).load()


class _Remote:
    """A handle of an actor that lives here."""

    def __init__(self, actor):
        self.begin = self
        self.remote = actor.begin


def test_a_worker_makes_what_is_not_there_and_tells_what_goes_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_worker.ray, "get", lambda reference: reference)
    folder, starts, made = StageFolder(tmp_path / "s", "s", {"a": 1}, 4), Starts(), []

    class Maker:
        def __call__(self, shard, title=None):
            made.append(shard)
            if shard == 2:
                raise FileNotFoundError("7.png: no such file")
            if shard == 3:
                raise KeyError("bug")
            return Shard(pa.table({"x": [shard]}), {"n": 1})

        def content(self, shard):
            return "images 1.png to 9.png"

    def worker():
        return ShardWorker((folder, Maker()), _Remote(starts), {}, 1)

    one = worker()
    assert one({"shard": 0}) == {"shard": 0, "kind": "", "error": ""} == one({"shard": 0})
    assert made == [0]  # it was there
    missing = one({"shard": 2})
    assert missing["kind"] == "OSError" and missing["error"].startswith("7.png: no such file (on ")
    assert one({"shard": 3})["kind"] == "" and "KeyError: 'bug'" in one({"shard": 3})["error"]
    starts.nodes[1] = ["a", "b", "a"]
    named = worker()({"shard": 1})
    assert (
        named["kind"] == "OSError"
        and "s-00001-of-00004.parquet: its worker died 3 times, on a, b, a" in named["error"]
    )
    assert "images 1.png to 9.png" in named["error"] and folder.pending() == [1, 2, 3]
