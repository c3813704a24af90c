"""`--engine ray`: Ray Data streams the numbers of a stage's shards to workers on a cluster. A worker is an actor that
holds the model, reads pictures and writes shards into OUT, which all nodes share; what passes through Ray is small.

A shard is the unit of work, as it is without Ray: a worker that dies loses the shard that it was making, which another
one makes again, and a run that stopped goes on where the shards stopped, with any engine.
"""

import logging
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tqdm.auto import tqdm

from decodetr.annotations.coco import CocoAnnotations
from decodetr.pool_builder.lazy_model import Model
from decodetr.pool_builder.ray_worker import ShardWorker, Starts, size_of_image, variables, versions
from decodetr.pool_builder.settings import PoolTask
from decodetr.pool_builder.shard_makers import ShardMaker
from decodetr.pool_builder.shards import StageFolder
from decodetr.utils.excerpts import last_line
from decodetr.utils.files import write_text
from decodetr.utils.no_reports import no_reports

_MARK = ".decodetr-nodes"  # written into OUT to see which nodes see it
_ERRORS: dict[str, type[Exception]] = {"OSError": OSError, "ValueError": ValueError, "": RuntimeError}
_LOOK = 300  # seconds that a node may take to look around: the first import of torch from a shared disk is slow


@dataclass(frozen=True)
class Room:
    """What one worker is given, and how many of them the cluster can hold."""

    cpus: float
    gpus: int
    threads: int
    workers: int


def room_for(model: Model | None, nodes: list[dict[str, Any]], device: str, threads: int) -> Room:
    """What a worker with a model is given.

    With GPUs in the cluster: one, or as many as the model asks for, with their share of the CPUs. Else as many CPUs as
    torch uses threads here, so that a worker computes what this process would, to the byte.

    Args:
        model ([`Model`], optional). nodes: of `ray.nodes()`. device (str): --device.
        threads (int): of torch, here.

    Raises:
        ValueError: no node can hold one.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    with_gpus = [found for found in resources if found.get("GPU", 0) >= 1]
    if model is None or model.devices == 0:  # nothing is computed here but crops
        threads = 1
    elif device != "cpu" and with_gpus:
        gpus = int(model.devices or min(found["GPU"] for found in with_gpus))
        cpus = min(found.get("CPU", 0) * gpus / found["GPU"] for found in with_gpus)
        return Room(int(cpus), gpus, max(int(cpus), 1), sum(int(found["GPU"]) // gpus for found in with_gpus))
    elif device.startswith("cuda"):
        raise ValueError(f"--device {device}: the cluster has no GPU that Ray knows of; give --device cpu")
    workers = sum(int(found.get("CPU", 0)) // threads for found in resources)
    if not workers:
        most = max((int(found.get("CPU", 0)) for found in resources), default=0)
        raise ValueError(
            f"--engine ray: a worker takes {threads} CPUs, as torch uses {threads} threads here, and no node has more "
            f"than {most}; set the environment variable OMP_NUM_THREADS to {max(most, 1)} or less"
        )
    return Room(threads, 0, threads, workers)


class RayEngine:
    """The workers of a cluster: an [`Engine`](engines.py), to be entered by `with`.

    Args:
        task (PoolTask): with `ray_address`, by default $RAY_ADDRESS, else a cluster of this machine that runs, else
            one that is started for the task and ends with it; and `workers`, by default as many as there is room for.

    Raises:
        ConnectionError: there is no such cluster.
    """

    def __init__(self, task: PoolTask) -> None:
        self.task, self._stack = task, ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(no_reports())
            if not ray.is_initialized():
                stack.callback(ray.shutdown)
                self._connect()
            logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of its plans
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _connect(self):
        address = self.task.ray_address
        try:
            ray.init(address, include_dashboard=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError) as error:
            where = f"--ray-address {address}" if address else "--engine ray"
            remedy = "start a cluster with `ray start --head`, or give the address of one that runs"
            raise ConnectionError(f"{where}: no cluster answers ({error}); {remedy}") from error

    def check(self, coco: CocoAnnotations) -> None:
        """Let all other nodes look for OUT, images, models and packages before the work starts.

        Args:
            coco (CocoAnnotations): the images that will be read.

        Raises:
            ValueError: a node cannot work. The message names it and says what to mend.
        """
        nodes = [node for node in ray.nodes() if node["Alive"] and {"CPU", "GPU"} & node["Resources"].keys()]
        nodes = [node for node in nodes if node["NodeID"] != ray.get_runtime_context().get_node_id()]
        if not nodes:
            return
        content = secrets.token_hex(8)
        file = write_text(self.task.output.absolute() / _MARK, content)
        try:
            problems = _look(nodes, self.task, (file, content), coco.images)
        finally:
            file.unlink()
        if problems:
            raise ValueError("--engine ray: not all nodes can do the work:\n" + "\n".join(problems))

    def run(self, folder: StageFolder, maker: ShardMaker) -> None:
        """See [`Engine`].

        Raises:
            ValueError, OSError: what made a shard fail, also a worker that died with it several times.
            RuntimeError: an error in the program, with its traceback.
        """
        pending = folder.pending()
        if not pending:
            return
        room = room_for(maker.model, ray.nodes(), self.task.device, torch.get_num_threads())
        if (self.task.workers or 0) > room.workers:
            size = f"{room.gpus} GPU" if room.gpus else f"{room.cpus:g} CPU"
            raise ValueError(
                f"--workers {self.task.workers}: {folder.stage} have room for {room.workers} workers of {size} each "
                "in this cluster; give fewer, or add nodes"
            )
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        starts = ray.remote(Starts).options(num_cpus=0, scheduling_strategy=here).remote()
        workers = min(self.task.workers or room.workers, len(pending))
        arguments = ray.put((folder, maker)), starts, variables(), room.threads
        title = f"{folder.stage}, {workers} worker{'s' if workers > 1 else ''} of Ray"
        with tqdm(total=folder.count, initial=folder.count - len(pending), desc=title, unit="shard") as bar:
            for _ in _made(pending, arguments, room, workers):
                bar.update()


def _made(shards, arguments, room, workers):
    """Yield the numbers of shards as they are made.

    A worker that dies is started again where there is room, and so is its shard: these are defaults of Ray Data.

    Raises:
        ValueError, OSError, RuntimeError: what a worker met.
    """
    context = DataContext.get_current()
    kept, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards)).map(
            ShardWorker,
            fn_constructor_args=arguments,
            num_cpus=room.cpus,
            num_gpus=room.gpus or None,
            # One shard at a time: the next one goes to whoever is free, and a death costs one shard.
            compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        )
        for batch in rows.iter_batches(batch_size=None, prefetch_batches=0):
            for shard, kind, error in zip(batch["shard"].tolist(), batch["kind"], batch["error"]):
                if error:
                    raise _ERRORS[kind](error)
                yield shard
    finally:
        context.enable_progress_bars = kept


def _look(nodes, task, mark, images):
    """Problems of nodes, a line each."""
    some = [images[place]["path"] for place in sorted({0, len(images) // 2, len(images) - 1})]
    seen = [(path, size) for path in some if (size := size_of_image(path)) is not None]
    environment, expected = variables(), versions()

    def look():  # travels as code: a node without decodetr is to say so
        import os

        os.environ.update(environment)
        try:
            import decodetr.pool_builder.ray_worker as there
        except ImportError as error:
            return [f"it cannot import decodetr ({error}): pip install 'decodetr[ray]' there"]
        return there.look_around(task, mark, seen, expected)

    waiting = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        waiting[ray.remote(look).options(num_cpus=0, scheduling_strategy=there).remote()] = node
    problems = []
    for reference, node in waiting.items():
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            found = ray.get(reference, timeout=_LOOK)
        except RayError as error:
            if not any(other["NodeID"] == node["NodeID"] and other["Alive"] for other in ray.nodes()):
                continue  # it has left the cluster meanwhile
            found = [f"it does not look around: {type(error).__name__}: {last_line(error)}"]
        problems += [f"- {name}: {problem}" for problem in found]
    return problems
