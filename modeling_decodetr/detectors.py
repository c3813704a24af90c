"""What differs between the detector families of transformers that can be the localization stream.

Nothing else in the package asks which detector it has. The table was checked against transformers 5.18 to 5.24 by the
tests, which train, save and reload every family.
"""

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._higher_order_ops import while_loop
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, PreTrainedConfig
from transformers.utils import ModelOutput

from .map_cells import Cells, map_cells
from .precision import safe_sampling
from .safe_loading import load_safely

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .configuration_decodetr import DeCoDetrConfig

logger = logging.getLogger(__name__)


def _conv_encoder_channels(encoder: nn.Module, config) -> list[int]:
    return list(encoder.intermediate_channel_sizes)


def _lw_detr_channels(encoder: nn.Module, config) -> list[int]:
    return [config.d_model] * len(config.projector_scale_factors)


def _rf_detr_channels(encoder: nn.Module, config) -> list[int]:
    return [config.d_model]


def _deimv2_channels(encoder: nn.Module, config) -> list[int]:
    if config.encoder_type == "lite":
        return list(encoder.intermediate_channel_sizes)
    return [config.encoder_hidden_dim] * config.num_feature_levels


@dataclass(frozen=True)
class DetectorFamily:
    """One row of the table.

    Attributes:
        feature_module: path, below `detector.model`, of the module whose forward output holds the feature maps.
        channels: function of (that module, detector config) giving the channels of each map.
        real_queries: which N of the decoder's queries are used at inference: "all", or in training, where denoising
            queries or query groups are added, the "last" or the "first" N.
        no_object: the class head has an extra no-object column (softmax), else it is sigmoid.
        size_divisor: function of the detector config: H and W must be multiples of it.
        uses_pixel_mask: padding is honoured. Otherwise images must have one fixed size.
        loss: how the library normalises the loss over processes, a key of `loss_normalisation`.
    """

    feature_module: str = "backbone"
    channels: Callable[[nn.Module, PreTrainedConfig], list[int]] = _conv_encoder_channels
    real_queries: str = "all"
    no_object: bool = False
    size_divisor: Callable[[PreTrainedConfig], int] = lambda config: 1
    uses_pixel_mask: bool = True
    loss: str = "averaged_twice"


_RT = DetectorFamily(real_queries="last", size_divisor=lambda config: 32, uses_pixel_mask=False, loss="per_process")
_GROUPED = DetectorFamily(real_queries="first", loss="global")

DETECTOR_FAMILIES = {
    "detr": DetectorFamily(no_object=True),
    "conditional_detr": DetectorFamily(),
    "deformable_detr": DetectorFamily(),
    "dab-detr": DetectorFamily(feature_module="backbone.conv_encoder"),
    "rt_detr": _RT,
    "rt_detr_v2": _RT,
    "d_fine": _RT,
    "deimv2": replace(_RT, feature_module="conv_encoder", channels=_deimv2_channels),
    "lw_detr": replace(
        _GROUPED,
        channels=_lw_detr_channels,
        size_divisor=lambda config: config.backbone_config.patch_size * config.backbone_config.num_windows_side,
    ),
    "rf_detr": replace(
        _GROUPED,
        channels=_rf_detr_channels,
        size_divisor=lambda config: config.backbone_config.patch_size * config.backbone_config.num_windows,
    ),
}


def detector_family(config: PreTrainedConfig) -> DetectorFamily:
    """The row for a detector config. Raises ValueError for a model type that is not in the table."""
    if config.model_type not in DETECTOR_FAMILIES:
        raise ValueError(
            f"detector_config.model_type must be one of {sorted(DETECTOR_FAMILIES)}, got {config.model_type!r}."
        )
    return DETECTOR_FAMILIES[config.model_type]


def check_detector(config: PreTrainedConfig) -> None:
    """ValueError for a detector that cannot be the localization stream: of no family in the table, of pictures that
    are not RGB, or that the library builds and cannot run."""
    detector_family(config)
    for part in (config, getattr(config, "backbone_config", None)):
        if (channels := getattr(part, "num_channels", 3)) != 3:
            raise ValueError(
                f"this {config.model_type} reads pictures of num_channels={channels}, but pictures are RGB, grey ones "
                "too (three equal channels): give a detector with num_channels=3, in its backbone_config too."
            )
    if getattr(config, "learn_initial_query", False):
        raise ValueError(
            f"transformers cannot run a {config.model_type} with learn_initial_query=true (it asks a module for "
            "`tile`): set it to false, and the queries are then taken from the picture, as by default."
        )


def check_images(config: PreTrainedConfig, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None) -> None:
    """ValueError unless a detector of this config can take images (B, 3, H, W) with a mask (B, H, W) of padding."""
    family = detector_family(config)
    divisor = family.size_divisor(config)
    if pixel_values.shape[-2] % divisor or pixel_values.shape[-1] % divisor:
        raise ValueError(
            f"{config.model_type} needs images whose height and width are multiples of {divisor}, got "
            f"{tuple(pixel_values.shape[-2:])}; set the image processor's size accordingly."
        )
    # Graphs that are exported are of images without padding.
    if pixel_mask is not None and not family.uses_pixel_mask and not torch.compiler.is_exporting():
        _check_unpadded(config, pixel_mask)


@torch.compiler.disable  # one break of the graph, where a family gets the mask that it ignores
def _check_unpadded(config, pixel_mask):
    if not pixel_mask.all():
        raise ValueError(
            f"pixel_mask has zeros, which {config.model_type} ignores: it would take the padding for picture, and "
            "its boxes would be wrong. Give the image processor a fixed size, {'height': ..., 'width': ...}, and "
            "do_pad=False."
        )


def feature_module(detector: nn.Module) -> nn.Module:
    """The module of the detector whose output holds the feature maps."""
    return detector.model.get_submodule(detector_family(detector.config).feature_module)


def backbone_module(detector: nn.Module) -> nn.Module:
    """The backbone proper, as the library built it from `backbone_config`: without projections that are the
    detector's own."""
    encoder = feature_module(detector)
    return encoder.model if hasattr(encoder, "model") else encoder.backbone


def feature_channels(detector: nn.Module) -> list[int]:
    """Channels of each feature map, without running the detector."""
    return detector_family(detector.config).channels(feature_module(detector), detector.config)


def feature_cells(detector: nn.Module) -> list[Cells] | None:
    """The cells of each feature map. None where images are as large as families with a divisor want them: their maps
    cover the canvas exactly."""
    family = detector_family(detector.config)
    return map_cells(feature_module(detector)) if family.size_divisor(detector.config) == 1 else None


class _Seen(threading.local):
    """Where the feature maps of a call in this thread are put. None outside of a call."""

    def __init__(self) -> None:
        self.outputs: list[Any] | None = None  # an attribute of the class hides it in what torch 2.11 compiles


_SEEN = _Seen()


def watch_feature_maps(detector: nn.Module) -> None:
    """Let [`run_detector`] see the feature maps of a detector. The hook is a plain function and holds nothing, so that
    models can be copied, pickled, compiled and exported."""
    feature_module(detector).register_forward_hook(_put_aside)


def _put_aside(module, args, output):
    if _SEEN.outputs is not None:
        _SEEN.outputs.append(output)


def run_detector(
    detector: nn.Module, pixel_values: torch.Tensor, **kwargs: Any
) -> tuple[ModelOutput, list[torch.Tensor]]:
    """A forward of the detector: (its output, its feature maps (B, C_l, H_l, W_l)).

    The maps belong to the call, not to the model: other threads do not see them, and nothing is kept when the
    detector fails or is called by itself.
    """
    seen = _SEEN.outputs = []
    try:
        with safe_sampling(pixel_values):
            output = detector(pixel_values, return_dict=True, **kwargs)
        return output, _feature_maps(seen[-1])
    finally:
        _SEEN.outputs = None


def _feature_maps(seen) -> list[torch.Tensor]:
    """Feature maps out of what the feature module returned: [(map, mask), ...], [map, ...] or one (map, mask)."""
    if isinstance(seen, tuple) and isinstance(seen[0], torch.Tensor):
        return [seen[0]]
    return [level[0] if isinstance(level, tuple) else level for level in seen]


def inner_outputs(output: ModelOutput, asked: bool | list[int] | tuple[int, ...] | None) -> dict:
    """`hidden_states`, `attentions` and `cross_attentions` of [`DeCoDetrObjectDetectionOutput`], out of a detector's
    output. None where nobody asked for them. `asked`: the forward's `output_hidden_states`, a bool or a list."""
    states = getattr(output, "decoder_hidden_states", None)
    if states is not None and isinstance(asked, list | tuple):
        kept = {place % len(states) for place in asked}
        states = tuple(state if place in kept else None for place, state in enumerate(states))
    attentions = {name: getattr(output, name, None) for name in ("decoder_attentions", "cross_attentions")}
    return {
        "hidden_states": states,
        "attentions": attentions["decoder_attentions"],
        "cross_attentions": attentions["cross_attentions"],
    }


def query_dim(config: PreTrainedConfig) -> int:
    """C, the width of the object queries."""
    return config.d_model if hasattr(config, "d_model") else config.hidden_size


def num_queries(config: PreTrainedConfig) -> int:
    """N, the queries used at inference."""
    if getattr(config, "two_stage", False) and hasattr(config, "two_stage_num_proposals"):
        return config.two_stage_num_proposals
    return config.num_queries


def real_queries(tensor: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """The N inference queries of a (B, N + extra, ...) decoder tensor. Denoising queries and extra groups are cut
    off."""
    n = num_queries(config)
    which = detector_family(config).real_queries
    if which == "last":
        return tensor[:, -n:]
    return tensor[:, :n] if which == "first" else tensor


def objectness_logits(class_logits: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """One logit per query from the detector's class logits (B, N, classes): that of "there is an object" (B, N).

    One class: `logits[..., 0]`, minus the no-object logit where there is one. Several classes (the paper's variant):
    the maximum, or log-sum-exp against no-object, which for one class are the same formulas.
    """
    if detector_family(config).no_object:
        return class_logits[..., :-1].logsumexp(-1) - class_logits[..., -1]
    return class_logits.amax(-1)


def suppress_duplicates(objectness_logits: torch.Tensor, boxes: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy non-maximum suppression, that of `torchvision.ops.nms`: from the most certain query on, a query whose box
    overlaps that of a kept one of its image by more than the threshold gets a logit of -30, a score of 0. Of equally
    certain queries the first one counts as surer.

    Whether a query is kept depends on the surer ones alone, so starting with all kept and applying the rule to all at
    once, again and again, ends with the greedy answer: after as many rounds as the longest chain of overlaps is long.

    Args:
        objectness_logits (B, N) and boxes (B, N, 4), (cx, cy, w, h).
    """
    boxes = boxes.detach().float()
    low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    intersection = torch.ones((), device=boxes.device)
    for axis in (0, 1):
        left, right = low[..., axis], high[..., axis]
        overlap = torch.minimum(right[:, :, None], right[:, None]) - torch.maximum(left[:, :, None], left[:, None])
        intersection = intersection * overlap.clamp(min=0)
    area = (high - low).prod(-1)
    iou = intersection / (area[:, :, None] + area[:, None] - intersection)  # NaN for two boxes without area
    mine, other = objectness_logits[:, :, None], objectness_logits[:, None]
    place = torch.arange(area.shape[1], device=area.device)
    surer = (mine > other) | ((mine == other) & (place[:, None] < place))  # [b, n, m]: n is surer than m
    beaten = ((iou > iou_threshold) & surer).float()
    kept, before = torch.ones_like(area), torch.zeros_like(area)
    if torch.compiler.is_compiling():
        kept, _, _ = while_loop(_changed, _suppress_once, (kept, before, beaten))
    else:
        while _changed(kept, before, beaten):
            kept, before, _ = _suppress_once(kept, before, beaten)
    return objectness_logits.masked_fill(kept == 0, -30.0)


def _changed(kept, before, beaten):
    return (kept != before).any()


def _suppress_once(kept, before, beaten):
    """kept (B, N), 0 or 1: those that no kept one beats."""
    # Copies, because a loop that is compiled may not return its inputs.
    return ((kept[:, None] @ beaten)[:, 0] == 0).to(kept.dtype), kept.clone(), beaten.clone()


def _class_numbers(config: PreTrainedConfig) -> dict[str, int]:
    """{name: number} of the classes of a detector."""
    return {name: number for number, name in config.id2label.items()}


def class_labels_of_detector(labels: list[dict], config: "DeCoDetrConfig", names: list[str]) -> list[dict]:
    """Labels as the detector wants them: every object is class 0, or (the paper's variant) the class of its name.

    Pseudo boxes are objects without a name: only a class-agnostic detector can learn them.

    Args:
        labels: `class_labels` (n,) indices into `names`, `boxes` (n, 4) and, optionally, `pseudo_boxes` (P, 4) and
            `ignore_boxes` (P, 4), which are passed on.
        config: a DeCoDetrConfig. names: the vocabulary.

    Raises:
        ValueError: a name for which the detector has no class.
    """
    ignored = [{key: label[key] for key in ("ignore_boxes",) if key in label} for label in labels]
    if config.class_agnostic:
        objects = [torch.cat([label["boxes"], label.get("pseudo_boxes", label["boxes"][:0])]) for label in labels]
        return [
            {"class_labels": boxes.new_zeros(len(boxes), dtype=torch.int64), "boxes": boxes, **more}
            for boxes, more in zip(objects, ignored)
        ]
    if any("pseudo_boxes" in label for label in labels):
        raise ValueError("pseudo_boxes need class_agnostic=True: they have no name, and so no class of the detector.")
    classes = _class_numbers(config.detector_config)
    used = torch.cat([label["class_labels"] for label in labels]).unique().tolist()
    if foreign := sorted({names[i] for i in used} - set(classes)):
        raise ValueError(
            f"class_agnostic=False: the detector has no class for {foreign}; it has {sorted(classes)[:5]}, ..."
        )
    table = torch.tensor([classes.get(name, -1) for name in names], device=labels[0]["class_labels"].device)
    return [
        {"class_labels": table[label["class_labels"]], "boxes": label["boxes"], **more}
        for label, more in zip(labels, ignored)
    ]


def load_detector(
    name_or_path: str | Path, class_agnostic: bool, **hub: str | bool | None
) -> tuple["PreTrainedModel", list[str]]:
    """A saved detector of a supported family: (detector, the class names it was trained on). With `class_agnostic`
    its class head is replaced by one for "object"."""
    config = load_safely(AutoConfig, name_or_path, **hub)
    check_detector(config)
    seen = [config.id2label[i] for i in sorted(config.id2label)]
    if class_agnostic:
        config.num_labels = 1
    detector = load_safely(
        AutoModelForObjectDetection, name_or_path, config=config, ignore_mismatched_sizes=class_agnostic, **hub
    )
    return detector, seen


# Whose image processors work as ours does, but for what `_steps` says.
_KNOWN = re.compile(r"(Detr|ConditionalDetr|DeformableDetr|RTDetr|RfDetr|GroundingDino|Yolos|DeCoDetr)ImageProcessor")


def detector_preprocessing(
    name_or_path: str | Path, config: PreTrainedConfig, **hub: str | bool | None
) -> dict | None:
    """How a saved detector wants its images, as keyword arguments of an image processor. None where the folder has no
    image processor.

    What the family cannot take (sides that are not fixed, or padding, where it ignores padding; sides that are no
    multiple of its divisor) is replaced by the next fixed size, with a warning.
    """
    family = detector_family(config)
    try:
        saved = load_safely(AutoImageProcessor, name_or_path, **hub)
    except OSError:
        return None
    size = dict(saved.size)
    divisor, replaced = family.size_divisor(config), []
    asked, do_resize = _by_name(size), saved.do_resize
    pad_size = dict(saved.pad_size) if saved.do_pad and getattr(saved, "pad_size", None) else None
    fixed = divisor > 1 or not family.uses_pixel_mask
    if fixed and "height" not in size:
        side = size.get("shortest_edge") or size["max_height"]
        size = {"height": side, "width": side}
    if "height" in size:
        size = {key: -(-size[key] // divisor) * divisor for key in ("height", "width")}
    if fixed:
        replaced += [f"size {asked} by {_by_name(size)}"] if asked != _by_name(size) else []
        replaced += [] if do_resize else [f"do_resize=False by size {_by_name(size)}"]
        replaced += [f"pad_size {_by_name(pad_size)} by no padding"] if pad_size else []
        do_resize, pad_size = True, None
    if replaced:
        logger.warning(
            "%s: %s takes images of one size, with sides that are multiples of %d, without padding. Of its image "
            "processor were replaced: %s. Boxes can differ from the detector's own",
            *(name_or_path, config.model_type, divisor, ", ".join(replaced)),
        )
    if not _KNOWN.match(kind := type(saved).__name__):
        logger.warning(
            "%s: its image processor is a %s, whose steps are not known here. Its size, resampling, mean and std are "
            "used; boxes can differ from the detector's own",
            *(name_or_path, kind),
        )
    fields = ("do_normalize", "do_rescale", "rescale_factor", "image_mean", "image_std")
    return {
        "size": size,
        "do_resize": do_resize,
        "resample": int(saved.resample),
        "do_pad": not fixed and (pad_size is not None or not do_resize or "height" not in size),
        **({} if pad_size is None else {"pad_size": pad_size}),
        **{name: getattr(saved, name) for name in fields},
        **_steps(saved),
    }


def _steps(saved):
    """The fields by which an image processor resizes otherwise than most: RF-DETR's has them in its code."""
    if type(saved).__name__ == "RfDetrImageProcessor":
        return {"antialias": False, "rescale_first": True}
    return {name: getattr(saved, name) for name in ("antialias", "rescale_first") if hasattr(saved, name)}


def _by_name(size):
    """A size of an image processor in words: "64 x 96", or "shortest_edge 64, longest_edge 100"."""
    if "height" in size:
        return f"{size['height']} x {size['width']}"
    return ", ".join(f"{name} {side}" for name, side in sorted(size.items(), reverse=True))
