"""How much a command says while it works: -q and -v."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from decodetr.cli.options import restored

# What the libraries read when they are imported, which is after the command line was.
_LEVELS = ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY")
_NO_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


@contextmanager
def loudness(quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Inside, a command says errors and results only, or also what it does meanwhile.

    Args:
        quiet (`bool`): no warnings and no progress bars. verbose (`bool`): also messages of the level INFO, each with
            the module that says it. Neither: warnings and progress bars, as without this function.
    """
    if not (quiet or verbose):
        yield
        return
    word, level = ("error", logging.ERROR) if quiet else ("info", logging.INFO)
    variables = dict.fromkeys(_LEVELS, word) | (_NO_BARS if quiet else {})
    loggers = {name: logging.getLogger(name) for name in ("decodetr", "transformers")}
    levels = {name: one.level for name, one in loggers.items()}
    handler = None
    loggers["decodetr"].setLevel(level)
    if "transformers" in sys.modules:  # it has read its variable
        loggers["transformers"].setLevel(level)
    if verbose:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        loggers["decodetr"].addHandler(handler)
    try:
        with restored(variables):
            os.environ.update(variables)
            with _without_bars() if quiet else nullcontext():
                yield
    finally:
        for name, one in loggers.items():
            one.setLevel(levels[name])
        if handler is not None:
            loggers["decodetr"].removeHandler(handler)


@contextmanager
def _without_bars():
    """Inside, no bar of tqdm is shown, also where a caller says whether it is to be: the variable is a default."""
    from tqdm.std import tqdm

    usual = tqdm.__init__

    def hidden(self, *args, **kwargs):
        usual(self, *args, **{**kwargs, "disable": True})

    tqdm.__init__ = hidden
    try:
        yield
    finally:
        tqdm.__init__ = usual
