"""Images a second of `decodetr predict` over a folder, beside the bare model, and what happens around the forward.

    python benchmarks/predict_volume.py --threads 2      # RT-DETRv2-R50 and DETR-R50; 80, 1,203 and 10,000 names
    python benchmarks/predict_volume.py --images photos/ --models rt_detr_v2 --names 80 --output volume.json

In turn, in one process: the forward of the model over tensors that are ready, in the batches that `predict` makes; and
the run of `predict`, from files to detections.json, without and with annotated pictures. Weights are random, which
changes no shape. So that pictures have boxes, the threshold is chosen to leave `--boxes` of them on average. Then
every stage by itself, one after the other, as a share of the forward.

Besides the clock, the time that the process has had on all cores is given. Where other programs run, or all cores are
busy, it alone tells what a stage costs.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest import mock

from decodetr.speed.catalog import OURS
from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import write_json

RUNS = {
    "bare": "bare model",
    "no pictures": "predict --no-pictures",
    "jpg": "predict --picture-format jpg",
    "png": "predict",
}
STAGES = {
    "decoding": "decoding JPEG",
    "resizing": "resizing",
    "to tensor": "to tensor, scaled and normalised",
    "forward": "forward",
    "post-processing": "post-processing",
    "writing": "journal and detections.json",
    "drawing": "drawing",
    "png": "PNG files",
    "jpg": "JPEG files instead",
}


def build(family, fields=None):
    """A model with random weights, in eval mode."""
    import torch

    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection

    torch.manual_seed(0)
    fields = {"detector_config": OURS[family].fields, "id2label": {0: "name 0"}} if fields is None else fields
    return DeCoDetrForObjectDetection(DeCoDetrConfig(**fields)).eval()


def give_names(model, count):
    """Random names."""
    import torch

    from decodetr import Vocabulary

    rows = torch.randn(count, model.config.embedding_dim, generator=torch.Generator().manual_seed(0))
    model.set_vocabulary(Vocabulary([f"name {i}" for i in range(count)], rows))


def draw_photos(folder, count, size):
    """JPEG files with about the bytes of photos: soft colours and noise."""
    import numpy as np
    from PIL import Image

    from decodetr.utils.files import committed

    rng = np.random.default_rng(0)
    with committed(folder) as staging:
        for number in range(count):
            small = Image.fromarray(rng.integers(0, 255, (15, 20, 3), dtype=np.uint8))
            soft = np.asarray(small.resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
            noisy = soft + rng.normal(0, 4, (size[1], size[0], 1)).astype(np.float32)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(staging / f"{number:05d}.jpg", quality=88)


def batches_of(files, batch_size):
    """The files in the batches that `predict` makes."""
    from decodetr.utils.images import in_batches, pixel_count

    return list(in_batches(files, batch_size, pixel_count))


def threshold_for(model, pixel_values, boxes):
    """The score that `boxes` detections of an image exceed on average, and the best score."""
    import torch

    with torch.inference_mode():
        scores = model(pixel_values).logits.flatten().sigmoid()
    best = scores.topk(min(boxes * len(pixel_values) + 1, scores.numel())).values
    return best[-1].item()


def predict(model, processor, files, folder, args, threshold, pictures):
    """`decodetr predict` of some files into a new folder, with pictures of a format or None."""
    from decodetr.inference.detection import detect
    from decodetr.inference.picture_run import PredictOptions, PredictRun
    from decodetr.inference.shown import least_score
    from decodetr.inference.sources import Sources

    with tempfile.TemporaryDirectory(dir=folder) as output:
        options = PredictOptions(
            output=output,
            model="random",
            threshold=threshold,
            batch_size=args.batch_size,
            pictures=pictures is not None,
            picture_format=pictures or "png",
        )
        sources = Sources(pictures=files, videos=[], addresses={})
        find_in = partial(detect, model, processor, min_score=least_score(model.config, threshold))
        run = PredictRun(options, model, sources, find_in, "random")
        with mock.patch("sys.stdout.write"), mock.patch("sys.stderr.write"):
            run.run()


def volume(model, processor, batches, folder, args, threshold):
    """(seconds, seconds of all cores) for all images, in turn, of each of `RUNS`."""
    import torch

    from decodetr.speed.timing import in_turn
    from decodetr.utils.images import open_image

    ready = [processor(images=[open_image(file) for file in files], return_tensors="pt") for files in batches]

    def bare():
        with torch.inference_mode():
            for batch in ready:
                model(**batch)

    files = [file for batch in batches for file in batch]
    run = partial(predict, model, processor, files, folder, args, threshold)
    functions = {
        "bare": bare,
        "no pictures": partial(run, None),
        "jpg": partial(run, "jpg"),
        "png": partial(run, "png"),
    }
    cores = {name: [] for name in functions}

    def counted(name):
        start = time.process_time()
        functions[name]()
        cores[name].append(time.process_time() - start)

    seconds = in_turn({name: partial(counted, name) for name in functions}, warmup=args.warmup, runs=args.runs)
    return seconds, {name: times[args.warmup :] for name, times in cores.items()}


def stages(model, processor, batches, folder, threshold):
    """Seconds of all cores of every stage for all images, each by itself."""
    import torch

    from decodetr.inference import picture_run
    from decodetr.inference.detection import forward
    from decodetr.inference.journal import Journal
    from decodetr.inference.result_files import Results, rows_of, write_results
    from decodetr.utils.drawing import draw_detections
    from decodetr.utils.files import committed
    from decodetr.utils.images import open_image

    spent = dict.fromkeys(STAGES, 0.0)

    def timed(name, function, *arguments, **options):
        start = time.process_time()
        result = function(*arguments, **options)
        spent[name] += time.process_time() - start
        return result

    resize = type(processor).resize
    watched = lambda self, *arguments, **options: timed("resizing", resize, self, *arguments, **options)  # noqa: E731
    names = model.vocabulary.names
    with tempfile.TemporaryDirectory(dir=folder) as output, torch.inference_mode():
        journal = Journal(output, {})
        for files in batches:
            images = [timed("decoding", open_image, file) for file in files]
            with mock.patch.object(type(processor), "resize", watched):
                batch = timed("to tensor", processor, images=images, return_tensors="pt")
            outputs = timed("forward", forward, model, batch)
            sizes = [image.size[::-1] for image in images]
            found = timed("post-processing", processor.post_process_object_detection, outputs, threshold, sizes)
            results = [
                {
                    "names": [names[i] for i in one["labels"]],
                    "scores": one["scores"].tolist(),
                    "boxes": one["boxes"].tolist(),
                }
                for one in found
            ]
            entries = [{"file": str(file), "detections": rows_of(one)} for file, one in zip(files, results)]
            timed("writing", journal.add, entries)
            for file, image, one in zip(files, images, results):
                drawn = timed("drawing", draw_detections, image, one["boxes"], one["names"], one["scores"])
                with committed(output) as staging:
                    for form in ("png", "jpg"):
                        options = picture_run.picture_options(form)
                        timed(form, drawn.save, staging / f"{file.stem}.{form}", **options)
        keys = [str(file) for files in batches for file in files]
        with committed(output) as staging:
            results = Results({}, {}, names, lambda: journal.read(keys))
            timed("writing", write_results, ["json"], Path(output), staging, results)
    spent["to tensor"] -= spent["resizing"]
    return spent


def report(results, args):
    """Print images a second and the shares of the stages."""
    from harness import say, table

    from decodetr.speed.timing import show

    say("\n## Images a second, in turn, median (quartiles)\n")
    rows = []
    for (title, names), result in results.items():
        row = [title, names, *(show(result["rates"][name]) for name in RUNS)]
        for kind in ("shares", "shares of cores"):
            row += [show(result[kind][name], digits=3) for name in list(RUNS)[1:]]
        rows.append(row)
    ratios = [f"{title} / bare{kind}" for kind in ("", ", time of cores") for title in list(RUNS.values())[1:]]
    say(table(["model", "names", *RUNS.values(), *ratios], rows))
    say("## Stages, each by itself: ms of all cores an image, and % of the forward\n")
    rows = []
    for name, title in STAGES.items():
        row = [title]
        for result in results.values():
            each, forward = (result["stages"][stage] / result["images"] for stage in (name, "forward"))
            row.append(f"{1e3 * each:.1f} ({100 * each / forward:.1f})")
        rows.append(row)
    say(table(["stage", *(f"{title}, {names} names" for title, names in results)], rows))


def run_options(add):
    """Arguments of how `predict` is measured, over a folder or a video."""
    add("--batch-size", type=int, default=4, help="images at once")
    add("--threads", type=int, default=2, help="CPU threads")
    add("--warmup", type=int, default=1, help="untimed rounds")
    add("--runs", type=int, default=3, help="timed rounds")
    add("--output", help="write all numbers to this JSON file")


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = arguments.add_argument
    add("--models", nargs="+", default=["rt_detr_v2", "detr"], choices=list(OURS), help="detectors")
    add("--names", type=int, nargs="+", default=[80, 1203, 10000], help="K, one run each")
    add("--images", help="folder of images (default: JPEG files are drawn)")
    add("--count", type=int, default=200, help="images that are drawn, or taken of the folder")
    add("--size", type=int, nargs=2, default=[1280, 960], help="width and height of those that are drawn")
    add("--boxes", type=int, default=10, help="detections of an image")
    run_options(add)
    return extend_lists(arguments, but=("--size",))


def main(argv=None) -> int:
    """Measure and report."""
    args = parser().parse_args(argv)
    import torch
    from harness import say, table

    from decodetr import DeCoDetrImageProcessor
    from decodetr.inference.picture_files import find_images
    from decodetr.speed.machine import environment
    from decodetr.speed.timing import ratios, spread
    from decodetr.utils.images import open_image

    torch.set_num_threads(args.threads)
    settings = {name: getattr(args, name) for name in ("count", "size", "boxes", "batch_size", "warmup", "runs")}
    machine = environment("cpu", **settings)
    say(table(["setting", "value"], machine.items()))
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.images is None:
            draw_photos(Path(folder) / "photos", args.count, tuple(args.size))
        files = find_images([args.images or Path(folder) / "photos"])[: args.count]
        batches = batches_of(files, args.batch_size)
        for family in args.models:
            model = build(family)
            processor = DeCoDetrImageProcessor(**(model.config.preprocessing or {}))
            first = processor(images=[open_image(file) for file in batches[0]], return_tensors="pt")
            for names in args.names:
                say(f"measuring {OURS[family].title}, {names} names ...")
                give_names(model, names)
                least = threshold_for(model, first["pixel_values"], args.boxes)
                seconds, cores = volume(model, processor, batches, folder, args, least)
                results[OURS[family].title, names] = {
                    "images": len(files),
                    "rates": {name: spread([len(files) / one for one in times]) for name, times in seconds.items()},
                    "shares": {name: ratios(seconds, "bare", name) for name in seconds},
                    "shares of cores": {name: ratios(cores, "bare", name) for name in cores},
                    "stages": stages(model, processor, batches, folder, least),
                }
    report(results, args)
    if args.output:
        models = {f"{title}, {names} names": result for (title, names), result in results.items()}
        write_json(args.output, {"environment": machine, "models": models})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
