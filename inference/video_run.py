"""A video of `decodetr predict`: its frames detected one batch after the other, an annotated video, and tracks."""

from __future__ import annotations

import os
import re
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from decodetr.inference.annotated_video import video_sink
from decodetr.inference.background import Behind, read_ahead
from decodetr.inference.picture_files import fitting, unique_names
from decodetr.inference.result_files import FRAMES, VIDEOS, marked, rows_of
from decodetr.inference.tracking import Tracks
from decodetr.inference.videos import Video, is_live
from decodetr.utils.files import committed

if TYPE_CHECKING:
    from typing import Any

    from decodetr.inference.picture_run import PredictRun


def video_names(sources: list[str]) -> dict[str, str]:
    """A name for the files of each video, its own where no earlier one has it."""
    stems = [os.path.splitext(os.path.basename(source))[0] for source in sources]
    safe = [re.sub(r"[^\w-]+", "_", stem).strip("_") or "video" for stem in stems]
    end = "_0000000000.png"  # of a frame
    return dict(zip(sources, unique_names(fitting(stem, end).removesuffix(end) for stem in safe)))


def detect_video(run: PredictRun, source: str) -> None:
    """Detect in the frames of a video and write what is asked for.

    A live source ends with --max-frames, or when it is interrupted: what there is then is kept. So are the frames of a
    damaged or cut off file up to where it can be read.

    Args:
        run ([`PredictRun`]): its options, its model and its journal, which gets the results.
    """
    options, name, stopped = run.options, run.video_names[source], None
    try:
        video = Video(source)
    except (OSError, ValueError) as error:
        return _failed(run, source, error)
    with video, committed(run.output) as staging:
        rate = video.rate / options.frame_stride
        tracks = Tracks(rate) if options.track else None
        expected = [count for count in (options.max_frames, -(-video.frames // options.frame_stride)) if count]
        frames = read_ahead(video.read(options.frame_stride, options.max_frames), options.batch_size)
        file = marked(staging, VIDEOS) / f"{name}.mp4" if options.pictures else None
        with (
            closing(frames),
            video_sink(file, rate) as show,
            tqdm(total=min(expected, default=None), desc=name, unit="frame") as progress,
        ):
            try:
                with Behind() as behind:
                    for batch in _batches(frames, options.batch_size):
                        _do(run, source, name, batch, tracks, show, staging, behind)
                        progress.update(len(batch))
            except (KeyboardInterrupt, ValueError) as error:  # after which the video so far is written
                stopped = error
    if isinstance(stopped, ValueError):
        return _failed(run, source, stopped)
    if stopped is None or is_live(source):
        run.journal.end(source)
        run.done.add(source)
    if stopped is not None:
        raise stopped
    return None


def _batches(frames, size):
    """Lists of frames. Those that were read before an error come before it."""
    batch, failed = [], None
    try:
        for frame in frames:
            batch.append(frame)
            if len(batch) == size:
                yield batch
                batch = []
    except ValueError as error:
        failed = error
    if batch:
        yield batch
    if failed is not None:
        raise failed


def _failed(run, source, error):
    run.failed[source] = str(error)
    sys.stderr.write(f"{error}\n")


def _do(run, source, name, batch, tracks, show, staging, behind):
    """A batch of frames: detect. What is found is drawn and written while the next one is detected."""
    found = run.find([frame.picture for frame in batch])
    behind.do(_keep, run, source, name, batch, found, tracks, show, staging)


def _keep(run, source, name, batch, found, tracks, show, staging):
    """Track, draw and write a batch of frames."""
    entries = []
    for frame, (result, best, faint) in zip(batch, found):
        if tracks is not None:
            result = _one_name_a_box(result)
            others = set(map(tuple, faint)).difference(map(tuple, result["boxes"]))
            result["tracks"] = tracks.update(result["boxes"], sorted(others))
        entry: dict[str, Any] = {"file": source, "frame": frame.number, "seconds": round(frame.seconds, 4)}
        if run.options.needs_frames:
            file = f"{name}_{frame.number:06d}.png"
            frame.picture.save(marked(staging, FRAMES) / file)
            entry["frame_file"] = str(run.output / FRAMES / file)
        entry |= {"width": frame.picture.width, "height": frame.picture.height, "best_score": best}
        entry["detections"] = rows_of(result)
        run.write_crops(staging, f"{name}_{frame.number:06d}", frame.picture, entry)
        if show is not None:
            show(run.draw(frame.picture, result), frame.seconds)
        entries.append(entry)
    run.journal.add(entries)


def _one_name_a_box(result):
    """What is left of the detections if each box has its best name alone: a track has one."""
    first = {tuple(box): row for row, box in reversed(list(enumerate(result["boxes"])))}
    kept = sorted(first.values())
    return {key: [values[row] for row in kept] for key, values in result.items()}
