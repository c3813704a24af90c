"""The score from which a model shows detections where neither the user nor a calibration says another.

Apart from the config, so that commands and exported models can say it without importing transformers.
"""

from collections.abc import Mapping, Sequence

DEFAULT_THRESHOLD = 0.3


def thresholds_of(
    names: Sequence[str], threshold: float | None, own: Mapping[str, float] | None, common: float
) -> list[float]:
    """The score from which each of some names is shown: `threshold` where one is given, else the name's own, else the
    common one."""
    return [(own or {}).get(name, common) if threshold is None else threshold for name in names]
