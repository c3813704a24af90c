"""Ablations: any row on any world, resumable, and the page that is written of what they reached.

    python benchmarks/ablate.py list
    decodetr scenes write scenes --train 1600 --val 400
    decodetr pool build --data scenes --detector scenes-decodetr --clip scenes-clip --captioner scenes-llava \
        --num-coarse 180 --num-fine 360 --output built
    python benchmarks/ablate.py run --data scenes --built built --work work --base-names 12 --rows pool residual
    python benchmarks/ablate.py run --photos DIR --work work --rows pool      # DIR of photo_world.py run
    python benchmarks/ablate.py cost --data scenes --built built --work work --base-names 12  # what each part takes
    python benchmarks/ablate.py write                                         # docs/ablations.md of all results

Results are one JSON file for each world and number of base names, in docs/ablations. Runs that are there are not
repeated; those of other data or settings are refused: give them another name with --world. The same command may be
started several times at once: each takes runs that no other one has begun.
"""

import argparse
import sys
from pathlib import Path

from ablations.rows import QUESTIONS, ROWS

from decodetr.utils.arguments import extend_lists

DOCS = Path(__file__).resolve().parents[1] / "docs"


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("command", choices=["list", "run", "cost", "write"], help="list rows, run some, time parts, or write the page")
    add("--results", type=Path, default=DOCS / "ablations", metavar="DIR", help="JSON files (docs/ablations)")
    add("--page", type=Path, default=DOCS / "ablations.md", metavar="FILE", help="write: docs/ablations.md")
    add = arguments.add_argument_group("run and cost").add_argument
    add("--work", type=Path, metavar="DIR", help="folder of cached features, which all rows of a world share")
    add("--data", metavar="DIR", help="of `decodetr scenes write`, or other data with names.json")
    add("--built", metavar="DIR", help="of `decodetr pool build`")
    add("--photos", type=Path, metavar="DIR", help="instead: of `photo_world.py run`, which has all that is needed")
    add("--world", default=None, metavar="NAME", help="of the results (scenes, photos); another size needs another")
    add("--model", default="scenes-decodetr", metavar="NAME", help="its localization stream (scenes-decodetr)")
    add("--vocabulary", default="scenes-vocabulary", metavar="NAME", help="of all names (scenes-vocabulary)")
    add("--clip", default="scenes-clip", metavar="NAME", help="the teacher (scenes-clip)")
    add("--base-names", type=int, nargs="+", metavar="N", help="base names that keep their boxes; several: each")
    add("--train-images", type=int, default=800, metavar="N", help="the first of them (800)")
    add("--queries", type=int, default=8, metavar="N", help="of an image that a step reads (8); 0: all")
    add("--views", type=int, default=1, metavar="N", help="of each image that are cached (1); others are augmented")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto: a GPU if there is one")
    add("--threads", type=int, default=1, metavar="N", help="of torch (1)")
    add = arguments.add_argument_group("run alone").add_argument
    add("--rows", nargs="+", default=["pool"], metavar="NAME", help="rows, or questions for all of theirs (pool)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="of the semantic stream (0 1 2)")
    add("--steps", type=int, default=200, metavar="N", help="of a run (200)")
    add("--val-images", type=int, default=150, metavar="N", help="the first of them (150)")
    add(
        "--captioners",
        nargs="+",
        default=[],
        metavar="WORD=BUILT",
        help="of rows with another captioner: its pool build",
    )
    add("--from-scratch", action="store_true", help="joint rows begin with a detector of random weights")
    add = arguments.add_argument_group("cost alone").add_argument
    add("--rounds", type=int, default=15, metavar="N", help="timed ones (15)")
    return extend_lists(arguments)


def rows_of(words):
    """Keys of ROWS, in the order of the words: rows, and those of questions."""
    rows = []
    for word in words:
        if word not in ROWS and word not in QUESTIONS:
            raise ValueError(f"--rows {word}: expected a row or a question of `ablate.py list`")
        rows += QUESTIONS[word].rows if word in QUESTIONS else [word]
    return list(dict.fromkeys(rows))


def listed():
    """The rows with the questions that they answer."""
    lines = []
    for key, question in QUESTIONS.items():
        lines += ["", f"{key}: {question.title}"]
        lines += [f"    {row:20} {ROWS[row].words}" for row in question.rows]
    return "\n".join(lines[1:])


def pair_of(words):
    """A word and a folder, of WORD=BUILT."""
    word, equals, folder = words.partition("=")
    if not (word and equals and folder):
        raise ValueError(f"--captioners {words}: expected WORD=BUILT")
    return word, folder


def worlds(args):
    """The worlds that the arguments name, one for each number of base names."""
    from ablations.runs import World

    if bool(args.photos) == bool(args.data and args.built):
        raise ValueError("give --data and --built, or --photos")
    if args.photos:
        chain = args.photos / "chain"
        places = {"data": args.photos / "world", "built": chain / "built", "model": chain / "boxes"}
        places |= {"vocabulary": chain / "names", "clip": args.photos / "teachers" / "photo-clip"}
    else:
        places = {name: getattr(args, name) for name in ("data", "built", "model", "vocabulary", "clip")}
    sizes = {name: getattr(args, name) for name in ("train_images", "val_images", "steps")}
    sizes |= {"queries": args.queries or None, "name": args.world or ("photos" if args.photos else "scenes")}
    sizes["captioners"] = tuple(pair_of(pair) for pair in args.captioners)
    sizes |= {"from_scratch": args.from_scratch, "views": args.views, "device": args.device}
    places = {name: str(place) for name, place in places.items()}
    return [World(base_names=count, **places, **sizes) for count in args.base_names or [None]]


def main(argv=None) -> int:
    """List, run, time or write. Returns the exit status."""
    args = parser().parse_args(argv)
    from harness import say

    try:
        if args.command == "list":
            say(listed())
        elif args.command == "write":
            from ablations.page import write_page

            write_page(args.results, args.page)
        else:
            _run(args, say)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"ablate.py: error: {error}\n")
        return 1
    return 0


def _run(args, say):
    rows, places = rows_of(args.rows), worlds(args)
    if args.work is None:
        raise ValueError(f"{args.command} needs --work, a folder for cached features")
    if args.from_scratch and (apart := [row for row in rows if not ROWS[row].joint]):
        raise ValueError(f"--from-scratch: {apart[0]} trains the semantic stream alone; give rows of the ladder")
    if args.views < 1:
        raise ValueError(f"--views must be at least 1, got {args.views}")
    if args.views > 1 and (joint := [row for row in rows if ROWS[row].joint]):
        raise ValueError(f"--views: {joint[0]} reads the images and no cached features; leave it out")
    import torch
    from ablations.runs import run_costs, run_rows

    torch.set_num_threads(args.threads)
    if args.command == "cost":
        if len(places) != 1:
            raise ValueError(f"cost takes one --base-names, got {args.base_names}")
        run_costs(places[0], args.results, args.work, args.rounds, say)
    else:
        run_rows(places, rows, args.seeds, args.results, args.work, say)


if __name__ == "__main__":
    sys.exit(main())
