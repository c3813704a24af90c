"""The paper's ladder (paper 4) in joint runs: a pool, then gradient isolation, then a rising lambda(t).

    decodetr scenes write scenes --train 1600 --val 300
    python benchmarks/ablation.py scenes --pool built/pool --regions built/regions --vocabulary scenes-vocabulary \
        --output ladder --config hub_cards/scenes-decodetr/training_config.yaml --steps 2500 -- --blur 0.8

Each row is `decodetr train --streams joint` from the same starting point. Words after -- are added to all. Finished
runs in the output folder are kept, so that an interrupted ladder goes on. Prints mean and, in brackets, lowest and
highest of the seeds.
"""

import argparse
import statistics
import sys
from pathlib import Path

from decodetr.utils.arguments import extend_lists
from decodetr.utils.documents import read_json
from decodetr.utils.files import write_text

# Words of each row. The config's fields are joined with those of --set after --.
_CONSTANT, _MIXED = ["--align_weight_shape", "constant"], ["--set", "gradient_isolation=false"]
ROWS = {
    "no pool": [*_CONSTANT, *_MIXED, "--set", "pool_use=none", "distill_weight=0"],
    "+ pool": [*_CONSTANT, *_MIXED],
    "+ isolation": _CONSTANT,
    "+ cosine lambda(t)": [],
    "cosine lambda(t), no isolation": _MIXED,
}
_COLUMNS = {
    "eval_AP50_novel": "novel",
    "eval_AP50_base": "base",
    "eval_AP50": "AP50",
    "eval_class_agnostic_AP50": "boxes alone",
}


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog="Words after -- are options of decodetr train."
    )
    add = arguments.add_argument
    add("data", type=Path, help="data with base and novel names and a validation part")
    for name, text in (("pool", "prototype pool"), ("regions", "its regions"), ("vocabulary", "all names")):
        add(f"--{name}", required=True, metavar="DIR", help=text)
    add("--output", type=Path, required=True, help="folder of the runs and of table.md")
    start = arguments.add_mutually_exclusive_group(required=True)
    start.add_argument("--config", metavar="FILE", help="start from random weights")
    start.add_argument("--model", metavar="NAME", help="start from the detector of a trained model")
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="only these")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    add("--steps", type=int, required=True, metavar="N", help="of each run")
    return extend_lists(arguments)


def command(args, row, seed, more):
    """Words of the run of a row and a seed."""
    options = {"--data": args.data, "--pool": args.pool, "--regions": args.regions, "--vocabulary": args.vocabulary}
    options |= {"--max_steps": args.steps, "--seed": seed, "--output_dir": _folder(args, row, seed)}
    options |= {"--streams": "joint", "--save_strategy": "no", "--report_to": "none"}
    start = ["--config", args.config] if args.config else ["--model", args.model, "--reset-semantics"]
    return ["train", *start, *(str(word) for pair in options.items() for word in pair), *more, *ROWS[row]]


def table_of(args):
    """Markdown: a line for each row of the ladder with finished runs."""
    from harness import table

    lines = []
    for row in args.rows:
        files = [_folder(args, row, seed) / "eval_results.json" for seed in args.seeds]
        runs = [read_json(file) for file in files if file.is_file()]
        lines.append([row, len(runs), *(_spread([run[key] for run in runs]) for key in _COLUMNS)])
    return table(["", "seeds", *_COLUMNS.values()], lines)


def _spread(values):
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values)
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _folder(args, row, seed):
    words = "".join(letter if letter.isalnum() else " " for letter in row).split()
    return args.output / f"{'-'.join(words)}-{seed}"


def main(argv=None) -> int:
    """Train what is not there yet, report."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    args = parser().parse_args(words[:cut])
    from harness import say

    from decodetr.cli import main as decodetr

    for seed in args.seeds:
        for row in args.rows:
            if (_folder(args, row, seed) / "eval_results.json").is_file():
                continue
            if status := decodetr(command(args, row, seed, words[cut + 1 :])):
                return status
            page = table_of(args)
            write_text(args.output / "table.md", page)
    say(table_of(args))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
