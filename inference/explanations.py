"""What a detection is made of: its objectness, its name's probability, and the prototypes that its query looked up.

The weights are w of paper 2.3. They are the table lookup inside r_n = sum_j w_nj A_j + MLP(q^_n) (paper 2.4): what the
query read, not a proof of why it got its name, since the residual MLP adds to it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.nn import functional as F

from decodetr.processing.image_processing_pil_decodetr import top_pairs

if TYPE_CHECKING:
    import torch

    from decodetr.modeling_decodetr import DeCoDetrConfig, PrototypePool
    from decodetr.modeling_decodetr.output_decodetr import DeCoDetrObjectDetectionOutput

_LEVELS = ("coarse", "fine")


def queries_of_detections(
    logits: torch.Tensor, threshold: float = 0.5, top_k: int = 100
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Which query and name each detection of `post_process_object_detection` comes from, with the same choice.

    Args:
        logits (B, N, K), threshold, top_k: as given to `post_process_object_detection`.

    Returns:
        list of B pairs of int64 tensors (n,): queries in 0..N-1 and names in 0..K-1, in the order of the detections.
    """
    kept = []
    for values, queries, names in zip(*top_pairs(logits, top_k)):
        keep = (values.float().sigmoid() > threshold) & (values > -math.inf)
        kept.append((queries[keep], names[keep]))
    return kept


def explain_detections(
    outputs: DeCoDetrObjectDetectionOutput,
    pool: PrototypePool,
    threshold: float = 0.5,
    top_k: int = 100,
    num_prototypes: int = 5,
    config: DeCoDetrConfig | None = None,
) -> list[dict[str, list]]:
    """Explanations of the detections that `post_process_object_detection` finds in the same outputs.

    Args:
        outputs: of a forward pass with `output_prototype_weights=True`.
        pool: the model's `PrototypePool`.
        threshold, top_k: as given to `post_process_object_detection`.
        num_prototypes: how many prototypes at most, heaviest first.
        config: the model's `DeCoDetrConfig`, whose calibration is undone. None: the scores are not calibrated.

    Returns:
        One dict per image with lists of length n, in the order of the detections: "objectness" and
        "name_probability", floats in 0..1 whose product is the score before its calibration, and "prototypes", lists
        of {"index" (row of the pool), "caption" (None if the pool has none), "weight" (share of the lookup, 0..1),
        "level" ("coarse" or "fine")}.

    Raises:
        ValueError: the outputs lack names or prototype weights.
    """
    logits, weights, objectness = outputs.logits, outputs.prototype_weights, outputs.objectness_logits
    if logits is None or weights is None or objectness is None:
        raise ValueError("outputs must have names and prototype weights: give output_prototype_weights=True")
    level = pool.level.tolist()
    explained = []
    for b, (queries, names) in enumerate(queries_of_detections(logits, threshold, top_k)):
        log_objectness = F.logsigmoid(objectness[b, queries].float())
        logit = logits[b, queries, names].float()
        log_score = F.logsigmoid(logit if config is None else config.uncalibrated(logit))
        heaviest = weights[b, queries].topk(min(num_prototypes, len(pool)), dim=-1)
        explained.append(
            {
                "objectness": log_objectness.exp().tolist(),
                "name_probability": (log_score - log_objectness).exp().clamp(max=1).tolist(),
                "prototypes": [
                    [
                        {
                            "index": index,
                            "caption": pool.captions[index] if pool.captions else None,
                            "weight": share,
                            "level": _LEVELS[level[index]],
                        }
                        for index, share in zip(indices, shares)
                    ]
                    for indices, shares in zip(heaviest.indices.tolist(), heaviest.values.tolist())
                ],
            }
        )
    return explained
