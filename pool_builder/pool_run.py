"""The work of `decodetr pool build` and of its stages: the images and models that were named, and what the stage makes
of them."""

from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from decodetr.annotations.coco import CocoAnnotations
from decodetr.annotations.names_split import names_split_file, read_split
from decodetr.annotations.sources import load_annotations
from decodetr.modeling_decodetr import PrototypePool
from decodetr.modeling_decodetr.vocabulary import describe_encoder, same_encoder
from decodetr.pool_builder.build import build_pool, captioner_model, clip_model, refresh_report
from decodetr.pool_builder.cost import timed
from decodetr.pool_builder.engines import IN_PROCESS
from decodetr.pool_builder.image_captions import embed_image_captions
from decodetr.pool_builder.lazy_model import Model
from decodetr.pool_builder.preflight import check_room
from decodetr.pool_builder.proposers import proposer_model
from decodetr.pool_builder.selection import cluster_regions, filter_regions
from decodetr.pool_builder.settings import PoolData, PoolTask
from decodetr.pool_builder.shards import Ranks, StageFolder
from decodetr.pool_builder.stages import caption_regions, embed_regions, propose_regions
from decodetr.utils.devices import machine_name, pick_device
from decodetr.utils.hub import local_only
from decodetr.utils.shipped import load_vocabulary, loading


def run_stage(task: PoolTask) -> PrototypePool | None:
    """Do a stage, or all of them.

    Args:
        task (PoolTask).

    Returns:
        PrototypePool that was made. None of a stage that makes none, and in a process that is not the first.

    Raises:
        FileNotFoundError, ValueError: a model or data cannot be loaded. Otherwise as the stages.
    """
    output, ranks, pool = task.output, Ranks.from_environment(), None
    if task.stage == "filter":
        with timed(output, "regions", _machine(task, ranks), ranks):
            filter_regions(output, task.settings, task.overwrite)
    elif task.stage == "cluster":
        with timed(output, "clusters", _machine(task, ranks), ranks):
            names = _vocabulary(task)
            pool = cluster_regions(output, task.settings, task.overwrite, task.join_image_captions, names)
    elif task.data is None:
        raise ValueError(f"the stage {task.stage!r} looks at images, got no data")
    else:
        coco = training_images(task.data)
        with _engine(task, coco) as engine:
            pool = _run_heavy(task, coco, load_models(task), ranks, engine)
    if task.stage != "build" and ranks.rank == 0:
        refresh_report(output)
    return pool


@contextmanager
def _engine(task, coco):
    """Yield the [`Engine`] of a task."""
    if task.engine != "ray":
        yield IN_PROCESS
        return
    from decodetr.pool_builder.ray_engine import RayEngine

    with RayEngine(task) as engine:
        engine.check(coco)
        yield engine


def _run_heavy(task, coco, models, ranks, engine):
    """A stage that looks at images, or all stages. The pool, if they make one."""
    output, settings, overwrite, machine = task.output, task.settings, task.overwrite, _machine(task, ranks)
    if task.stage == "build":
        check_room(coco, models["clip"].load().dim, output)
        return build_pool(
            coco,
            output,
            settings,
            models["clip"],
            models["captioner"],
            models.get("detector"),
            ranks=ranks,
            overwrite=overwrite,
            image_captions=task.image_captions,
            vocabulary=_vocabulary(task, models["clip"].identity),
            engine=engine,
            machine=machine,
        )
    with timed(output, task.stage, machine, ranks):
        if task.stage == "proposals":
            propose_regions(coco, output, settings, models.get("detector"), ranks, overwrite, engine)
        elif task.stage == "captions":
            caption_regions(coco, output, settings, models["captioner"], ranks, overwrite, engine)
        else:
            embed_regions(coco, output, settings, models["clip"], ranks, overwrite, engine)
    if task.stage == "embeddings" and task.image_captions:
        with timed(output, "image_texts", machine, ranks):
            embed_image_captions(coco, task.image_captions, output, models["clip"], ranks, overwrite, engine)
    return None


def _vocabulary(task, clip=None):
    """The vocabulary that a task names, which must be of the same CLIP: that with the identity `clip`, or of texts
    that are there."""
    if task.vocabulary is None:
        return None
    vocabulary = load_vocabulary(task.vocabulary)
    clip = StageFolder.open(task.output / "texts", "texts").identity if clip is None else clip
    if not same_encoder(vocabulary.info, clip):
        raise ValueError(
            f"--vocabulary {task.vocabulary} was made with encoder {describe_encoder(vocabulary.info)}, the pool with "
            f"{describe_encoder(clip)}: make it again with `decodetr vocabulary build --clip`"
        )
    return vocabulary


def _machine(task, ranks):
    """What a task runs on, for the pool's card."""
    if task.engine == "ray":
        return "a cluster of Ray"
    name = machine_name(pick_device(task.device))
    name += ", captions by a server" if "@http" in (task.models.get("captioner") or "") else ""
    return name if ranks.count == 1 else f"{ranks.count} times {name}"


def training_images(data: PoolData) -> CocoAnnotations:
    """CocoAnnotations of the base names alone.

    Args:
        data (PoolData).
    """
    split = names_split_file(data.folder, data.names_split)
    coco = load_annotations(data.folder, "train", data.annotations, data.images, **data.form, boxes=False)
    return coco if split is None else coco.select(read_split(split)[0])


def load_models(task: PoolTask) -> dict[str, Model]:
    """{name in `task.models`: its [`Model`]}, without those that are None there.

    Raises:
        FileNotFoundError: there is no such model. ValueError: it is of another kind.
    """
    # Ray's workers have the accelerators. Here only the identity of a model is asked for.
    device = pick_device("cpu" if task.engine == "ray" else task.device)
    models = {}
    for option in ("clip", "captioner", "detector"):
        if task.models.get(option) is not None:
            folder, model = _named(task, option, device)
            models[option] = replace(model, load=_Named(task, option, folder, model))
    return models


def _named(task, option, device):
    """(folder or Hub name, [`Model`]) of the model that a task names."""
    with loading("CLIP" if option == "clip" else option, task.models[option]) as folder:
        if option == "clip":
            return folder, clip_model(folder, device)
        if option == "captioner":
            return folder, captioner_model(folder, task.settings, device, task.device_map)
        return folder, proposer_model(folder, device)


class _Named:
    """Loads the model that a task names, and asks nothing of the Hub that no user named. A copy in another process
    looks the name up there, and must find the same model."""

    def __init__(self, task: PoolTask, option: str, folder: str, model: Model) -> None:
        self.task, self.option, self.folder = task, option, folder
        self.identity, self.model = model.identity, model

    def __call__(self) -> Any:
        if self.model is None:
            self.folder, self.model = _named(self.task, self.option, pick_device(self.task.device))
            if other := [name for name, value in self.model.identity.items() if value != self.identity[name]]:
                raise ValueError(
                    f"{self.task.models[self.option]}: another {self.option} than where the command was started "
                    f"({', '.join(other)} differ); give all nodes the same files"
                )
        with local_only(self.folder):
            return self.model.load()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": None}
