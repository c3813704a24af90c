"""Evaluate a detector on annotated images: what `decodetr eval`, `python eval.py` and `accelerate launch eval.py` do.

`evaluate` is the program, and what it calls stands below it in order. The parts are in `evaluation/`, the arguments of
the command in `cli/eval.py`.
"""

import sys

from decodetr.utils.program import run_command

if __name__ == "__main__":  # before the imports below, so that --help is instant
    sys.exit(run_command("eval"))

import os
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from decodetr.annotations.coco import CocoAnnotations
from decodetr.annotations.names_split import names_split_file, read_split
from decodetr.annotations.sources import load_annotations, part_to_evaluate
from decodetr.evaluation.analysis import Analysis
from decodetr.evaluation.calibrate import before_and_after
from decodetr.evaluation.detections import feed_detections
from decodetr.evaluation.loading import load_predictor, saved_detections, teacher_alone
from decodetr.evaluation.loop import evaluate_model, run_predictor
from decodetr.evaluation.options import EvalOptions
from decodetr.evaluation.output_evaluator import OutputEvaluator, rules_of
from decodetr.evaluation.predictors import DeCoDetrPredictor
from decodetr.evaluation.protocols import Protocol
from decodetr.evaluation.report import describe, write_report
from decodetr.utils.devices import pick_device
from decodetr.utils.files import claim, finite
from decodetr.utils.name_list import read_typed_names
from decodetr.utils.preflight import process_rank
from decodetr.utils.spelling import spelled_as
from decodetr.utils.versions import package_versions

__all__ = ["EvalOptions", "evaluate", "evaluate_model", "main"]


def evaluate(options: EvalOptions) -> dict | None:
    """
    Evaluate, and write the report into `options.output`, if there is one.

    Returns:
        The report: "title", "protocol" (what a reader must know before comparing numbers), "headline", "metrics" (in
        percent), "max_detections", "source" and "images". With an output also what [`write_report`] needs. None in all
        processes but the first.

    Raises:
        OSError, ValueError: what was given does not go together, or cannot be read.
    """
    options.check()
    with claim(options.output if process_rank() == 0 else None, "decodetr eval"):
        part = _part(options)
        protocol, whole = _protocol_and_annotations(options, part)
        coco = protocol.select_images(whole)
        split = protocol.split(coco)
        rank, processes, device = _process(options.device)
        predictor, names, vocabulary, facts = _predictor(options, coco, whole, protocol, split, device)
        names = spelled_as(names, coco.names)
        evaluator = OutputEvaluator(
            coco,
            names,
            split["novel"],
            allow_missing_names=options.allow_missing_names,
            groups=split["groups"],
            federated=protocol.federated,
            max_detections=protocol.max_detections,
            base_names=split["base"],
            engine=options.engine,
        )
        if options.detections:
            feed_detections(evaluator, coco, predictor)
        else:
            run_predictor(
                predictor, coco, evaluator, options.batch_size, options.num_workers, rank=rank, processes=processes
            )
        if processes > 1:
            evaluator.merge(gather_object)
        if rank > 0:
            return None
        metrics = finite(evaluator.compute(per_name=True))
        per_name = metrics.pop("per_name")
        report = {
            "title": f"{facts['model']} on {protocol.name}",
            "protocol": _facts(options, protocol, coco, evaluator.by_name, names) | facts,
            "headline": list(protocol.headline),
            "max_detections": protocol.max_detections,
            "source": _source(options, part),
            "images": [entry["image_id"] for entry in coco.images],
            "metrics": metrics,
        }
        if options.output:
            for name, row in per_name.items():
                row["group"] = ", ".join(
                    group for group, members in evaluator.by_name.groups.items() if name in members
                )
            analysis = Analysis(evaluator.by_name)
            report |= {"per_name": per_name, **finite(describe(analysis, vocabulary)), **_scores(predictor, analysis)}
            write_report(report, analysis, options.output, facts, options.font)
        return report


def _protocol_and_annotations(options: EvalOptions, part: str) -> tuple[Protocol, CocoAnnotations]:
    """The protocol with the split that was asked for, and the annotation file."""
    protocol = Protocol.load(options.protocol)
    if options.max_detections is not None:
        protocol = replace(protocol, max_detections=options.max_detections)
    split_file: str | Path | None = options.names_split
    if protocol.name == "custom" and options.data and not options.novel_names:
        split_file = names_split_file(options.data, options.names_split)
    if (split_file or options.novel_names) and protocol.name != "custom":
        raise ValueError(
            f"--names-split and --novel-names go with --protocol custom, got {protocol.name}; leave them out"
        )
    if options.names_split and options.novel_names:
        raise ValueError("give --names-split or --novel-names, not both")
    if split_file and split_file != "none":
        base, novel = (dict(enumerate(group)) for group in read_split(split_file))
        protocol = replace(protocol, base=base, novel=novel)
    elif novel_names := read_typed_names(options.novel_names or None, "--novel-names"):
        protocol = replace(protocol, novel=dict(enumerate(novel_names)))
    coco = load_annotations(
        options.data,
        part,
        options.annotations,
        options.images,
        class_names=options.class_names,
        box_format=options.box_format,
        check_images=not options.detections,
    )
    if protocol.name == "custom":
        base, novel = (_spelled(group, coco.names) for group in (protocol.base, protocol.novel))
        rules = rules_of(coco, options.max_detections)  # as in training
        protocol = replace(protocol, base=base, novel=novel, **rules)
    return protocol, coco


def _spelled(group, names):
    """The names of a group, spelled as the annotations do."""
    return group and dict(enumerate(spelled_as(group.values(), names)))


def _part(options):
    """The part of the data set that is evaluated."""
    if options.part and (options.annotations or not options.data):
        raise ValueError(f"--part {options.part} goes with --data alone; leave it out, or --annotations")
    return options.part or part_to_evaluate(None if options.annotations else options.data)


def _process(device):
    """(rank, number of processes, device) of this process. `torchrun` and `accelerate launch` start several."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, 1, pick_device(device)
    state = PartialState(cpu=str(device) == "cpu")
    return state.process_index, state.num_processes, state.device


def _predictor(options, coco, whole, protocol, split, device):
    """(predictor or detections by image, names, Vocabulary or None, facts for the report)."""
    if options.detections:
        return saved_detections(options.detections, whole)  # of more images than count, maybe
    names = set(coco.names if split["base"] is None else [*split["base"], *(split["novel"] or ())])
    counted = [name for name in coco.names if name in names]
    coco = coco.select(counted) if options.oracle else coco  # what an oracle is told of, it finds
    if options.oracle == "teacher" and not options.model:
        return teacher_alone(options.vocabulary, coco, device, protocol.max_detections, clip=options.clip)
    return load_predictor(
        options.model,
        coco,
        counted,
        device,
        protocol.max_detections,
        vocabulary=options.vocabulary,
        oracle=options.oracle,
        clip=options.clip,
        allow_missing_names=options.allow_missing_names,
    )


def _facts(options, protocol, coco, evaluator, names):
    """What a reader must know before comparing the numbers."""
    packages = ("decodetr", "transformers", "torch", options.engine)
    return {
        "protocol": protocol.name,
        "description": protocol.description,
        "annotations_file": str(coco.file),
        "annotations_digest": coco.digest(),
        "images": len(coco.images),
        "annotations": evaluator.truth_count(),
        "evaluated_names": sum(evaluator.support[name] > 0 for name in evaluator.evaluated),
        "differs_from_published_set": "; ".join(protocol.differences(coco)) or ("no" if protocol.counts else "-"),
        "names_split": _names_split(options, protocol),
        "missing_names": ", ".join(evaluator.missing_names) or "none",
        "names_of_the_split_without_category": ", ".join(sorted(_split_names(protocol) - set(coco.names))) or "none",
        "federated": protocol.federated,
        "max_detections": f"{protocol.max_detections} per image over all names",
        "score_threshold": 0,
        "boxes": "box AP, IoU 0.5 to 0.95",
        "vocabulary_size": len(names),
        "versions": ", ".join(map(" ".join, package_versions(packages).items())),
    }


def _names_split(options, protocol):
    """Where base and novel names come from, for the report."""
    if protocol.name == "custom" and protocol.base is None and protocol.novel is None:
        return "none"
    return options.names_split or options.novel_names or (options.data if protocol.name == "custom" else protocol.name)


def _split_names(protocol):
    return {name for group in (protocol.base, protocol.novel) for name in (group or {}).values()}


def _source(options, part):
    """What `decodetr eval compare` reads the annotations from again."""
    here = options.data and os.path.exists(options.data)  # else a name of the Hub
    return {
        "data": os.path.abspath(options.data) if here else options.data,
        "file": options.annotations and os.path.abspath(options.annotations),
        "part": part,
        "form": {"class_names": options.class_names, "box_format": options.box_format},
    }


def _scores(predictor, analysis):
    """What the scores of a DeCo-DETR are worth at its own thresholds. Empty for other models, which have none."""
    if type(predictor) is not DeCoDetrPredictor:
        return {}
    config = predictor.model.config
    return {"default_threshold": config.common_threshold, "scores": before_and_after(analysis, config)}


def main(argv: list[str] | None = None) -> int:
    """`decodetr eval` with these words, or those of this process. Returns the exit code."""
    return run_command("eval", argv)
