"""`--engine ray`: the bytes of one process, whoever makes a shard, also when nodes and workers die; and what it
refuses."""

import os
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from helpers.caption_server import caption_server
from helpers.pool_builds import build_command, bytes_of_files
from helpers.pool_data import write_data

from decodetr.cli import main
from decodetr.pool_builder.lazy_model import Model
from decodetr.pool_builder.ray_engine import RayEngine
from decodetr.pool_builder.settings import PoolSettings, PoolTask
from decodetr.pool_builder.shard_makers import Shard
from decodetr.pool_builder.shards import StageFolder

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.enable_socket]

SHARDS = ["--shard-groups", "1"]  # ten images in groups of four: three shards
STORE = 200 << 20  # bytes of the object store of a node


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each, and of what Ray takes for a GPU."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("HF_HUB_OFFLINE", "0")  # of the workers: the client of the Hub would not ask any server
        nodes = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "num_gpus": 1, "object_store_memory": STORE, "include_dashboard": False},
        )
        try:
            nodes.add_node(num_cpus=1, num_gpus=1, object_store_memory=STORE)
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("ray") / "data")


def _task(output, cluster=None, **fields):
    return PoolTask("build", output, PoolSettings(), engine="ray", ray_address=cluster and cluster.address, **fields)


def test_two_nodes_build_the_pool_of_one_process(cluster, data, models, tmp_path, capsys):
    assert main(build_command(data, models, tmp_path / "one", *SHARDS)) == 0
    capsys.readouterr()
    more = [*SHARDS, "--engine", "ray", "--ray-address", cluster.address]
    assert main([*build_command(data, models, tmp_path / "two", *more), "--workers", "3"]) == 1
    error = capsys.readouterr().err
    assert "--workers 3: proposals have room for 2 workers of 1 CPU each in this cluster" in error
    assert main(build_command(data, models, tmp_path / "two", *more)) == 0
    assert bytes_of_files(tmp_path / "two") == bytes_of_files(tmp_path / "one")
    assert not ray.is_initialized()


class Maker:
    """Shards of one row. Shard 1 does what it is told first."""

    model = None

    def __init__(self, spoil):
        self.spoil = spoil

    def __call__(self, shard, title=None):
        if shard == 1:
            self.spoil()
        return Shard(pa.table({"shard": [shard]}), {"made": 1})

    def content(self, shard):
        return f"images {shard}.png to {shard}.png"


class GpuMaker(Maker):
    """Shards of one row: the GPUs that the worker was given."""

    model = Model({}, dict)

    def __call__(self, shard, title=None):
        return Shard(pa.table({"gpus": [os.environ["CUDA_VISIBLE_DEVICES"]]}), {})


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _refuse():
    raise ValueError("7.png (image id 7): expected a readable image")


def _fail():
    return 1 / 0


def test_errors_of_workers_are_told_and_what_kills_them_is_named(cluster, tmp_path):
    ray.cloudpickle.register_pickle_by_value(sys.modules[Maker.__module__])
    folder = StageFolder(tmp_path / "s", "s", {"a": 1}, 4)
    with RayEngine(_task(tmp_path, cluster)) as engine:
        with pytest.raises(ValueError, match=r"7.png \(image id 7\): expected a readable image \(on "):
            engine.run(folder, Maker(_refuse))
        with pytest.raises(RuntimeError, match=r"s-00001-of-00004.parquet, on .*\n(.*\n)*.*in _fail"):
            engine.run(folder, Maker(_fail))
        named = r"s-00001-of-00004.parquet: its worker died 3 times, on .*images 1.png to 1.png"
        with pytest.raises(OSError, match=named):
            engine.run(folder, Maker(_die))
        assert 1 in folder.pending()
        engine.run(folder, Maker(lambda: None))
        engine.run(folder, Maker(_die))  # where nothing is left to do
        gpus = StageFolder(tmp_path / "gpus", "gpus", {}, 3)
        engine.run(gpus, GpuMaker(None))
    assert {gpus.read(shard)["gpus"][0].as_py() for shard in range(3)} == {"0"}
    assert folder.finish()["counts"] == {"made": 4}
    assert [folder.read(shard)["shard"].to_pylist() for shard in range(4)] == [[0], [1], [2], [3]]


def test_what_ctrl_c_stopped_goes_on_with_one_process(cluster, data, models, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    command = [*build_command(data, models, tmp_path / "one", *SHARDS), "--batch-size", "1", "--captioner"]
    stopped, other = tmp_path / "stopped", ["--engine", "ray", "--ray-address", cluster.address]
    elsewhere = [str(stopped) if word == str(tmp_path / "one") else word for word in command]
    with caption_server(meet=2, met=lambda: os.kill(os.getpid(), signal.SIGINT)) as server:
        assert main([*elsewhere, server.address, *other]) == 130
    assert not ray.is_initialized() and not (stopped / "embeddings").exists()
    made = {file: file.stat().st_mtime_ns for file in (stopped / "proposals").glob("*.parquet")}
    with caption_server() as server:
        assert main([*command, server.address]) == 0
        assert main([*elsewhere, server.address]) == 0
    assert len(made) == 10 and made == {file: file.stat().st_mtime_ns for file in made}
    assert bytes_of_files(stopped) == bytes_of_files(tmp_path / "one")


def test_a_node_that_is_killed_in_the_middle_changes_nothing(cluster, data, models, tmp_path, monkeypatch):
    """The server of captions answers nobody before workers of both nodes have asked. Then one node is killed."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    command = [*build_command(data, models, tmp_path / "one", *SHARDS), "--batch-size", "1", "--captioner"]
    with caption_server() as server:
        assert main([*command, server.address]) == 0

    def kill():
        cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)

    command[command.index(str(tmp_path / "one"))] = str(tmp_path / "two")
    with caption_server(meet=2, met=kill) as server:
        ran = main([*command, server.address, "--engine", "ray", "--ray-address", cluster.address])
    assert ran == 0 and server.together == 2
    assert bytes_of_files(tmp_path / "two") == bytes_of_files(tmp_path / "one")
    assert len(list(Path(tmp_path / "two" / "captions").glob("*.parquet"))) == 10
