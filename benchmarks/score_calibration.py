"""What calibration reaches: several draws of calibration images, vocabularies of all names, of twelve and of one.

    python benchmarks/score_calibration.py --model MODEL --data DIR              # 3 draws of 160 training images
    python benchmarks/score_calibration.py --model MODEL --data DIR --calibrate-on val --splits test

DIR has annotations/train.json, val.json, ... and names.json. Small vocabularies divide the whole one: every image is
asked for each of them in turn, also where nothing of it is there, and what is shown of all is counted together.
`before` is the same scores without calibration at a threshold of 0.3.
"""

import argparse
import sys
from types import SimpleNamespace

from decodetr.utils.arguments import extend_lists

SIZES = {"all names": None, "12 names": 12, "one name": 1}


def outputs_of(model, image_processor, coco, batch_size=16):
    """What does not depend on names, of every image: (embeds, objectness, boxes), tensors with one row an image."""
    import torch

    from decodetr.annotations.coco import read_annotated
    from decodetr.evaluation.predictors import DeCoDetrPredictor

    predictor, parts = DeCoDetrPredictor(model, image_processor), []
    for start in range(0, len(coco), batch_size):
        pictures = [read_annotated(entry, coco.file) for entry in coco.images[start : start + batch_size]]
        found = predictor.forward([predictor.prepare(picture) for picture in pictures])
        parts.append((found.semantic_embeds, found.objectness_logits, found.pred_boxes))
    return [torch.cat(column) for column in zip(*parts)]


def detected(model, image_processor, coco, outputs, vocabulary):
    """A `DetectionEvaluator` that has seen the detections of stored outputs, not calibrated, with these names."""
    import torch

    from decodetr.evaluation import DetectionEvaluator
    from decodetr.modeling_decodetr.semantic_stream import fuse_scores

    model.set_vocabulary(vocabulary)
    embeds, objectness, boxes = outputs
    evaluator = DetectionEvaluator(
        coco.select([n for n in coco.names if n in set(vocabulary.names)]), vocabulary.names
    )
    for start in range(0, len(embeds), 32):
        rows, entries = slice(start, start + 32), coco.images[start : start + 32]
        with torch.inference_mode():
            names, _ = model.semantic_stream.name_log_probs(embeds[rows], model.tables())
        scored = SimpleNamespace(logits=fuse_scores(objectness[rows], names), pred_boxes=boxes[rows])
        sizes = [(entry["height"], entry["width"]) for entry in entries]
        results = image_processor.post_process_object_detection(scored, threshold=0.0, target_sizes=sizes)
        evaluator.update([entry["image_id"] for entry in entries], results)
    return evaluator


def collect(model, image_processor, coco, outputs, whole, size, novel):
    """Detections of vocabularies of `size` names that together are the whole one: dict of arrays "logit", "hit" and
    "novel", and "objects" {False: of base names, True: of novel ones}."""
    import numpy as np

    from decodetr.evaluation.analysis import Analysis
    from decodetr.evaluation.calibrate import logit

    order = np.random.default_rng(0).permutation(len(whole)).tolist()
    size = size or len(whole)
    columns, objects = {"logit": [], "hit": [], "novel": []}, {False: 0, True: 0}
    for start in range(0, len(whole), size):
        names = [whole.names[i] for i in sorted(order[start : start + size])]
        analysis = Analysis(detected(model, image_processor, coco, outputs, whole.select(names)))
        is_novel = np.array([name in novel for name in analysis.names], dtype=bool)
        counts = analysis.counts
        columns["logit"].append(logit(analysis.found["score"][counts]))
        columns["hit"].append(analysis.hit[counts])
        columns["novel"].append(is_novel[analysis.found["name"][counts]])
        for kind in objects:
            objects[kind] += int(analysis.objects[is_novel == kind].sum())
    return {key: np.concatenate(parts) for key, parts in columns.items()} | {"objects": objects}


def values(table, config):
    """(precision, recall) of all, base and novel names in percent, calibration error, and that of scores above 0.1."""
    import numpy as np
    from scipy.special import expit

    from decodetr.evaluation.analysis import SHOWN, calibration_bins, calibration_error

    scores, row = expit(config.calibrated(table["logit"])), []
    shown = scores > config.common_threshold
    for kinds in ((False, True), (False,), (True,)):
        mine, objects = np.isin(table["novel"], kinds), sum(table["objects"][kind] for kind in kinds)
        right = (table["hit"] & shown & mine).sum()
        row += [100 * right / max((shown & mine).sum(), 1), 100 * right / max(objects, 1)]
    bins = calibration_bins(scores, table["hit"])
    return [*row, calibration_error(bins), calibration_error(bins, SHOWN)]


def line(words, rows):
    """A row of the table: mean, and spread over draws where there are several."""
    import numpy as np

    mean, deviation = np.mean(rows, axis=0), np.std(rows, axis=0)
    pairs = [f"{mean[i]:.1f} / {mean[i + 1]:.1f}" for i in (0, 2, 4)]
    if len(rows) > 1:
        pairs = [f"{pair} (+- {deviation[i]:.1f} / {deviation[i + 1]:.1f})" for pair, i in zip(pairs, (0, 2, 4))]
    return [*words, *pairs, *(f"{mean[i]:.3f}" for i in (6, 7))]


def run(args):
    """The lines of the table, header first."""
    import torch

    from decodetr import DeCoDetrConfig
    from decodetr.annotations.names_split import read_split
    from decodetr.evaluation.calibrate import fit_scores, set_calibration
    from decodetr.inference.loading import load_model
    from decodetr.processing import CocoAnnotations

    base, novel = read_split(f"{args.data}/names.json")
    model, processor = load_model(args.model)
    whole, configs = model.vocabulary, []
    coco = CocoAnnotations.load(f"{args.data}/annotations/{args.calibrate_on}.json")
    for draw in range(args.draws):
        order = torch.randperm(len(coco), generator=torch.Generator().manual_seed(draw)).tolist()
        some = coco.select_images([coco.images[i]["image_id"] for i in order[: args.images]]).select(base)
        configs.append(DeCoDetrConfig())
        evaluator = detected(model, processor, some, outputs_of(model, processor, some), whole)
        set_calibration(configs[-1], {**fit_scores(evaluator), "name_thresholds": None}, {"data": args.data})
    rows = [["split", "vocabulary", "", "all, precision / recall", "base", "novel", "error", "above 0.1"]]
    for split in args.splits:
        coco = CocoAnnotations.load(f"{args.data}/annotations/{split}.json")
        outputs = outputs_of(model, processor, coco)
        for words, size in SIZES.items():
            table = collect(model, processor, coco, outputs, whole, size, set(novel))
            rows.append(line([split, words, "before"], [values(table, DeCoDetrConfig())]))
            rows.append(line([split, words, "after"], [values(table, config) for config in configs]))
    return rows


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--calibrate-on", default="train", help="split of the calibration images (default: train)")
    arguments.add_argument("--images", type=int, default=160, help="calibration images of a draw (default: 160)")
    arguments.add_argument("--draws", type=int, default=3)
    arguments.add_argument("--splits", nargs="+", default=["val"], help="that are measured (default: val)")
    return extend_lists(arguments)


def main(argv=None):
    """Print the table."""
    args = parser().parse_args(argv)
    from decodetr.utils.tables import markdown_table

    header, *rows = run(args)
    sys.stdout.write(markdown_table(header, rows, left=3))


if __name__ == "__main__":
    main()
