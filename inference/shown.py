"""Which detections of a picture are shown, and as what. Nothing here needs torch, nor looks at names that were not
found: a vocabulary may have 10,000."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from decodetr.utils.quiet_supervision import sv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from decodetr.modeling_decodetr import DeCoDetrConfig


# Of a threshold: what scores above this share of it is not shown, and continues a track in a video. ByteTrack has 0.1
# of 0.6. With 0, boxes of nothing continue tracks, and two objects share one more often.
FAINT = 1 / 6


def lowest_threshold(config: DeCoDetrConfig, threshold: float | None = None) -> float:
    """A score below which nothing is shown, whatever its name: `threshold`, or the lowest one of the config."""
    if threshold is not None:
        return threshold
    return min([config.common_threshold, *(config.name_thresholds or {}).values()])


def least_score(config: DeCoDetrConfig, threshold: float | None = None) -> float:
    """`min_score` of the model's forward, 0 to 1, with which nothing that is shown is missing."""
    return min(max(lowest_threshold(config, threshold), 0.0), 1.0)


def above(
    result: Mapping[str, list],
    config: DeCoDetrConfig,
    threshold: float | None = None,
    stands_for: Sequence[str] | None = None,
    share: float = 1.0,
) -> dict[str, list]:
    """Of what was found in a picture, what scores above `threshold`, or what its name needs by the config.

    Args:
        result (dict): "names" and "scores", lists of length n, and others of that length.
        stands_for (n names, *optional*): whose thresholds they have. Default: their own.
        share (float): of its threshold that a score needs.
    """
    least = config.thresholds(result["names"] if stands_for is None else list(stands_for), threshold)
    kept = [row for row, (score, needed) in enumerate(zip(result["scores"], least)) if score > share * needed]
    return {key: [values[row] for row in kept] for key, values in result.items()}


def to_supervision(result: Mapping[str, list], row: Mapping[str, int] | None = None) -> sv.Detections:
    """`supervision.Detections` of what was found in a picture.

    Args:
        result (dict): "names", "scores" and "boxes" (x0, y0, x1, y1), lists of length n, and "labels" unless `row` is
            given. row ({name: its class_id}, *optional*).
    """
    labels = result["labels"] if row is None else [row[name] for name in result["names"]]
    return sv.Detections(
        xyxy=np.array(result["boxes"], dtype=np.float32).reshape(-1, 4),
        confidence=np.array(result["scores"], dtype=np.float32),
        class_id=np.array(labels, dtype=int),
        data={"class_name": np.array(result["names"], dtype=str)},
    )
