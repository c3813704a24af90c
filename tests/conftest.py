"""Settings of every test run: nothing is looked up on the Hub, so a mistyped folder fails at once."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
