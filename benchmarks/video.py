"""Frames a second of `decodetr predict` on a video, and where the time goes.

    python benchmarks/video.py --threads 2                       # a drawn video, 1280 x 720, RT-DETRv2-R50
    python benchmarks/video.py --video film.mp4 --model scenes-decodetr --output video.json

In turn, in one process: the forward of the model over frames that are ready, in the batches that `predict` makes; then
`predict` of the video, as it is, with --track, with --no-pictures, and with every second frame alone. Without --video
drawn scenes move through the picture. A model that goes by its family has random weights, and the threshold is chosen
to leave `--boxes` detections of a frame. Then every stage by itself, one after the other, as a share of the forward,
in the time of all cores.
"""

import argparse
import itertools
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest import mock

from predict_volume import build, give_names, run_options, threshold_for

from decodetr.speed.catalog import OURS
from decodetr.utils.files import write_json

RUNS = {
    "predict": {},
    "--track": {"track": True},
    "--no-pictures": {"pictures": False},
    "--frame-stride 2": {"frame_stride": 2},
}
STAGES = ("decoding", "to tensor", "forward", "post-processing", "tracking", "drawing", "encoding")


def draw_video(file, frames, size, rate=25):
    """A video of drawn scenes side by side, which move to the left by four pixels a frame."""
    import av
    import numpy as np

    from decodetr.scenes.rendering import draw_scene
    from decodetr.utils.files import replacing

    width, height = size
    count = -(-(width + 4 * frames) // height)
    scenes = [np.asarray(draw_scene(0, "val", index, height).image) for index in range(count)]
    strip = np.concatenate(scenes, axis=1)
    with replacing(file) as staging, av.open(str(staging), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 8_000_000
        for number in range(frames):
            pixels = np.ascontiguousarray(strip[:, 4 * number : 4 * number + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return file


def read_batches(file, args):
    """Pictures of the frames of a video, in the batches that `predict` makes."""
    from decodetr.inference.videos import Video

    with Video(str(file)) as video:
        frames = video.read(1, args.frames)
        while batch := list(itertools.islice(frames, args.batch_size)):
            yield [frame.picture for frame in batch]


def predict(model, processor, file, folder, args, threshold, options):
    """`decodetr predict` of a video into a new folder."""
    from decodetr.inference.detection import detect
    from decodetr.inference.picture_run import PredictOptions, PredictRun
    from decodetr.inference.shown import FAINT, least_score
    from decodetr.inference.sources import Sources

    most = -(-args.frames // options.get("frame_stride", 1))
    with tempfile.TemporaryDirectory(dir=folder) as output:
        chosen = PredictOptions(
            output, "random", threshold=threshold, batch_size=args.batch_size, max_frames=most, **options
        )
        least = least_score(model.config, threshold) * (FAINT if chosen.track else 1)
        find_in = partial(detect, model, processor, min_score=least)
        run = PredictRun(chosen, model, Sources(videos=[str(file)]), find_in, "random")
        with mock.patch("sys.stdout.write"), mock.patch("sys.stderr.write"):
            if run.run():
                raise ValueError(f"{file}: {run.failed}")


def speeds(model, processor, file, folder, args, threshold):
    """Seconds for the whole video in turn: "bare model", and each of `RUNS`."""
    import torch

    from decodetr.speed.timing import in_turn

    ready = [processor(images=pictures, return_tensors="pt") for pictures in read_batches(file, args)]

    def bare():
        with torch.inference_mode():
            for batch in ready:
                model(**batch)

    run = partial(predict, model, processor, file, folder, args, threshold)
    functions = {"bare model": bare} | {name: partial(run, options) for name, options in RUNS.items()}
    return in_turn(functions, warmup=args.warmup, runs=args.runs)


def stages(model, processor, file, folder, args, threshold):
    """Seconds of all cores of every stage for the whole video, each by itself."""
    import torch

    from decodetr.inference.annotated_video import video_sink
    from decodetr.inference.detection import forward
    from decodetr.inference.tracking import Tracks
    from decodetr.utils.drawing import draw_detections

    spent = dict.fromkeys(STAGES, 0.0)

    def timed(name, function, *arguments, **options):
        start = time.process_time()
        result = function(*arguments, **options)
        spent[name] += time.process_time() - start
        return result

    names, tracks, batches = model.vocabulary.names, Tracks(25), read_batches(file, args)
    seconds = (number / 25 for number in itertools.count())
    with torch.inference_mode(), tempfile.TemporaryDirectory(dir=folder) as output:
        with video_sink(Path(output) / "drawn.mp4", 25) as show:
            while pictures := timed("decoding", next, batches, None):
                batch = timed("to tensor", processor, images=pictures, return_tensors="pt")
                outputs = timed("forward", forward, model, batch)
                sizes = [picture.size[::-1] for picture in pictures]
                found = timed("post-processing", processor.post_process_object_detection, outputs, threshold, sizes)
                for picture, one in zip(pictures, found):
                    result = {key: values.tolist() for key, values in one.items()}
                    result["names"] = [names[label] for label in result["labels"]]
                    timed("tracking", tracks.update, result["boxes"])
                    drawn = timed(
                        "drawing", draw_detections, picture, result["boxes"], result["names"], result["scores"]
                    )
                    timed("encoding", show, drawn, next(seconds))
    return spent


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = arguments.add_argument
    add("--video", help="video (default: one is drawn)")
    add("--model", default="rt_detr_v2", help=f"{', '.join(OURS)}, or folder or shipped name of a DeCo-DETR")
    add("--names", type=int, default=80, help="K, of a model that goes by its family")
    add("--frames", type=int, default=100, help="frames that are drawn, or used at most")
    add("--size", type=int, nargs=2, default=[1280, 720], help="width and height of a drawn video")
    add("--boxes", type=int, default=10, help="detections of a frame, of a model that goes by its family")
    run_options(add)
    return arguments


def main(argv=None) -> int:
    """Measure and report."""
    args = parser().parse_args(argv)
    import torch
    from harness import say, table

    from decodetr import DeCoDetrImageProcessor
    from decodetr.inference.loading import load_model
    from decodetr.speed.machine import environment
    from decodetr.speed.timing import ratios, show, spread

    torch.set_num_threads(args.threads)
    settings = {name: getattr(args, name) for name in ("size", "boxes", "batch_size", "warmup", "runs")}
    machine = environment("cpu", **settings)
    say(table(["setting", "value"], machine.items()))
    with tempfile.TemporaryDirectory() as folder:
        file = args.video or draw_video(Path(folder) / "drawn.mp4", args.frames, args.size)
        if args.model in OURS:
            model = build(args.model)
            give_names(model, args.names)
            processor = DeCoDetrImageProcessor(**(model.config.preprocessing or {}))
            first = processor(images=next(read_batches(file, args)), return_tensors="pt")
            least = threshold_for(model, first["pixel_values"], args.boxes)
        else:
            model, processor = load_model(args.model, device="cpu")
            least = model.config.common_threshold
        frames = sum(map(len, read_batches(file, args)))
        seconds = speeds(model, processor, file, folder, args, least)
        result = {
            "frames": frames,
            "rates": {name: spread([frames / one for one in times]) for name, times in seconds.items()},
            "shares": {name: ratios(seconds, "bare model", name) for name in seconds},
            "stages": stages(model, processor, file, folder, args, least),
        }
    title = OURS[args.model].title if args.model in OURS else args.model
    say(f"\n## Frames a second, {title}, in turn, median (quartiles)\n")
    rows = [[name, show(result["rates"][name]), show(result["shares"][name], digits=3)] for name in seconds]
    say(table(["run", "frames of the video a second", "over the bare model"], rows))
    say("## Stages, each by itself, of all cores\n")
    rows = [
        [name, f"{1e3 * spent / frames:.1f}", f"{100 * spent / result['stages']['forward']:.1f}"]
        for name, spent in result["stages"].items()
    ]
    say(table(["stage", "ms a frame", "% of the forward"], rows))
    if args.output:
        write_json(args.output, {"environment": machine, "model": args.model, **result})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
