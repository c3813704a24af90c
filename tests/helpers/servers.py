"""Servers of models, without sockets, and models that wait."""

import socket
import threading
import time
from contextlib import contextmanager

from fastapi.testclient import TestClient

from decodetr.serving.app import create_app
from decodetr.serving.model_engine import ModelEngine
from decodetr.serving.server import Server
from decodetr.serving.settings import ServeSettings


@contextmanager
def client_of(engine, **settings):
    """A client of a server that has warmed up. `client.app.state.service` is what is behind it."""
    with TestClient(create_app(engine, ServeSettings(**settings)), raise_server_exceptions=False) as client:
        wait_for(lambda: client.get("/ready").status_code == 200)
        yield client


def wait_for(condition, seconds=300):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


class GatedEngine(ModelEngine):
    """A model that detects only while its gate is open. `batches` has (names, number of pictures) of every call,
    `at_gate` is how many pictures wait for it to open."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gate = threading.Event()
        self.gate.set()
        self.batches = []
        self.at_gate = 0

    def detect(self, pictures, search, *asked):
        self.at_gate = len(pictures)
        assert self.gate.wait(timeout=300)
        self.at_gate = 0
        self.batches.append((tuple(search.names), len(pictures)))
        return super().detect(pictures, search, *asked)


class SlowEngine(ModelEngine):
    """A model that takes its time."""

    def detect(self, pictures, search, *asked):
        time.sleep(0.1)
        return super().detect(pictures, search, *asked)


class BrokenEngine(ModelEngine):
    """A model that cannot detect."""

    def detect(self, pictures, search, *asked):
        raise RuntimeError("no kernel image")


def unix_socket(path):
    """A socket at a path, on which nothing listens yet."""
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    return bound


def serve_slowly(path, told, loaded, settings):
    """Serve a slow model at a Unix socket. A file says when it has begun, and what it ended with."""
    with unix_socket(path) as bound:
        Server(SlowEngine(*loaded, "tiny"), settings, lambda: told.write_text("begun")).run_on(bound)
    told.write_text("ended")
