"""What a folder or name holds, for people: of a DeCo-DETR what it is, knows, learned from and how fast it is.

No weights are read for it but by `measure_speed`. Configs and provenance say the rest.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor
from transformers.models.auto import modeling_auto

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection
from decodetr.inference.detection import forward
from decodetr.inference.loading import load_model
from decodetr.modeling_decodetr.detectors import DETECTOR_FAMILIES, num_queries
from decodetr.modeling_decodetr.embedding_space import scales_of
from decodetr.modeling_decodetr.safe_loading import load_safely
from decodetr.processing.regions import count_regions
from decodetr.utils.shipped import cannot_load, hub_kind, kind_of, load_pool, load_vocabulary, loading, resolve

if TYPE_CHECKING:
    from typing import Any

    from transformers import PreTrainedConfig

_WARM_UP, _RUNS, _SECONDS = 2, 15, 10.0  # forwards that are not timed, timed ones, and how long they may take together
# What a model of transformers is good for, by the tables of its Auto classes.
_OTHER_MODELS = (
    ("detector", modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES, None),
    (
        "zero-shot detector",
        modeling_auto.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES,
        "`decodetr eval --model {0}` measures it",
    ),
    (
        "CLIP",
        modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        "give it with --clip: it embeds names and crops",
    ),
    (
        "captioner",
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        "give it with --captioner of `decodetr pool build`",
    ),
)


def describe(name: str | Path) -> dict[str, Any]:
    """What a folder, Hub name or shipped name holds.

    Returns:
        dict: "name" and "kind" ("DeCo-DETR", "pool", "vocabulary", "regions data set", "detector", ...). Of a
        DeCo-DETR "detector", "parameters", "image_size", "embedding", "pool", "background", "names", "training" and
        "scores", see [`model_facts`]. Of other things some figures, and "advice": what to do with them.

    Raises:
        FileNotFoundError: there is nothing of that name. ValueError: it is damaged, or nothing that decodetr knows.
    """
    folder = Path(resolve(name))
    found, advice = kind_of(folder) or hub_kind(name) or (None, "")
    advice = advice.format(name)
    if found == "pool":
        return {"name": str(name), "kind": found, **_pool(load_pool(name)), "advice": advice}
    if found == "vocabulary":
        vocabulary = load_vocabulary(name)
        facts = {"names": vocabulary.names, "embedding_dim": vocabulary.embedding_dim, **vocabulary.info}
        return {"name": str(name), "kind": found, **facts, "advice": advice}
    if found not in (None, "model"):
        return {"name": str(name), "kind": found, "advice": advice}
    if folder.is_dir() and any(folder.glob("regions-*.parquet")):
        advice = f"give it with --regions {name} of `decodetr train`"
        return {"name": str(name), "kind": "regions data set", "regions": count_regions(folder), "advice": advice}
    if folder.is_dir() and found is None:
        inside = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise cannot_load("model", name, f"the folder has no config.json; it has {inside}")
    with loading("model", name) as place:
        config = load_safely(AutoConfig, place)
        if isinstance(config, DeCoDetrConfig):
            size = dict(load_safely(AutoImageProcessor, place).size)
            return {"name": str(name), "kind": "DeCo-DETR", **model_facts(config, size)}
    return {"name": str(name), **_other_model(str(name), config)}


def model_facts(config: DeCoDetrConfig, image_size: dict[str, int]) -> dict[str, Any]:
    """What a DeCo-DETR is, knows and learned from, as JSON has it.

    Args:
        config (DeCoDetrConfig). image_size: `size` of its image processor.

    Returns:
        dict: "detector", "parameters", "image_size", "embedding", "pool", "background", "names" ("all", and "boxed":
        those that had boxes in its last training, None where that is not recorded), "training" (`training_info`
        without the lists of names) and "scores".
    """
    with torch.device("meta"):
        model = DeCoDetrForObjectDetection(config)
    total = sum(weight.numel() for weight in model.parameters())
    detector = sum(weight.numel() for weight in model.detector.parameters())
    info, pool, names = config.training_info or {}, config.pool_info or {}, list(config.id2label.values())
    annotated = info.get("annotated_names")
    scales = scales_of(config, pool.get("space"))
    return {
        "detector": {
            "family": model.detector.config.model_type,
            "queries": num_queries(model.detector.config),
            "class_agnostic": config.class_agnostic,
            "nms_iou": config.nms_iou,
        },
        "parameters": {"all": total, "detector": detector, "semantic_stream": total - detector},
        "image_size": image_size,
        "embedding": {
            "width": config.embedding_dim,
            "encoder": (config.vocabulary_info or {}).get("encoder"),
            "encoder_of_the_pool": pool.get("encoder"),
            "centred": config.centred,
        },
        "pool": {
            "coarse": config.num_coarse_prototypes,
            "fine": config.num_fine_prototypes,
            "use": config.pool_use,
            "made_of": "random" if info.get("pool") == "random" or not pool else f"{pool.get('kept')} regions",
            "captioner": pool.get("captioner"),
            "proposer": pool.get("proposer"),
        },
        "background": {
            "threshold": scales.background_threshold,
            "level": scales.background_level,
            "margin": scales.background_margin,
        },
        "names": {
            "all": names,
            "boxed": None if annotated is None else [name for name in names if name in set(annotated)],
        },
        "training": {key: _counted(value) for key, value in info.items()},
        "scores": {
            "threshold": config.common_threshold,
            "name_thresholds": config.name_thresholds or {},
            "scale": config.score_scale,
            "bias": config.score_bias,
            "calibration": config.calibration_info,
        },
    }


def measure_speed(name: str | Path, device: str = "auto") -> dict[str, Any]:
    """How long a forward of one image takes here, in one process, at the model's own image size and in float32.

    Args:
        name: of a DeCo-DETR. device: as of --device.

    Returns:
        dict: "milliseconds" (median), "slowest", "images_per_second", "runs", "pixels" (height, width of the prepared
        image), "device" and "threads". Reading, preparing and drawing of images is not in it.
    """
    model, image_processor = load_model(name, device=device)
    size = dict(image_processor.size)
    side = max(value for value in size.values() if value)
    noise = torch.randint(256, (side, side, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = image_processor(images=[Image.fromarray(noise.numpy())], return_tensors="pt")
    batch = {key: value.to(model.device) for key, value in batch.items() if isinstance(value, torch.Tensor)}
    times, begun = [], time.perf_counter()
    with torch.inference_mode():
        for i in range(_WARM_UP + _RUNS):
            start = time.perf_counter()
            forward(model, batch)
            if model.device.type != "cpu":
                torch.accelerator.synchronize(model.device)
            if i >= _WARM_UP:
                times.append(time.perf_counter() - start)
            if times and time.perf_counter() - begun > _SECONDS:
                break
    median = statistics.median(times)
    return {
        "milliseconds": 1000 * median,
        "slowest": 1000 * max(times),
        "images_per_second": 1 / median,
        "runs": len(times),
        "pixels": list(batch["pixel_values"].shape[-2:]),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
    }


def _pool(pool):
    info = {key: value for key, value in pool.info.items() if key != "space"}
    return {
        "prototypes": {"coarse": len(pool) - pool.num_fine, "fine": pool.num_fine},
        "embedding_dim": pool.embedding_dim,
        **{key: _counted(value) for key, value in info.items()},
    }


def _other_model(name: str, config: PreTrainedConfig) -> dict[str, Any]:
    """Of a model of transformers that is no DeCo-DETR: its kind, type, classes and what it is good for."""
    kind = config.model_type
    what, advice = "model", "decodetr has no use for this kind of model"
    for label, table, text in _OTHER_MODELS:
        if kind in table:
            what = label
            advice = text.format(name) if text else ""
            break
    facts: dict[str, Any] = {"kind": what, "type": kind}
    if what == "detector":
        facts["classes"] = list((config.id2label or {}).values())
        advice = f"`decodetr train --detector {name}` makes a DeCo-DETR of it"
        if kind not in DETECTOR_FAMILIES:
            advice = f"of its family no DeCo-DETR can be made, but of {', '.join(sorted(DETECTOR_FAMILIES))}"
    return {**facts, "advice": advice}


def _counted(value):
    """A record without long lists of names: their number instead."""
    if isinstance(value, dict):
        return {key: _counted(item) for key, item in value.items()}
    return f"{len(value)} names" if isinstance(value, list) and len(value) > 8 else value
