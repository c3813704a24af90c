"""What the caption and embedding stages add to the bare models: reading, cropping, preprocessing, decoding, writing.

    python benchmarks/pool_throughput.py                              # the shipped teachers, drawn scenes
    python benchmarks/pool_throughput.py --captioner llava-hf/llava-1.5-7b-hf --clip openai/clip-vit-large-patch14 \
        --device cuda

A stage and the bare model take turns on the same crops in the same batches: the bare captioner gets what the processor
made of them and runs `generate`, the bare CLIP runs its two towers. The share is bare time / stage time.
"""

import argparse
import tempfile
import time
from pathlib import Path

from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import write_json


def prepare(folder, args):
    """(annotations, settings) of a few scenes, and their proposals in `folder`."""
    from decodetr.pool_builder.proposers import proposer_model
    from decodetr.pool_builder.settings import PoolSettings
    from decodetr.pool_builder.stages import propose_regions
    from decodetr.processing import CocoAnnotations
    from decodetr.scenes import SceneSettings, write_scenes
    from decodetr.utils.shipped import resolve

    sizes = SceneSettings(train=args.images, val=1, test=1, image_size=args.image_size)
    data = write_scenes(folder / "scenes", sizes)
    coco = CocoAnnotations.load(data / "annotations" / "train.json")
    settings = PoolSettings(batch_size=args.batch_size, max_new_tokens=args.max_new_tokens)
    proposer = proposer_model(resolve(args.detector), args.device)
    propose_regions(coco, folder / "warm", settings, proposer)
    return coco, settings


class Captions:
    """The caption stage, and `generate` alone."""

    def __init__(self, args, settings):
        from decodetr.pool_builder.build import captioner_model
        from decodetr.pool_builder.stages import caption_regions
        from decodetr.utils.shipped import resolve

        self.identity = captioner_model(resolve(args.captioner), settings, args.device)
        self.model, self.run_stage, self.batches = self.identity.load(), caption_regions, []

    def record(self):
        """Keep what `generate` is called with from now on. Returns a function that stops it."""
        generate = self.model.model.generate

        def kept(**inputs):
            self.batches.append(inputs)
            return generate(**inputs)

        self.model.model.generate = kept
        return lambda: delattr(self.model.model, "generate")

    def bare(self):
        import torch

        with torch.inference_mode():
            for inputs in self.batches:
                self.model.model.generate(**inputs)


class Embeddings:
    """The embedding stage, and CLIP's towers alone."""

    def __init__(self, args, settings):
        from decodetr.pool_builder.build import clip_model
        from decodetr.pool_builder.stages import embed_regions
        from decodetr.utils.shipped import resolve

        self.identity = clip_model(resolve(args.clip), args.device)
        self.model, self.run_stage, self.batches = self.identity.load(), embed_regions, []

    def record(self):
        kept = {}
        for name in ("get_image_features", "get_text_features"):
            function = kept[name] = getattr(self.model.model, name)

            def called(function=function, **inputs):
                self.batches.append((function, inputs))
                return function(**inputs)

            setattr(self.model.model, name, called)
        return lambda: [delattr(self.model.model, name) for name in kept]

    def bare(self):
        import torch

        with torch.inference_mode():
            for function, inputs in self.batches:
                function(**inputs)


def measure(folder, args):
    """{stage: {"seconds", "share", "regions"}}."""
    from decodetr.pool_builder.lazy_model import Model
    from decodetr.pool_builder.shards import StageFolder
    from decodetr.speed.timing import in_turn, ratios, spread

    coco, settings = prepare(folder, args)
    result, made = {}, folder / "warm"
    for name, kind in (("captions", Captions), ("embeddings", Embeddings)):
        stage, turns = kind(args, settings), iter(range(10**6))
        loaded = Model(stage.identity.identity, lambda stage=stage: stage.model)

        def run(name=name, stage=stage, loaded=loaded, turns=turns, made=made):
            output = folder / f"{name}-{next(turns)}"
            output.mkdir()
            for before in ("proposals", "captions")[: 1 if name == "captions" else 2]:
                (output / before).symlink_to(made / before)
            stage.run_stage(coco, output, settings, loaded)
            return output

        stop = stage.record()
        done = run()
        stop()
        if name == "captions":
            (made / "captions").symlink_to(done / "captions")
        seconds = in_turn({"stage": run, "bare": stage.bare}, device=args.device, warmup=1, runs=args.runs)
        result[name] = {
            "seconds": {key: spread(values) for key, values in seconds.items()},
            "share": ratios(seconds, "bare", "stage"),
            "regions": StageFolder.open(made / "proposals", "proposals").totals["rows"],
        }
    return result


def parser():
    """Arguments of the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--captioner", default="scenes-llava", help="folder, Hub or shipped name")
    add("--clip", default="scenes-clip", help="folder, Hub or shipped name")
    add("--detector", default="scenes-decodetr", help="who proposes")
    add("--images", type=int, default=64, help="drawn scenes")
    add("--image-size", type=int, default=160, help="their side in pixels")
    add("--batch-size", type=int, default=32)
    add("--max-new-tokens", type=int, default=32)
    add("--runs", type=int, default=5, help="timed rounds")
    add("--device", default="cpu")
    add("--threads", type=int, help="of torch (default: its own choice)")
    add("--output", help="write all numbers to this JSON file")
    return extend_lists(arguments)


def main(argv=None) -> int:
    """Measure and report."""
    args = parser().parse_args(argv)
    import datasets
    import torch
    from harness import say, table

    from decodetr.speed.machine import environment
    from decodetr.speed.timing import show

    datasets.disable_progress_bars()
    if args.threads:
        torch.set_num_threads(args.threads)
    names = ("captioner", "clip", "images", "image_size", "batch_size", "runs")
    machine = environment(args.device, **{name: getattr(args, name) for name in names})
    say(table(["setting", "value"], machine.items()))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args)
    rows = [
        [name, found["regions"], show(found["seconds"]["stage"]), show(found["seconds"]["bare"]), show(found["share"])]
        for name, found in result.items()
    ]
    say(table(["stage", "regions", "stage, s", "bare model, s", "bare / stage"], rows))
    say(f"Measured in {time.perf_counter() - started:.0f} s.")
    if args.output:
        write_json(args.output, {"environment": machine, **result})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
