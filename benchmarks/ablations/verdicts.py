"""What mean and spread of some runs say. Pure functions of numbers.

Runs of two rows with the same seed are compared, and the interval is that of Student's t over these differences: 95 %
of such intervals have the true difference in them, if differences of seeds are normally distributed.
"""

import math
import statistics

CONFIDENCE = 0.95
HOLDS, IN_KIND, NOT, UNTOLD = "holds", "holds in kind", "does not hold", "cannot be told here"
UNMEASURED = "not measured yet"
RULE = """The interval is mean and 95 % of Student's t over differences of runs with equal seeds. **holds**: all of it
lies on the claimed side of 0, and it reaches what the paper claims. **holds in kind**: it lies there, and is smaller.
**does not hold**: it lies on the other side, or it has 0 in it and excludes what is claimed. **cannot be told here**:
it has both in it. Where another thing stands in for the paper's, its size says nothing: at best it holds in kind."""


def differences(row: dict[str, float], reference: dict[str, float]) -> list[float]:
    """Row less reference for every seed that both have, by seed."""
    return [row[seed] - reference[seed] for seed in sorted(row.keys() & reference.keys(), key=int)]


def interval(values: list[float]) -> tuple[float, float, float]:
    """(mean, lowest, highest) of the mean's interval. With one value it is from minus to plus infinity."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    from scipy.stats import t

    quantile = float(t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def verdict(values: list[float], claimed: float, stand_in: bool = False) -> str:
    """What differences say of a claimed one, that is not 0, by RULE."""
    if not values:
        return UNMEASURED
    sign = math.copysign(1, claimed)
    _, low, high = interval([sign * value for value in values])
    if low > 0:
        return HOLDS if high >= abs(claimed) and not stand_in else IN_KIND
    if high <= 0 or (high < abs(claimed) and not stand_in):
        return NOT
    return UNTOLD


def in_words(values: list[float]) -> str:
    """Mean and interval of differences, bold where they are told from 0; the one value where there is one."""
    mean, low, high = interval(values)
    if len(values) < 2:
        return f"{mean:+.1f}"
    text = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if told(values) else text


def told(values: list[float]) -> int:
    """1 where a row has more than its reference, -1 where it has less, 0 where seeds do not tell."""
    _, low, high = interval(values)
    return (low > 0) - (high < 0)
