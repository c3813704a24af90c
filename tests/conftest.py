"""Settings of every test run: nothing is looked up on the Hub, so a mistyped folder fails at once."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import common_suite


def pytest_configure(config):
    """Markers of the common tests of transformers, because unknown ones are an error."""
    for name in common_suite.markers():
        config.addinivalue_line("markers", f"{name}: of transformers")
