"""A server on a socket: it ends when it is told to, and answers what it has let in."""

import os
import signal
import socket
import threading

import httpx2
import pytest
from fastapi.testclient import TestClient
from helpers.processes import start
from helpers.servers import BrokenEngine, serve_slowly, unix_socket, wait_for

from decodetr.serving.model_engine import ModelEngine
from decodetr.serving.server import Server, address_of, bind
from decodetr.serving.settings import ServeSettings

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")


def test_at_sigterm_under_load_all_that_was_let_in_is_answered(tmp_path, loaded, picture):
    place, told = tmp_path / "socket", tmp_path / "told"
    process = start(serve_slowly, place, told, loaded, ServeSettings(batch_size=2, max_queue=12))
    wait_for(told.exists)
    codes, lock = [], threading.Lock()

    def ask():
        transport = httpx2.HTTPTransport(uds=str(place))
        with httpx2.Client(transport=transport, base_url="http://test", timeout=300) as client:
            while True:
                try:
                    code = client.post("/v1/detect", content=picture.bytes, headers={"content-type": "image/png"})
                except httpx2.ConnectError:  # it listens no more
                    return
                with lock:
                    codes.append(code.status_code)

    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(place)), base_url="http://test") as client:
        wait_for(lambda: client.get("/ready").status_code == 200)
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(codes) >= 4)
    os.kill(process.pid, signal.SIGTERM)
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    process.join(300)
    assert process.exitcode == 0 and told.read_text() == "ended"
    assert set(codes) == {200} and len(codes) >= 8


def test_a_model_that_cannot_be_warmed_up_ends_the_server(tmp_path, loaded):
    told = []
    with unix_socket(tmp_path / "socket") as bound:
        assert address_of(bound) == str(tmp_path / "socket")
        server = Server(BrokenEngine(*loaded, "tiny"), ServeSettings(), lambda: told.append(1))
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(ValueError, match="cannot be warmed up: RuntimeError: no kernel image"):
            server.run_on(bound)
    assert told == [1] and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.enable_socket
def test_an_address_is_taken_before_anything_is_loaded():
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert address_of(bound) == f"http://127.0.0.1:{port}"
        bound.listen()
        with pytest.raises(ValueError, match=f"--host 127.0.0.1 --port {port}: .*in use; give others"):
            bind("127.0.0.1", port)
    with pytest.raises(ValueError, match="--port must be in 0..65535, got 70000"):
        bind("127.0.0.1", 70000)
    with pytest.raises(ValueError, match="cannot listen at --host nowhere.invalid"):
        bind("nowhere.invalid", 0)


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    "host, refused", [("127.0.0.1", ["a.example", "a.example:8000", "localhost.a.example", ""]), ("0.0.0.0", [])]
)
def test_other_host_names_are_refused_at_a_loopback_address_alone(loaded, monkeypatch, host, refused):
    monkeypatch.setattr(Server, "run", lambda *_, **__: None)
    server = Server(ModelEngine(*loaded, "tiny"), ServeSettings(hosts=("proxy.example",)))
    with bind(host, 0) as bound:
        server.run_on(bound)
    names = ["127.0.0.1", "LOCALHOST:8000", "[::1]:8000", "proxy.example", "a.example", "a.example:8000"]
    names += ["localhost.a.example", ""]
    with TestClient(server.app) as client:
        codes = {name: client.get("/health", headers={"host": name}).status_code for name in names}
    assert codes == {name: 400 if name in refused else 200 for name in names}
