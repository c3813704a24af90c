"""`decodetr validate`: what is wrong with a data set, before hours are spent on it.

A table of every problem with how often and where first, statistics of names, a sheet of annotated pictures, a non-zero
exit status on errors, and with `--repair` a copy of the annotation files without them.
"""

import sys
from collections import Counter
from pathlib import Path

from decodetr.annotations.repair import REPAIRED, write_repaired
from decodetr.annotations.sources import DATA_HELP, add_form_arguments
from decodetr.utils.documents import read_json
from decodetr.utils.files import is_unused, replacing, write_json
from decodetr.utils.outputs import apart

PARTS = ("train", "val", "test")
_SHEET = 12


def add_arguments(parser):
    """Arguments of `decodetr validate`."""
    add = parser.add_argument
    add("data", metavar="DATA", help=f"{DATA_HELP}, or a COCO annotation file")
    add("--parts", nargs="+", choices=PARTS, help="which parts (default: those that are there)")
    add("--images", metavar="DIR", help="image folder of a COCO file")
    add("--names-split", metavar="FILE", help="base and novel names (default: DATA/names.json, if any; none: without)")
    add(
        "--vocabulary", metavar="NAME", help="folder or Hub name of a Vocabulary whose names the annotations must have"
    )
    add_form_arguments(parser)
    add("--no-pixels", action="store_true", help="look at headers of images only, do not decode them")
    add("--output", metavar="DIR", help="write validation.json and a sheet of pictures per part here")
    add(
        "--repair",
        metavar="DIR",
        help="write a repaired copy here, another folder: DIR/annotations/PART.json (COCO's form, whatever DATA has); "
        "images stay in their place, those of a `datasets` data set are written too",
    )


def run(args):
    """Run `decodetr validate`; returns 1 if there are errors."""
    from decodetr.annotations.names_split import names_split_file, read_split

    source = Path(args.data)
    single = source.suffix == ".json"
    _check_outputs(args, source)
    split_file = names_split_file(source.parent if single else source, args.names_split)
    split = read_split(split_file) if split_file else None
    vocabulary = _vocabulary_names(args.vocabulary)
    parts = args.parts or ([source.stem] if single else _parts_of(args))
    unread = [] if single else other_annotations(args.data, parts)
    if not parts:
        beside = f"; there are {', '.join(unread[:5])}: give one of these files" if unread else ""
        raise FileNotFoundError(f"{args.data}: expected annotations of {', '.join(PARTS)}, got none{beside}")
    seen, report, errors, nothing = {}, {}, 0, True
    for part in parts:
        findings, statistics, coco = _examine_part(args, part, source if single else None, split, vocabulary, seen)
        errors += findings.errors
        nothing = nothing and coco is None
        report[part] = {"findings": [vars(finding) for finding in findings], **statistics}
        sys.stdout.write(_table(part, findings, statistics))
        if args.output and coco is not None and coco.images:
            draw_sheet(coco, Path(args.output) / f"{part}.jpg")
    if args.output:
        write_json(Path(args.output) / "validation.json", {**report, "unread": unread})
    fixable = any(finding["repair"] for entry in report.values() for finding in entry["findings"])
    if fixable and not args.repair:
        sys.stdout.write("A copy without these: the same command with --repair DIR\n")
    if unread:
        some = ", ".join(unread[:5]) + (", ..." if len(unread) > 5 else "")
        sys.stdout.write(
            f"Not read: {some}; `decodetr validate FILE --images DIR` reads an annotation file of any name\n"
        )
    return 1 if errors or nothing else 0


def _check_outputs(args, source):
    """Refuse to write where annotations are read, or over those of another data set."""
    data = source.parent if source.suffix in (".yaml", ".yml") else source
    inputs = {"DATA": [data, source], "--images": args.images, "--vocabulary": args.vocabulary}
    apart("--output", args.output, inputs, ("validation.json",))
    if not args.repair:
        return
    repaired = Path(args.repair)
    apart("--repair", repaired, inputs)
    apart("--repair", repaired / "annotations", inputs)
    if (repaired / REPAIRED).is_file():
        return
    for place in (repaired / "annotations", *(repaired / part for part in PARTS)):
        if place.exists() and not is_unused(place):
            raise ValueError(
                f"--repair {repaired}: no repair wrote {place}, which would be replaced; give another folder"
            )


def _vocabulary_names(name):
    if name is None:
        return None
    from decodetr.utils.shipped import load_vocabulary

    return load_vocabulary(name).names


def _parts_of(args):
    from decodetr.annotations.sources import has_part

    return [part for part in PARTS if has_part(args.data, part)]


def other_annotations(data, parts):
    """Paths of the annotation files of a COCO folder, or names of the parts of another data set, that are not read.

    Args:
        data: folder, file or Hub name. parts (list[str]): that are read.
    """
    from decodetr.annotations.sources import coco_file, kind_of, part_names

    kind = kind_of(data)
    if kind != "coco":
        return [f"{data} ({name})" for name in part_names(data, parts)]
    read = {coco_file(data, part) for part in parts}
    files = [file for pattern in ("*.json", "*/*.json") for file in sorted(Path(data).glob(pattern))]
    return [str(file) for file in files if file not in read and file.is_file() and _is_coco(file)]


def _is_coco(file):
    """Whether a file begins like COCO's annotations."""
    with open(file, "rb") as stream:
        head = stream.read(1 << 16)
    keys = (b'"annotations"', b'"categories"', b'"file_name"')
    return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and any(key in head for key in keys)


def _examine_part(args, part, file, split, vocabulary, seen):
    """(Findings, statistics, CocoAnnotations of what can be used or None)."""
    from decodetr.annotations.examination import examine_names
    from decodetr.annotations.findings import Findings
    from decodetr.annotations.sources import coco_file, form_of, kind_of, load_annotations

    file = coco_file(args.data, part) if file is None and kind_of(args.data) == "coco" else file
    if file is not None:
        findings, coco, repaired = _examine_file(args, file, seen, part)
    else:
        findings, coco, repaired = Findings(), None, None
        try:
            coco = load_annotations(args.data, part, **form_of(args), findings=findings)
        except (FileNotFoundError, ValueError) as error:
            findings.add("error", "cannot be read", str(error))
        else:
            repaired = _examine_again(args, coco, seen, part, findings)
            coco = None if repaired is None else coco
    if coco is None:
        if args.repair:
            sys.stderr.write(f"{part}: not repaired, as nothing of it can be used\n")
        return findings, {}, None
    support = Counter(coco.names[c] for c in coco.annotations_by_image.column("category").tolist())
    examine_names(coco.names, split, vocabulary, part, support, findings)
    usable = {image["id"] for image in repaired["images"]}
    coco = coco.select_images(usable)
    if args.repair:
        write_repaired(args.repair, part, repaired, coco, args.data)
    return findings, _statistics(coco, support, split), coco


def _examine_file(args, file, seen, part):
    """(Findings, CocoAnnotations of the repaired document or None, repaired document or None) of a COCO file."""
    from decodetr.annotations.coco import CocoAnnotations, data_folder, find_image_folder
    from decodetr.annotations.coco_mending import mend_files
    from decodetr.annotations.examination import examine, readable
    from decodetr.annotations.findings import Findings
    from decodetr.annotations.left_over import unnamed_pictures

    file, findings = Path(file), Findings()
    try:
        document = read_json(file)
        folder = find_image_folder(file, document, args.images, check=False) if isinstance(document, dict) else None
    except (OSError, ValueError) as error:
        findings.add("error", "cannot be read as JSON", str(error))
        return findings, None, None
    document = readable(document, findings)
    if document is None:
        return findings, None, None
    document["images"] = mend_files(document["images"], folder, findings)
    known = [entry for entry in document["images"] if type(entry.get("id")) is int]
    paths, outside = _paths(file, folder, known)
    pictures = {**_look_at(paths, part, decode=not args.no_pixels), **outside}
    whole = folder.resolve() != data_folder(file).resolve()
    _add_left_over(unnamed_pictures(folder, list(paths.values()), whole), findings)
    findings, repaired = examine(document, pictures, findings, args.box_format)
    _find_copies(pictures, part, seen, findings)
    if repaired is None or not repaired["images"] or not repaired["categories"]:
        return findings, None, None
    # The reader of training has the last word: what it says of the repaired document is a finding too.
    try:
        coco = CocoAnnotations.from_document(file, repaired, args.images, check_images=False)
    except ValueError as error:
        findings.add("error", "cannot be read after all repairs", str(error))
        return findings, None, None
    return findings, coco, repaired


def _paths(file, folder, entries):
    """({image id: path}, {image id: Picture} of those whose path leads out of the data set) of entries of images."""
    from decodetr.annotations.coco import data_folder
    from decodetr.annotations.coco_mending import file_name_of
    from decodetr.annotations.examination import Picture
    from decodetr.utils.paths import inside

    paths, outside = {}, {}
    for entry in entries:
        name, where = file_name_of(entry), f"{file}: image id {entry['id']}"
        try:
            paths |= {entry["id"]: inside([folder, data_folder(file)], name, where)} if name else {}
        except ValueError as error:
            outside[entry["id"]] = Picture(str(error), problem="outside of the data set's folder")
    return paths, outside


def _add_left_over(left_over, findings):
    for what, paths in left_over.items():
        for path in paths:
            findings.add("warning", what, str(path))


def _examine_again(args, coco, seen, part, findings):
    """Repaired document, or None, of annotations that another reader made; `findings` go on."""
    from decodetr.annotations.examination import examine

    rows = [
        {**{key: value for key, value in row.items() if key != "category"}, "image_id": image_id}
        | {"category_id": coco.category_ids[row["category"]]}
        for image_id, rows in coco.annotations_by_image.items()
        for row in rows
    ]
    images = [
        {"id": entry["image_id"], **{k: entry[k] for k in ("file_name", "width", "height", "size_declared")}}
        for entry in coco.images
    ]
    categories = [{"id": number, "name": name} for number, name in zip(coco.category_ids, coco.names)]
    paths = {entry["image_id"]: entry["path"] for entry in coco.images}
    pictures = _look_at(paths, part, decode=not args.no_pixels)
    document = {"images": images, "annotations": rows, "categories": categories}
    _, repaired = examine(document, pictures, findings)
    _find_copies(pictures, part, seen, findings)
    _add_left_over(coco.left_over, findings)
    return repaired


def _look_at(paths, part, decode):
    """{image id: Picture} of {image id: path}."""
    from tqdm.auto import tqdm

    pictures = {}
    for number, path in tqdm(paths.items(), desc=f"{part} images", unit="image", disable=len(paths) < 100):
        pictures[number] = _picture(path, f"{path} (image id {number})", decode)
    return pictures


def _picture(path, where, decode):
    from decodetr.annotations.coco import stored_source
    from decodetr.annotations.examination import Picture
    from decodetr.utils.images import image_header, open_image

    try:
        source = stored_source(path)
        size, orientation = image_header(source, where)
        if decode:
            open_image(source, where)
        return Picture(where, size, orientation, content=_digest(source))
    except FileNotFoundError:
        return Picture(where, problem="that are not there")
    except (OSError, ValueError) as error:
        return Picture(f"{error}" if where in str(error) else f"{where}: {error}", problem="that cannot be read")


def _digest(source):
    import hashlib

    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _find_copies(pictures, part, seen, findings):
    """Pictures of equal content, in this part or in one before. `seen`: {content: (part, where)}."""
    for picture in pictures.values():
        if not picture.problem:
            other, where = seen.setdefault(picture.content, (part, picture.where))
            if other != part:
                findings.add("error", "pictures that are in two parts", f"{picture.where} is {other}: {where}")
            elif where != picture.where:
                findings.add("warning", "pictures that are there twice", f"{picture.where} is {where}")


def _statistics(coco, support, split):
    """Numbers of images, annotations and names."""
    import numpy as np

    index = coco.annotations_by_image
    sides = np.sqrt(index.column("bbox")[:, 2:].prod(1))
    with_objects = len(np.unique(index.image_rows))
    rare = sorted(support.items(), key=lambda item: (item[1], item[0]))
    statistics = {
        "images": len(coco.images),
        "images_without_objects": len(coco.images) - with_objects,
        "annotations": len(sides),
        "crowds": int(index.column("iscrowd").sum()),
        "boxes_per_image": round(len(sides) / max(len(coco.images), 1), 2),
        "small_medium_large": [
            int((sides < 32).sum()),
            int(((sides >= 32) & (sides < 96)).sum()),
            int((sides >= 96).sum()),
        ],
        "names": len(coco.names),
        "names_without_annotation": sum(not support[name] for name in coco.names),
        "most_frequent": dict(support.most_common(5)),
        "least_frequent": dict(rare[:5]),
    }
    if split is not None:
        for group, names in zip(("base", "novel"), split):
            statistics[f"{group}_annotations"] = sum(support[name] for name in names)
    return statistics


def _table(part, findings, statistics):
    from decodetr.utils.tables import markdown_table

    def text(value):
        if isinstance(value, dict):
            return ", ".join(f"{name} {count}" for name, count in value.items()) or "-"
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    blocks = [f"## {part}\n"]
    if statistics:
        rows = [(key.replace("_", " "), text(value)) for key, value in statistics.items()]
        blocks.append(markdown_table(["", ""], rows, 2, escape=False))
    order = sorted(findings, key=lambda finding: (finding.level != "error", -finding.count))
    rows = [(f.level, f.what, f.count, f.example, f.repair or "-") for f in order]
    header = ["", "problem", "times", "first", "repair"]
    blocks.append(markdown_table(header, rows, len(header), escape=False) if rows else "No problem was found.\n")
    return "\n".join(blocks) + "\n"


def draw_sheet(coco, file, most=_SHEET):
    """A sheet of annotated pictures, evenly chosen over the file, with their names."""
    from PIL import Image

    from decodetr.annotations.coco import read_annotated
    from decodetr.utils.drawing import draw_detections, shrunk

    entries = coco.images[:: max(1, len(coco.images) // most)][:most]
    side, columns = 480, min(4, len(entries))
    sheet = Image.new("RGB", (side * columns, side * -(-len(entries) // columns)), "white")
    for place, entry in enumerate(entries):
        rows = coco.annotations_by_image.arrays(entry["image_id"])
        boxes = rows["bbox"].copy()
        boxes[:, 2:] += boxes[:, :2]
        image, scale = shrunk(read_annotated(entry), 2 * side)
        image = draw_detections(image, boxes * scale, [coco.names[c] for c in rows["category"]], None)
        image.thumbnail((side - 8, side - 8))
        sheet.paste(image, (place % columns * side, place // columns * side))
    with replacing(file) as partial:
        sheet.save(partial, quality=88)
