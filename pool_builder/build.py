"""All stages of paper 1 in their order, each of which goes on where an earlier run stopped: build_pool."""

from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

from decodetr.annotations.coco import CocoAnnotations
from decodetr.modeling_decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.safe_loading import load_safely
from decodetr.pool_builder.captioner import Captioner
from decodetr.pool_builder.cost import timed, write_cost
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.pool_builder.engines import IN_PROCESS, Engine
from decodetr.pool_builder.image_captions import embed_image_captions
from decodetr.pool_builder.lazy_model import Model
from decodetr.pool_builder.selection import REPORT, cluster_regions, filter_regions
from decodetr.pool_builder.served_captioner import ServedCaptioner
from decodetr.pool_builder.settings import PoolSettings
from decodetr.pool_builder.shards import Ranks
from decodetr.pool_builder.stages import caption_regions, embed_regions, finished_stages, propose_regions
from decodetr.utils.devices import machine_name, pick_device
from decodetr.utils.files import write_json
from decodetr.utils.model_identity import model_identity, without_place


def captioner_model(
    name: str, settings: PoolSettings, device: str | torch.device, device_map: str | None = None
) -> Model:
    """The captioner in a folder, on the Hub, or on a server ("MODEL@URL"). It is on `device`, or by `device_map` on
    several.

    Raises:
        ValueError: it is no image-text-to-text model.
    """
    if "@http" in name:
        identity = {"captioner": name.split("@")[0], "captioner_revision": None, "captioner_model": "served"}
        prompt, longest = settings.prompt, settings.max_new_tokens
        return Model(identity, lambda: ServedCaptioner(name, prompt=prompt, max_new_tokens=longest), 0)
    config = load_safely(AutoConfig, name)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ValueError(
            f"{name} holds a model of type {config.model_type!r}, expected one of AutoModelForImageTextToText, "
            "such as a LLaVA"
        )
    found = model_identity(name)
    identity = {
        "captioner": found["name"],
        "captioner_revision": found["revision"],
        "captioner_model": found["weights"],
    }

    def load():
        return Captioner(
            name,
            prompt=settings.prompt,
            max_new_tokens=settings.max_new_tokens,
            device=device,
            dtype=settings.captioner_dtype,
            bits=settings.captioner_bits,
            device_map=device_map,
        )

    return Model(identity, load, None if device_map else 1)


def clip_model(name: str, device: str | torch.device) -> Model:
    """The CLIP in a folder or on the Hub. It is loaded at once, for its embedding space is part of its identity."""
    embedder = ClipEmbedder(name, device)
    identity = {key: without_place(value) for key, value in embedder.info.items()}
    return Model({**identity, "encoder_model": model_identity(name)["weights"]}, lambda: embedder)


def build_pool(
    coco: CocoAnnotations,
    output: str | Path,
    settings: PoolSettings,
    clip: Model,
    captioner: Model,
    proposer: Model | None = None,
    ranks: Ranks | None = None,
    overwrite: bool = False,
    image_captions: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
    engine: Engine = IN_PROCESS,
    machine: str | None = None,
) -> PrototypePool | None:
    """
    Write OUT/proposals, OUT/captions, OUT/embeddings, OUT/regions (all regions; `kept` says which passed the filter),
    OUT/clusters, OUT/pool, OUT/report.json and OUT/spent.json.

    Args:
        coco (CocoAnnotations): training annotations of base names only.
        output: the folder OUT, made if missing. What an earlier, interrupted or finished run of the same settings made
            there is kept. With `overwrite`, stages of other settings are made again.
        settings (PoolSettings).
        clip, captioner, proposer ([`Model`]): without a proposer there are annotated boxes only.
        ranks (Ranks): which of how many processes this is. By default what the environment says.
        engine ([`Engine`]): makes the shards of the heavy stages. Default: this process.
        image_captions: file of captions of the training images, which join those of regions (OUT/image_texts).
        vocabulary (Vocabulary, optional): of the same CLIP, whose embeddings stand for the annotated names it has.
        machine (str, optional): what it runs on, for OUT/spent.json and the card. Default: this machine.

    Returns:
        PrototypePool, or None in a process that is not the first: clusters are that one's work.

    Raises:
        ValueError: no region at all, none is kept, or a stage of other settings is there.
    """
    output, ranks = Path(output), ranks or Ranks.from_environment()
    machine = machine or machine_name(pick_device("auto"))
    with timed(output, "proposals", machine, ranks):
        propose_regions(coco, output, settings, proposer, ranks, overwrite, engine)
    with timed(output, "captions", machine, ranks):
        caption_regions(coco, output, settings, captioner, ranks, overwrite, engine)
    with timed(output, "embeddings", machine, ranks):
        embed_regions(coco, output, settings, clip, ranks, overwrite, engine)
    if image_captions:
        with timed(output, "image_texts", machine, ranks):
            embed_image_captions(coco, image_captions, output, clip, ranks, overwrite, engine)
    if ranks.rank > 0:
        return None
    with timed(output, "regions", machine, ranks):
        filter_regions(output, settings, overwrite)
    with timed(output, "clusters", machine, ranks):
        pool = cluster_regions(output, settings, overwrite, bool(image_captions), vocabulary)
    write_report(output)
    return pool


def refresh_report(output: Path) -> None:
    """Write report.json again after a stage alone, where there is a pool: it must not say what an earlier run made."""
    if (Path(output) / "pool").is_dir():
        write_report(output)


def write_report(output: Path) -> None:
    """OUT/report.json: rows and counts of the finished stages, why there are fewer prototypes than asked, and every
    image that could not be used, with the reason. Stages that were made from what an earlier stage no longer holds are
    left out. The pool's card says what they took."""
    folders = finished_stages(output)
    totals = {stage: folder.totals for stage, folder in folders.items()}
    report: dict[str, Any] = {stage: {"rows": found["rows"], **found["counts"]} for stage, found in totals.items()}
    if "clusters" in folders:
        asked, clusters = folders["clusters"].identity, report["clusters"]
        for level, number, what in (("coarse", "M1", "distinct embeddings"), ("fine", "M2", "clusters at any eps")):
            if clusters[level] < asked[f"num_{level}"]:
                few = f"{clusters[level]} instead of {asked[f'num_{level}']}: the captions carry no more {what}"
                clusters[f"fewer_{level}"] = f"{number} is {few}"
    if "clusters" in folders and (output / "pool").is_dir():
        report["space"] = PrototypePool.from_pretrained(output / "pool").info.get("space")
    report["problems"] = [problem for found in totals.values() for problem in found["problems"]]
    write_json(output / REPORT, report)
    write_cost(output)
