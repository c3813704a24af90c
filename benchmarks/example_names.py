"""Names that stand for example images, against the same names as words: AP50 of a detector that scores with them.

    decodetr scenes write DIR/scenes --train 1 --val 60 --test 1
    decodetr scenes write DIR/examples --seed 1 --train 1 --val 600 --test 1
    python benchmarks/example_names.py --data DIR/scenes --examples DIR/examples

Examples are annotated boxes of other pictures, cut out. "as they are" puts CLIP's embeddings of them where the
embeddings of names are. "moved by the means" puts them where a text lies, by the means that the pool has measured, and
"moved" half-way on to what they look up in the pool (`Vocabulary.from_images`). All names of the data set compete.
Prints a row for each vocabulary (docs/inference.md).
"""

import argparse

from decodetr.utils.arguments import extend_lists


def vocabularies(model, examples, clip, counts, draws):
    """{(words, k): [Vocabulary, one for each draw of k examples]} of the model's own names, and of them as examples.

    Args:
        examples: {name: crops}. counts (list of int): k. draws (int).
    """
    import random

    from decodetr import Vocabulary
    from decodetr.modeling_decodetr.embedding_space import as_texts
    from decodetr.modeling_decodetr.image_encoder import load_image_model
    from decodetr.utils.shipped import resolve

    image_model, image_processor = load_image_model(resolve(clip))
    made = {("words", 0): [model.vocabulary]}
    for k in counts:
        for draw in range(draws):
            some = {name: random.Random(f"{draw} {name}").sample(crops, k) for name, crops in examples.items()}
            plain, moved = (
                Vocabulary.from_images(some, image_model, pool, image_processor=image_processor)
                for pool in (None, model.prototype_pool)
            )
            means = as_texts(plain.embeddings, model.prototype_pool.info["space"])
            by_means = Vocabulary(plain.names, means, plain.info)
            for words, names in (("as they are", plain), ("moved by the means", by_means), ("moved", moved)):
                made.setdefault((words, k), []).append(names)
    return made


def figures(model, processor, coco, vocabulary, novel, own):
    """[AP50 of base names, of novel names, recall at the model's threshold in %, median score of the detection that
    found an object, median cosine to the embedding of the words], the last one of centred rows."""
    import numpy as np
    import torch

    from decodetr.evaluation.analysis import Analysis
    from decodetr.evaluation.loop import run_predictor
    from decodetr.evaluation.output_evaluator import OutputEvaluator, rules_of
    from decodetr.evaluation.predictors import DeCoDetrPredictor
    from decodetr.modeling_decodetr.embedding_space import centred, mean_of

    model.set_vocabulary(vocabulary)
    rules = rules_of(coco)
    base = [name for name in coco.names if name not in novel]
    evaluator = OutputEvaluator(coco, vocabulary.names, novel, base_names=base, **rules)
    run_predictor(DeCoDetrPredictor(model, processor, rules["max_detections"]), coco, evaluator, progress=False)
    metrics, analysis = evaluator.compute(), Analysis(evaluator.by_name)
    found = analysis.matches["object"][analysis.hit]
    scores = np.zeros(len(analysis.truth["name"]))
    np.maximum.at(scores, found, analysis.found["score"][analysis.hit])
    recall = 100 * (scores > model.config.common_threshold).mean()
    space = model.prototype_pool.info["space"]
    pair = (vocabulary.embeddings, own.select(vocabulary.names).embeddings)
    rows = [centred(part, mean_of(space, "text_mean", part)) for part in pair]
    cosine = torch.median((rows[0] * rows[1]).sum(-1)).item()
    return [metrics["AP50_base"], metrics["AP50_novel"], recall, float(np.median(scores)), cosine]


def run(args):
    """The lines of the table, header first."""
    import numpy as np

    from decodetr.annotations.names_split import read_split
    from decodetr.annotations.sources import load_annotations
    from decodetr.inference.examples import examples_of_boxes
    from decodetr.inference.loading import load_model

    coco = load_annotations(args.data, "val")
    _, novel = read_split(f"{args.data}/names.json")
    model, processor = load_model(args.model, device=args.device)
    own = model.vocabulary
    examples = examples_of_boxes(load_annotations(args.examples, "val"))
    if few := [name for name in own.names if len(examples.get(name, ())) < max(args.counts)]:
        raise ValueError(f"{args.examples}: expected {max(args.counts)} examples of every name, fewer of {few[:3]}")
    examples = {name: examples[name] for name in own.names}
    rows = [["names by", "examples", "AP50 base", "AP50 novel", "recall, %", "score", "cosine to the words"]]
    for (words, k), made in vocabularies(model, examples, args.clip, args.counts, args.draws).items():
        values = np.array([figures(model, processor, coco, vocabulary, set(novel), own) for vocabulary in made])
        mean, spread = values.mean(0), values.std(0)
        digits = (1, 1, 1, 3, 3)
        cells = [f"{value:.{n}f}" for value, n in zip(mean, digits)]
        if len(made) > 1:
            cells = [f"{cell} +- {value:.{n}f}" for cell, value, n in zip(cells, spread, digits)]
        rows.append([words if words == "words" else f"examples, {words}", str(k) if k else "-", *cells])
    return rows


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", required=True, help="data set whose validation images are measured")
    arguments.add_argument("--examples", required=True, help="data set whose validation images have the examples")
    arguments.add_argument("--model", default="scenes-decodetr", help="DeCo-DETR (default: scenes-decodetr)")
    arguments.add_argument("--clip", default="scenes-clip", help="CLIP of its tables (default: scenes-clip)")
    arguments.add_argument("--counts", type=int, nargs="+", default=[1, 3], help="examples of a name (default: 1 3)")
    arguments.add_argument("--draws", type=int, default=3, help="of the examples (default: 3)")
    arguments.add_argument("--device", default="cpu")
    return extend_lists(arguments)


def main(argv=None) -> int:
    """Measure and print."""
    args = parser().parse_args(argv)
    from harness import say
    from harness import table as text

    header, *rows = run(args)
    say(text(header, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
