"""`decodetr validate`: what is wrong with a data set, before hours are spent on it.

A table of every problem with how often and where first, statistics of names, a sheet of annotated pictures, a non-zero
exit status on errors, and with `--repair` a copy of the annotation files without them.
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from decodetr.annotations.formats import DATA_HELP, PARTS
from decodetr.cli.options import add_form_arguments, add_output, add_overwrite
from decodetr.utils.excerpts import some_of
from decodetr.utils.files import is_unused, reading, write_json
from decodetr.utils.outputs import apart, unwritten
from decodetr.utils.tables import markdown_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr validate`."""
    add = parser.add_argument
    add("data", metavar="DATA", help=f"data set to check: {DATA_HELP}, or an annotation file")
    add("--parts", nargs="+", choices=PARTS, help="parts to check (default: all that exist)")
    add("--images", metavar="DIR", help="image folder, of any form but YOLO and `datasets` (default: that of DATA)")
    add(
        "--names-split",
        metavar="FILE",
        help="JSON file of base and novel names; none: no split (default: DATA/names.json, if it exists)",
    )
    add(
        "--vocabulary",
        metavar="NAME",
        help="check that this vocabulary has all annotated names: folder, Hub name or shipped name",
    )
    add_form_arguments(parser)
    add(
        "--no-pixels", action="store_true", help="read only the headers of images; faster, but finds no damaged pixels"
    )
    add_output(parser, "write validation.json and a sheet of annotated images per part into this folder")
    add_overwrite(parser)
    add(
        "--repair",
        metavar="DIR",
        help="write a repaired copy in COCO format into this other folder: DIR/annotations/PART.json. Images are not "
        "copied, except those of a `datasets` data set. --box-format then also says how a COCO file writes its boxes "
        "(default: found from the boxes)",
    )


def run(args: argparse.Namespace) -> int:
    """Run `decodetr validate`. Returns 1 if there are errors."""
    from decodetr.annotations.dataset_report import DatasetReport, ReportOptions, other_annotations
    from decodetr.annotations.names_split import names_split_file, read_split
    from decodetr.annotations.repair import repaired_copy
    from decodetr.utils.shipped import load_vocabulary

    source = Path(args.data)
    _check_outputs(args, source)
    single = source.suffix in (".json", ".xml")
    split_file = names_split_file(source.parent if single else source, args.names_split)
    dataset = DatasetReport(
        ReportOptions(
            data=args.data,
            images=args.images,
            class_names=args.class_names,
            box_format=args.box_format,
            decode=not args.no_pixels,
            split=read_split(split_file) if split_file else None,
            vocabulary=None if args.vocabulary is None else load_vocabulary(args.vocabulary).names,
        )
    )
    parts = args.parts or dataset.parts()
    unread = [] if single else other_annotations(args.data, parts)
    if not parts:
        beside = f"; there are {', '.join(unread[:5])}: give one of these files" if unread else ""
        raise FileNotFoundError(f"{args.data}: expected annotations of {', '.join(PARTS)}, got none{beside}")
    written, errors, usable = {}, 0, []
    with repaired_copy(args.repair, args.data) if args.repair else nullcontext() as add:
        for part in parts:
            written[part], found, some = _report(args, dataset, part, add)
            errors, usable = errors + found, usable + [part] * some
    for part in usable if args.repair else ():
        sys.stderr.write(f"wrote {Path(args.repair, 'annotations', part)}.json, in COCO's form\n")
    if args.output:
        write_json(Path(args.output) / "validation.json", {**written, "unread": unread})
    fixable = any(finding["repair"] for entry in written.values() for finding in entry["findings"])
    if fixable and not args.repair:
        sys.stdout.write("A copy without these: the same command with --repair DIR\n")
    if unread:
        sys.stdout.write(
            f"Not read: {some_of(unread, say=str)}; `decodetr validate FILE --images DIR` reads an annotation file of "
            "any name\n"
        )
    return 1 if errors or not usable else 0


def _report(args, dataset, part, add):
    """Examine a part, add it to the repaired copy if there is one, print the table: (entry of validation.json, number
    of kinds of errors, whether anything can be used)."""
    from decodetr.annotations.dataset_report import draw_sheet
    from decodetr.evaluation.output_evaluator import rules_of

    report = dataset.examine(part)
    if report.coco is not None and part != "train":  # which the detector's queries limit, that are not known here
        kept, index = rules_of(report.coco)["max_detections"], report.coco.annotations_by_image
        what = f"images with more objects than an evaluation keeps detections ({kept}; --max-detections of eval)"
        for image_id, objects in zip(index, index.objects):
            if objects > kept:
                report.findings.add("warning", what, f"image id {image_id}: {objects} objects")
    if add is not None and report.coco is None:
        sys.stderr.write(f"{part}: not repaired, as nothing of it can be used\n")
    elif add is not None:
        add(part, report.document, report.coco)
    sys.stdout.write(_table(part, report))
    if args.output and report.coco is not None and report.coco.images:
        draw_sheet(report.coco, Path(args.output) / f"{part}.jpg")
    entry = {"findings": [vars(finding) for finding in report.findings], **report.statistics}
    return entry, report.findings.errors, report.coco is not None


def _check_outputs(args, source):
    """Refuse to write where annotations are read, or over those of another data set."""
    from decodetr.annotations.repair import REPAIRED

    data = source.parent if source.suffix in (".yaml", ".yml", ".xml") else source
    inputs = {"DATA": [data, source], "--images": args.images, "--vocabulary": args.vocabulary}
    apart("--output", args.output, inputs, ("validation.json",))
    files = ("validation.json", *(f"{part}.jpg" for part in PARTS))
    unwritten("--output", args.output, files, "decodetr validate", args.overwrite)
    if not args.repair:
        return
    repaired = Path(args.repair)
    apart("--repair", repaired, inputs)
    apart("--repair", repaired / "annotations", inputs)
    with reading(repaired):  # which finishes what a killed one had committed
        pass
    if (repaired / REPAIRED).is_file():
        unwritten("--repair", repaired, (REPAIRED,), "decodetr validate", args.overwrite)
        return
    for place in (repaired / "annotations", *(repaired / part for part in PARTS)):
        if place.exists() and not is_unused(place):
            raise ValueError(
                f"--repair {repaired}: no repair wrote {place}, which would be replaced; give another folder"
            )


def _table(part, report):
    def text(value):
        if isinstance(value, dict):
            return ", ".join(f"{name} {count}" for name, count in value.items()) or "-"
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    blocks = [f"## {part}\n"]
    if report.statistics:
        rows = [(key.replace("_", " "), text(value)) for key, value in report.statistics.items()]
        blocks.append(markdown_table(["", ""], rows, 2, escape=False))
    order = sorted(report.findings, key=lambda finding: (finding.level != "error", -finding.count))
    rows = [(f.level, f.what, f.count, f.example, f.repair or "-") for f in order]
    header = ["", "problem", "times", "first", "repair"]
    blocks.append(markdown_table(header, rows, len(header), escape=False) if rows else "No problem was found.\n")
    return "\n".join(blocks) + "\n"
