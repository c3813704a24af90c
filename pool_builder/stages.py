"""The heavy stages of a pool: proposals -> captions -> embeddings, each from shards to shards (paper 1.1 to 1.3).

Images are taken in groups of `batch_size`, and a shard is a whole number of groups: nothing that a model computes
crosses a group, so the rows do not depend on the size of the shards or on who computes them. What cannot be used is
left out, with its reason in the shard's record.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from decodetr.annotations.coco import CocoAnnotations, read_annotated
from decodetr.modeling_decodetr import Vocabulary
from decodetr.modeling_decodetr.text_encoder import fill_template
from decodetr.pool_builder.batches import read_ahead
from decodetr.pool_builder.crops import crop_region
from decodetr.pool_builder.lazy_model import Model
from decodetr.pool_builder.proposals import annotated_boxes, propose_in
from decodetr.pool_builder.settings import PoolSettings
from decodetr.pool_builder.shards import COMMANDS, MANIFEST, Ranks, StageFolder
from decodetr.utils.images import in_batches

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
_TEXTS_PER_SHARD = 16384  # a multiple of the batch of encode_texts: shards do not change a batch


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
) -> dict[str, Any]:
    """OUTPUT/proposals: the regions of all images, annotated boxes first.

    Args:
        coco (CocoAnnotations): with base names only.
        output (Path): OUTPUT. settings (PoolSettings).
        proposer: has `identity` (dict) and `load()`, which gives what `proposals.propose_in` takes, or None.

    Returns:
        dict: the totals of [`StageFolder.finish`]. Counts: images, annotated, unusable_boxes (annotated ones without
        area in the image), proposed. problems: images that cannot be read.

    Raises:
        ValueError: there is no region at all, or the folder holds something else.
    """
    size = settings.shard_groups * settings.batch_size
    identity = {
        "images": _digest(
            [[entry[key] for key in ("image_id", "file_name", "width", "height")] for entry in coco.images]
        ),
        "boxes": _digest([coco.annotations_by_image.column(name).tolist() for name in ("bbox", "iscrowd")]),
        "annotated_names": coco.names,
        **(proposer.identity if proposer else {"proposer": None, "proposer_training_info": None}),
        **settings.of("min_objectness", "min_side", "nms_iou", "max_proposals", "batch_size", "shard_groups"),
    }
    folder = StageFolder(output / "proposals", "proposals", identity, -(-len(coco.images) // size), ranks, overwrite)
    pending = folder.pending()
    detector = proposer.load() if proposer and pending else None
    for shard in pending:
        entries, problems = coco.images[shard * size : (shard + 1) * size], []
        counts = {"images": len(entries), "annotated": 0, "unusable_boxes": 0}
        features = {"image_id": "int64", "file_name": "string", "box": ("float32", 4), "proposal_score": "float32"}
        features["name"] = "string"

        def propose(batch, entries=entries, problems=problems, counts=counts, features=features):
            read, rows = [], []
            chosen = entries[batch["first"][0] : batch["first"][0] + settings.batch_size]
            for some in in_batches(chosen, settings.batch_size, lambda entry: entry["width"] * entry["height"]):
                group, pictures = [], []
                for entry in some:
                    try:
                        pictures.append(read_annotated(entry))
                        group.append(entry)
                    except (OSError, ValueError) as error:
                        problems.append(_problem(entry, error))
                rows += [row for rows in propose_in(coco, group, pictures, detector, settings) for row in rows]
                read += group
            for entry in read:
                usable = len(annotated_boxes(coco, entry)[1])
                objects = len(coco.annotations_by_image.arrays(entry["image_id"], crowds=False)["id"])
                counts["annotated"] += usable
                counts["unusable_boxes"] += objects - usable
            return {name: [row[name] for row in rows] for name in features}

        firsts = range(0, len(entries), settings.batch_size)
        table = _map(folder, shard, firsts, propose, features, len(entries), "image")
        folder.write(shard, table, {**counts, "proposed": table.num_rows - counts["annotated"]}, problems)
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
) -> dict[str, Any]:
    """OUTPUT/captions: what the captioner says about every region.

    Args:
        captioner: has `identity` and `load()`, which gives a `Captioner`. Others as in [`propose_regions`].

    Returns:
        dict: totals. Counts: empty and cut captions (those that the longest length cut off).
    """
    before = StageFolder.open(output / "proposals", "proposals")
    identity = {
        "input": before.digest,
        **captioner.identity,
        **settings.of(*_ASKED, "context", "batch_size"),
    }
    folder = StageFolder(output / "captions", "captions", identity, before.count, ranks, overwrite)
    pending = folder.pending()
    model = captioner.load() if pending else None
    for shard in pending:
        regions, cut = before.read(shard), []

        def caption(crops, prepared, cut=cut):
            captions, whole = model.describe(crops, prepared)
            cut += [not finished for finished in whole]
            return {"caption": captions}

        table = _map_crops(folder, shard, coco, regions, settings, model, caption, {"caption": "string"})
        empty = sum(not text for text in table["caption"].to_pylist())
        folder.write(shard, table, {"empty": empty, "cut": sum(cut)})
    return folder.finish()


def embed_regions(
    coco: CocoAnnotations,
    output: Path,
    settings: PoolSettings,
    clip: Model,
    ranks: Ranks | None = None,
    overwrite: bool = False,
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
    identity = {"input": before.digest, **clip.identity, **settings.of("context", "batch_size")}
    folder = StageFolder(output / "embeddings", "embeddings", identity, before.count, ranks, overwrite)
    for shard in folder.pending():
        model, not_finite = clip.load(), []

        def embed(crops, prepared, model=model, not_finite=not_finite):
            embeddings = model.embed_images(crops, prepared)
            not_finite += [row for row in embeddings if not np.isfinite(row).all()]
            return {"image_embed": embeddings.astype(np.float16)}

        regions, features = before.read(shard), {"image_embed": ("float16", model.dim)}
        table = _map_crops(folder, shard, coco, regions, settings, model, embed, features)
        folder.write(shard, table, {"not_finite": len(not_finite)})
    return folder.finish(), _embed_captions(before, output, clip, ranks, overwrite)


def _embed_captions(regions, output, clip, ranks, overwrite):
    captions = set()
    for shard in range(regions.count):
        table = regions.read(shard, ["caption", "name"])
        captions.update(table["caption"].to_pylist())
        captions.update(name_prompt(name) for name in table["name"].unique().to_pylist() if name)
    identity = {"input": regions.digest, **clip.identity}
    folder = StageFolder(output / "texts", "texts", identity, text_shards(captions), ranks, overwrite)
    return embed_texts(folder, sorted(captions), clip)


def text_shards(captions: Collection[str]) -> int:
    """How many shards the embeddings of so many captions have."""
    return -(-len(captions) // _TEXTS_PER_SHARD)


def embed_texts(folder: StageFolder, captions: list[str], clip: Model, **columns: list) -> dict[str, Any]:
    """Write CLIP's embeddings of captions, with further columns of theirs, into the shards of a stage. Returns its
    totals.

    Args:
        folder (StageFolder): of `text_shards(captions)` shards. clip: as in [`embed_regions`].
    """
    for shard in folder.pending():
        model, rows = clip.load(), slice(shard * _TEXTS_PER_SHARD, (shard + 1) * _TEXTS_PER_SHARD)
        mine = captions[rows]
        embeddings = model.embed_texts(mine, progress=True)
        counts = {"truncated": model.count_truncated(mine), "not_finite": int((~np.isfinite(embeddings)).any(1).sum())}
        more = {name: values[rows] for name, values in columns.items()}
        embeds = embedding_array(embeddings.astype(np.float16))
        folder.write(shard, pa.table({"caption": mine, **more, "text_embed": embeds}), counts)
    return folder.finish()


def name_prompt(name: str) -> str:
    """The text that stands for an annotated name where the teacher's space is measured (space.py)."""
    return fill_template(Vocabulary.TEMPLATE, name)


def embedding_array(embeddings: np.ndarray) -> pa.FixedSizeListArray:
    """(n, d) as a pyarrow array of n lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1])


def embedding_rows(column: pa.ChunkedArray) -> np.ndarray:
    """The (n, d) array of a column of lists."""
    lists = column.combine_chunks()
    return lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)


def _map(folder, shard, firsts, make, features, total, unit):
    """The rows that `make` gives for each entry of `firsts`, by `datasets`: pyarrow.Table.

    Args:
        total (int), unit (str): what the progress bar counts. A call of `make` stands for its share of them.
    """
    import datasets

    columns = {}
    for name, kind in features.items():
        kind, length = kind if isinstance(kind, tuple) else (kind, None)
        columns[name] = datasets.Value(kind)
        if length:
            columns[name] = datasets.List(columns[name], length=length)
    columns = datasets.Features(columns)
    if not len(firsts):  # `map` leaves an empty data set as it is, without the new columns
        return columns.arrow_schema.empty_table().replace_schema_metadata(None)
    done, desc = itertools.count(1), f"{folder.stage}, shard {shard + 1} of {folder.count}"
    with tqdm(total=total, desc=desc, unit=unit, disable=folder.ranks.rank > 0) as bar, _without_bars():

        def counted(batch):
            rows = make(batch)
            bar.update(total * next(done) // len(firsts) - bar.n)
            return rows

        made = datasets.Dataset.from_dict({"first": list(firsts)}).map(
            counted,
            batched=True,
            batch_size=1,
            remove_columns=["first"],
            features=columns,
            new_fingerprint=_digest([folder.identity, shard])[:32],
            load_from_cache_file=False,
            keep_in_memory=True,
        )
    return made.data.table.replace_schema_metadata(None).combine_chunks()


@contextlib.contextmanager
def _without_bars():
    """Inside, `datasets` shows no progress bars, which would count groups of images as examples."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hidden = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            enable_progress_bars()


def _map_crops(folder, shard, coco, regions, settings, model, describe, features):
    """`regions` with the columns that `describe(crops, prepared)` gives for batches of crops: pyarrow.Table.

    Args:
        model: has `size` of the crops and `prepare(crops)`, which runs ahead in a thread.
    """
    position = {entry["image_id"]: i for i, entry in enumerate(coco.images)}
    ids = regions["image_id"].to_pylist()
    groups = _spans([position[image_id] // settings.batch_size for image_id in ids])
    entries = [coco.images[position[image_id]] for image_id in ids]

    def batches():
        for start, end in groups:
            crops = list(
                _crops(entries[start:end], regions["box"][start:end].to_pylist(), model.size, settings.context)
            )
            # Crops of like size side by side: less padding where a model takes them as they are.
            order = sorted(range(len(crops)), key=lambda i: crops[i].size)
            for first in range(0, len(order), settings.batch_size):
                rows = order[first : first + settings.batch_size]
                some = [crops[row] for row in rows]
                yield rows, some, model.prepare(some)

    with contextlib.closing(read_ahead(batches())) as ahead:

        def make(batch):
            start, end = groups[batch["first"][0]]
            made = {name: [None] * (end - start) for name in features}
            for _ in range(0, end - start, settings.batch_size):
                rows, crops, prepared = next(ahead)
                for name, values in describe(crops, prepared).items():
                    for row, value in zip(rows, values):
                        made[name][row] = value
            return made

        table = _map(folder, shard, range(len(groups)), make, features, len(ids), "region")
    for name in table.column_names:
        regions = regions.append_column(name, table[name])
    return regions


def _crops(entries, boxes, size, context):
    """The crop of each region. Rows come image by image, and each image is read once."""
    shown, picture = None, None
    for entry, box in zip(entries, boxes):
        if entry is not shown:
            shown, picture = entry, read_annotated(entry)
        yield crop_region(picture, box, size, context)


def _spans(groups):
    """[(first row, end)] of the runs of equal values in `groups`."""
    edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    return [span for span in zip(edges, edges[1:]) if span[0] < span[1]]


def _problem(entry, error):
    return {"image_id": entry["image_id"], "file_name": entry["file_name"], "problem": str(error).split("\n")[0]}


def _digest(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
