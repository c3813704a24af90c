"""README's chain on the photo world, command by command, with nothing chosen for it but the folders."""

import sys

from decodetr.cli import main
from decodetr.scenes.command_runner import claim, flat, run_stages

from .detector import BATCH, PICTURES, STEPS, reading, train_detector
from .teachers import CLIP, LLAVA, write_teachers
from .write import write_world

STAGES = 5


def run_chain(
    folder,
    settings,
    *,
    workers=1,
    detector_steps=STEPS,
    detector_pictures=PICTURES,
    detector_batch=BATCH,
    **teachers,
):
    """World, teachers and detector in `folder`, where they are missing, and then the commands. What is done is not
    done again.

    Args:
        folder: `Path`. settings: `PhotoSettings`. workers: processes that draw and read pictures. detector_steps,
            detector_pictures, detector_batch: of `train_detector`. teachers: arguments of `write_teachers`.

    Returns:
        Exit status of the first command that failed, or 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_world(folder / "world", settings, workers=workers)
    write_teachers(folder / "teachers", settings, workers=workers, **teachers)
    detector = {"steps": detector_steps, "pictures": detector_pictures, "batch": detector_batch}
    if status := train_detector(folder, settings, workers=workers, **detector):
        return status
    record = claim(folder / "chain", {"made by": "photo_world.py run"})
    status, _ = run_stages(folder / "chain", stages(folder, workers), STAGES, record, main)
    if status == 0:
        sys.stdout.write(f"\nevaluated: {folder / 'chain' / 'report' / 'report.html'}\n")
    return status


def stages(folder, workers=1):
    """(file that tells that a stage is finished, its command), in order. workers: processes that read pictures."""
    data, clip, captioner = folder / "world", folder / "teachers" / CLIP, folder / "teachers" / LLAVA
    chain = folder / "chain"
    names, boxes, built, model, report = (chain / name for name in ("names", "boxes", "built", "model", "report"))
    embed = {"--names-split": data / "names.json", "--clip": clip, "--output": names}
    yield names / "vocabulary.json", ["vocabulary", "build", *flat(embed)]
    localize = {"--data": data, "--detector": folder / "detector", "--freeze-backbone": "true", "--vocabulary": names}
    localize |= {"--streams": "localization", "--output": boxes, **reading(workers)}
    yield boxes / "train_results.json", ["train", *flat(localize)]
    build = {"--data": data, "--detector": boxes, "--clip": clip, "--captioner": captioner, "--output": built}
    yield built / "pool" / "pool.json", ["pool", "build", *flat(build)]
    learn = {"--data": data, "--model": boxes, "--streams": "semantic", "--cache-features": "true"}
    learn |= {"--vocabulary": names, "--pool": built / "pool", "--regions": built / "regions", "--output": model}
    learn |= reading(workers)
    yield model / "train_results.json", ["train", "--reset-semantics", *flat(learn)]
    evaluate = {"--model": model, "--data": data, "--output": report, **reading(workers)}
    yield report / "report.html", ["eval", *flat(evaluate)]
