"""What [`DeCoDetrForObjectDetection`] returns."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class DeCoDetrObjectDetectionOutput(ModelOutput):
    """
    Output of [`DeCoDetrForObjectDetection`]. What was not computed is None: all but the losses with
    `semantic_features`, names and embeddings with `localization_only` or `losses_only`.

    Args:
        loss (`torch.Tensor` of shape (), with `labels`): loss_det + distill_weight loss_distill + align_weight
            loss_align.
        loss_dict (`dict[str, torch.Tensor]`, with `labels`): the detector's own terms, and differentiable `loss_det`,
            `loss_distill`, `loss_align`.
        logits (`torch.Tensor` of shape (B, N, K), float32): sigmoid(logits) is the final score of each name.
        pred_boxes (`torch.Tensor` of shape (B, N, 4)): (cx, cy, w, h) in 0..1.
        objectness_logits (`torch.Tensor` of shape (B, N)): of the localization stream, or -30 for what `nms_iou`
            suppresses.
        semantic_embeds (`torch.Tensor` of shape (B, N, d)): r_n of paper 2.4.
        prototype_weights (`torch.Tensor` of shape (B, N, M), with `output_prototype_weights=True`): w of paper 2.3.
        hidden_states (`tuple[torch.Tensor]`, with `output_hidden_states=True` or a list of places): what goes into the
            first layer of the detector's decoder, and what comes out of each (B, N, C), in training also with the
            additional queries of its family. None at the places that were not asked for.
        attentions, cross_attentions (`tuple[torch.Tensor]`, with `output_attentions=True` and eager attention): of
            the decoder's layers, between queries, and to the encoder, in the shapes of its family.
    """

    loss: torch.FloatTensor | None = None
    loss_dict: dict | None = None
    logits: torch.FloatTensor | None = None
    pred_boxes: torch.FloatTensor | None = None
    objectness_logits: torch.FloatTensor | None = None
    semantic_embeds: torch.FloatTensor | None = None
    prototype_weights: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None
    attentions: tuple[torch.FloatTensor] | None = None
    cross_attentions: tuple[torch.FloatTensor] | None = None
