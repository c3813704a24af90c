"""Crops to train and test the small teachers on: objects of scenes that nothing else uses, and empty regions.

The scenes come from separate splits ("teachers", "teachers-val"): no picture of a written folder is among them.
They vary more than the scenes of a detector do, as web pictures vary more than one data set.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from tqdm.auto import tqdm

from decodetr.pool_builder.crops import crop_region
from decodetr.scenes.rendering import draw_scene
from decodetr.scenes.world import NAMES
from decodetr.utils.boxes import corners_of

CROP_SIDE = 48
_SCENE_SIDE = 160
_JITTERED = 2  # crops per object: its box, and a box as a proposal might fit it
_EMPTY = 1  # empty regions per scene


def teacher_crops(split: str, scenes: int, seed: int = 0, workers: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Crops of the objects of drawn scenes, each as its box and once more loosely, and regions without an object.

    Args:
        split: "teachers" or "teachers-val".
        scenes: how many scenes to draw.

    Returns:
        (crops (n, 48, 48, 3) uint8 RGB, name index (n,) int64 into `world.NAMES`, -1 without an object).
    """
    work = partial(_crops_of_scene, seed, split)
    crops, names = [], []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        found = map(work, range(scenes)) if workers == 1 else executor.map(work, range(scenes), chunksize=32)
        for some, their_names in tqdm(found, total=scenes, desc=f"scenes of {split}", unit="scene"):
            crops.append(some)
            names += their_names
    return np.concatenate(crops), np.array(names)


def _crops_of_scene(seed, split, index):
    scene = draw_scene(seed, split, index, _SCENE_SIDE)
    rng = np.random.default_rng([seed, index, 1])
    corners = corners_of(np.array([thing.box for thing in scene.objects]))
    boxes, names = [], []
    for thing, box in zip(scene.objects, corners):
        boxes += [box, *(_loose(rng, box) for _ in range(_JITTERED - 1))]
        names += [NAMES.index(thing.name)] * _JITTERED
    for _ in range(_EMPTY):
        side = _SCENE_SIDE * np.exp(rng.uniform(np.log(0.1), np.log(0.45)))
        x, y = rng.uniform(0, _SCENE_SIDE - side, 2)
        box = np.array([x, y, x + side, y + side])
        if _covered(box, corners) < 0.15:
            boxes.append(box)
            names.append(-1)
    crops = [np.asarray(crop_region(scene.image, box, CROP_SIDE)) for box in boxes]
    return np.stack(crops), names


def _loose(rng, box):
    """A box with IoU of about 0.6 to 0.9 to `box`, inside the image."""
    size = np.tile(box[2:] - box[:2], 2)
    return np.clip(box + size * rng.uniform(-0.1, 0.1, 4), 0, _SCENE_SIDE)


def _covered(box, others):
    """Largest intersection with a box of `others` (n, 4), as a share of the smaller of the two."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    return (np.clip(sides, 0, None).prod(axis=1) / np.minimum(areas, (box[2:] - box[:2]).prod())).max()
