"""What tells one training run from another: all that decides its result, as JSON, in each of its checkpoints.

A checkpoint may only be gone on with by the run that wrote it: the same start, data, names and settings. How long it
goes, and how it is computed, watched and kept, may change (`training.options.fields`).
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from decodetr.training.data.self_regions import OWN_REGIONS
from decodetr.training.options import fields
from decodetr.utils.excerpts import short_json
from decodetr.utils.model_identity import config_settings, without_place

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection, Vocabulary
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

LENGTH = "length"  # the section that a run which goes on may change
SKETCH = "embeddings"


def run_identity(
    args: "DeCoDetrTrainingArguments",
    model: "DeCoDetrForObjectDetection",
    dataset: Any,
    start: object = None,
    names: "Vocabulary | None" = None,
) -> dict[str, Any]:
    """
    What a run is, before its first step.

    Args:
        args (DeCoDetrTrainingArguments).
        model (DeCoDetrForObjectDetection): with the training names.
        dataset: of training, before its features are cached.
        start: what the model's weights are, as JSON. None where that is not known.
        names (Vocabulary, *optional*): of deployment, which the checkpoints have.

    Returns:
        dict of sections, JSON: "start", "model", "data", "settings", "length".
    """
    tables = {
        "training names": _table(model.vocabulary.names, model.vocabulary.embeddings, model.config.vocabulary_info)
    }
    if names is not None:
        tables["deployment names"] = _table(names.names, names.embeddings, names.info)
    pool = model.prototype_pool
    tables["pool"] = _table(pool.level.tolist(), pool.prototypes, model.config.pool_info)
    identity = {
        "start": start,
        "model": {**config_settings(model.config.to_dict()), **tables},
        "data": dataset_identity(dataset),
        **settings_identity(args),
    }
    if getattr(dataset, "stream", None) is not None:  # workers divide it
        identity["data"]["dataloader_num_workers"] = args.dataloader_num_workers
    return json.loads(json.dumps(identity, default=str))


def settings_identity(args: "DeCoDetrTrainingArguments") -> dict[str, Any]:
    """The sections "settings" and "length" of a run."""
    return json.loads(json.dumps({"settings": fields.deciding(args), LENGTH: fields.length(args)}, default=str))


def dataset_identity(dataset: Any, contents: bool = False) -> dict[str, Any] | None:
    """What a data set gives to learn, as a dict. Of one that is not ours its kind and length.

    Args:
        contents (bool): also what tells its pictures from others of the same names
            ([`CocoAnnotations.picture_digest`]).
    """
    if dataset is None:
        return None
    if hasattr(dataset, "made_by"):  # FeatureCache
        return {"cached": dataset.source, "items": len(dataset)}
    if hasattr(dataset, "datasets"):  # ReplayedDataset, ConcatDataset
        return {f"part {i}": dataset_identity(part, contents) for i, part in enumerate(dataset.datasets, 1)}
    if not hasattr(dataset, "label_of_name"):
        return {"kind": type(dataset).__name__, "items": len(dataset) if hasattr(dataset, "__len__") else None}
    coco, stream = getattr(dataset, "coco", None), getattr(dataset, "stream", None)
    found: dict[str, Any] = {"names": digest(dataset.names)}
    if coco is not None:
        files = digest([[image["image_id"], image["file_name"]] for image in coco.images])
        found |= {"annotations": coco.digest(), "images": [len(coco.images), files]}
        if contents:
            found["contents of pictures"] = coco.picture_digest()
    if stream is not None:
        order = {"shuffle_buffer": dataset.shuffle_buffer, "seed": dataset.seed}
        place, separator, split = str(stream.name).rpartition(" (")
        name = f"{without_place(place)}{separator}{split}"
        found |= {"stream": name, "annotated names": stream.names and digest(stream.names), **order}
    targets = dataset.targets
    if targets.regions is not None:
        own = targets.regions.source == OWN_REGIONS  # of "start". Computed again, they may differ in the last digits
        found["regions"] = OWN_REGIONS if own else targets.regions.digest()
    if targets.pseudo_box_score is not None:
        found |= {"pseudo_boxes": targets.pseudo_boxes, "pseudo_box_score": targets.pseudo_box_score}
    if targets.augmentation is not None:
        found["augmentation"] = vars(targets.augmentation)
    if targets.weak_labels is not None:
        found["weak_labels"] = _weak_labels(targets.weak_labels)
    processor = getattr(dataset.image_processor, "to_dict", dict)()
    found["image processor"] = {name: _plain(processor[name]) for name in _SHAPES if name in processor}
    # Only where they are not what every image processor had when they were not recorded: earlier runs go on.
    found["image processor"] |= {
        name: _plain(processor[name])
        for name, usual in _RARE.items()
        if processor.get(name) is not None and processor[name] != usual
    }
    return found


_SHAPES = ("size", "image_mean", "image_std", "do_resize", "do_normalize", "do_rescale", "rescale_factor", "do_pad")
_RARE = {"resample": 2, "antialias": True, "rescale_first": False, "pad_size": None}


def digest(*parts: object) -> str:
    """12 hexadecimal digits of a SHA-256 over JSON values, arrays and tensors."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.detach().float().cpu().numpy()
        if isinstance(part, np.ndarray):
            total.update(f"{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            total.update(json.dumps(part, default=str).encode())
    return total.hexdigest()[:12]


def differences(stored: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """What tells two runs apart, a line each, in words: "  settings.learning_rate: 0.0001 there, 0.001 here". Only the
    sections of `asked` are compared."""
    there, here = (flat({key: run.get(key) for key in asked}) for run in (stored, asked))
    lines = []
    for key in sorted(there.keys() | here.keys()):
        if key.startswith("model.detector_config.") and not (key in there and key in here):
            continue  # another version of transformers has other fields
        if not _same(key, there.get(key), here.get(key)):
            lines.append(f"  {key}: {short_json(there.get(key))} there, {short_json(here.get(key))} here")
    return lines


def flat(value: object, above: str = "") -> dict[str, Any]:
    """A nested dict as {"a.b": value}."""
    if not isinstance(value, dict) or not value:
        return {above: value}
    found = {}
    for key, item in value.items():
        found |= flat(item, f"{above}.{key}" if above else str(key))
    return found


def _table(rows, embeddings, info):
    """Rows and, where it is known what made them, a sketch of their embeddings: random ones, of a model without
    tables, are those of the checkpoint in the end."""
    return {"rows": len(rows), "content": digest(rows), SKETCH: _sketch(embeddings) if info else None}


def _sketch(embeddings):
    """Four numbers that tell one table (n, d) from another, but not from itself computed on another machine."""
    table = embeddings.detach().double().cpu().numpy()
    draws = (np.random.default_rng(seed).standard_normal(sum(table.shape)) for seed in range(4))
    return [float(draw[: len(table)] @ table @ draw[len(table) :]) for draw in draws]


def _same(key, there, here):
    if key.endswith(SKETCH) and isinstance(there, list) and isinstance(here, list):
        return np.allclose(there, here, rtol=1e-3, atol=1e-3)
    return there == here


def _weak_labels(weak):
    captions, labels = weak.captions, weak.image_labels
    return {
        "captions": None if captions is None else digest(captions.embeddings),
        "image_labels": None if labels is None else digest([[key, list(names)] for key, names in labels.items()]),
        "exhaustive": digest(sorted(weak.exhaustive)) if weak.exhaustive else None,
    }


def _plain(value):
    return dict(value) if hasattr(value, "keys") else value
