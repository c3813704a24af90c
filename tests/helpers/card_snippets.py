"""Runs the Python of a card as a reader would: as it stands, in a fresh process, without a network."""

import os
import re
import subprocess
import sys

from PIL import Image

_QUICK = "import gc; gc.disable()\n"  # or a quarter of the time goes into a search for garbage in what is imported


def run_snippets(card, folder):
    """Run every block of Python of a card (text) in `folder`, which gets a picture.jpg. Returns what each printed."""
    Image.new("RGB", (80, 60), (90, 120, 90)).save(folder / "picture.jpg")
    printed = []
    for code in re.findall(r"^```python\n(.*?)^```$", card, flags=re.MULTILINE | re.DOTALL):
        result = subprocess.run(
            [sys.executable, "-c", f"{_QUICK}{code}"],
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert result.returncode == 0, result.stderr
        printed.append(result.stdout)
    return printed
