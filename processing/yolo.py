"""YOLO data sets: data.yaml, images, and a text file of boxes beside each, read into `CocoAnnotations`.

A row is `class cx cy w h`, or `class x1 y1 x2 y2 ...` with a polygon, whose bounding box is taken; everything in 0..1
of the image. An image without a text file has no objects.
"""

import os
from pathlib import Path

import numpy as np

from decodetr.processing.coco import AnnotationIndex, CocoAnnotations

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_REMEDY = "write it as `class cx cy w h` in 0..1 of the image"


def yolo_file(data):
    """The data.yaml of a folder, or the file itself; None where there is none."""
    data = Path(data)
    if data.suffix in (".yaml", ".yml"):
        return data
    found = [data / name for name in ("data.yaml", "data.yml") if (data / name).is_file()]
    return found[0] if found else None


def read_yolo(file, part):
    """
    One part of a YOLO data set.

    Args:
        file: data.yaml, with `names` (list, or {number: name}) and for each part a folder of images, a list of such,
            or a text file with a path in each line; relative to `path`, if given, else to the file.
        part (str): "train", "val" or "test".

    Returns:
        CocoAnnotations: category ids are the class numbers, images are numbered from 1 in the order of their paths,
        annotations in the order of their lines.

    Raises:
        FileNotFoundError: no such file or folder. ValueError: anything else; the message names file and line.
    """
    file = Path(file)
    config = read_yaml(file)
    names = _names(file, config)
    paths = _image_paths(file, config, part)
    images, rows = [], []
    for number, path in enumerate(paths, start=1):
        width, height = _size(path)
        entry = {"image_id": number, "file_name": os.path.relpath(path, file.parent), "path": str(path)}
        images.append({**entry, "width": width, "height": height})
        for category, box in _read_labels(_label_file(path), len(names), file):
            rows.append((number - 1, category, box * np.array([width, height, width, height])))
    boxes = np.array([box for *_, box in rows], dtype=np.float64).reshape(-1, 4)
    index = AnnotationIndex(
        [image["image_id"] for image in images],
        np.array([row for row, *_ in rows], dtype=np.int64),
        np.arange(1, len(rows) + 1),
        np.array([category for _, category, _ in rows], dtype=np.int64),
        boxes,
        boxes[:, 2] * boxes[:, 3],
        np.zeros(len(rows), dtype=np.int64),
    )
    return CocoAnnotations(file, file.parent, names, list(range(len(names))), images, index)


def read_yaml(file):
    """What a data.yaml holds, a dict with `names`."""
    import yaml

    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: no such file; expected YOLO's data.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected YAML, got: {error}") from error
    if not isinstance(config, dict) or "names" not in config:
        raise ValueError(f"{file}: expected YOLO's data.yaml, with `names` and a folder for each part")
    return config


def _names(file, config):
    names = config["names"]
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise ValueError(
                f"{file}: expected names numbered 0 to {len(names) - 1}, got {sorted(names, key=str)[:5]} ..."
            )
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{file}: expected `names` as a list or as {{number: name}}, got {names!r:.80}")
    names = [str(name) for name in names]
    if config.get("nc", len(names)) != len(names):
        raise ValueError(f"{file}: expected nc names, {config['nc']}, got {len(names)}")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"{file}: expected different names, got {sorted(twice)[:5]} more than once; merge the classes"
        )
    return names


def _image_paths(file, config, part):
    if not config.get(part):
        parts = [name for name in ("train", "val", "test") if config.get(name)]
        raise ValueError(f"{file}: expected a folder under {part!r}; the file has {', '.join(parts) or 'no part'}")
    root = file.parent / config.get("path", "")
    paths = []
    for entry in config[part] if isinstance(config[part], list) else [config[part]]:
        place = root / entry
        if not place.exists():  # as exported with a path that is one level too high
            place = root / str(entry).removeprefix("../")
        if place.is_dir():
            paths += sorted(path for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        elif place.is_file():
            lines = place.read_text(encoding="utf-8").splitlines()
            paths += [place.parent / line.strip() for line in lines if line.strip()]
        else:
            raise FileNotFoundError(f"{file}: {part}: no such folder or list of images: {root / entry}")
    return list(dict.fromkeys(paths))


def _label_file(image):
    """images/ -> labels/ (the last such folder), the suffix -> .txt; without such a folder beside the image."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _size(path):
    """(width, height) of a picture, from its header."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) != 1
            size = image.size
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such image; correct the list or restore it") from error
    except Exception as error:  # PIL's decoders raise a dozen types
        raise ValueError(
            f"{path}: expected a readable image, got {type(error).__name__}: {error}; replace or remove it"
        ) from error
    if turned:
        raise ValueError(
            f"{path}: its EXIF orientation turns it, and a YOLO box does not say which way it is meant: store the "
            "pixels turned, without orientation"
        )
    return size


def _read_labels(file, num_names, source):
    """[(class, box x, y, w, h in 0..1)] of a label file; none if there is no such file."""
    if not file.is_file():
        return []
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where, words = f"{file}: line {number}", line.split()
        try:
            category, values = float(words[0]), np.array(words[1:], dtype=np.float64)
        except ValueError as error:
            raise ValueError(f"{where}: expected numbers, got {line!r:.80}; {_REMEDY}") from error
        if category != int(category) or not 0 <= category < num_names:
            raise ValueError(f"{where}: expected a class of 0 to {num_names - 1} ({source}), got {words[0]}")
        if len(values) == 4:
            box = np.concatenate([values[:2] - values[2:] / 2, values[2:]])
        elif len(values) >= 6 and len(values) % 2 == 0:
            points = values.reshape(-1, 2)
            box = np.concatenate([points.min(0), np.ptp(points, axis=0)])
        else:
            raise ValueError(f"{where}: expected 4 numbers, or the corners of a polygon, got {len(values)}; {_REMEDY}")
        if not np.isfinite(values).all() or (box[2:] < 0).any():
            raise ValueError(f"{where}: expected finite numbers and no negative size, got {line!r:.80}; {_REMEDY}")
        if np.abs(values).max() > 2:
            raise ValueError(f"{where}: expected numbers in 0..1, got {line!r:.80}: are they pixels? {_REMEDY}")
        rows.append((int(category), box))
    return rows
