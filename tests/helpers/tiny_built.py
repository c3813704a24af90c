"""Drawn scenes with everything that runs over them need, all of it tiny: names, teachers, detector, a built pool."""

from decodetr import DeCoDetrImageProcessor
from decodetr.cli import main

from .tiny_models import tiny_model
from .tiny_teachers import write_tiny_clip, write_tiny_llava


def write_tiny_built(folder):
    """Write scenes, clip, llava, detector, names and built into a folder. Returns it."""
    clip, detector, scenes = (str(folder / name) for name in ("clip", "detector", "scenes"))
    write_tiny_clip(clip, length=40)  # the names of the scenes are long in its few tokens
    write_tiny_llava(folder / "llava")
    tiny_model(embedding_dim=8).save_pretrained(detector)
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(detector)
    sizes = "--train 4 --val 4 --test 4 --image-size 96 --workers 1".split()
    assert main(["scenes", "write", scenes, *sizes]) == 0
    names = ["--names-split", f"{scenes}/names.json", "--text-model", clip, "--output", str(folder / "names")]
    assert main(["vocabulary", "build", *names]) == 0
    teachers = ["--detector", detector, "--clip", clip, "--captioner", str(folder / "llava")]
    sizes = ["--delta", "-1", "--num-coarse", "4", "--num-fine", "3", "--max-proposals", "2"]
    assert main(["pool", "build", "--data", scenes, *teachers, *sizes, "--output", str(folder / "built")]) == 0
    return folder
