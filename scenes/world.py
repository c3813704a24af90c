"""The names of the drawn world, which of them are novel, and the settings of a written folder.

A name is colour x pattern x shape, such as "red striped star": 8 x 3 x 10 = 240 names, a quarter of them novel.

- One shape is never boxed in training: all 24 crescents are novel.
- Of the other 216 names every sixth is novel (36), spread so that each pair (colour, shape), (colour, pattern) and
  (pattern, shape) of a novel name still occurs among the base names: only the combination is new.

The split is a property of the world, not of a seed: every folder ever written has the same names, ids and split.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

# Changes whenever the same settings would draw other pixels or other names: folders of different versions don't mix.
WORLD_VERSION = 1

# sRGB. Far apart in hue, so that they stay apart under the brightness and tint changes of the shifted split.
COLOURS = {
    "red": (214, 32, 38),
    "orange": (247, 134, 16),
    "yellow": (246, 222, 40),
    "green": (36, 146, 54),
    "cyan": (64, 214, 224),
    "blue": (36, 72, 210),
    "purple": (122, 40, 168),
    "pink": (250, 132, 196),
}
PATTERNS = ("solid", "striped", "dotted")
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "heart", "arrow", "ring", "crescent")
HELD_OUT_SHAPE = "crescent"


@dataclass(frozen=True)
class SceneName:
    """One name: `id` (from 1, the COCO category id in every file), `name`, its three parts, whether it is novel."""

    id: int
    name: str
    colour: str
    pattern: str
    shape: str
    novel: bool


def _is_novel(colour_index, pattern_index, shape_index):
    if SHAPES[shape_index] == HELD_OUT_SHAPE:
        return True
    # 2 x pattern takes the values 0, 2, 4 modulo 6: of the three patterns of a (colour, shape) at most one is novel.
    return (colour_index + 2 * pattern_index + shape_index) % 6 == 0


def _all_names():
    names = []
    for c, colour in enumerate(COLOURS):
        for p, pattern in enumerate(PATTERNS):
            for s, shape in enumerate(SHAPES):
                text = f"{colour} {pattern} {shape}"
                names.append(SceneName(len(names) + 1, text, colour, pattern, shape, _is_novel(c, p, s)))
    return tuple(names)


NAMES: tuple[SceneName, ...] = _all_names()
BASE_NAMES = tuple(name.name for name in NAMES if not name.novel)
_FEW_SEED = 100


def few_names(names: Sequence[str], count: int) -> list[str]:
    """`count` of the names, in their order: always the same ones, and those of a smaller count are among them.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= count <= len(names):
        raise ValueError(f"--base-names must be from 1 to {len(names)}, the number of base names, got {count}")
    import torch

    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(_FEW_SEED))
    return [names[i] for i in sorted(order[:count].tolist())]


def names_document(base_names: int | None = None) -> dict:
    """Content of `names.json`: `{"source": ..., "base": {"<category id>": name}, "novel": {...}}`.

    Args:
        base_names: how many of the base names stay so. The others count as novel. None: all.
    """
    base = set(BASE_NAMES if base_names in (None, len(BASE_NAMES)) else few_names(BASE_NAMES, base_names))
    return {
        "source": f"decodetr scenes, world version {WORLD_VERSION}: colour x pattern x shape; COCO category ids",
        "base": {str(name.id): name.name for name in NAMES if name.name in base},
        "novel": {str(name.id): name.name for name in NAMES if name.name not in base},
    }


@dataclass(frozen=True)
class SceneSettings:
    """Everything that decides the bytes of a written folder, apart from the library versions.

    Args:
        train, val, test: images per split, at least 1. `test` is the shifted split.
        image_size: side of the square images in pixels, 64 to 1024. Objects grow with it.
        seed: 0 to 2**32 - 1. An image depends on (seed, split, index, image_size) only.
        base_names: how many of the 180 base names have boxes in training. The others count as novel.

    Raises:
        ValueError: a value is no integer or out of its range.
    """

    train: int = 2000
    val: int = 400
    test: int = 400
    image_size: int = 160
    seed: int = 0
    base_names: int = len(BASE_NAMES)

    def __post_init__(self) -> None:
        # The upper limit of the seed keeps it one word of the generator's entropy, so no two splits share a stream.
        limits = {"image_size": (64, 1024), "seed": (0, 2**32 - 1), "base_names": (1, len(BASE_NAMES))}
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = limits.get(field.name, (1, 999_999))
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{field.name} must be an integer from {low} to {high}, got {value!r}")
