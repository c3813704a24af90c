"""Runs the Python of a card as a reader would: as it stands, without a network, in a process that knows nothing of
decodetr yet."""

import contextlib
import os
import re
import subprocess
import sys

from PIL import Image
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from helpers.processes import start

_REGISTERED = (CONFIG_MAPPING, IMAGE_PROCESSOR_MAPPING, MODEL_FOR_OBJECT_DETECTION_MAPPING, VIDEO_PROCESSOR_MAPPING)


def run_snippets(card, folder, new=False):
    """Run every block of Python of a card (text) in `folder`, which gets a picture.jpg. Returns what each printed.

    Args:
        new (`bool`): in a new interpreter, which takes seconds to begin. Otherwise in a copy of this process that
            has forgotten decodetr.
    """
    Image.new("RGB", (80, 60), (90, 120, 90)).save(folder / "picture.jpg")
    run = _run_anew if new else _run_in_a_copy
    blocks = re.findall(r"^```python\n(.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)
    return [run(code, folder) for code in blocks]


def _run_anew(code, folder):
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def _run_in_a_copy(code, folder):
    process = start(_forget_and_run, code, folder)
    process.join()
    assert process.exitcode == 0
    return (folder / "printed.txt").read_text(encoding="utf-8")


def _forget_and_run(code, folder):
    os.chdir(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "decodetr"]:
        del sys.modules[name]
    for mapping in _REGISTERED:
        mapping._extra_content.clear()
    with open("printed.txt", "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        exec(compile(code, "the card", "exec"), {"__name__": "__main__"})
