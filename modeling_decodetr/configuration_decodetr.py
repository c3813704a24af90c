"""Configuration of DeCo-DETR.

`detector_config` is the localization stream: the config of a detector of transformers, any that `detectors.py` has in
its table. All other fields describe the semantic stream (paper 1, 2 and 3; docs/paper.md). Where the paper gives a
value, the comment says it. Where it gives none, the comment says what we chose and why.
"""

import math
from pathlib import Path
from typing import Any, Literal, Self, overload

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.utils import logging

from .default_threshold import DEFAULT_THRESHOLD, thresholds_of
from .file_commit import reading, unfinished
from .remote_entries import is_remote

logger = logging.get_logger(__name__)

LEAST_HIDDEN = 512  # units of the semantic stream's MLPs, also where a small CLIP has short embeddings
# The fields that calibration sets, as they are without it.
UNCALIBRATED = {
    "score_scale": 1.0,
    "score_bias": 0.0,
    "score_threshold": None,
    "name_thresholds": None,
    "calibration_info": None,
}

# What PreTrainedConfig itself understands besides its declared fields. Anything else that is no field is a typo.
_LIBRARY_KEYS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "torch_dtype",
    "transformers_version",
    "use_cache",  # set by Trainer on every config
}


@strict
class DeCoDetrConfig(PreTrainedConfig):
    r"""
    Config of [`DeCoDetrForObjectDetection`].

    Rows in brackets are those of docs/ablations.md that measure a default against other values.

    Args:
        detector_config (`PreTrainedConfig` or `dict`, *optional*):
            Config of the localization stream. A dict must hold `model_type`. Default: the paper's DETR-R50 (6 + 6
            layers, 8 heads, 300 queries, auxiliary losses).
        class_agnostic (`bool`, defaults to `True`):
            The detector learns one class, "object". `False` is the paper's variant: the detector classifies the
            training names, which must then be `detector_config.id2label`.
        nms_iou (`float`, *optional*): at inference, greedy non-maximum suppression of boxes, whatever their names: a
            query whose box overlaps that of a more certain one, which was kept, by more than this IoU scores 0. None,
            the default: as the detector finds them, since a DETR that was trained to the end leaves no duplicates. A
            small one trained for an hour does (docs/scenes.md has the measurement).
        embedding_dim (`int`, defaults to 512): d, the width of CLIP's projection space.
        num_coarse_prototypes (`int`, defaults to 1203): M1 (paper 1.5). [Rows `coarse-1/4`, `coarse-1/2`,
            `coarse-2`, `one-level`]
        num_fine_prototypes (`int`, defaults to 4800): M2 (paper 1.6). M = M1 + M2 prototypes must be at least 1.
            [Rows `fine-0`, `fine-1/4`, `fine-2`]
        centred (`bool`, defaults to `True`): texts and images are compared after the means that the pool's space
            names were taken off. `False` is the paper's way.
        assignment_temperature (`float`, *optional*): alpha of paper 2.3. The paper gives none. None, the default of
            this and of the following: what the pool's space says, which was chosen from data (`embedding_space.py`).
            0.07, the paper's tau, where it says nothing. [Rows `temperature-0.01`, `temperature-0.02`,
            `temperature-0.05`, `temperature-0.07`, `temperature-0.1`, `temperature-0.2`; alone: `alpha-0.01`,
            `alpha-0.02`, `alpha-0.1`, `alpha-0.2`]
        teacher_temperature (`float`, *optional*): tau of paper 2.5. [The same rows; alone: `tau-0.01`, `tau-0.02`,
            `tau-0.1`, `tau-0.2`]
        teacher_name_temperature (`float`, *optional*): tau of paper 2.8, of the teacher's softmax over the names.
        name_temperature (`float`, *optional*): temperature of the predictor's softmax (paper 2.7), not given there.
        residual_weight (`float`, *optional*, defaults to 0.5): beta of r_n = unit(lookup) + beta unit(MLP(q^)). None
            is paper 2.4, lookup + MLP(q^), where the MLP by-passes the lookup (docs/model.md has the measurement).
            [Rows `free`, `residual-1`, `residual-0.25`, `lookup-alone`]
        pool_use (`str`, defaults to `"lookup+background"`): what the pool is for. "lookup+background": the enhanced
            query looks its meaning up in it (paper 2.4), and the predictor's softmax uses it as background.
            "background": r_n = MLP(q^). "none": neither. The last two are ablations, without L_distill.
            [Rows `none`, `background`]
        pool_update (`str`, defaults to `"frozen"`): "frozen" or "literal" (paper 3.5 to the letter). [Row
            `momentum-literal`]
        pool_momentum (`float`, defaults to 0.99): gamma of paper 3.5 (the paper's value), in [0, 1]. [Row
            `momentum-literal-0`]
        distill_weight (`float`, defaults to 1.0): lambda_KL of paper 3.1, not given there. [Row `distill-none`]
        distill_at (`str`, defaults to `"both"`): what L_distill teaches to resemble the region: "query" (q^, paper
            2.6), "embedding" (what is compared with names) or "both", the sum of the two. [Rows `distill-query`,
            `distill-embedding`]
        align_weight (`float`, defaults to 1.0): final lambda_align of paper 3.1, used by the model's own `loss`.
        annotation_weight (`float`, defaults to 1.0): share of the one-hot name in the target of an annotated query.
            The rest is CLIP's distribution. In [0, 1].
        region_iou_threshold (`float`, defaults to 0.5): IoU from which a query is supervised by a region.
        ignore_weight (`float`, defaults to 0.0): weight of the detector's class loss for unmatched queries that lie
            on `ignore_boxes` of the labels, by `region_iou_threshold`: 0 to learn nothing there, 1 for background. In
            [0, 1].
        background_threshold (`float`, *optional*): a prototype whose (centred) cosine to every name is below it stands
            for none of the names and is background. -1: none. None: the space's, else 0.9.
        background_level (`float`, *optional*): cosine that the image of something must have to a name to be rather
            that than nothing, also where no caption of the pool describes it. -1: no such entry. None: the space's.
        background_margin (`float`, *optional*): by how much a prototype of the background must resemble an image more
            than a name does to be as likely. None: the space's, else 0.
        gradient_isolation (`bool`, defaults to `True`): paper 2.1. `False` is for ablations. [Rows `joint-pool`,
            `joint-isolation`, `joint-cosine-mixed`]
        semantic_inputs (`str`, defaults to `"query+region"`): "query" (the paper) or "query+region" (docs/model.md has
            the measurement). [Row `query`]
        region_channels (`int`, defaults to 96): channels to which each feature map is projected before pooling
            (docs/model.md has the measurement). [Row `narrow`, with semantic_dropout]
        region_grid (`int`, defaults to 4): a box is sampled at region_grid x region_grid points of each map.
        region_pixels (`int`, defaults to 0): with P > 0 a P x P thumbnail of the box is sampled from the image too,
            for detectors whose maps leave out what names are about (docs/model.md has the measurement). [Rows
            `no-thumbnails`, `thumbnails-32`]
        semantic_hidden_dim (`int`, *optional*): hidden width of the semantic stream's MLPs. Default `embedding_dim`,
            at least 512. [Rows `hidden-1024`, `hidden-1024-dropped-0.5`]
        semantic_dropout (`float`, defaults to 0.3): share of h_theta's inputs and of its hidden units that is left out
            in training, so that names are not learned by heart. In [0, 1). [Rows `dropped-0`, `dropped-0.5`]
        score_scale (`float`, defaults to 1.0), score_bias (`float`, defaults to 0.0): calibration of the scores: the
            logit z of objectness times name probability becomes score_scale * z + score_bias in `logits`, so that a
            score says how often such a detection is right. score_scale is positive, so the ranking stays.
        score_threshold (`float`, *optional*): detections above this score are shown where nobody says another. None:
            0.3. In [0, 1]. Chosen with the calibration (docs/inference.md).
        name_thresholds (`dict[str, float]`, *optional*): the same for some names, by their text.
        calibration_info (`dict`, *optional*): what the four fields above were fitted on, and what they reached there.
        prototype_captions (`list[str]`, *optional*): representative caption per prototype, M of them.
        pool_info (`dict`, *optional*): where the pool came from (encoder, captioner, delta, seed, ...).
        vocabulary_info (`dict`, *optional*): where the name embeddings came from (encoder, revision, templates).
        training_info (`dict`, *optional*): what training was allowed to know, including what the pretrained detector
            had seen (paper 5).
        preprocessing (`dict`, *optional*): keyword arguments of [`DeCoDetrImageProcessor`] that repeat what the
            pretrained detector was trained with. `from_detector` fills it.
        table_digests (`dict`, *optional*): SHA-256 of the pool and of the vocabulary with the texts that their rows
            stand for, written by `save_pretrained` and checked at loading.

    `id2label` names the rows of the vocabulary, 0 to K - 1. `label2id` follows from it.

    Raises:
        ValueError: for an unknown field or a value outside its range. The message says what it must be. A stored
            config with unknown fields, as another version may have written it, is loaded with a warning.
    """

    model_type = "decodetr"
    sub_configs = {"detector_config": AutoConfig}

    detector_config: dict | PreTrainedConfig | None = None
    class_agnostic: bool = True
    nms_iou: float | int | None = None
    embedding_dim: int = 512
    num_coarse_prototypes: int = 1203
    num_fine_prototypes: int = 4800
    centred: bool = True
    assignment_temperature: float | int | None = None
    teacher_temperature: float | int | None = None
    teacher_name_temperature: float | int | None = None
    name_temperature: float | int | None = None
    residual_weight: float | int | None = 0.5
    pool_use: Literal["lookup+background", "background", "none"] = "lookup+background"
    pool_update: Literal["frozen", "literal"] = "frozen"
    pool_momentum: float | int = 0.99
    distill_weight: float | int = 1.0
    distill_at: Literal["query", "embedding", "both"] = "both"
    align_weight: float | int = 1.0
    annotation_weight: float | int = 1.0
    region_iou_threshold: float | int = 0.5
    ignore_weight: float | int = 0.0
    background_threshold: float | int | None = None
    background_level: float | int | None = None
    background_margin: float | int | None = None
    gradient_isolation: bool = True
    semantic_inputs: Literal["query", "query+region"] = "query+region"
    region_channels: int = 96
    region_grid: int = 4
    region_pixels: int = 0
    semantic_hidden_dim: int | None = None
    semantic_dropout: float | int = 0.3
    score_scale: float | int = 1.0
    score_bias: float | int = 0.0
    score_threshold: float | int | None = None
    name_thresholds: dict[str, float] | None = None
    calibration_info: dict[str, Any] | None = None
    prototype_captions: list[str] | None = None
    pool_info: dict[str, Any] | None = None
    vocabulary_info: dict[str, Any] | None = None
    training_info: dict[str, Any] | None = None
    preprocessing: dict[str, Any] | None = None
    table_digests: dict[str, str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if unknown := _unknown(kwargs):
            raise ValueError(f"DeCoDetrConfig has no field {', '.join(map(repr, unknown))}; check the spelling.")
        if self.detector_config is None:
            # paper 3.3 and 4: DETR-R50 with 6 decoder layers, 8 heads and N = 300. No weights are loaded by a
            # config.
            self.detector_config = {"model_type": "detr", "num_queries": 300, "auxiliary_loss": True, "num_labels": 1}
        if isinstance(self.detector_config, dict):
            detector = dict(self.detector_config)
            if "model_type" not in detector:
                raise ValueError("detector_config must hold 'model_type', for example 'detr' or 'rt_detr_v2'.")
            if detector["model_type"] not in CONFIG_MAPPING:
                raise ValueError(
                    "detector_config.model_type must be a detector of transformers, such as 'detr' or 'rt_detr_v2', "
                    f"got {detector['model_type']!r}."
                )
            _check_backbone(detector)
            self.detector_config = AutoConfig.for_model(detector.pop("model_type"), **detector)
        if self.semantic_hidden_dim is None:
            self.semantic_hidden_dim = max(self.embedding_dim, LEAST_HIDDEN)
        super().__post_init__(**kwargs)
        self._check_names()
        self._check_ranges()

    def _check_names(self):
        """Every index from 0 to K - 1 must have a name. The library takes gaps, and any `label2id`."""
        if self.num_labels < 1:
            raise ValueError("id2label must name at least one class, got none.")
        if missing := [i for i in range(self.num_labels) if i not in self.id2label]:
            raise ValueError(
                f"id2label must have the keys 0 to {self.num_labels - 1}, one for each of its {self.num_labels} "
                f"names; {missing[0]} is missing."
            )
        names = [self.id2label[i] for i in range(self.num_labels)]
        for i, name in enumerate(names):
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"id2label must hold non-empty strings, got {name!r} at {i}.")
        self.id2label = dict(enumerate(names))
        self.label2id = {name: i for i, name in reversed(list(enumerate(names)))}

    def _check_ranges(self):
        positive = (
            "embedding_dim assignment_temperature teacher_temperature teacher_name_temperature name_temperature "
            "residual_weight region_channels region_grid semantic_hidden_dim score_scale"
        ).split()
        for name in positive:
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("pool_momentum", "annotation_weight", "region_iou_threshold", "ignore_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if not 0 <= self.semantic_dropout < 1:
            raise ValueError(f"semantic_dropout must lie in [0, 1), got {self.semantic_dropout}.")
        if self.nms_iou is not None and not 0 < self.nms_iou <= 1:
            raise ValueError(f"nms_iou must lie in (0, 1] or be None, got {self.nms_iou}.")
        for name in ("background_threshold", "background_level"):
            if (value := getattr(self, name)) is not None and not -1 <= value <= 1:
                raise ValueError(f"{name} is a cosine in [-1, 1], got {value}.")
        if self.background_margin is not None and not 0 <= self.background_margin <= 2:
            raise ValueError(f"background_margin must lie in [0, 2], got {self.background_margin}.")
        for name, value in {"score_threshold": self.score_threshold, **(self.name_thresholds or {})}.items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"the threshold of {name!r} must lie in [0, 1], got {value}.")
        if not (math.isfinite(self.score_scale) and math.isfinite(self.score_bias)):
            raise ValueError(
                f"score_scale and score_bias must be finite, got {self.score_scale} and {self.score_bias}."
            )
        for name in "distill_weight align_weight num_coarse_prototypes num_fine_prototypes region_pixels".split():
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.pool_use != "lookup+background" and self.distill_weight:
            raise ValueError(
                f"pool_use={self.pool_use!r} looks nothing up in the pool, so L_distill has nothing to teach: "
                f"distill_weight must be 0, got {self.distill_weight}."
            )
        if self.num_prototypes < 1:
            raise ValueError("num_coarse_prototypes + num_fine_prototypes must be at least 1, got 0.")
        if self.class_agnostic and self.detector_config.num_labels != 1:
            raise ValueError(
                "class_agnostic=True needs detector_config.num_labels = 1, got "
                f"{self.detector_config.num_labels}; set it, or start with DeCoDetrForObjectDetection.from_detector."
            )
        captions = self.prototype_captions
        if captions is not None and len(captions) != self.num_prototypes:
            raise ValueError(f"prototype_captions must have {self.num_prototypes} entries, got {len(captions)}.")

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As the library's, of a folder whose interrupted save, if there was one, is finished.

        Raises:
            ValueError: the config of another kind of model.
        """
        with reading(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")):
            fields, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        kind = fields.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a model of type {kind!r}, expected {cls.model_type!r}; make a "
                "DeCo-DETR of a detector by DeCoDetrForObjectDetection.from_detector."
            )
        return {**fields, "name_or_path": str(pretrained_model_name_or_path)}, kwargs

    @overload
    @classmethod
    def from_dict(
        cls, config_dict: dict[str, Any], *, return_unused_kwargs: Literal[False] = False, **kwargs: Any
    ) -> Self: ...

    @overload
    @classmethod
    def from_dict(
        cls, config_dict: dict[str, Any], *, return_unused_kwargs: Literal[True], **kwargs: Any
    ) -> tuple[Self, dict[str, Any]]: ...

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self | tuple[Self, dict[str, Any]]:
        """As the library's. Fields among `kwargs` are checked together with the stored ones.

        Raises:
            ValueError: a field of a wrong type or outside its range. The message says which folder has it.
        """
        folder = kwargs.get("name_or_path") or config_dict.get("name_or_path")
        # AutoConfig has read the file by itself: again, as a save was interrupted.
        if folder is not None and unfinished(folder):
            config_dict, _ = cls.get_config_dict(folder)
        known = {*cls.__dataclass_fields__, *_LIBRARY_KEYS}
        given = {key: kwargs.pop(key) for key in list(kwargs) if key in cls.__dataclass_fields__ and key != "dtype"}
        for key in [key for key, value in given.items() if isinstance(value, dict) and key in cls.sub_configs]:
            kwargs[key] = given.pop(key)  # the library changes the stored sub-config by it
        if not is_remote(cls):
            config_dict = {key: value for key, value in config_dict.items() if key != "custom_pipelines"}
        fields = {**config_dict, **given}
        if unknown := _unknown({key: value for key, value in fields.items() if key not in known}):
            logger.warning(
                f"{folder or 'the config'} has fields that DeCoDetrConfig does not know, perhaps of another version "
                f"of decodetr; they are left out: {', '.join(map(repr, unknown))}."
            )
        fields = {key: value for key, value in fields.items() if key not in unknown}
        try:
            loaded = super().from_dict(fields, **kwargs)
            config = loaded[0] if kwargs.get("return_unused_kwargs") else loaded
            if given.get("label2id", config.label2id) != config.label2id:
                raise ValueError(f"label2id follows from id2label, got {given['label2id']!r}; leave it out.")
            return loaded
        except (AttributeError, KeyError, TypeError, ValueError, StrictDataclassError) as error:
            raise ValueError(
                f"{folder or 'the config'}: config.json, or a field that was given with it, cannot be used: {error}"
            ) from error

    @property
    def num_prototypes(self) -> int:
        """M = M1 + M2."""
        return self.num_coarse_prototypes + self.num_fine_prototypes

    @property
    def common_threshold(self) -> float:
        """The score from which names are shown that have no separate threshold."""
        return DEFAULT_THRESHOLD if self.score_threshold is None else self.score_threshold

    def calibrated(self, logits: Any) -> Any:
        """`logits` of the model, of any shape, from those of objectness times name probability."""
        return self.score_scale * logits + self.score_bias

    def uncalibrated(self, logits: Any) -> Any:
        """Logits of objectness times name probability, of any shape, from the model's `logits`."""
        return (logits - self.score_bias) / self.score_scale

    def thresholds(self, names: list[str] | None = None, threshold: float | None = None) -> list[float]:
        """The score from which each of some names is shown: `threshold` where one is given, else the name's own, else
        that of the model. Default: the names of the model, in the order of its labels."""
        names = [self.id2label[i] for i in range(self.num_labels)] if names is None else names
        return thresholds_of(names, threshold, self.name_thresholds, self.common_threshold)


def _unknown(fields) -> list[str]:
    """Keys that neither [`DeCoDetrConfig`] nor the library's base class has."""
    return sorted(key for key in fields if key not in _LIBRARY_KEYS and not key.startswith("_"))


def _check_backbone(detector):
    """Refuse a detector's config, a dict, that names a backbone of the Hub or of another folder: building the model
    would fetch it, whoever wrote the config."""
    own = detector.get("backbone_config")
    names = [
        own.get("backbone") if isinstance(own, dict) else getattr(own, "backbone", None),
        detector.get("backbone"),
    ]
    if own is None and detector.get("use_timm_backbone") is False and names[1] is not None:
        names.append(f"hf-hub:{names[1]}")
    for name in names:
        if isinstance(name, str) and (":" in name or "/" in name):
            raise ValueError(
                f"detector_config: the backbone {name!r} would be fetched when the model is built, which a config "
                "does not decide; give a backbone_config with timm's own name, such as 'resnet50', and load weights "
                "with `decodetr train --backbone`."
            )


DeCoDetrConfig.register_for_auto_class()

__all__ = ["DeCoDetrConfig"]
