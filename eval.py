"""The evaluation loop and the command `decodetr eval`.

Reading order: `OutputEvaluator` (both metrics of a model's outputs, over `processing/detection_evaluator.py`),
`evaluate_model`, the report, the command. Heavy imports are inside the functions, so that `decodetr eval --help` is
instant.
"""

import json
import math
import sys
from pathlib import Path

from decodetr.processing.coco_matching import ENGINES
from decodetr.processing.detection_evaluator import DetectionEvaluator


class OutputEvaluator:
    """Two evaluations of a model's outputs: of the names, and of localization alone (one box per query, ranked by its
    objectness, whatever its name). `DetectionEvaluator` says what the arguments are; `evaluate_model` and the trainer
    share this class."""

    def __init__(self, coco, names, novel_names, image_processor, *, allow_missing_names=False, **options):
        self.image_processor, self.max_detections = image_processor, options["max_detections"]
        self.by_name = DetectionEvaluator(coco, names, novel_names, allow_missing_names=allow_missing_names, **options)
        self.localization = DetectionEvaluator(coco, names, novel_names, class_agnostic=True, **options)
        self._seen = set()

    def update(self, outputs, labels):
        """Add a batch: outputs of the model and labels with `image_id` and `orig_size`. An image that was there
        before is
        dropped: samplers of several processes pad the last batch."""
        from types import SimpleNamespace

        ids = [int(label["image_id"]) for label in labels]
        fresh = [i for i, image_id in enumerate(ids) if image_id not in self._seen]
        self._seen.update(ids)
        sizes = [tuple(label["orig_size"].tolist()) for label in labels]
        rankings = ((self.by_name, outputs.logits), (self.localization, outputs.objectness_logits[..., None]))
        for evaluator, logits in rankings:
            detections = self.image_processor.post_process_object_detection(
                SimpleNamespace(logits=logits, pred_boxes=outputs.pred_boxes),
                threshold=0.0,
                target_sizes=sizes,
                top_k=self.max_detections,
            )
            evaluator.update([ids[i] for i in fresh], [detections[i] for i in fresh])

    def merge(self, gather):
        """Take in the other processes' detections; `gather` joins a list over processes (accelerate's
        gather_object)."""
        for evaluator in (self.by_name, self.localization):
            evaluator.merge([gather(evaluator.state())])

    def compute(self, per_name=False):
        """Metrics of `DetectionEvaluator.compute`, and localization as "class_agnostic_AP50",
        "class_agnostic_AR<max_detections>", "class_agnostic_AR50" (with novel names also "_novel" and "_base")."""
        metrics = self.by_name.compute(per_name=per_name)
        for key, value in self.localization.compute().items():
            if key == "AP50" or key.startswith("AR"):
                metrics[f"class_agnostic_{key}"] = value
        return metrics


def evaluate_model(
    model,
    image_processor,
    coco,
    names,
    novel_names=None,
    batch_size=8,
    max_detections=100,
    device=None,
    progress=True,
    *,
    base_names=None,
    allow_missing_names=False,
    engine=ENGINES[0],
    num_workers=0,
):
    """Run a DeCo-DETR over an annotated set and return its metrics (one process).

    Args:
        model: DeCoDetrForObjectDetection; the modes (train or eval) of its modules are restored.
        image_processor: its image processor.
        coco: `processing.coco.CocoAnnotations`.
        names: the model's vocabulary in the order of its labels.
        device: where to run; by default where the model is. The model is moved there.
        progress: a progress bar on stderr.
        novel_names, base_names, max_detections, allow_missing_names, engine: see `DetectionEvaluator`.

    Returns:
        The metrics of `OutputEvaluator.compute(per_name=True)`, in percent, NaN where there is no ground truth.
    """
    import torch
    from torch.utils.data import DataLoader
    from tqdm.auto import tqdm

    from decodetr.processing.detection_dataset import DetectionDataset, detection_collate

    options = {"max_detections": max_detections, "base_names": base_names, "engine": engine}
    evaluator = OutputEvaluator(
        coco, names, novel_names, image_processor, allow_missing_names=allow_missing_names, **options
    )
    # Names that the vocabulary lacks were settled above; here labels are not used at all.
    dataset = DetectionDataset(coco, image_processor, names, skip_unknown_names=True)
    loader = DataLoader(dataset, batch_size, collate_fn=detection_collate, num_workers=num_workers)
    model.to(device or model.device)
    modes = {module: module.training for module in model.modules()}  # a frozen detector stays in eval in training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in tqdm(loader, desc="eval", unit="batch", disable=not progress):
                labels = batch.pop("labels")
                pixels = batch.pop("pixel_values").to(model.device, model.dtype)
                evaluator.update(
                    model(pixels, **{key: value.to(model.device) for key, value in batch.items()}), labels
                )
    finally:
        for module, training in modes.items():
            module.training = training
    return evaluator.compute(per_name=True)


def read_split(path):
    """(base names, novel names) of a file {"base": {"<category id>": "name"}, "novel": {...}}."""
    try:
        split = json.loads(Path(path).read_text(encoding="utf-8"))
        base, novel = (list(split[group].values()) for group in ("base", "novel"))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        expected = '{"base": {"1": "person", ...}, "novel": {"5": "airplane", ...}}'
        raise ValueError(f"{path}: expected {expected}, got {error!r}") from error
    if both := set(base) & set(novel):
        raise ValueError(f"{path}: {sorted(both)[:5]} are both base and novel; a name must be one of them")
    return base, novel


def markdown_report(report):
    """The report as Markdown: protocol facts, then metrics (per-name results are in the JSON only)."""
    lines = ["| protocol | |", "|---|---|"]
    lines += [f"| {key.replace('_', ' ')} | {value} |" for key, value in report["protocol"].items()]
    lines += ["", "| metric | % |", "|---|---:|"]
    lines += [f"| {key} | {'-' if value is None else f'{value:.1f}'} |" for key, value in report["metrics"].items()]
    return "\n".join(lines) + "\n"


def add_arguments(parser):
    """Arguments of `decodetr eval`."""
    parser.add_argument("--model", required=True, help="folder or Hub name of a DeCo-DETR")
    parser.add_argument("--annotations", required=True, help="COCO annotation file")
    parser.add_argument("--images", help="image folder; default: beside annotations/, named like the annotation file")
    parser.add_argument(
        "--names-split", help="names.json with base and novel names: adds AP of each, leaves out the rest"
    )
    parser.add_argument("--vocabulary", help="folder of a Vocabulary that replaces the stored one")
    parser.add_argument("--allow-missing-names", action="store_true", help="names the vocabulary lacks count as AP 0")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-detections", type=int, default=100, help="per image, over all names (default: 100)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read images (default: 0, this one)")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (default: auto)")
    parser.add_argument("--output", help="write the report with per-name results as JSON here")


def run(args):
    """Evaluate, print a Markdown report on stdout, write JSON. Returns the exit code."""
    from importlib.metadata import version

    from decodetr.processing.coco import CocoAnnotations
    from decodetr.processing.predict import load_detector

    base, novel = read_split(args.names_split) if args.names_split else (None, None)
    coco = CocoAnnotations.load(args.annotations, args.images)
    model, image_processor = load_detector(args.model, vocabulary=args.vocabulary, device=args.device)
    names = model.vocabulary.names
    metrics = evaluate_model(
        model,
        image_processor,
        coco,
        names,
        novel,
        args.batch_size,
        args.max_detections,
        base_names=base,
        allow_missing_names=args.allow_missing_names,
        engine=args.engine,
        num_workers=args.num_workers,
    )
    per_name = metrics.pop("per_name")
    missing = [name for name in per_name if per_name[name]["support"] and name not in set(names)]
    packages = ("decodetr", "transformers", "torch", args.engine)
    protocol = {
        "model": args.model,
        "vocabulary": args.vocabulary or "stored in the model",
        "vocabulary_size": len(names),
        "annotations_file": str(coco.file),
        "images": len(coco.images),
        "annotations": sum(len(rows) for rows in coco.annotations_by_image.values()),
        "evaluated_names": sum(entry["support"] > 0 for entry in per_name.values()),
        "names_split": args.names_split or "none",
        "missing_names": ", ".join(missing) or "none",
        "max_detections": args.max_detections,
        "score_threshold": 0,
        "device_and_dtype": f"{model.device}, {str(model.dtype).removeprefix('torch.')}",
        "versions": ", ".join(f"{package} {version(package)}" for package in packages),
    }

    def finite(entry):  # NaN is no JSON
        return {key: None if math.isnan(value) else value for key, value in entry.items()}

    per_name = {name: finite(entry) for name, entry in per_name.items()}
    report = {"protocol": protocol, "metrics": finite(metrics), "per_name": per_name}
    sys.stdout.write(markdown_report(report))
    if args.output:
        path = Path(args.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def main(argv=None):
    """`decodetr eval`, for `python eval.py` and `python -m decodetr.eval`. Returns the exit code."""
    from decodetr.__main__ import main as decodetr_main

    return decodetr_main(["eval", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    from decodetr.eval import main  # noqa: F811 (the importable module, as in train.py)

    sys.exit(main())
