"""`decodetr eval`: evaluate a model. `prepare` writes a protocol's annotation files, `compare` sets two runs against
each other."""

import argparse
import sys
from functools import partial
from pathlib import Path

from decodetr.annotations.formats import DATA_HELP, PARTS, form_of
from decodetr.cli.options import (
    add_batch_size,
    add_clip,
    add_device,
    add_form_arguments,
    add_output,
    add_overwrite,
    add_vocabulary,
    add_workers,
)
from decodetr.evaluation import ENGINES, ORACLES, PREPARED, PROTOCOLS
from decodetr.utils.files import claim, finite, output_folder
from decodetr.utils.markup import one_line
from decodetr.utils.outputs import apart, unwritten
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import expect_file
from decodetr.utils.tables import markdown_table

# What each writes, see `unwritten`.
_PREPARED = ("names.json", "annotations/train.json", "annotations/val.json")
_COMPARISON = ("comparison.json", "comparison.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr eval`."""
    commands = parser.add_subparsers(dest="eval_command", metavar="{prepare,compare}")
    for name, add_command_arguments, text in (
        ("prepare", _add_prepare_arguments, "write the annotation files of a protocol from the official files"),
        ("compare", _add_compare_arguments, "compare two evaluations of the same images, with confidence intervals"),
    ):
        add_command_arguments(commands.add_parser(name, help=text, description=text, allow_abbrev=False))
    add = parser.add_argument
    add(
        "--model",
        help="folder, Hub name or shipped name of a DeCo-DETR, or folder or Hub name of any detector or zero-shot "
        "detector of transformers",
    )
    add(
        "--detections",
        metavar="FILE",
        help="evaluate stored detections instead of a model: detections.parquet of an earlier evaluation, "
        "detections.json of `decodetr predict`, or a COCO results file (.json)",
    )
    add("--data", metavar="DIR", help=f"evaluate on the validation images of this data set: {DATA_HELP}")
    add("--part", choices=PARTS, help="of --data (default: val, or the only one that it has)")
    add(
        "--annotations",
        metavar="FILE",
        help="evaluate on the images of this COCO or LVIS annotation file (default: annotations/val.json of --data)",
    )
    add(
        "--images",
        metavar="DIR",
        help="image folder (default: next to annotations/, with the name of the annotation file)",
    )
    add(
        "--protocol",
        default="custom",
        help=f"evaluation protocol: {', '.join(PROTOCOLS)}, or a JSON file (default: custom)",
    )
    add_form_arguments(parser)
    add(
        "--names-split",
        metavar="FILE",
        help="JSON file of base and novel names; none: no split (default: names.json of --data, if it exists)",
    )
    add(
        "--novel-names",
        metavar="NAMES",
        help="""list the novel names here instead: 'cat,"salt, pepper"'; all others are base names""",
    )
    add_vocabulary(parser)
    add(
        "--allow-missing-names",
        action="store_true",
        help="count annotated names that the model lacks as AP 0 (default: an error)",
    )
    add(
        "--oracle",
        choices=ORACLES,
        help="measure an upper limit, or the teacher. boxes: annotated boxes, names of the model. names: boxes of the "
        "model, annotated names. teacher: annotated boxes, names of CLIP alone. teacher-names: boxes of the model, "
        "names of CLIP",
    )
    add_clip(parser, "CLIP of --oracle teacher and teacher-names (default: the CLIP that made the vocabulary)")
    add_batch_size(parser, default=8)
    add(
        "--max-detections",
        type=int,
        help="detections to keep per image, over all names (default: that of the protocol)",
    )
    add_workers(parser)
    add("--engine", choices=ENGINES, default=ENGINES[0], help=f"library that computes AP (default: {ENGINES[0]})")
    add_device(parser)
    add_output(
        parser,
        "write report.html, report.md, report.json, thresholds.json and detections.parquet into this folder (default: "
        "print only)",
    )
    add_overwrite(parser)
    add(
        "--font",
        metavar="FILE",
        help="TrueType font of the names in the report's pictures, for scripts that the default lacks (default: "
        "DejaVu Sans)",
    )


def _add_prepare_arguments(parser):
    add = parser.add_argument
    add("protocol", choices=PREPARED, help="protocol whose files are written")
    add(
        "--coco",
        required=True,
        metavar="DIR",
        help="folder of COCO, with train2017, val2017 and annotations; required",
    )
    add(
        "--official",
        metavar="DIR",
        help="folder of the official annotation files (default: annotations/ in the folder of --coco)",
    )
    add_output(parser, "write annotations/ and names.json into this folder", required=True)
    add_overwrite(parser)
    add(
        "--any-counts",
        action="store_true",
        help="accept files with fewer images or objects than the published ones (default: an error)",
    )


def _add_compare_arguments(parser):
    add = parser.add_argument
    add("first", metavar="DIR", help="first evaluation: a folder that `decodetr eval --output` wrote")
    add("second", metavar="DIR", help="second evaluation: the folder of another model on the same images")
    add(
        "--annotations",
        metavar="FILE",
        help="annotation file of both (default: the path that the evaluations recorded)",
    )
    add("--resamples", type=int, default=1000, help="bootstrap resamples of the images (default: 1000)")
    add("--seed", type=int, default=0, help="seed of the resamples (default: 0)")
    add_output(parser, "write comparison.json and comparison.png into this folder (default: print only)")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Run `decodetr eval`. Returns the exit status."""
    if args.eval_command == "prepare":
        return _prepare(args)
    if args.eval_command == "compare":
        return _compare(args)
    from decodetr.eval import EvalOptions, evaluate
    from decodetr.evaluation.report import markdown_report

    report = evaluate(
        EvalOptions(
            model=args.model,
            detections=args.detections,
            data=args.data,
            annotations=args.annotations,
            part=args.part,
            images=args.images,
            protocol=args.protocol,
            names_split=args.names_split,
            novel_names=args.novel_names,
            vocabulary=args.vocabulary,
            allow_missing_names=args.allow_missing_names,
            oracle=args.oracle,
            clip=args.clip,
            batch_size=args.batch_size,
            max_detections=args.max_detections,
            num_workers=args.workers,
            engine=args.engine,
            device=args.device,
            output=args.output,
            overwrite=args.overwrite,
            font=args.font,
            **form_of(args.class_names, args.box_format),
        )
    )
    if report is None:  # not the first process
        return 0
    if args.output:
        sys.stderr.write(f"{Path(args.output) / 'report.html'} shows all of it\n")
    sys.stdout.write(markdown_report(report))
    if not args.output:
        sys.stderr.write("--output DIR also finds the score at which F1 is best, for --threshold of predict.\n")
    return 0


def _is_prepared(file):
    return all(Path(file.parent, name).is_file() for name in _PREPARED)


def _prepare(args):
    from decodetr.evaluation.prepare import official_files, prepare

    option = "--official" if args.official else "--coco"
    files = official_files(args.protocol, args.coco, args.official).values()
    run_checks(
        lambda: output_folder(args.output, "--output"),
        lambda: apart("--output", args.output, {"--coco": args.coco, "--official": args.official}),
        lambda: unwritten("--output", args.output, _PREPARED, "decodetr eval prepare", args.overwrite, _is_prepared),
        *(partial(expect_file, option, file) for file in files),
    )
    with claim(args.output, "decodetr eval prepare"):
        written = prepare(args.protocol, args.output, args.coco, args.official, args.any_counts)
    for part, counts in written.items():
        words = (f"{count:,} {'names' if key == 'categories' else key}" for key, count in counts.items())
        sys.stdout.write(f"{part}: {', '.join(words)}\n")
    return 0


def _compare(args):
    from decodetr.evaluation.compare import compare, expect_run, write_comparison
    from decodetr.evaluation.report import number

    def numbers():
        if args.resamples < 1 or args.seed < 0:
            raise ValueError(
                f"--resamples must be at least 1 and --seed at least 0, got {args.resamples} and {args.seed}"
            )

    run_checks(
        numbers,
        lambda: args.output and output_folder(args.output, "--output"),
        lambda: unwritten("--output", args.output, _COMPARISON, "decodetr eval compare", args.overwrite),
        lambda: expect_file("--annotations", args.annotations),
        *(partial(expect_run, folder) for folder in (args.first, args.second)),
    )
    with claim(args.output, "decodetr eval compare"):
        result = finite(compare(args.first, args.second, args.resamples, args.seed, annotations=args.annotations))
        rows = [
            [
                key,
                *(number(row[name]) for name in ("first", "second", "difference")),
                f"{number(row['low'])} to {number(row['high'])}",
                "-" if row["better"] is None else f"{100 * row['better']:.0f} %",
            ]
            for key, row in result.items()
        ]
        header = ["metric", "first", "second", "difference", "95 % interval", "second better"]
        sys.stdout.write(
            f"{one_line(args.first)} (first) and {one_line(args.second)} (second), {args.resamples} resamples of the "
            "images\n\n"
        )
        sys.stdout.write(markdown_table(header, rows))
        if args.output:
            write_comparison(result, args.output)
    return 0
