"""What form the data of a folder have, and where its parts are: told by the names of files, else by how they begin."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from decodetr.annotations.cvat import NO_SUBSET, cvat_subsets
from decodetr.annotations.cvat import ROOT as CVAT_ROOT
from decodetr.annotations.formats import DATA_HELP, PARTS
from decodetr.annotations.pascal_voc import ROOT as VOC_ROOT
from decodetr.annotations.yolo import NAMES_ALONE, is_data_yaml, part_of_yaml, read_data_yaml
from decodetr.utils.images import is_image
from decodetr.utils.paths import file_names, visible_below
from decodetr.utils.xml_documents import root_tag

KINDS = {
    "coco": "a COCO folder",
    "yolo": "a YOLO folder",
    "datasets": "a data set of `datasets`",
    "cvat": "a CVAT export",
    "label_studio": "a Label Studio export",
    "voc": "a Pascal VOC folder",
    "labelme": "a LabelMe folder",
    "images": "a folder of pictures without annotations",
}
_SYNONYMS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_COCO_NAME = re.compile(r"instances_([a-z]+)(20\d\d)?")
_COCO_LIST = re.compile(rb'"(annotations|categories|images)"\s*:\s*\[')
_ROBOFLOW = "_annotations.coco.json"
_SAVED = ("dataset_dict.json", "state.json", "metadata.jsonl")
_HEAD = 1 << 16  # bytes that tell what a file is
_TRIED = 25  # files of a folder that are looked into
_SHOWN = 12  # entries of a folder in a message
LOOKED_FOR = (
    "data.yaml or another yaml with names and train (YOLO)",
    "annotations/train.json or instances_train2017.json, train/_annotations.coco.json, one COCO file (COCO, Roboflow)",
    "annotations.xml (CVAT for images 1.1)",
    "Annotations/*.xml, or *.xml next to pictures (Pascal VOC)",
    "a Label Studio JSON",
    "*.json next to pictures (LabelMe)",
    "Parquet files, metadata.jsonl or a saved data set (`datasets`)",
    "pictures",
)


@dataclass(frozen=True)
class Layout:
    """
    What the data of a folder are.

    Args:
        kind (str): one of `KINDS`. Empty where nothing is recognised.
        parts: {part: where it is}: its annotation files, of which there should be one; for `voc`, `labelme` and
            `images` its folder, or the list of its names.
        subsets: {part: names of the subsets in a CVAT file}.
        others (list[str]): parts and subsets that have no name that we know.
        files (list[Path]): all annotation files of `voc` and `labelme`.
        members: {part: its annotation files}, where they are in folders of parts below that of the data set
            (annotations/train/, annotations/val/).
    """

    kind: str = ""
    parts: Mapping[str, list[Path]] = field(default_factory=dict)
    subsets: Mapping[str, list[str]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    members: Mapping[str, list[Path]] = field(default_factory=dict)


def find_layout(data: str | Path) -> Layout:
    """The layout of a folder, or of a file that describes one. Of a data set of `datasets`, its kind alone."""
    folder = Path(data)
    if folder.suffix.lower() in (".yaml", ".yml"):
        return _yolo(folder)
    if not folder.is_dir():
        return _of_file(folder)
    names = file_names(folder)
    for name in ("data.yaml", "data.yml"):
        if name in names:
            return _yolo(folder / name)
    if any(name in names for name in _SAVED):
        return Layout("datasets")
    jsons, xmls = _with_suffix(folder, names, ".json"), _with_suffix(folder, names, ".xml")
    studio = [file for file in jsons[:_TRIED] if _is_label_studio(_head(file))]
    if parts := _coco_parts(folder, [file for file in jsons if file not in studio]):
        return Layout("coco", parts)
    if yamls := [file for end in (".yaml", ".yml") for file in _with_suffix(folder, names, end) if is_data_yaml(file)]:
        return _yolo(yamls[0]) if len(yamls) == 1 else Layout("yolo", {"train": yamls})
    if NAMES_ALONE in names and (folder / "labels").is_dir() and (folder / "images").is_dir():
        return _yolo(folder / NAMES_ALONE)
    if cvat := [file for file in xmls[:_TRIED] if root_tag(_head(file)) == CVAT_ROOT]:
        return _cvat(cvat)
    if studio:
        return _in_files("label_studio", studio)
    return _by_content(folder, jsons)


def found_parts(data: str | Path) -> str:
    """What is in a folder, as a text: its first files, and its folders with the number of their entries."""
    folder = Path(data)
    if not folder.is_dir():
        return "no folder"
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    texts = [f"{path.name}/ ({len(list(path.iterdir()))} entries)" if path.is_dir() else path.name for path in entries]
    more = f", and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return (", ".join(texts[:_SHOWN]) + more) or "nothing"


def not_recognised(data: str | Path) -> str:
    """The message for a folder in which nothing is recognised."""
    inner = "".join(f". {path} is {KINDS[kind]}: is it meant?" for path, kind in annotated_below(data))
    looked = "; ".join(LOOKED_FOR)
    return (
        f"{data}: expected a {DATA_HELP}; no annotations and no pictures were found. Looked for: {looked}. There is: "
        f"{found_parts(data)}{inner}"
    )


def annotated_below(data: str | Path) -> list[tuple[Path, str]]:
    """(folder, kind) of the folders right in a folder that are annotated data sets themselves."""
    found = []
    for path in sorted(Path(data).iterdir() if Path(data).is_dir() else ())[: 2 * _TRIED]:
        if path.is_dir() and not path.name.startswith("."):
            kind = find_layout(path).kind
            found += [(path, kind)] if kind not in ("", "images") else []
    return found


def part_named(name: str) -> str | None:
    """The part that a folder, a file or a subset is called: "train", "val" or "test", in any case."""
    return next((part for part, words in _SYNONYMS.items() if name.lower() in words), None)


def _of_file(file):
    head, suffix = _head(file), file.suffix.lower()
    if suffix == ".xml" and root_tag(head) == CVAT_ROOT:
        return _cvat([file])
    if suffix == ".json" and _is_label_studio(head):
        return Layout("label_studio", {"train": [file]})
    return Layout("coco" if suffix == ".json" else "")


def _yolo(file):
    config = read_data_yaml(file)
    parts = {part: [file] for part in PARTS if part_of_yaml(config, part)}
    used = {part_of_yaml(config, part) for part in parts}
    words = [word for words in _SYNONYMS.values() for word in words]
    return Layout("yolo", parts, others=[word for word in words if config.get(word) and word not in used])


def _coco_parts(folder, jsons):
    """{part: annotation files} of a COCO folder, by the names of files."""
    parts, inner = {}, _with_suffix(folder / "annotations", file_names(folder / "annotations"), ".json")
    folders = _part_folders(folder)
    for part in PARTS:
        exact = [file for files in (inner, jsons) for file in files if file.stem == part]
        rules = [exact[:1]]
        named = [file for file in [*inner, *jsons] if part_named(file.stem) == part]
        rules += [[file for file in named if _is_coco(_head(file))][:1]]
        rules += [[file for file in files if _part_of_coco(file.stem) == part] for files in (inner, jsons)]
        rules += [[place / _ROBOFLOW] for place in folders.get(part, ()) if (place / _ROBOFLOW).is_file()]
        if files := next((files for files in rules if files), None):
            parts[part] = files
    return parts


def _part_of_coco(stem):
    named = _COCO_NAME.fullmatch(stem.lower())
    return part_named(named[1]) if named else None


def _cvat(files):
    if len(files) > 1:
        return _in_files("cvat", files)
    subsets = cvat_subsets(files[0])
    named = {part: [name for name in subsets if part_named(name) == part] for part in PARTS}
    named = {part: names for part, names in named.items() if names}
    if not named:  # one task, or a project whose subsets are called anyhow
        return Layout("cvat", {"train": files})
    others = [name or NO_SUBSET for name in subsets if part_named(name) is None]
    return Layout("cvat", dict.fromkeys(named, files), named, others)


def _in_files(kind, files):
    """The layout where each part is a file that is called as it. All are the training part where none is."""
    named = {part: [file for file in files if part_named(file.stem) == part] for part in PARTS}
    parts = {part: found for part, found in named.items() if found} or {"train": files}
    used = [file for found in parts.values() for file in found]
    return Layout(kind, parts, others=[file.name for file in files if file not in used])


def _by_content(folder, jsons):
    """The layout of a folder with a file for each picture, with one COCO file, or without annotations."""
    files = visible_below(folder, strict=False)
    if xmls := _usable(files, ".xml", lambda head: root_tag(head) == VOC_ROOT):
        return _voc(folder, xmls)
    if labelme := _usable(files, ".json", _is_labelme):
        return _in_folders("labelme", folder, labelme)
    inner = _with_suffix(folder / "annotations", file_names(folder / "annotations"), ".json")
    coco = [file for file in [*jsons, *inner][: 2 * _TRIED] if _is_coco(_head(file))]
    if coco:
        return Layout("coco", {"train": coco})
    if any(path.suffix == ".parquet" or path.name == "metadata.jsonl" for path in files):
        return Layout("datasets")
    pictures = [path for path in files if is_image(path)]
    return Layout("images", _folders_of(_common(folder, pictures), pictures)) if pictures else Layout()


def _common(folder, files):
    """The folder that all files are in, unless it is called as a part: images/ of images/train/ and images/val/."""
    tops = {file.relative_to(folder).parts[0] for file in files}
    inner = folder / tops.pop()
    return folder if tops or not inner.is_dir() or part_named(inner.name) else _common(inner, files)


def _usable(files, suffix, is_kind):
    """The files with a suffix, if one of the first that are looked into is of a kind."""
    some = [path for path in files if path.suffix.lower() == suffix]
    return some if any(is_kind(_head(path)) for path in some[:_TRIED]) else []


def _voc(folder, files):
    lists = next((place for place in (folder / "ImageSets" / "Main", folder / "ImageSets") if place.is_dir()), None)
    if lists is None:
        return _in_folders("voc", folder, files)
    named = {part: [lists / f"{word}.txt" for word in words] for part, words in _SYNONYMS.items()}
    named["train"].append(lists / "trainval.txt")
    parts = {part: [file for file in files if file.is_file()][:1] for part, files in named.items()}
    parts = {part: found for part, found in parts.items() if found}
    return Layout("voc", parts or {"train": [folder]}, files=files)


def _in_folders(kind, folder, files):
    """The layout of annotation files in folders that are called as parts, here or further down."""
    parts, members = _folders_of(folder, files), {}
    if parts == {"train": [folder]}:
        for file in files:
            words = (part_named(word) for word in file.relative_to(folder).parts[:-1])
            members.setdefault(next((part for part in words if part), None), []).append(file)
        if None in members:
            members = {}
    return Layout(kind, dict.fromkeys(members, [folder]) or parts, files=files, members=members)


def _folders_of(folder, files: Iterable[Path]):
    """{part: [folder]} where all files are in folders called as parts, else the whole folder as the training part."""
    folders = _part_folders(folder)
    places = {os.fspath(place): part for part, found in folders.items() for place in found}
    if folders and all(os.fspath(folder / file.relative_to(folder).parts[0]) in places for file in files):
        return folders
    return {"train": [folder]}


def _part_folders(folder):
    """{part: its folders} right in a folder."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if (part := part_named(entry.name)) is not None and os.path.isdir(entry.path):
                found.setdefault(part, []).append(Path(folder, entry.name))
    return {part: found[part] for part in PARTS if part in found}


def _with_suffix(folder, names, suffix):
    names = sorted(name for name in names if name.lower().endswith(suffix) and not name.startswith("."))
    return [Path(folder, name) for name in names]


def _head(file):
    """The first bytes of a regular file. None of anything else."""
    try:
        if not os.path.isfile(file):
            return b""
        with open(file, "rb") as stream:
            return stream.read(_HEAD)
    except OSError:
        return b""


def _is_coco(head):
    return _begins(head, b"{") and _COCO_LIST.search(head) is not None


def _is_labelme(head):
    return _begins(head, b"{") and b'"shapes"' in head


def _is_label_studio(head):
    if not _begins(head, b"["):
        return False
    small = b'"annotation_id"' in head or b'"original_width"' in head  # JSON-MIN
    return small or (b'"data"' in head and b'"annotations"' in head)


def _begins(head, sign):
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(sign)
