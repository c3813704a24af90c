"""A headless Chromium, and demos as processes for it to open."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium():
    """A browser of this machine, or the one that `playwright install chromium` has fetched."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, _NAMES)), None)
        try:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error:
            if path is not None:
                raise
            pytest.skip("this needs a browser: `apt install chromium`, or `python -m playwright install chromium`")
        yield browser
        browser.close()


@contextmanager
def watched(browser, address, **options):
    """A page of a browser that has opened an address. At the end the console must be without errors, and nothing may
    have been asked of other hosts."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(60_000)
    wrong = []
    page.on("console", lambda message: message.type == "error" and wrong.append(f"{message.text} {message.location}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: _is_inside(request.url, address) or wrong.append(f"asked for {request.url}"))
    page.goto(address)
    yield page
    context.close()
    assert not wrong, wrong


def _is_inside(url, address):
    return url.startswith((address, "data:", "blob:"))


@contextmanager
def demo_process(words, **options):
    """(address, process) of a demo that runs in a process of its own until the end of the block."""
    environment = {**os.environ, **options.pop("env", {})}
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        **options,
    )
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"http://[\w.]+:\d+/", line):
                break
        else:
            raise AssertionError("the demo ended:\n" + "".join(said))
        yield found[0], process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def until(condition, seconds=60):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
