"""The heavy stages of a pool: proposals -> captions -> embeddings, each from shards to shards (paper 1.1 to 1.3).
shard_makers.py makes the rows of a shard, engines.py says who makes which.

Images are taken in groups of `batch_size`, and a shard is a whole number of groups: nothing that a model computes
crosses a group, so the rows do not depend on the size of the shards or on who computes them. What cannot be used is
left out, with its reason in the shard's record.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa

from decodetr.annotations.coco import CocoAnnotations
from decodetr.modeling_decodetr import Vocabulary
from decodetr.modeling_decodetr.prompts import spaced
from decodetr.modeling_decodetr.text_encoder import fill_template
from decodetr.pool_builder.engines import IN_PROCESS, Engine
from decodetr.pool_builder.lazy_model import Model
from decodetr.pool_builder.settings import PoolSettings
from decodetr.pool_builder.shard_makers import TEXTS_PER_SHARD, CaptionMaker, EmbeddingMaker, RegionMaker, TextMaker
from decodetr.pool_builder.shards import COMMANDS, CONTENTS, MANIFEST, Ranks, StageFolder
from decodetr.processing.embedding_columns import embedding_array, embedding_rows
from decodetr.utils.model_identity import json_digest

__all__ = [
    "INPUTS",
    "StageFolder",
    "caption_regions",
    "embed_regions",
    "embed_texts",
    "embedding_array",
    "embedding_rows",
    "finished_stages",
    "name_prompt",
    "open_stage",
    "problem_images",
    "propose_regions",
    "stale_stages",
    "text_shards",
]

# Each stage, and the one it is made from.
INPUTS = {
    "proposals": None,
    "captions": "proposals",
    "embeddings": "captions",
    "texts": "captions",
    "regions": "embeddings",
    "clusters": "regions",
    "image_texts": None,
}
_ASKED = ("prompt", "max_new_tokens", "captioner_dtype", "captioner_bits")


def finished_stages(output: Path) -> dict[str, StageFolder]:
    """The finished stages in a folder that belong together, {stage: StageFolder}: each was made from what the stage
    before it holds now."""
    found = {}
    for stage, before in INPUTS.items():
        try:
            folder = StageFolder.open(output / stage, stage)
        except ValueError:  # not finished, or not there
            continue
        if before is None or (before in found and folder.identity["input"] == found[before].digest):
            found[stage] = folder
    joined = found["clusters"].identity.get("image_captions") if "clusters" in found else None
    if joined is not None and joined != getattr(found.get("image_texts"), "digest", None):
        del found["clusters"]
    return found


def stale_stages(output: Path) -> list[str]:
    """Names of the stages in a folder that were made from what is no longer there, or are unfinished."""
    found = finished_stages(output)
    return [stage for stage in INPUTS if stage not in found and (output / stage / MANIFEST).is_file()]


def problem_images(output: Path) -> list[dict[str, Any]]:
    """The images that could not be used: list of dict with "image_id", "file_name" and "problem"."""
    return StageFolder.open(output / "proposals", "proposals").totals["problems"]


def open_stage(output: Path, stage: str) -> StageFolder:
    """A finished stage to read from.

    Raises:
        ValueError: it is not finished, or was made from what an earlier stage no longer holds.
    """
    folder, before = StageFolder.open(output / stage, stage), INPUTS[stage]
    if before is not None and folder.identity["input"] != open_stage(output, before).digest:
        raise ValueError(
            f"{output / stage} was made from other {before} than {output / before} holds now; run "
            f"`decodetr pool {COMMANDS.get(stage, stage)}` with --overwrite"
        )
    return folder


def propose_regions(
    coco: CocoAnnotations,
    output: Path,
    settings: PoolSettings,
    proposer: Model | None,
    ranks: Ranks | None = None,
    overwrite: bool = False,
    engine: Engine = IN_PROCESS,
) -> dict[str, Any]:
    """OUTPUT/proposals: the regions of all images, annotated boxes first.

    Args:
        coco (CocoAnnotations): with base names only.
        output (Path): OUTPUT. settings (PoolSettings).
        proposer: has `identity` (dict) and `load()`, which gives what `proposals.propose_in` takes, or None.
        engine ([`Engine`]): makes the shards. Default: this process.

    Returns:
        dict: the totals of [`StageFolder.finish`]. Counts: images, annotated, unusable_boxes (annotated ones without
        area in the image), proposed. problems: images that cannot be read.

    Raises:
        ValueError: there is no region at all, or the folder holds something else.
    """
    size = settings.shard_groups * settings.batch_size
    identity = {
        "images": json_digest(
            [[entry[key] for key in ("image_id", "file_name", "width", "height")] for entry in coco.images]
        ),
        "boxes": json_digest([coco.annotations_by_image.column(name).tolist() for name in ("bbox", "iscrowd")]),
        CONTENTS: coco.picture_digest(),
        "annotated_names": coco.names,
        **(proposer.identity if proposer else {"proposer": None, "proposer_training_info": None}),
        **settings.of("min_objectness", "min_side", "nms_iou", "max_proposals", "batch_size", "shard_groups"),
    }
    folder = StageFolder(output / "proposals", "proposals", identity, -(-len(coco.images) // size), ranks, overwrite)
    engine.run(folder, RegionMaker(coco, settings, proposer))
    totals = folder.finish()
    if not totals["rows"]:
        raise ValueError(
            f"{coco.file}: expected regions in its {len(coco)} images, got none: no annotated box of the "
            f"{len(coco.names)} names and no proposal; give --detector, lower --min-objectness or check --names-split"
        )
    return totals


def caption_regions(
    coco: CocoAnnotations,
    output: Path,
    settings: PoolSettings,
    captioner: Model,
    ranks: Ranks | None = None,
    overwrite: bool = False,
    engine: Engine = IN_PROCESS,
) -> dict[str, Any]:
    """OUTPUT/captions: what the captioner says about every region.

    Args:
        captioner: has `identity` and `load()`, which gives a `Captioner`. Others as in [`propose_regions`].

    Returns:
        dict: totals. Counts: empty and cut captions (those that the longest length cut off).

    Raises:
        ValueError: the pictures are not those that the proposals are of, or the folder holds something else.
    """
    before = StageFolder.open(output / "proposals", "proposals")
    identity = {
        "input": before.digest,
        CONTENTS: _contents(coco, before),
        **captioner.identity,
        **settings.of(*_ASKED, "context", "batch_size"),
    }
    folder = StageFolder(output / "captions", "captions", identity, before.count, ranks, overwrite)
    engine.run(folder, CaptionMaker(coco.images, before, settings, captioner))
    return folder.finish()


def embed_regions(
    coco: CocoAnnotations,
    output: Path,
    settings: PoolSettings,
    clip: Model,
    ranks: Ranks | None = None,
    overwrite: bool = False,
    engine: Engine = IN_PROCESS,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """OUTPUT/embeddings: CLIP's embeddings of the crops, float16. OUTPUT/texts: those of the distinct captions, and of
    the annotated names as [`name_prompt`] puts them.

    Texts are embedded once each, in alphabetical order, so that equal ones have equal embeddings, whichever region,
    shard or process they come from.

    Args:
        clip: has `identity` and `load()`, which gives a `ClipEmbedder`. Others as in [`propose_regions`].

    Returns:
        dict: totals of both. Counts: not_finite (embeddings that are not), truncated (captions longer than CLIP's text
        encoder takes).
    """
    before = open_stage(output, "captions")
    identity = {
        "input": before.digest,
        CONTENTS: _contents(coco, before),
        **clip.identity,
        **settings.of("context", "batch_size"),
    }
    folder = StageFolder(output / "embeddings", "embeddings", identity, before.count, ranks, overwrite)
    engine.run(folder, EmbeddingMaker(coco.images, before, settings, clip))
    return folder.finish(), _embed_captions(before, output, clip, ranks, overwrite, engine)


def _contents(coco, before):
    """The digest of the pictures, which must be those that the stage `before` has looked at."""
    contents = coco.picture_digest()
    if before.identity.get(CONTENTS, contents) != contents:
        raise ValueError(
            f"{before.folder} was made from pictures of the same names that {coco.file} has no longer; run `decodetr "
            "pool build` with --overwrite, or each stage from `decodetr pool proposals` on"
        )
    return contents


def _embed_captions(regions, output, clip, ranks, overwrite, engine):
    captions, names = set(), set()
    for shard in range(regions.count):
        table = regions.read(shard, ["caption", "name"])
        captions.update(table["caption"].to_pylist())
        names.update(name for name in table["name"].unique().to_pylist() if name)
    captions.update(map(name_prompt, names))
    identity = {"input": regions.digest, **clip.identity}
    if any(spaced(name) != name for name in names):  # earlier versions embedded the underscores
        identity["names"] = "with spaces instead of underscores"
    folder = StageFolder(output / "texts", "texts", identity, text_shards(captions), ranks, overwrite)
    return embed_texts(folder, sorted(captions), clip, engine)


def text_shards(captions: Collection[str]) -> int:
    """How many shards the embeddings of so many captions have."""
    return -(-len(captions) // TEXTS_PER_SHARD)


def embed_texts(
    folder: StageFolder, captions: list[str], clip: Model, engine: Engine = IN_PROCESS, **columns: list
) -> dict[str, Any]:
    """Write CLIP's embeddings of captions, with further columns of theirs, into the shards of a stage. Returns its
    totals.

    Args:
        folder (StageFolder): of `text_shards(captions)` shards. clip, engine: as in [`embed_regions`].
    """
    engine.run(folder, TextMaker(pa.array(captions, pa.string()), clip, columns))
    return folder.finish()


def name_prompt(name: str) -> str:
    """The text that stands for an annotated name where the teacher's space is measured (space.py), as `decodetr
    vocabulary build` embeds it."""
    return fill_template(Vocabulary.TEMPLATE, spaced(name))
