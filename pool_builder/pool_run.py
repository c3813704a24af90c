"""The work of `decodetr pool build` and of its stages: the images and models that were named, and what the stage makes
of them."""

from dataclasses import replace

from decodetr.annotations.coco import CocoAnnotations
from decodetr.annotations.names_split import names_split_file, read_split
from decodetr.annotations.sources import load_annotations
from decodetr.modeling_decodetr import PrototypePool
from decodetr.pool_builder.build import build_pool, captioner_model, clip_model, refresh_report
from decodetr.pool_builder.image_captions import embed_image_captions
from decodetr.pool_builder.lazy_model import Model
from decodetr.pool_builder.preflight import check_room
from decodetr.pool_builder.proposers import proposer_model
from decodetr.pool_builder.selection import cluster_regions, filter_regions
from decodetr.pool_builder.settings import PoolData, PoolTask
from decodetr.pool_builder.shards import Ranks
from decodetr.pool_builder.stages import caption_regions, embed_regions, propose_regions
from decodetr.utils.devices import pick_device
from decodetr.utils.hub import local_only
from decodetr.utils.shipped import loading


def run_stage(task: PoolTask) -> PrototypePool | None:
    """Do a stage, or all of them.

    Args:
        task (PoolTask).

    Returns:
        PrototypePool that was made. None of a stage that makes none, and in a process that is not the first.

    Raises:
        FileNotFoundError, ValueError: a model or data cannot be loaded. Otherwise as the stages.
    """
    output, settings, ranks, pool = task.output, task.settings, Ranks.from_environment(), None
    if task.stage == "filter":
        filter_regions(output, settings, task.overwrite)
    elif task.stage == "cluster":
        pool = cluster_regions(output, settings, task.overwrite, task.join_image_captions)
    elif task.data is None:
        raise ValueError(f"the stage {task.stage!r} looks at images, got no data")
    else:
        models, coco = load_models(task), training_images(task.data)
        if task.stage == "build":
            check_room(coco, models["clip"].load().dim, output)
            pool = build_pool(
                coco,
                output,
                settings,
                models["clip"],
                models["captioner"],
                models.get("detector"),
                ranks=ranks,
                overwrite=task.overwrite,
                image_captions=task.image_captions,
            )
        elif task.stage == "proposals":
            propose_regions(coco, output, settings, models.get("detector"), ranks, task.overwrite)
        elif task.stage == "captions":
            caption_regions(coco, output, settings, models["captioner"], ranks, task.overwrite)
        else:
            embed_regions(coco, output, settings, models["clip"], ranks, task.overwrite)
            if task.image_captions:
                embed_image_captions(coco, task.image_captions, output, models["clip"], ranks, task.overwrite)
    if task.stage != "build" and ranks.rank == 0:
        refresh_report(output)
    return pool


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
    device = pick_device(task.device)
    makers = {
        "clip": lambda folder: clip_model(folder, device),
        "captioner": lambda folder: captioner_model(folder, task.settings, device, task.device_map),
        "detector": lambda folder: proposer_model(folder, device),
    }
    models = {}
    for option, make in makers.items():
        if (name := task.models.get(option)) is not None:
            models[option] = _load("CLIP" if option == "clip" else option, name, make)
    return models


def _load(what, name, make):
    """A [`Model`], whose `load` asks nothing of the Hub either that no user named."""
    with loading(what, name) as folder:
        model = make(folder)

    def load():
        with local_only(folder):
            return model.load()

    return replace(model, load=load)
