"""One picture of the photo world: cut-outs over a photograph, turned, in several sizes, partly hidden, under other
light."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import distance_transform_cdt

from decodetr.processing.picture_modes import to_rgb
from decodetr.utils.images import open_image

from .stamps import BACKGROUNDS, PACKAGES, World, load_cutout

SPLITS = ("train", "val", "teachers", "teachers-val")  # a picture depends on (seed, place in this list, index)
_SIZES = (0.13, 0.6)  # longer side of an object as a share of the picture's, log-uniform
_OBJECTS = (3, 9)  # tried in a picture
_UNNAMED = 0.15  # share of objects without a name
_TAIL = {"train": 0.8}  # weight of the r-th most frequent name: r ** -tail. In val all names are as frequent
_OTHER_TAIL = 0.3
_VISIBLE = 0.4  # of each object at least so much can be seen
_SMALLEST_SIDE = 7  # pixels of a visible extent
_TRIES = 12  # places tried for an object
_PATCHES = 0.25  # share of backgrounds that are the inside of a cut-out


@dataclass(frozen=True)
class Thing:
    """An object in a picture: the number of its stamp, the box (x, y, w, h) of what can be seen of it in whole pixels,
    and how many pixels that is."""

    stamp: int
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True)
class Photographs:
    """What pictures are made of: the world, and of each split the stamps and backgrounds that may be in it.

    Args:
        world: `World`.
        backgrounds: {split: files}.
        stamps: {split: {name or None: numbers of stamps}}. Where a name has several photographs, those of val are not
            in the others.
    """

    world: World
    backgrounds: dict
    stamps: dict


def photographs(world, backgrounds=BACKGROUNDS):
    """Divide a world and the photographs of a folder between the splits.

    Raises:
        FileNotFoundError: no such folder. ValueError: fewer than 3 photographs that show none of the names.
    """
    folder = Path(backgrounds)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of background photographs; install them: {PACKAGES}")
    words = {part for name in world.names for part in name.split()}
    files = [file for file in sorted(folder.glob("*.jpg")) if not words & set(file.stem.lower().split("_"))]
    if len(files) < 3:
        raise ValueError(f"{folder}: expected at least 3 .jpg that show none of the names, found {len(files)}")
    groups = {name: [] for name in (*world.names, None)}
    for number, stamp in enumerate(world.stamps):
        groups[stamp.name].append(number)
    kept_aside = {name: -(-len(those) // 3) for name, those in groups.items()}
    seen = {name: those[: -kept_aside[name]] or those for name, those in groups.items()}
    held = {name: those[-kept_aside[name] :] for name, those in groups.items()}
    val = files[2::3]
    train = [file for file in files if file not in val]
    return Photographs(
        world,
        {split: val if split == "val" else train for split in SPLITS},
        {split: held if split == "val" else seen for split in SPLITS},
    )


def draw_scene(photos, seed, split, index, side):
    """(PIL RGB picture of side x side pixels, its objects as `Thing`s, those in front last)."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    picture = _background(photos, split, rng, side)
    groups = photos.stamps[split]
    layers, top = [], np.full((side, side), -1)
    for name in _names(photos.world.names, seed, split, index, rng):
        if groups[None] and rng.uniform() < _UNNAMED:
            name = None
        stamp = int(rng.choice(groups[name]))
        cutout = _posed(load_stamp(photos.world.root, photos.world.stamps[stamp]), rng, side)
        layer = _place(cutout, rng, side, layers, top)
        if layer is None:
            continue
        left, upper, mask = layer
        picture.paste(to_rgb(cutout), (left, upper), cutout.getchannel("A"))
        top[mask] = len(layers)
        layers.append((stamp, int(mask.sum())))
    picture = _light(picture, rng, 0.25)
    if rng.uniform() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    return picture, [_thing(stamp, top == number) for number, (stamp, _) in enumerate(layers)]


def _names(names, seed, split, index, rng):
    """Names of the objects that are tried in a picture."""
    tried = int(rng.integers(_OBJECTS[0], _OBJECTS[1] + 1))
    if split == "val":  # dealt from shuffled decks of all names
        places = range(index * _OBJECTS[1], index * _OBJECTS[1] + tried)
        decks = {place // len(names) for place in places}
        shuffled = {
            deck: np.random.default_rng([seed, len(SPLITS) + 1, deck]).permutation(len(names)) for deck in decks
        }
        return [names[shuffled[place // len(names)][place % len(names)]] for place in places]
    order = np.random.default_rng([seed, len(SPLITS)]).permutation(len(names))  # which names are frequent
    weights = np.arange(1, len(names) + 1) ** -_TAIL.get(split, _OTHER_TAIL)
    return [names[order[place]] for place in rng.choice(len(names), tried, p=weights / weights.sum())]


def _thing(stamp, visible):
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    x, y = int(columns[0]), int(rows[0])
    return Thing(stamp, (x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y), int(visible.sum()))


@lru_cache(maxsize=512)
def load_stamp(root, stamp):
    """`load_cutout`. What was loaded last is kept."""
    return load_cutout(root, stamp)


@lru_cache(maxsize=64)
def _load_background(file):
    picture = open_image(file)
    picture.thumbnail((1024, 1024))
    return picture


def _posed(cutout, rng, side):
    """A cut-out in some size, mirrored or not, turned, under some light. Its transparency stays soft."""
    longer = side * np.exp(rng.uniform(*np.log(_SIZES)))
    if rng.uniform() < 0.5:
        cutout = ImageOps.mirror(cutout)
    scale = longer / max(cutout.size)
    stretch = np.exp(rng.uniform(-0.12, 0.12))
    size = [max(4, round(length * scale * factor)) for length, factor in zip(cutout.size, (stretch, 1 / stretch))]
    colours, alpha = to_rgb(cutout), cutout.getchannel("A")
    colours = _light(colours.resize(size, Image.Resampling.LANCZOS), rng, 0.35)
    cutout = Image.merge("RGBA", (*colours.split(), alpha.resize(size, Image.Resampling.BILINEAR)))
    angle = rng.normal(0, 18) if rng.uniform() < 0.85 else rng.uniform(-180, 180)
    return cutout.rotate(angle, Image.Resampling.BICUBIC, expand=True)


def _place(cutout, rng, side, layers, top):
    """(left, upper, mask (side, side) of what it covers), or None: no place leaves enough of everything."""
    alpha = np.asarray(cutout.getchannel("A")) > 127
    whole = alpha.sum()
    for _ in range(_TRIES):
        left = int(rng.integers(-cutout.width // 5, max(side - 4 * cutout.width // 5, 1)))
        upper = int(rng.integers(-cutout.height // 5, max(side - 4 * cutout.height // 5, 1)))
        mask = np.zeros((side, side), dtype=bool)
        x0, y0 = max(left, 0), max(upper, 0)
        x1, y1 = min(left + cutout.width, side), min(upper + cutout.height, side)
        mask[y0:y1, x0:x1] = alpha[y0 - upper : y1 - upper, x0 - left : x1 - left]
        if mask.sum() < max(_VISIBLE * whole, 1):
            continue
        extent = _thing(0, mask).box
        if min(extent[2:]) < _SMALLEST_SIDE:
            continue
        after = np.where(mask, -2, top)
        if all(_enough(after == number, area) for number, (_, area) in enumerate(layers)):
            return left, upper, mask
    return None


def _enough(visible, area):
    """Whether what is left of an object of `area` pixels still shows it."""
    return visible.sum() >= max(_VISIBLE * area, 1) and min(_thing(0, visible).box[2:]) >= _SMALLEST_SIDE


def _light(picture, rng, strength):
    """Brightness, contrast, saturation and the warmth of the light, each by a factor of up to 1 + strength."""
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = change(picture).enhance(float(np.exp(rng.uniform(-strength, strength))))
    warmth = np.exp(rng.uniform(-strength, strength) / 3 * np.array([1, 0, -1]))
    return Image.fromarray(np.clip(np.asarray(picture) * warmth, 0, 255).astype(np.uint8))


def _background(photos, split, rng, side):
    """A part of a photograph: of a background, or of the inside of a cut-out."""
    if rng.uniform() < _PATCHES:
        numbers = [number for those in photos.stamps[split].values() for number in those]
        source = _inside(photos.world.root, photos.world.stamps[int(rng.choice(numbers))])
        blur = 2.0
    else:
        source = _load_background(photos.backgrounds[split][int(rng.integers(len(photos.backgrounds[split])))])
        blur = 1.0
    length = min(source.size) * np.exp(rng.uniform(np.log(0.3), 0))
    x, y = (rng.uniform(0, extent - length) for extent in source.size)
    part = source.resize((side, side), Image.Resampling.BICUBIC, box=(x, y, x + length, y + length))
    if rng.uniform() < 0.5:
        part = ImageOps.mirror(part)
    part = part.filter(ImageFilter.GaussianBlur(rng.uniform(0, blur)))
    return _light(part, rng, 0.4)


@lru_cache(maxsize=512)
def _inside(root, stamp):
    """The largest opaque square of a cut-out."""
    cutout = load_stamp(root, stamp)
    opaque = np.pad(np.asarray(cutout.getchannel("A")) > 250, 1)
    distance = distance_transform_cdt(opaque, metric="chessboard")
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    half = max(int(distance.max()) - 1, 1)
    return to_rgb(cutout).crop((x - 1 - half, y - 1 - half, x - 1 + half, y - 1 + half))
