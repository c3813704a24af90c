"""DeCo-DETR: a detector of transformers as localization stream, and a semantic stream that reads its detached queries.

Implements paper 2 and 3.1 (docs/paper.md). docs/architecture.md has the contracts. The order below is that in which an
image meets it: the detector finds boxes and queries. Both, cut off from the gradient, enter the semantic stream, which
looks their meaning up in the prototype pool and scores it against the stored names. Objectness and name probability
are fused into `logits`.
"""

from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoModelForObjectDetection, PreTrainedModel
from transformers import initialization as init
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
from transformers.utils import can_return_tuple

from .certain_queries import certain_queries
from .configuration_decodetr import DeCoDetrConfig
from .detectors import (
    check_detector,
    check_images,
    class_labels_of_detector,
    detector_preprocessing,
    feature_cells,
    feature_channels,
    feature_module,
    inner_outputs,
    load_detector,
    objectness_logits,
    query_dim,
    real_queries,
    run_detector,
    suppress_duplicates,
    watch_feature_maps,
)
from .embedding_space import Tables, look_up
from .file_commit import committed, reading
from .hub_push import push_arguments, push_model
from .ignored_queries import weighted_background
from .labels import boxes_in_float32, check_cached, check_labels
from .loss_decodetr import SupervisedQueries, alignment_loss, distillation_loss, supervise_batch, teacher_targets
from .loss_normalisation import mean_count, normalised_detector_loss
from .map_cells import mask_cells, pixels_of
from .model_folder import (
    check_loaded,
    check_quantized,
    check_requested,
    check_tables,
    damaged_file,
    old_weights,
    table_digests,
)
from .origin import Origin
from .output_decodetr import DeCoDetrObjectDetectionOutput
from .precision import keep_boxes_in_float32
from .prototype_pool import PrototypePool
from .remote_entries import remote_entries
from .semantic_stream import LEAST_LOG_SCORE, SemanticStream, boxes_on_canvas, derive, fuse_scores
from .swappable_tables import SwappableTables, follow_loaded_tables
from .timm_maps import fill_buffers, fit_timm
from .vocabulary import Vocabulary


class DeCoDetrPreTrainedModel(PreTrainedModel):
    """Initialisation and what the library wants to know. The attention flags are the detector's business: it checks
    them."""

    config_class = DeCoDetrConfig
    base_model_prefix = "detector"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["prototype_pool.prototypes", "vocabulary"]

    def get_input_embeddings(self) -> None:
        """None, because there are no tokens. Accelerate's FSDP calls this."""

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, torch.nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, PrototypePool):
            fresh = PrototypePool.random(
                self.config.num_coarse_prototypes, self.config.num_fine_prototypes, self.config.embedding_dim
            )
            for name, buffer in fresh.named_buffers():
                init.copy_(getattr(module, name), buffer)
        elif isinstance(module, Vocabulary):
            fresh = Vocabulary.random(module.names, self.config.embedding_dim)
            for name, buffer in fresh.named_buffers():
                init.copy_(getattr(module, name), buffer)
        elif isinstance(module, SemanticStream):  # after the tables, which come before it in the model
            for name, value in derive(self.prototype_pool, self.vocabulary, self.config.centred).items():
                init.copy_(getattr(module, name), value)
            if self.config.pool_use == "lookup+background" and self.config.residual_weight is not None:
                # A lookup is in the space of names already. An identity keeps it there in all directions that the
                # names of training say nothing about.
                init.eye_(module.predictor.weight)


class DeCoDetrForObjectDetection(SwappableTables, DeCoDetrPreTrainedModel):
    """
    Open-vocabulary detector. `detector` is the localization stream, `semantic_stream` the other one, `prototype_pool`
    and `vocabulary` the tables that both training and inference read. No text encoder is part of it.

    A model made from a config alone has a random pool and random name embeddings, always the same ones.

    Attributes:
        origin ([`Origin`], *optional*): where `from_pretrained` has loaded it from. No part of what is saved.
    """

    origin: Origin | None = None

    def __init__(self, config: DeCoDetrConfig) -> None:
        super().__init__(config)
        check_detector(config.detector_config)  # before anything is built
        detector = AutoModelForObjectDetection.from_config(config.detector_config)
        # Constructors of the DETR family freeze all of a ResNet, for they look for names that its layers have no more;
        # `from_pretrained` freezes nothing.
        detector.requires_grad_(True)
        self.detector = keep_boxes_in_float32(fit_timm(detector))
        self.prototype_pool = PrototypePool.random(
            config.num_coarse_prototypes, config.num_fine_prototypes, config.embedding_dim
        )
        self.prototype_pool.captions = config.prototype_captions
        self.prototype_pool.info = dict(config.pool_info or {})
        names = [config.id2label[i] for i in range(config.num_labels)]
        self.vocabulary = Vocabulary.random(names, config.embedding_dim, config.vocabulary_info)
        channels, cells = feature_channels(self.detector), feature_cells(self.detector)
        self.semantic_stream = SemanticStream(config, query_dim(config.detector_config), channels, cells)
        self.semantic_stream.refresh(self.prototype_pool, self.vocabulary)
        mask_cells(feature_module(self.detector), cells)
        watch_feature_maps(self.detector)
        follow_loaded_tables(self)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor | None = None,
        pixel_mask: torch.LongTensor | None = None,
        labels: list[dict] | None = None,
        semantic_features: dict | None = None,
        output_prototype_weights: bool = False,
        localization_only: bool = False,
        losses_only: bool = False,
        tables: Tables | None = None,
        min_score: float | None = None,
        semantic_queries: int | None = None,
        **kwargs: Any,
    ) -> DeCoDetrObjectDetectionOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape (B, 3, H, W)): normalised by the model's image processor. H and
                W are multiples of what the detector's family needs (`detectors.py`).
            pixel_mask (`torch.LongTensor` of shape (B, H, W), *optional*): 1 for pixels, 0 for padding on the right
                and at the bottom. For families that do not honour it, all ones.
            labels (`list[dict]` of length B, *optional*): `class_labels` (n,) int64, indices into the vocabulary;
                `boxes` (n, 4) float (cx, cy, w, h) in 0..1; with a teacher also `region_boxes` (R, 4) likewise and
                `region_embeds` (R, d), CLIP image embeddings; `pseudo_boxes` (P, 4) are objects without a name and
                `ignore_boxes` (P, 4) maybe objects, for the localization stream alone; `absent_labels` (L,) int64,
                names known to be absent from unannotated regions. Other keys are ignored.
            semantic_features (`dict`, *optional*): detached features from [`extract_semantic_features`] instead of
                pixels: only `loss`, `loss_distill` and `loss_align` are computed. With `bases` the samples are
                projected ([`RegionPooling.project_samples`]).
            output_prototype_weights (`bool`): return w (B, N, M).
            localization_only (`bool`): leave the semantic stream out: only `pred_boxes`, `objectness_logits` and the
                detector's losses, with `loss` = loss_det.
            losses_only (`bool`): with `labels`: run the semantic stream over the supervised queries alone, which is
                all that its losses need. Names, embeddings and prototype weights are None.
            tables ([`Tables`], *optional*): of [`tables`], for who must know what is scored. Default: taken now.
            min_score (`float`, *optional*): without labels, scores above it must be right, and the semantic stream
                reads the queries alone whose objectness allows them. 0: all queries. Default: a score that no
                measure of detections notices on the CPU, else 0 (`certain_queries.py`). The others have the least
                score there is, and zeros as `semantic_embeds`.
            semantic_queries (`int`, *optional*): instead, so many of each image, the most certain ones, at least 1.
                For graphs, whose shapes do not depend on what is seen.

        Returns:
            [`DeCoDetrObjectDetectionOutput`].

        Raises:
            ValueError: neither or both of pixels and features, `losses_only` without labels, wrong image size, padding
                that the detector ignores, labels that are no tensors on the images' device, outside the vocabulary or
                with boxes in pixels, `min_score` or `semantic_queries` out of range.
        """
        tables = self.tables() if tables is None else tables
        if pixel_values is None and semantic_features is not None:
            check_cached(semantic_features, len(tables.vocabulary))
            inputs = self.semantic_stream.gather_cached(semantic_features)
            losses = self._semantic_losses(inputs, SupervisedQueries.of_features(semantic_features), tables)
            return DeCoDetrObjectDetectionOutput(loss=self._total(losses), loss_dict=losses)

        if pixel_values is None or semantic_features is not None:
            raise ValueError("give exactly one of pixel_values and semantic_features.")
        if losses_only and labels is None:
            raise ValueError("losses_only=True needs labels.")
        if labels is not None:
            check_labels(labels, pixel_values, len(tables.vocabulary))
            labels = boxes_in_float32(labels)
        found, maps = self._localize(pixel_values, pixel_mask, labels, tables.vocabulary.names, **kwargs)
        boxes, objectness = found["boxes"], found["objectness"]
        certain = objectness
        if self.config.nms_iou is not None and not self.training:
            certain = suppress_duplicates(objectness, boxes, self.config.nms_iou)
        where = {"pred_boxes": boxes, "objectness_logits": certain, **found["inner"]}
        if localization_only:
            losses = found["losses"]
            return DeCoDetrObjectDetectionOutput(loss=losses.get("loss_det"), loss_dict=losses or None, **where)
        supervised = None if labels is None else self._supervision(boxes, objectness, labels, tables.vocabulary)
        if losses_only and supervised is not None:
            inputs = self._semantic_inputs(found, maps, pixel_values, pixel_mask, supervised.row)
            losses = {**found["losses"], **self._semantic_losses(inputs, supervised, tables)}
            return DeCoDetrObjectDetectionOutput(loss=self._total(losses), loss_dict=losses, **where)
        if not output_prototype_weights and not self.training:
            chosen, losses = None, {}
            if supervised is None:
                chosen = certain_queries(certain, self.config, min_score, semantic_queries)
            else:
                inputs = self._semantic_inputs(found, maps, pixel_values, pixel_mask, supervised.row)
                losses = {**found["losses"], **self._semantic_losses(inputs, supervised, tables)}
            scored = self._scores({**found, "objectness": certain}, maps, pixel_values, pixel_mask, tables, chosen)
            loss = self._total(losses) if losses else None
            return DeCoDetrObjectDetectionOutput(loss=loss, loss_dict=losses or None, **scored, **where)
        inputs = self._semantic_inputs(found, maps, pixel_values, pixel_mask)
        log_weights, embeds = self.semantic_stream(inputs, tables)
        name_log_probs, background = self.semantic_stream.name_log_probs(embeds, tables)

        loss, losses = None, None
        if supervised is not None:
            row = supervised.row
            log_probs = torch.cat([name_log_probs, background[..., None]], -1).flatten(0, 1)[row]
            student, embed = (part.flatten(0, 1)[row] for part in (log_weights, embeds))
            losses = {**found["losses"], **self._losses(student, embed, log_probs, supervised, tables)}
            loss = self._total(losses)
        return DeCoDetrObjectDetectionOutput(
            loss=loss,
            loss_dict=losses,
            logits=self.config.calibrated(fuse_scores(certain, name_log_probs)),
            **where,
            semantic_embeds=embeds,
            prototype_weights=log_weights.exp() if output_prototype_weights else None,
        )

    # Localization stream

    def _localize(self, pixel_values, pixel_mask, labels, names, **kwargs):
        """Run the detector: its N real queries (B, N, C), boxes, objectness and losses, and its feature maps."""
        config = self.config.detector_config
        check_images(config, pixel_values, pixel_mask)
        detector_labels = None
        # A frozen detector inside a model in training is in eval mode: its loss and denoising queries are not wanted.
        if labels is not None and (self.detector.training or not self.training):
            detector_labels = class_labels_of_detector(labels, self.config, names)
        if pixel_mask is not None:
            kwargs["pixel_mask"] = pixel_mask
        for name in ("output_hidden_states", "output_attentions"):
            if getattr(self.config, name):
                kwargs.setdefault(name, True)
        states = kwargs.get("output_hidden_states")
        if isinstance(states, list | tuple):  # places, which encoder and decoder of a detector count differently
            kwargs["output_hidden_states"] = True
        with weighted_background(detector_labels, self.config.ignore_weight, self.config.region_iou_threshold):
            outputs, maps = run_detector(self.detector, pixel_values, labels=detector_labels, **kwargs)
        losses = {}
        if detector_labels is not None:
            loss, losses = normalised_detector_loss(outputs, detector_labels, config)
            losses = {**losses, "loss_det": loss}
        found = {
            "queries": real_queries(outputs.last_hidden_state, config),
            "boxes": real_queries(outputs.pred_boxes, config),
            "objectness": objectness_logits(real_queries(outputs.logits, config), config),
            "losses": losses,
            "inner": inner_outputs(outputs, states),
        }
        return found, maps

    # Semantic stream

    def _cut(self, tensor):
        """StopGradient of paper 2.1, unless the ablation switches it off."""
        return tensor.detach() if self.config.gradient_isolation else tensor

    def _semantic_inputs(self, found, maps, pixel_values, pixel_mask, row=None):
        """What the semantic stream reads, cut off from the detector's graph."""
        canvas = boxes_on_canvas(found["boxes"].detach(), pixel_mask)
        maps = [self._cut(m) for m in maps]
        queries, pixels = self._cut(found["queries"]), None if pixel_mask is None else pixels_of(pixel_mask)
        return self.semantic_stream.gather(queries, maps, pixel_values, canvas, row, pixels)

    def _scores(self, found, maps, pixel_values, pixel_mask, tables, chosen):
        """{"logits" (B, N, K), "semantic_embeds" (B, N, d)}, of which only the [`CertainQueries`] are computed."""
        queries = found["boxes"].shape[1]
        if chosen is not None:
            objectness = chosen.take(found["objectness"][..., None])[..., 0]
            found = {"queries": chosen.take(found["queries"]), "boxes": chosen.take(found["boxes"])}
            found["objectness"] = objectness
        inputs = self._semantic_inputs(found, maps, pixel_values, pixel_mask)
        embeds, log_probs = self.semantic_stream.score(inputs, tables)
        logits = self.config.calibrated(fuse_scores(found["objectness"], log_probs))
        if chosen is not None:
            least = self.config.calibrated(LEAST_LOG_SCORE)
            logits, embeds = chosen.put(logits, queries, least), chosen.put(embeds, queries, 0.0)
        return {"logits": logits, "semantic_embeds": embeds}

    def _supervision(self, boxes, objectness, labels, vocabulary):
        threshold, d = self.config.region_iou_threshold, self.config.embedding_dim
        return supervise_batch(boxes.detach(), objectness.detach(), labels, threshold, d, len(vocabulary))

    def _losses(self, log_weights, embeds, log_probs, supervised, tables):
        """loss_distill and loss_align of supervised rows: log w (n, M), r (n, d), log t (n, K + 1)."""
        with torch.no_grad():
            prototype_targets, name_targets = teacher_targets(
                supervised.name_index,
                supervised.region_embeds,
                tables,
                annotation_weight=self.config.annotation_weight,
                absent=None if supervised.absent is None else supervised.absent[supervised.image],
            )
            count = mean_count(len(log_weights), log_weights.device)
        place, students = self.config.distill_at, []
        if place != "embedding":
            students.append(log_weights)
        if place != "query":
            students.append(look_up(self.semantic_stream.predictor(embeds), tables)[0])
        distill = sum(distillation_loss(student, prototype_targets, count) for student in students)
        return {"loss_distill": distill, "loss_align": alignment_loss(log_probs, name_targets, count)}

    def _total(self, losses):
        """L of paper 3.1 with the config's final weights."""
        semantic = (
            self.config.distill_weight * losses["loss_distill"] + self.config.align_weight * losses["loss_align"]
        )
        return semantic + losses["loss_det"] if "loss_det" in losses else semantic

    @torch.no_grad()
    def extract_semantic_features(
        self, pixel_values: torch.Tensor, labels: list[dict], pixel_mask: torch.Tensor | None = None
    ) -> list[dict]:
        """What the semantic stream would learn from these images, detached, for training without the detector.

        Args: as in `forward`. The model must be in eval mode.

        Returns:
            `list[dict]` of length B with the n supervised queries of each image: `queries` (n, C), `samples`, a list
            of (n, C_l, points) as [`RegionPooling.sample`] gives them, and those of [`SupervisedQueries`].
        """
        vocabulary = self.vocabulary
        check_labels(labels, pixel_values, len(vocabulary))
        found, maps = self._localize(pixel_values, pixel_mask, None, vocabulary.names)
        supervised = self._supervision(found["boxes"], found["objectness"], boxes_in_float32(labels), vocabulary)
        n = found["boxes"].shape[1]
        pooling = self.semantic_stream.region_pooling
        canvas = boxes_on_canvas(found["boxes"], pixel_mask)
        pixels = None if pixel_mask is None else pixels_of(pixel_mask)
        features = []
        for b in range(len(labels)):
            mine, samples = supervised.of_image(b), []
            query = mine.row % n
            if pooling is not None:
                one = slice(b, b + 1)
                mine_pixels = None if pixels is None else pixels[one]
                samples = pooling.sample([m[one] for m in maps], pixel_values[one], canvas[one, query], mine_pixels)
            features.append(
                {
                    "queries": found["queries"][b, query],
                    "samples": [level[0] for level in samples],
                    **mine.features(),
                }
            )
        return features

    def _semantic_losses(self, inputs, supervised, tables):
        """loss_distill and loss_align of supervised rows (n, C [+ region features])."""
        log_weights, embeds = self.semantic_stream(inputs, tables)
        names, background = self.semantic_stream.name_log_probs(embeds, tables)
        return self._losses(log_weights, embeds, torch.cat([names, background[:, None]], -1), supervised, tables)

    # Folders

    def save_pretrained(
        self, save_directory: str | Path, is_main_process: bool = True, state_dict: dict | None = None, **kwargs: Any
    ) -> None:
        """As the library's, but the folder has the old model or the new one, whole, whatever happens. The config ties
        names and captions to the tables by a digest.

        Args: as of `PreTrainedModel.save_pretrained`. With `push_to_hub`, also those of [`push_to_hub`].

        Raises:
            ValueError: the config's names or captions are not those of the tables, the tables are on meta, or the
                weights are quantized so that they could not be loaded again.
        """
        check_quantized(self)
        check_tables(self)
        self.config.table_digests = table_digests(self, state_dict)
        push = push_arguments(save_directory, kwargs)
        kwargs.update(is_main_process=is_main_process, state_dict=state_dict)
        if kwargs.get("distributed_checkpoint"):  # every process writes into this very folder
            return super().save_pretrained(save_directory, **kwargs)
        with (
            committed(save_directory, remove=lambda new: old_weights(save_directory, new)) as folder,
            remote_entries(self.config),
        ):
            super().save_pretrained(folder, **kwargs)
        if push is not None and is_main_process:
            self.push_to_hub(**push)

    push_to_hub = push_model

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path | None, *args: Any,
        config: DeCoDetrConfig | str | Path | None = None, **kwargs: Any,
    ) -> Self:  # fmt: skip
        """As the library's, but the folder must hold all of a DeCo-DETR, in safetensors, and what is asked for must
        fit it: no weight is left random.

        Raises:
            ValueError: names and embeddings, or captions and prototypes, do not belong together. Tensors are missing,
                damaged or have other shapes than the config says. The message names folder, tensor and remedy.
            OSError: from the library, where there is no such model.
        """
        where = pretrained_model_name_or_path
        if where is None:  # tensors and config of the caller
            loaded = super().from_pretrained(where, *args, config=config, **kwargs)
            fill_buffers((loaded[0] if isinstance(loaded, tuple) else loaded).detector)
            return loaded
        if kwargs.get("use_safetensors") is False:
            raise ValueError(
                "use_safetensors=False: pickled weights are not loaded, because reading them can run code."
            )
        with_info = kwargs.pop("output_loading_info", False)
        kwargs.update(output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True)
        with reading(Path(where, kwargs.get("subfolder") or "")), damaged_file(where):
            check_requested(cls.config_class, where, config, kwargs)
            model, info = super().from_pretrained(where, *args, config=config, **kwargs)
        check_loaded(model, info, where)
        fill_buffers(model.detector)
        model.origin = Origin.of(model.name_or_path, kwargs)  # of an adapter's base, not of the adapter
        return (model, info) if with_info else model  # type: ignore[return-value]  # the library says Self of both

    @classmethod
    def from_detector(
        cls, name_or_path: str | Path, *, pool: PrototypePool | None = None, vocabulary: Vocabulary | None = None,
        revision: str | None = None, token: str | bool | None = None, **config_fields: Any,
    ) -> Self:  # fmt: skip
        """Start from any saved detector of a supported family. Its class head is replaced by one for "object".

        Args:
            name_or_path (`str`): folder or Hub name of a detector (`AutoModelForObjectDetection`).
            pool ([`PrototypePool`]), vocabulary ([`Vocabulary`]): *optional*. Random ones otherwise.
            revision, token: for the Hub.
            config_fields: fields of [`DeCoDetrConfig`]. With `class_agnostic=False` the detector's classes are kept.

        Returns:
            The model. `DeCoDetrImageProcessor(**model.config.preprocessing)` repeats the detector's preprocessing.
        """
        hub = {"revision": revision, "token": token}
        detector, seen = load_detector(name_or_path, config_fields.get("class_agnostic", True), **hub)
        if pool is not None:
            fine = pool.num_fine
            config_fields.update(num_coarse_prototypes=len(pool) - fine, num_fine_prototypes=fine)
        for artifact in (pool, vocabulary):
            if artifact is not None:
                config_fields.setdefault("embedding_dim", artifact.embedding_dim)
        config_fields.setdefault("preprocessing", detector_preprocessing(name_or_path, detector.config, **hub))
        info = {"pretrained_detector": str(name_or_path), "pretrained_detector_names": seen}
        model = cls(DeCoDetrConfig(detector_config=detector.config, training_info=info, **config_fields))
        model.detector.load_state_dict(detector.state_dict())
        if pool is not None:
            model.set_pool(pool, vocabulary)
        elif vocabulary is not None:
            model.set_vocabulary(vocabulary)
        return model


# So that pipeline("object-detection") knows the model without a warning.
MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES[DeCoDetrConfig.model_type] = "DeCoDetrForObjectDetection"
DeCoDetrForObjectDetection.register_for_auto_class("AutoModelForObjectDetection")

__all__ = ["DeCoDetrForObjectDetection", "DeCoDetrObjectDetectionOutput", "DeCoDetrPreTrainedModel"]
