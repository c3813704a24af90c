"""Draws one object, one background, one scene.

A scene is a cluttered background, then 1 to 8 objects, later ones over earlier ones. Each pixel belongs to the last
object that covers at least half of it. An object's box is the extent of the pixels that belong to it (its *visible*
extent, as in COCO), and its area is their number. Every object lies inside the image and keeps at least `MIN_VISIBLE`
of its pixels.

Every random number of a scene comes from one generator seeded by (seed, split, index).
"""

import colorsys
import functools
import math
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from decodetr.scenes.world import COLOURS, NAMES, SHAPES, SceneName

MIN_VISIBLE = 0.5
MAX_OBJECTS = 8
_PLACEMENT_TRIES = 12
# Sizes below are shares of the image side, or pixels of an image of this side.
_REFERENCE_SIDE = 160


@dataclass(frozen=True)
class Look:
    """How a split is rendered. Pairs are (low, high) of a uniform draw, for `sizes` of a log-uniform one."""

    backgrounds: tuple[str, ...]
    sizes: tuple[float, float]  # of an object, share of the image side (see `draw_object`)
    rotation: float  # degrees to either side
    brightness: tuple[float, float]
    contrast: tuple[float, float]
    tint: float  # largest relative change of one channel
    blur: tuple[float, float]  # Gaussian sigma, reference pixels
    noise: tuple[float, float]  # sigma in 0..255


USUAL = Look(("gradient", "clouds", "bands"), (0.11, 0.42), 14.0, (0.9, 1.1), (0.9, 1.1), 0.02, (0.0, 0.0), (1.5, 4.5))
SHIFTED = Look(
    ("tiles", "waves", "grain"), (0.11, 0.28), 22.0, (0.65, 1.3), (0.7, 1.15), 0.08, (0.35, 0.8), (6.0, 13.0)
)
# What the teachers learn from: everything that a scene can look like, as the web holds everything.
VARIED = Look(
    (*USUAL.backgrounds, *SHIFTED.backgrounds),
    (0.11, 0.42), 22.0, (0.65, 1.3), (0.7, 1.15), 0.08, (0.0, 0.8), (1.5, 13.0),
)  # fmt: skip
# A split that is not listed here looks as usual.
LOOKS = {"test": SHIFTED, "teachers": VARIED, "teachers-val": VARIED}


@dataclass(frozen=True)
class SceneObject:
    """A drawn object: `box` (x, y, w, h) in pixels and `area` of its visible pixels, `visible` share of all."""

    name: SceneName
    box: tuple[float, float, float, float]
    area: int
    visible: float


@dataclass(frozen=True)
class Scene:
    """`image` (RGB), `objects` in drawing order, and `owner` (H, W) uint8: 1 + position in `objects`, 0 background."""

    image: Image.Image
    objects: list[SceneObject]
    owner: np.ndarray


def draw_scene(seed: int, split: str, index: int, image_size: int) -> Scene:
    """Draw scene number `index` of a split.

    Args:
        seed: int, 0 to 2**32 - 1.
        split: name of the split. "test" is rendered with the shifted look.
        index: int, from 0.
        image_size: side in pixels.

    Returns:
        `Scene`, the same for the same arguments whatever else was drawn before.
    """
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    look = LOOKS.get(split, USUAL)
    image = _draw_background(rng, look, image_size)
    owner = np.zeros((image_size, image_size), dtype=np.uint8)
    names, full = [], []
    for _ in range(int(rng.integers(1, MAX_OBJECTS + 1))):
        name = NAMES[int(rng.integers(len(NAMES)))]
        size = image_size * math.exp(rng.uniform(*np.log(look.sizes)))
        tile, alpha = draw_object(rng, name, size, rng.uniform(-look.rotation, look.rotation))
        mask = np.asarray(alpha) >= 128
        place = _find_place(rng, owner, mask, full)
        if place is None:  # the scene is crowded. The first object always finds a place
            continue
        x, y = place
        names.append(name)
        full.append(int(mask.sum()))
        owner[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = len(names)
        image.paste(tile, (x, y), alpha)
    objects = [_measure(name, owner == k, full[k - 1]) for k, name in enumerate(names, start=1)]
    return Scene(_expose(rng, look, image), objects, owner)


def _find_place(rng, owner, mask, full):
    """Top left corner (x, y) at which `mask` leaves enough of every earlier object, or None after some tries."""
    height, width = mask.shape
    visible = np.bincount(owner.ravel(), minlength=len(full) + 1)[1:]
    least = MIN_VISIBLE * np.asarray(full)
    for _ in range(_PLACEMENT_TRIES):
        x = int(rng.integers(owner.shape[1] - width + 1))
        y = int(rng.integers(owner.shape[0] - height + 1))
        hidden = np.bincount(owner[y : y + height, x : x + width][mask], minlength=len(full) + 1)[1:]
        if (visible - hidden >= least).all():
            return x, y
    return None


def _measure(name, pixels, full):
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    box = (float(x), float(y), float(columns[-1] + 1 - x), float(rows[-1] + 1 - y))
    area = int(pixels.sum())
    return SceneObject(name, box, area, area / full)


# --- objects ---------------------------------------------------------------------------------------------------------


def _arc(radius, start, stop, centre_x=0.0):
    angles = np.radians(np.linspace(start, stop, 48))
    return np.stack([centre_x + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


@functools.cache
def _outline(shape):
    """Polygon (n, 2) of a shape, y down, centred, of `draw_object`'s size 1."""
    if shape in ("circle", "ring"):
        points = _arc(0.5, 0, 360)
    elif shape == "square":
        points = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    elif shape == "triangle":
        points = np.array([(0, -1), (1, 0.8), (-1, 0.8)])
    elif shape == "diamond":  # narrow, or else a rotated square
        points = np.array([(0, -1), (0.7, 0), (0, 1), (-0.7, 0)])
    elif shape == "star":
        angles = np.radians(np.arange(10) * 36 - 90)
        radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.52)
        points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    elif shape == "cross":
        a, b = 0.36, 1.0
        points = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a)]
        points = np.array([*points, (-a, -a)])
    elif shape == "heart":
        t = np.linspace(0, 2 * np.pi, 60)
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        points = np.stack([16 * np.sin(t) ** 3, -y], axis=1)
    elif shape == "arrow":
        a, b = 0.4, 0.9
        points = np.array([(0, -1), (b, 0), (a, 0), (a, 1), (-a, 1), (-a, 0), (-b, 0)])
    elif shape == "crescent":  # a disc less a smaller one. The two arcs meet in the tips
        bite, shift = 0.4, 0.28
        tip_x = (0.25 - bite**2 + shift**2) / (2 * shift)
        outer, inner = math.degrees(math.acos(tip_x / 0.5)), math.degrees(math.acos((tip_x - shift) / bite))
        points = np.concatenate([_arc(0.5, outer, 360 - outer), _arc(bite, 360 - inner, inner, shift)])
    else:
        raise ValueError(f"shape must be one of {SHAPES}, got {shape!r}")
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) / (high - low).max()
    x, y = points.T
    area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    if shape == "ring":
        area *= 0.5  # for its band
    # Slender shapes are drawn larger, or their patterns would be lost first.
    return points * np.clip(math.sqrt(0.5 / area), 0.88, 1.18)


def draw_object(
    rng: np.random.Generator, name: SceneName, size: float, angle: float
) -> tuple[Image.Image, Image.Image]:
    """Draw one object on a tile that fits it.

    Args:
        rng: numpy Generator for what the name leaves open: shade, and orientation and phase of the pattern.
        name: `SceneName`.
        size: pixels. The longer side before rotation is 0.88 (square) to 1.18 (slender shapes) times that.
        angle: rotation in degrees.

    Returns:
        (tile, alpha): an RGB and an "L" image of one size. The pixels with alpha >= 128 touch all four sides.
    """
    # Supersampling is for the edges. Large objects need less of it, and cost more.
    scale = 4 if size < 32 else 2
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([(cos, sin), (-sin, cos)])
    side = (math.ceil(size * 1.6) + 2) * scale
    points = _outline(name.shape) @ turn * size * scale + side / 2
    holes = [(points - side / 2) * 0.42 + side / 2] if name.shape == "ring" else []

    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    pen.polygon(points.ravel().tolist(), fill=255)
    for hole in holes:
        pen.polygon(hole.ravel().tolist(), fill=0)

    main = np.clip(np.asarray(COLOURS[name.colour]) * rng.uniform(0.88, 1.06) + rng.uniform(-6, 6, 3), 0, 255)
    pattern = _pattern(rng, name.pattern, size * scale, scale, side)
    tile = Image.new("RGB", (side, side), _rgb(main))
    if pattern is not None:
        tile.paste(_rgb(_second_tone(main)), (0, 0), Image.fromarray(pattern))
    # A dark rim keeps the shape readable on any background and between overlapping objects. Clipped by the mask.
    rim = round(2 * scale * max(0.8, size * 0.035))
    pen = ImageDraw.Draw(tile)
    for polygon in (points, *holes):
        closed = np.concatenate([polygon, polygon[:2]])
        pen.line(closed.ravel().tolist(), fill=_rgb(main * 0.3), width=rim, joint="curve")

    tile, mask = tile.reduce(scale), mask.reduce(scale)
    ink = mask.point(lambda value: 255 if value >= 128 else 0).getbbox()
    return tile.crop(ink), mask.crop(ink)


def _pattern(rng, pattern, size, scale, side):
    """Where the second tone goes: (side, side) uint8, 0 or 255, or None. `size` and `side` in supersampled pixels."""
    if pattern == "solid":
        return None
    direction = rng.uniform(0, math.pi)
    phase = rng.uniform(0, 1, 2)
    rows, columns = np.ogrid[0:side, 0:side]
    u = columns * np.float32(math.cos(direction)) + rows * np.float32(math.sin(direction))
    if pattern == "striped":
        period = max(5.0 * scale, 0.22 * size)  # five pixels are the finest stripes that survive the shifted look
        return (((u / period + phase[0]) % 1) < 0.45).astype(np.uint8) * 255
    # Dots on a triangular grid: every second row is moved by half a period.
    period = max(5.0 * scale, 0.26 * size)
    v = rows * np.float32(math.cos(direction)) - columns * np.float32(math.sin(direction))
    v = v / (0.87 * period) + phase[1]
    line = np.floor(v)
    du = (u / period + phase[0] + 0.5 * (line % 2)) % 1 - 0.5
    dv = (v - line - 0.5) * 0.87
    return (du * du + dv * dv < 0.3**2).astype(np.uint8) * 255


def _second_tone(colour):
    """Nearly white on dark colours, nearly black on light ones, with a rest of the hue."""
    luminance = colour @ np.array([0.299, 0.587, 0.114])
    return colour * 0.12 + 255 * 0.88 if luminance < 125 else colour * 0.16


def _rgb(colour):
    return tuple(int(value) for value in np.clip(np.rint(colour), 0, 255))


# --- backgrounds -----------------------------------------------------------------------------------------------------


def _muted(rng, most_saturated=0.38):
    """A random colour (3,), 0..255, less saturated than any object."""
    rgb = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.03, most_saturated), rng.uniform(0.28, 0.88))
    return np.array(rgb, dtype=np.float32) * 255


def _mix(share, first, second):
    return first + (second - first) * share[..., None]


def _ramp(rng, side):
    """A linear ramp (side, side) from 0 to 1 in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    ramp = axis[None, :] * np.float32(math.cos(angle)) + axis[:, None] * np.float32(math.sin(angle))
    return (ramp - ramp.min()) / (ramp.max() - ramp.min())


def _wave(rng, side, waves):
    """A sine of a random direction, -1..1. `waves` (low, high) are the periods that fit the image."""
    return np.sin((2 * math.pi * rng.uniform(*waves)) * _ramp(rng, side) + np.float32(rng.uniform(0, 2 * math.pi)))


def _cells(rng, cells, spread):
    """A small random picture (cells, cells, 3) around a mean of two muted colours."""
    share = rng.uniform(0, 1, (cells, cells)).astype(np.float32)
    picture = _mix(share, _muted(rng), _muted(rng)) + rng.uniform(-spread, spread, (cells, cells, 3))
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _plain_background(rng, kind, side):
    """Colours without clutter: an RGB image of that side."""
    if kind == "clouds":
        return _cells(rng, int(rng.integers(3, 8)), 22).resize((side, side), Image.Resampling.BICUBIC)
    if kind == "grain":
        return _cells(rng, int(rng.integers(24, 44)), 24).resize((side, side), Image.Resampling.BICUBIC)
    if kind == "tiles":
        wide = math.ceil(side * 1.42)
        tiles = _cells(rng, int(rng.integers(5, 12)), 12).resize((wide, wide), Image.Resampling.NEAREST)
        tiles = tiles.rotate(rng.uniform(0, 90), Image.Resampling.BILINEAR)
        margin = (wide - side) // 2
        return tiles.crop((margin, margin, margin + side, margin + side))
    if kind == "gradient":
        picture = _mix(_ramp(rng, side), _muted(rng), _muted(rng))
    elif kind == "bands":
        picture = _mix(_ramp(rng, side), _muted(rng), _muted(rng))
        picture += (rng.uniform(6, 16) * _wave(rng, side, (3, 12)))[..., None]
    elif kind == "waves":
        share = 0.5 + 0.25 * (_wave(rng, side, (1, 5)) + _wave(rng, side, (3, 9)))
        picture = _mix(share, _muted(rng), _muted(rng))
    else:
        raise ValueError(f"background must be one of {USUAL.backgrounds + SHIFTED.backgrounds}, got {kind!r}")
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _draw_background(rng, look, side):
    """A plain background with blobs and lines that are no objects: without rim, without pattern, of no named shape."""
    kind = look.backgrounds[int(rng.integers(len(look.backgrounds)))]
    image = _plain_background(rng, kind, side).resize((2 * side, 2 * side), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for _ in range(int(rng.integers(2, 7))):
        radius = np.ones(40)
        for harmonic in (2, 3, 4, 5):
            radius += rng.uniform(0.05, 0.3) * np.cos(harmonic * angles + rng.uniform(0, 2 * np.pi))
        radius *= rng.uniform(0.04, 0.15) * 2 * side
        x, y = rng.uniform(0, 2 * side, 2)
        points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
        under = np.array(image.getpixel((int(x), int(y))))
        fill = under + (_muted(rng, 0.5) - under) * rng.uniform(0.35, 0.9)
        pen.polygon(points.ravel().tolist(), fill=_rgb(fill))
    for _ in range(int(rng.integers(2, 8))):
        width = max(1, round(rng.uniform(1, 4) * side / _REFERENCE_SIDE))
        pen.line(rng.uniform(0, 2 * side, 4).tolist(), fill=_rgb(_muted(rng)), width=width)
    return image.reduce(2)


def _expose(rng, look, image):
    """The camera: blur, brightness, contrast, tint, noise."""
    blur = rng.uniform(*look.blur) * image.width / _REFERENCE_SIDE
    if blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    contrast = rng.uniform(*look.contrast)
    brightness = rng.uniform(*look.brightness)
    channel = brightness * rng.uniform(1 - look.tint, 1 + look.tint, 3).astype(np.float32)
    pixels = np.asarray(image, dtype=np.float32)
    pixels = ((pixels - 128) * np.float32(contrast) + 128) * channel
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    pixels = pixels + noise * np.float32(rng.uniform(*look.noise))
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
