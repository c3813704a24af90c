"""A Space: `decodetr demo` where Hugging Face runs it. The variables of the Space say what it shows."""

import os

from decodetr.demo.server import launch

launch(
    os.environ.get("MODEL", "scenes-decodetr"),
    names=os.environ.get("NAMES"),
    examples=os.environ.get("EXAMPLES"),
    tell=lambda address: print(address, flush=True),  # noqa: T201
)
