"""The extent of boxes and ellipses that are turned."""

from __future__ import annotations

import math
from collections.abc import Sequence


def turned(points: Sequence[float], center: tuple[float, float], degrees: float) -> list[float]:
    """Points x, y, x, y, ... turned around a center, clockwise in an image."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    found: list[float] = []
    for x, y in zip(points[0::2], points[1::2]):
        dx, dy = x - center[0], y - center[1]
        found += [center[0] + dx * cos - dy * sin, center[1] + dx * sin + dy * cos]
    return found


def turned_corners(corners: Sequence[float], degrees: float) -> list[float]:
    """The four corners x, y, x, y, ... of a box x0, y0, x1, y1 that is turned around its center, as CVAT turns it."""
    x0, y0, x1, y1 = corners
    return turned([x0, y0, x1, y0, x1, y1, x0, y1], ((x0 + x1) / 2, (y0 + y1) / 2), degrees)


def around(points: Sequence[float]) -> list[float]:
    """x, y, w, h of the box around points x, y, x, y, ..."""
    xs, ys = points[0::2], points[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def around_ellipse(center: tuple[float, float], radii: tuple[float, float], degrees: float) -> list[float]:
    """x0, y0, x1, y1 of the box around an ellipse that is turned."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half = math.hypot(radii[0] * cos, radii[1] * sin), math.hypot(radii[0] * sin, radii[1] * cos)
    return [center[0] - half[0], center[1] - half[1], center[0] + half[0], center[1] + half[1]]
