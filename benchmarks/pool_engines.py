"""Stages of a pool by who makes the shards: one process, two processes of torchrun, one and two workers of Ray.

    python benchmarks/pool_engines.py                                       # the shipped teachers, drawn scenes
    python benchmarks/pool_engines.py --images 1024 --shard-groups 4 --rounds 3

Every engine runs the commands of the stages, each in its own folder, in turn. Seconds are of whole commands: imports,
the start of a cluster on this machine and loading models are in them. "Between shards" is the time from the first
finished shard to the last, which they are not in. Ray's workers have the priority of other processes here; by default
it gives them a lower one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import write_json

STAGES = ("proposals", "captions", "embeddings")
_TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# name: (words before `-m decodetr`, words after a stage's)
ENGINES = {
    "one process": ([], []),
    "two processes": (_TORCHRUN, []),
    "ray, one worker": ([], ["--engine", "ray", "--workers", "1"]),
    "ray, two workers": ([], ["--engine", "ray", "--workers", "2"]),
}


def commands(args, data, output):
    """{stage: words after `decodetr`}."""
    common = ["--data", str(data), "--output", str(output), "--batch-size", str(args.batch_size)]
    common += ["--device", args.device]
    return {
        "proposals": ["pool", "proposals", "--detector", args.detector, *common]
        + ["--shard-groups", str(args.shard_groups)],
        "captions": ["pool", "captions", "--captioner", args.captioner, *common],
        "embeddings": ["pool", "embeddings", "--clip", args.clip, *common],
    }


def run(words, before, args):
    """Seconds of a command in new processes."""
    variables = {"OMP_NUM_THREADS": str(args.threads), "RAY_worker_niceness": "0"}
    started = time.perf_counter()
    command = [sys.executable, *before, "-m", "decodetr", *words]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def between_shards(folder):
    """Seconds from the first finished shard of a stage to the last, and how many shards that are."""
    times = sorted(file.stat().st_mtime for file in folder.glob("*.parquet"))
    return times[-1] - times[0], len(times) - 1


def content(folder):
    """{file: bytes} of all that the stages wrote."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def measure(folder, args):
    """{"engines": {engine: {stage: {"seconds": [...], "between": [...], "rows", "shards"}}}, "equal": {engine:
    bool}}."""
    from decodetr.pool_builder.shards import StageFolder
    from decodetr.scenes import SceneSettings, write_scenes

    sizes = SceneSettings(train=args.images, val=1, test=1, image_size=args.image_size)
    data = write_scenes(folder / "scenes", sizes)
    found = {name: {stage: {"seconds": [], "between": []} for stage in STAGES} for name in args.engines}
    first, equal = None, {}
    for number in range(args.rounds):
        for name in args.engines:
            output = folder / f"{number}-{name.replace(' ', '-')}"
            before, after = ENGINES[name]
            for stage, words in commands(args, data, output).items():
                row = found[name][stage]
                row["seconds"].append(run([*words, *after], before, args))
                seconds, row["shards"] = between_shards(output / stage)
                row["between"].append(seconds)
                row["rows"] = StageFolder.open(output / stage, stage).totals["rows"]
            made = content(output)
            first = first or made
            equal[name] = equal.get(name, True) and made == first
    return {"engines": found, "equal": equal}


def report(result):
    """The lines of the tables."""
    from harness import table

    base = next(iter(result["engines"]))
    header = ["stage", "engine", "seconds", f"more than {base}", "ratio", "rows a second", "between shards, s"]
    header.append("equal")
    rows = []
    for stage in STAGES:
        for name, found in result["engines"].items():
            seconds = [row[stage]["seconds"] for row in (found, result["engines"][base])]
            mean = statistics.median(seconds[0])
            more = statistics.median(mine - other for mine, other in zip(*seconds))
            ratio = statistics.median(mine / other for mine, other in zip(*seconds))
            between, shards = statistics.median(found[stage]["between"]), found[stage]["shards"]
            cells = [f"{mean:.1f}", f"{more:.1f} s", f"{ratio:.2f}", f"{found[stage]['rows'] / mean:.1f}"]
            rows.append([stage, name, *cells, f"{between:.2f} for {shards}", str(result["equal"][name]).lower()])
    return table(header, rows)


def parser():
    """Arguments of the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--captioner", default="scenes-llava", help="folder, Hub or shipped name")
    add("--clip", default="scenes-clip", help="folder, Hub or shipped name")
    add("--detector", default="scenes-decodetr", help="who proposes")
    add(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=list(ENGINES),
        help="the first is the base",
    )
    add("--images", type=int, default=192, help="drawn scenes")
    add("--image-size", type=int, default=160, help="their side in pixels")
    add("--batch-size", type=int, default=8)
    add("--shard-groups", type=int, default=2)
    add("--rounds", type=int, default=1, help="turns of every engine")
    add("--threads", type=int, default=1, help="of torch, and CPUs of a worker")
    add("--device", default="cpu")
    add("--output", help="write all numbers to this JSON file")
    return extend_lists(arguments)


def main(argv=None) -> int:
    """Measure and report."""
    args = parser().parse_args(argv)
    from harness import say, table

    from decodetr.speed.machine import environment

    names = "captioner clip detector images image_size batch_size shard_groups rounds threads".split()
    machine = environment(args.device, **{name: getattr(args, name) for name in names})
    say(table(["setting", "value"], machine.items()))
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args)
    say(report(result))
    if args.output:
        write_json(args.output, {"environment": machine, **result})
    return 0 if all(result["equal"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
