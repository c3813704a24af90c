"""The evaluation loop and the command `decodetr eval`.

Reading order: `evaluate_model` and the loop below it, then the command: `prepare` writes a protocol's annotation
files, `compare` sets two runs against each other, and without either word a model is evaluated. Heavy imports are
inside the functions, so that `decodetr eval --help` is instant.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

from decodetr.annotations.formats import DATA_HELP, form_of
from decodetr.cli.options import add_form_arguments
from decodetr.evaluation import ENGINES, ORACLES, PROTOCOLS
from decodetr.evaluation.loop import run_predictor
from decodetr.utils.files import claim, output_folder
from decodetr.utils.preflight import process_rank, run_checks
from decodetr.utils.shipped import expect, expect_file


def add_arguments(parser):
    """Arguments of `decodetr eval`."""
    from decodetr.evaluation import compare, prepare

    commands = parser.add_subparsers(dest="eval_command", metavar="{prepare,compare}")
    for name, module, text in (
        ("prepare", prepare, "write the annotation files of a protocol from the official ones"),
        ("compare", compare, "two evaluations of the same images, with intervals"),
    ):
        module.add_arguments(commands.add_parser(name, help=text, description=text, allow_abbrev=False))
    add = parser.add_argument
    add("--model", help="folder or Hub name: a DeCo-DETR, any object detector of transformers, any zero-shot one")
    add(
        "--detections", metavar="FILE", help="instead of a model: detections.parquet of a run, or COCO results (.json)"
    )
    add("--data", metavar="DIR", help=f"{DATA_HELP}, with names.json or not")
    add("--annotations", metavar="FILE", help="COCO or LVIS annotation file; default: annotations/val.json of --data")
    add("--images", metavar="DIR", help="image folder; default: beside annotations/, named like the annotation file")
    add("--protocol", default="custom", help=f"one of {', '.join(PROTOCOLS)}, or a JSON file (default: custom)")
    add_form_arguments(parser)
    add("--names-split", metavar="FILE", help="names.json with base and novel names; default: that of --data; or none")
    add("--novel-names", metavar="NAMES", help="""instead: novel names, 'cat,"salt, pepper"'; all others are base""")
    add("--vocabulary", metavar="NAME", help="folder of a Vocabulary that replaces the stored one")
    add("--allow-missing-names", action="store_true", help="names the vocabulary lacks count as AP 0")
    add(
        "--oracle",
        choices=ORACLES,
        help="annotated boxes with our names, our boxes with annotated names, or CLIP alone",
    )
    add("--clip", metavar="NAME", help="the CLIP of --oracle teacher (default: the one of the vocabulary)")
    add("--batch-size", type=int, default=8)
    add("--max-detections", type=int, help="per image, over all names (default: the protocol's)")
    add("--num-workers", type=int, default=0, help="processes that read images (default: 0, this one)")
    add("--engine", choices=ENGINES, default=ENGINES[0])
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (default: auto)")
    add("--output", metavar="DIR", help="write report.html, report.md, report.json and detections.parquet here")


def run(args):
    """Evaluate, print a Markdown report on stdout, write the report. Returns the exit code."""
    if args.eval_command:
        from decodetr.evaluation import compare, prepare

        return {"prepare": prepare, "compare": compare}[args.eval_command].run(args)
    _check(args)
    with claim(args.output if process_rank() == 0 else None, "decodetr eval"):
        return _evaluate(args)


def _check(args):
    """What can be known of the arguments before annotations and models are read."""
    from decodetr.annotations.sources import kind_of
    from decodetr.evaluation.protocols import Protocol

    def output():
        if args.output and (Path(args.output).is_file() or Path(args.output).suffix in (".json", ".md", ".html")):
            raise ValueError(f"--output {args.output}: expected a folder, which gets report.json and others")
        return args.output and output_folder(args.output, "--output")

    def numbers():
        limits = {"batch_size": 1, "max_detections": 1, "num_workers": 0}
        for name, least in limits.items():
            if (value := getattr(args, name)) is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")

    def model():
        alone = args.oracle == "teacher" and args.vocabulary and not (args.model or args.detections)
        if bool(args.model) == bool(args.detections) and not alone:
            raise ValueError(
                "give one of --model and --detections, or --oracle teacher with the --vocabulary of its CLIP"
            )
        if args.detections and (args.oracle or args.vocabulary):
            raise ValueError("--oracle and --vocabulary need --model: detections have their names already")
        if args.clip and args.oracle != "teacher":
            raise ValueError("--clip goes with --oracle teacher")

    def data():
        if not (args.annotations or args.data):
            raise ValueError("give --data DIR or --annotations FILE: what the model is evaluated on")
        if not args.annotations:
            kind_of(args.data)

    run_checks(
        output,
        lambda: _check_apart(args),
        numbers,
        model,
        data,
        lambda: Protocol.load(args.protocol),
        lambda: expect("model", args.model, "config.json"),
        lambda: expect("vocabulary", args.vocabulary, "vocabulary.json"),
        lambda: expect("CLIP", args.clip, "config.json"),
        lambda: expect_file("--detections", args.detections),
        lambda: expect_file("--annotations", args.annotations),
        lambda: expect_file("--names-split", None if args.names_split == "none" else args.names_split),
    )


def _evaluate(args):
    from accelerate.utils import gather_object

    from decodetr.evaluation.analysis import Analysis
    from decodetr.evaluation.detections import feed_detections
    from decodetr.evaluation.output_evaluator import OutputEvaluator
    from decodetr.evaluation.report import describe, markdown_report, write_report
    from decodetr.utils.files import finite

    protocol, whole = _protocol_and_file(args)
    coco = protocol.select_images(whole)
    split = protocol.split(coco)
    rank, processes, device = _process(args.device)
    predictor, names, vocabulary, facts = _predictor(args, coco, whole, protocol, split, device)
    evaluator = OutputEvaluator(
        coco,
        names,
        split["novel"],
        allow_missing_names=args.allow_missing_names,
        groups=split["groups"],
        federated=protocol.federated,
        max_detections=protocol.max_detections,
        base_names=split["base"],
        engine=args.engine,
    )
    if args.detections:
        feed_detections(evaluator, coco, predictor)
    else:
        run_predictor(predictor, coco, evaluator, args.batch_size, args.num_workers, True, rank, processes)
    if processes > 1:
        evaluator.merge(gather_object)
    if rank > 0:
        return 0
    metrics = finite(evaluator.compute(per_name=True))
    per_name = metrics.pop("per_name")
    for name, row in per_name.items():
        row["group"] = ", ".join(group for group, members in evaluator.by_name.groups.items() if name in members)
    report = {
        "title": f"{facts['model']} on {protocol.name}",
        "protocol": _facts(args, protocol, coco, evaluator.by_name, names) | facts,
        "headline": list(protocol.headline),
        "max_detections": protocol.max_detections,
        "source": _source(args),
        "images": [entry["image_id"] for entry in coco.images],
        "metrics": metrics,
    }
    if args.output:
        analysis = Analysis(evaluator.by_name)
        report |= {"per_name": per_name, **finite(describe(analysis, vocabulary)), **_scores(predictor, analysis)}
        page = write_report(report, analysis, args.output, facts)
        sys.stderr.write(f"{page} shows all of it\n")
    sys.stdout.write(markdown_report(report))
    if not args.output:
        sys.stderr.write("--output DIR also finds the score at which F1 is best, for --threshold of predict.\n")
    return 0


def _scores(predictor, analysis):
    """What the scores of a DeCo-DETR are worth at its own thresholds; nothing of others, which have none."""
    from decodetr.evaluation.calibrate import before_and_after
    from decodetr.evaluation.predictors import DeCoDetrPredictor

    if type(predictor) is not DeCoDetrPredictor:
        return {}
    config = predictor.model.config
    return {"default_threshold": config.common_threshold, "scores": before_and_after(analysis, config)}


def _check_apart(args):
    """Refuse an output folder in which something is read that the report would replace."""
    from decodetr.utils.outputs import apart
    from decodetr.utils.shipped import resolve

    names = ("data", "images", "annotations", "vocabulary", "detections", "protocol", "names_split")
    inputs = {f"--{name.replace('_', '-')}": getattr(args, name) for name in names}
    inputs |= {"--model": args.model and resolve(args.model)}
    written = ("report.html", "report.md", "report.json", "detections.parquet")
    apart("--output", args.output, inputs, written)


def _protocol_and_file(args):
    """The protocol with the split that was asked for, and the annotation file."""
    from decodetr.annotations.names_split import names_split_file, read_split
    from decodetr.annotations.sources import load_annotations
    from decodetr.evaluation.output_evaluator import rules_of
    from decodetr.evaluation.protocols import Protocol
    from decodetr.utils.name_list import read_names

    protocol = Protocol.load(args.protocol)
    if args.max_detections is not None:
        protocol = replace(protocol, max_detections=args.max_detections)
    split_file = args.names_split
    if protocol.name == "custom" and args.data and not args.novel_names:
        split_file = names_split_file(args.data, args.names_split)
    if (split_file or args.novel_names) and protocol.name != "custom":
        raise ValueError(
            f"--names-split and --novel-names go with --protocol custom, got {protocol.name}; leave them out"
        )
    if args.names_split and args.novel_names:
        raise ValueError("give --names-split or --novel-names, not both")
    if split_file and split_file != "none":
        base, novel = (dict(enumerate(group)) for group in read_split(split_file))
        protocol = replace(protocol, base=base, novel=novel)
    elif args.novel_names:
        protocol = replace(protocol, novel=dict(enumerate(read_names(args.novel_names))))
    options = {"check_images": not args.detections, **form_of(args.class_names, args.box_format)}
    coco = load_annotations(args.data, "val", args.annotations, args.images, **options)
    if protocol.name == "custom":  # by what the file is, as in training
        protocol = replace(protocol, **rules_of(coco, args.max_detections))
    return protocol, coco


def _process(device):
    """(rank, number of processes, device) of this process; `torchrun` and `accelerate launch` start several."""
    from decodetr.utils.devices import pick_device

    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, 1, pick_device(device)
    from accelerate import PartialState

    state = PartialState(cpu=str(device) == "cpu")
    return state.process_index, state.num_processes, state.device


def _predictor(args, coco, whole, protocol, split, device):
    """(predictor or detections by image, names, Vocabulary or None, facts for the report)."""
    from decodetr.evaluation import loading

    if args.oracle == "teacher" and not args.model:
        return loading.teacher_alone(args.vocabulary, coco, device, protocol.max_detections, clip=args.clip)
    if args.detections:
        return loading.saved_detections(args.detections, whole)  # of more images than count, maybe
    names = set(coco.names if split["base"] is None else [*split["base"], *(split["novel"] or ())])
    return loading.load_predictor(
        args.model,
        coco,
        [name for name in coco.names if name in names],
        device,
        protocol.max_detections,
        vocabulary=args.vocabulary,
        oracle=args.oracle,
        clip=args.clip,
        allow_missing_names=args.allow_missing_names,
    )


def _split_names(protocol):
    return {name for group in (protocol.base, protocol.novel) for name in (group or {}).values()}


def _names_split(args, protocol):
    """Where base and novel names come from, for the report."""
    if protocol.name == "custom" and protocol.base is None and protocol.novel is None:
        return "none"
    return args.names_split or args.novel_names or (args.data if protocol.name == "custom" else protocol.name)


def _source(args):
    """What `decodetr eval compare` reads the annotations from again."""
    here = args.data and os.path.exists(args.data)  # else a name of the Hub
    return {
        "data": os.path.abspath(args.data) if here else args.data,
        "file": args.annotations and os.path.abspath(args.annotations),
        "form": form_of(args.class_names, args.box_format),
    }


def _facts(args, protocol, coco, evaluator, names):
    """What a reader must know before comparing the numbers."""
    from importlib.metadata import version

    packages = ("decodetr", "transformers", "torch", args.engine)
    return {
        "protocol": protocol.name,
        "description": protocol.description,
        "annotations_file": str(coco.file),
        "annotations_digest": coco.digest(),
        "images": len(coco.images),
        "annotations": evaluator.truth_count(),
        "evaluated_names": sum(evaluator.support[name] > 0 for name in evaluator.evaluated),
        "differs_from_published_set": "; ".join(protocol.differences(coco)) or ("no" if protocol.counts else "-"),
        "names_split": _names_split(args, protocol),
        "missing_names": ", ".join(evaluator.missing_names) or "none",
        "names_of_the_split_without_category": ", ".join(sorted(_split_names(protocol) - set(coco.names))) or "none",
        "federated": protocol.federated,
        "max_detections": f"{protocol.max_detections} per image over all names",
        "score_threshold": 0,
        "boxes": "box AP, IoU 0.5 to 0.95",
        "vocabulary_size": len(names),
        "versions": ", ".join(f"{package} {version(package)}" for package in packages),
    }


def main(argv=None):
    """`decodetr eval`, for `python eval.py` and `python -m decodetr.eval`. Returns the exit code."""
    from decodetr.cli import main as decodetr_main

    return decodetr_main(["eval", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    from decodetr.eval import main  # noqa: F811 (the importable module, as in train.py)

    sys.exit(main())
