"""Writes scenes as ordinary COCO-format folders: nothing downstream needs to know that they are drawn.

    DIR/scenes.json                   the settings the folder was written with
    DIR/train/000001.jpg ...          also val/ and test/ (the shifted split)
    DIR/annotations/train.json        base names only: novel objects are drawn, but in no annotation or category
    DIR/annotations/train_full.json   all annotations of the same pictures, for ceilings
    DIR/annotations/{val,test}.json   all annotations
    DIR/names.json                    {"base": {"<category id>": name}, "novel": {...}}
    DIR/preview.png                   validation scenes with boxes and names, and a row of the shifted split

Everything is written at once: a folder with `scenes.json` is complete, and an earlier world stays until the new one is
whole. After an interruption the same call draws the pictures again.
"""

import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from decodetr.scenes.rendering import draw_scene
from decodetr.scenes.world import BASE_NAMES, NAMES, WORLD_VERSION, SceneSettings, names_document
from decodetr.utils.documents import read_json
from decodetr.utils.files import committed, is_unused, reading, write_json
from decodetr.utils.images import open_image

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
_SETTINGS_FILE = "scenes.json"
_WRITER = "decodetr scenes write"
_NAMES_FILE = "names.json"
_RESULT_FILES = (_NAMES_FILE, "preview.png", *(f"annotations/{name}.json" for name in ("train_full", *SPLITS)))
_DESCRIPTIONS = {
    "train": "drawn scenes, base names only: novel objects are drawn, but not annotated",
    "train_full": "drawn scenes, all names, the pictures of train",
    "val": "drawn scenes, all names",
    "test": "drawn scenes, all names, shifted rendering",
}


def write_scenes(
    folder: str | Path, settings: SceneSettings | None = None, *, workers: int = 1, overwrite: bool = False
) -> Path:
    """Write a world of scenes, or finish an interrupted one. A complete folder of the same settings is left alone.

    Args:
        folder: where to. Made if it is missing.
        settings: `SceneSettings`. Its defaults if None.
        workers: processes that draw, at least 1. The written bytes do not depend on it. More than one needs an
            `if __name__ == "__main__"` guard in the calling script, because processes are spawned.
        overwrite: replace what an earlier call with other settings wrote here. Files that are not ours stay.

    Returns:
        The folder as a `Path`.

    Raises:
        ValueError: the folder holds something else, or scenes of other settings without `overwrite`.
    """
    folder, settings = Path(folder), settings or SceneSettings()
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers must be an integer of at least 1, got {workers!r}")
    with reading(folder):
        complete = _is_complete(folder, settings)
    if complete and not overwrite:
        logger.info("%s is already complete", folder)
        return folder
    _check(folder, settings, overwrite)

    tasks = [(split, index) for split in SPLITS for index in range(getattr(settings, split))]
    rows = {split: [] for split in SPLITS}
    with committed(folder, remove=_pictures(folder)) as staging:
        for split in SPLITS:
            (staging / split).mkdir()
        with tqdm(total=len(tasks), desc=f"scenes in {folder}", unit="image") as bar:
            for (split, _), objects in zip(tasks, _draw_all(staging, settings, tasks, workers)):
                rows[split].append(objects)
                bar.update()
        documents = {split: _coco_document(split, split, settings, rows[split]) for split in SPLITS}
        documents["train_full"] = _coco_document("train_full", "train", settings, rows["train"])
        for name, document in documents.items():
            write_json(staging / "annotations" / f"{name}.json", document, indent=None)
        names = names_document(settings.base_names)
        _write_preview(staging, documents, {int(number) for number in names["novel"]})
        write_json(staging / _NAMES_FILE, names)
        write_json(staging / _SETTINGS_FILE, _parameters(settings))
    return folder


# --- the folder ------------------------------------------------------------------------------------------------------


def _parameters(settings):
    given = asdict(settings)
    if settings.base_names == len(BASE_NAMES):  # as in folders from before there was a choice
        del given["base_names"]
    return {"written_by": _WRITER, "world_version": WORLD_VERSION, **given}


def _found_parameters(folder):
    """What `scenes.json` says. None if there is none."""
    file = folder / _SETTINGS_FILE
    if not file.is_file():
        return None
    try:
        found = read_json(file)
    except ValueError as error:
        raise ValueError(f"{error}; or choose another folder") from error
    if not isinstance(found, dict) or found.get("written_by") != _WRITER:
        raise ValueError(f"{file} was not written by `{_WRITER}`; choose another folder")
    return found


def _is_complete(folder, settings):
    if _found_parameters(folder) != _parameters(settings) or not all((folder / f).is_file() for f in _RESULT_FILES):
        return False
    for split in SPLITS:
        wanted = {_file_name(index) for index in range(getattr(settings, split))}
        if not (folder / split).is_dir() or wanted - set(os.listdir(folder / split)):
            return False
    return True


def _check(folder, settings, overwrite):
    """Refuse what must not be touched."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder")
    wanted, found = _parameters(settings), _found_parameters(folder)
    if found is None and not is_unused(folder):
        raise ValueError(
            f"{folder} is not empty and has no {_SETTINGS_FILE}, so it was not written by `{_WRITER}`; "
            "choose an empty or new folder"
        )
    if found is not None and found != wanted and not overwrite:
        keys = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        changes = ", ".join(f"{key}: there {found.get(key)!r}, asked {wanted.get(key)!r}" for key in keys)
        raise ValueError(
            f"{folder} holds scenes of other settings ({changes}); choose another folder, repeat the settings of "
            f"{_SETTINGS_FILE}, or replace them with --overwrite (overwrite=True)"
        )


def _pictures(folder):
    """Names of the pictures of an earlier world."""
    return [f"{split}/{picture.name}" for split in SPLITS for picture in (folder / split).glob("[0-9]*.jpg")]


def _file_name(index):
    return f"{index + 1:06d}.jpg"


# --- pictures and annotations ----------------------------------------------------------------------------------------


def _draw_all(staging, settings, tasks, workers):
    """Yields the objects of each task in order, as plain tuples (name id, box, area)."""
    work = partial(_draw_one, staging, settings.seed, settings.image_size)
    if workers == 1:
        yield from map(work, tasks)
        return
    # Spawned rather than forked: the caller may have started threads (torch), which a fork would break.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, tasks, chunksize=max(1, min(32, len(tasks) // workers)))


def _draw_one(staging, seed, image_size, task):
    split, index = task
    scene = draw_scene(seed, split, index, image_size)
    # Full chroma: the patterns of small objects are finer than halved colour planes.
    scene.image.save(staging / split / _file_name(index), "JPEG", quality=95, subsampling=0)
    return [(thing.name.id, thing.box, thing.area) for thing in scene.objects]


def _coco_document(title, split, settings, rows):
    """The COCO document of one annotation file. An object has the same annotation id in train and train_full."""
    kept = {name.id for name in NAMES}
    if title == "train":
        kept = {int(number) for number in names_document(settings.base_names)["base"]}
    names = [name for name in NAMES if name.id in kept]
    ids = count(1)
    annotations = [
        {"id": id, "image_id": i, "category_id": name_id, "bbox": list(box), "area": float(area), "iscrowd": 0}
        for i, objects in enumerate(rows, start=1)
        for id, (name_id, box, area) in zip(ids, objects)
        if name_id in kept
    ]
    return {
        "info": {
            "description": f"decodetr: {_DESCRIPTIONS[title]}",
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
        "categories": [{"id": name.id, "name": name.name, "supercategory": name.shape} for name in names],
    }


# --- preview ---------------------------------------------------------------------------------------------------------

_PREVIEW_CELL = 440
_PREVIEW_COLUMNS = 4
_PREVIEW_ROWS = {"val": 4, "test": 1}
_BASE_INK, _NOVEL_INK = (255, 255, 255), (255, 240, 90)


def _write_preview(staging, documents, novel):
    """Contact sheet: rows of validation scenes, then of the shifted split. Novel names, by their ids, are marked."""
    cells = []
    for split, rows in _PREVIEW_ROWS.items():
        chosen = documents[split]["images"][: rows * _PREVIEW_COLUMNS]
        cells += [(split, image) for image in chosen] + [None] * (-len(chosen) % _PREVIEW_COLUMNS)
    header = 34
    size = (_PREVIEW_COLUMNS * _PREVIEW_CELL, len(cells) // _PREVIEW_COLUMNS * _PREVIEW_CELL + header)
    sheet = Image.new("RGB", size, (24, 24, 24))
    pen, font, large = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(20)
    pen.text((8, 5), "white: base name, yellow with *: novel name; last row: shifted split", fill="white", font=large)
    for position, cell in enumerate(cells):
        if cell is None:
            continue
        split, image = cell
        left = position % _PREVIEW_COLUMNS * _PREVIEW_CELL
        top = position // _PREVIEW_COLUMNS * _PREVIEW_CELL + header
        side = _PREVIEW_CELL - 4
        picture = open_image(staging / split / image["file_name"])
        sheet.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (left, top))
        zoom = side / image["width"]
        rows = [row for row in documents[split]["annotations"] if row["image_id"] == image["id"]]
        inks = [_NOVEL_INK if row["category_id"] in novel else _BASE_INK for row in rows]
        boxes = []
        for row, ink in zip(rows, inks):
            x, y, w, h = (value * zoom for value in row["bbox"])
            boxes.append((x + left, y + top, w, h))
            pen.rectangle((x + left, y + top, x + left + w, y + top + h), outline=ink, width=2)
        taken = []
        for row, ink, box in zip(rows, inks, boxes):
            text = NAMES[row["category_id"] - 1].name + (" *" if row["category_id"] in novel else "")
            label = _free_label(pen.textbbox((0, 0), text, font=font), box, (left, top, side), taken)
            pen.rectangle(label, fill=(0, 0, 0))
            pen.text((label[0] + 3, label[1]), text, fill=ink, font=font)
    sheet.save(staging / "preview.png", "PNG")


def _free_label(text_box, box, cell, taken):
    """Where a label goes: above its box, or the first place from there that no other label has. Inside the cell."""
    width, height = text_box[2] + 6, text_box[3] + 4
    (x, y, _, h), (left, top, side) = box, cell
    x = min(x, left + side - width)
    wishes = [y - height, y + h, *(y + step * height for step in (0, -2, 1, -3, 2, -4, 3, 4))]
    places = [(x, min(max(wish, top), top + side - height)) for wish in wishes]
    for x, y in places:
        label = (x, y, x + width, y + height)
        if all(x >= t[2] or t[0] >= label[2] or y >= t[3] or t[1] >= label[3] for t in taken):
            break
    taken.append(label)
    return label
