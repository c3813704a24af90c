"""AP when the semantic stream reads only the most certain queries of each picture, against AP with all of them.

    python benchmarks/certain_queries.py --model scenes-decodetr --data DIR

"rule" is what a forward does on a CPU when nobody asks otherwise, "above T" what `predict --threshold T` needs.
"read" is how many queries of a picture are read: mean, and the most of any.
"""

import argparse
from contextlib import contextmanager
from unittest import mock

from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import write_json


@contextmanager
def reading(options, counts):
    """Inside, evaluation calls the model with `options`, and `counts` gets the number of queries read."""
    from decodetr.evaluation import predictors
    from decodetr.modeling_decodetr import modeling_decodetr

    forward, choose = predictors.forward, modeling_decodetr.certain_queries

    def called(model, batch, **_):
        return forward(model, batch, **options)

    def chosen(objectness_logits, *args):
        found = choose(objectness_logits, *args)
        images, queries = objectness_logits.shape
        counts.extend([queries] * images if found is None else found.kept.sum(1).tolist())
        return found

    with (
        mock.patch.object(predictors, "forward", called),
        mock.patch.object(modeling_decodetr, "certain_queries", chosen),
    ):
        yield


def measure(model, data, rows) -> dict:
    """{title: {"AP", "AP50", ..., "read", "most"}} of {title: options of the model's forward}."""
    from decodetr.eval import EvalOptions, evaluate

    found = {}
    for title, options in rows.items():
        counts = []
        with reading(options, counts):
            metrics = evaluate(EvalOptions(model=model, data=data))["metrics"]
        kept = {name: metrics[name] for name in ("AP", "AP50", "AP_novel", "AP_base") if name in metrics}
        found[title] = {**kept, "read": sum(counts) / len(counts), "most": max(counts)}
    return found


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    arguments.add_argument("--model", default="scenes-decodetr", help="folder, Hub name or shipped name")
    arguments.add_argument("--data", required=True, help="annotated pictures")
    arguments.add_argument("--counts", type=int, nargs="*", default=[8, 16, 24, 32, 48], help="numbers of queries")
    arguments.add_argument("--scores", type=float, nargs="*", default=[0.05, 0.3], help="least scores")
    arguments.add_argument("--output", help="write all numbers to this JSON file")
    return extend_lists(arguments)


def main(argv=None) -> int:
    """Measure and print."""
    args = parser().parse_args(argv)
    from harness import say, table

    rows = {"all": {"min_score": 0.0}, "rule": {}}
    rows |= {str(count): {"semantic_queries": count} for count in args.counts}
    rows |= {f"above {score:g}": {"min_score": score} for score in args.scores}
    found = measure(args.model, args.data, rows)
    metrics = [name for name in found["all"] if name not in ("read", "most")]
    say(
        table(
            ["queries", *metrics, "read", "most"],
            [
                [title, *(f"{row[name]:.2f}" for name in metrics), f"{row['read']:.1f}", row["most"]]
                for title, row in found.items()
            ],
        )
    )
    if args.output:
        write_json(args.output, {"model": args.model, "data": args.data, "rows": found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
