"""The photo world as an ordinary COCO-format folder, as `decodetr scenes write` writes its own (docs/scenes.md).

DIR/photo_world.json              the settings the folder was written with
DIR/train/000001.jpg ..., DIR/val/
DIR/annotations/train.json        base names only: novel things are in the pictures, but in no annotation or category
DIR/annotations/train_full.json   all annotations of the same pictures
DIR/annotations/val.json          all annotations
DIR/names.json                    {"base": {"<category id>": name}, "novel": {...}}
DIR/preview.png                   validation pictures with boxes and names
"""

import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from decodetr.utils.documents import read_json
from decodetr.utils.files import clear, committed, is_unused, write_json
from decodetr.utils.images import open_image

from .scene import draw_scene, photographs
from .stamps import BACKGROUNDS, STAMPS, read_drawings, read_world

logger = logging.getLogger(__name__)

SETTINGS_FILE = "photo_world.json"
WORLD_VERSION = 1
WRITTEN = ("train", "val")


@dataclass(frozen=True)
class PhotoSettings:
    """train, val: pictures; image_size: side in pixels; seed; stamps, backgrounds: folders of photographs; drawings:
    compose what `read_drawings` gives instead of the world's things.

    Raises:
        ValueError: a number out of its range.
    """

    train: int = 1200
    val: int = 300
    image_size: int = 256
    seed: int = 0
    stamps: str = str(STAMPS)
    backgrounds: str = str(BACKGROUNDS)
    drawings: bool = False

    def __post_init__(self):
        limits = {"train": (1, 999_999), "val": (1, 999_999), "image_size": (64, 1024), "seed": (0, 2**32 - 1)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be an integer from {low} to {high}, got {getattr(self, name)}")

    def photographs(self):
        return photographs((read_drawings if self.drawings else read_world)(self.stamps), self.backgrounds)


def write_world(folder, settings=None, *, workers=1, overwrite=False):
    """Write the world, or finish an interrupted one. A complete folder of the same settings is left alone.

    Args:
        folder: new, empty, or of an earlier call.
        settings: `PhotoSettings`.
        workers: processes that draw, at least 1. The result is the same.
        overwrite: remove what an earlier call with other settings left.

    Returns:
        The folder as a `Path`.

    Raises:
        FileNotFoundError: the packages are not installed. ValueError: the folder holds something else.
    """
    folder, settings = Path(folder), settings or PhotoSettings()
    photos = settings.photographs()
    if _claim(folder, settings, photos, overwrite):
        logger.info("%s is already complete", folder)
        return folder
    tasks = [(split, index) for split in WRITTEN for index in range(getattr(settings, split))]
    rows = {split: [] for split in WRITTEN}
    with committed(folder) as staging:
        for split in WRITTEN:
            (staging / split).mkdir()
        drawn = each_scene(partial(_draw_one, staging, settings), tasks, workers)
        for (split, _), things in zip(
            tasks, tqdm(drawn, desc=f"pictures of {folder}", total=len(tasks), unit="image")
        ):
            rows[split].append(things)
        documents = {split: _coco(split, split, settings, photos.world, rows[split]) for split in WRITTEN}
        documents["train_full"] = _coco("train_full", "train", settings, photos.world, rows["train"])
        for name, document in documents.items():
            write_json(staging / "annotations" / f"{name}.json", document, indent=None)
        _write_preview(staging, documents["val"], photos.world)
        write_json(staging / "names.json", _names_document(photos.world))
    return folder


def each_scene(work, tasks, workers):
    """Yields work(task) in order, from `workers` processes."""
    if workers == 1:
        yield from map(work, tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        yield from executor.map(work, tasks, chunksize=max(1, min(16, len(tasks) // workers)))


@lru_cache(maxsize=1)
def photographs_of(settings):
    """Those of some settings, read once in a process."""
    return settings.photographs()


def _draw_one(staging, settings, task):
    split, index = task
    picture, things = draw_scene(photographs_of(settings), settings.seed, split, index, settings.image_size)
    picture.save(staging / split / _file_name(index), "JPEG", quality=92)
    return [(thing.stamp, thing.box, thing.area) for thing in things]


def _claim(folder, settings, photos, overwrite):
    """Take the folder, and say whether it is complete already.

    The settings are those of the pictures' bytes: with a digest of the photographs, which the packages may change.
    """
    wanted = {"written_by": "photo_world.py", "world_version": WORLD_VERSION, **asdict(settings)}
    wanted["photographs"] = photos.world.digest
    file = folder / SETTINGS_FILE
    if not is_unused(folder):
        if not file.is_file():
            raise ValueError(f"{folder} is not empty and has no {SETTINGS_FILE}; choose an empty or new folder")
        found = read_json(file, dict)
        if found == wanted and (folder / "names.json").is_file() and not overwrite:
            return True
        if found != wanted and not overwrite:
            changed = [key for key in wanted if found.get(key) != wanted[key]]
            raise ValueError(
                f"{folder} was written with other {', '.join(changed)}; choose another folder, repeat the settings of "
                f"{file}, or replace it with --overwrite"
            )
        clear(folder)
    write_json(file, wanted)
    return False


def _file_name(index):
    return f"{index + 1:06d}.jpg"


def _names_document(world):
    ids = {name: str(i) for i, name in enumerate(world.names, start=1)}
    return {
        "source": f"photographs of tuxpaint-stamps, world version {WORLD_VERSION}; novel as a whole: "
        + ", ".join(world.branches),
        "base": {ids[name]: name for name in world.base},
        "novel": {ids[name]: name for name in world.novel},
    }


def _coco(title, split, settings, world, rows):
    """The COCO document of one file. An object has the same id in train and train_full."""
    category = {name: i for i, name in enumerate(world.names, start=1)}
    kept = set(world.base if title == "train" else world.names)
    ids = count(1)
    annotations = []
    for image_id, things in enumerate(rows, start=1):
        for stamp, box, area in things:
            name, number = world.stamps[stamp].name, next(ids)
            if name in kept:
                row = {"id": number, "image_id": image_id, "category_id": category[name], "bbox": list(box)}
                annotations.append({**row, "area": float(area), "iscrowd": 0})
    return {
        "info": {
            "description": f"photo world, {title}: photographs of tuxpaint-stamps (GPL-2), composed",
            "version": str(WORLD_VERSION),
            "image_folder": split,
            "seed": settings.seed,
        },
        "licenses": [],
        "images": [
            {"id": i + 1, "file_name": _file_name(i), "width": settings.image_size, "height": settings.image_size}
            for i in range(len(rows))
        ],
        "annotations": annotations,
        "categories": [
            {"id": category[name], "name": name, "supercategory": world.folder_of(name)} for name in sorted(kept)
        ],
    }


_CELL, _COLUMNS, _ROWS = 400, 5, 4
_BASE_INK, _NOVEL_INK = (255, 255, 255), (255, 240, 90)


def _write_preview(staging, document, world):
    """Validation pictures with boxes and names. Novel names are yellow, with a star."""
    images = document["images"][: _COLUMNS * _ROWS]
    lines = -(-len(images) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _CELL, lines * _CELL), (24, 24, 24))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for place, image in enumerate(images):
        left, top = place % _COLUMNS * _CELL, place // _COLUMNS * _CELL
        side = _CELL - 4
        picture = open_image(staging / "val" / image["file_name"])
        sheet.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (left, top))
        zoom = side / image["width"]
        for row in document["annotations"]:
            if row["image_id"] != image["id"]:
                continue
            x, y, w, h = (value * zoom for value in row["bbox"])
            name = world.names[row["category_id"] - 1]
            is_novel = name in world.novel
            ink = _NOVEL_INK if is_novel else _BASE_INK
            pen.rectangle((left + x, top + y, left + x + w, top + y + h), outline=ink, width=2)
            text = name + " *" * is_novel
            place_of_text = (left + x, max(top + y - 17, top))
            pen.rectangle(pen.textbbox(place_of_text, text, font=font), fill=(0, 0, 0))
            pen.text(place_of_text, text, fill=ink, font=font)
    sheet.save(staging / "preview.png", "PNG")
