"""An application on a socket, until a signal ends it: then nothing new is taken, and what was let in is answered."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware

from decodetr.serving.app import create_app
from decodetr.serving.engine import Engine
from decodetr.serving.settings import ServeSettings

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, on which nothing listens yet.

    Args:
        host (str): name or number of this machine. port (int): 0 takes a free one.

    Raises:
        ValueError: the address cannot be had, with the option that mends it.
    """
    if not 0 <= port < 1 << 16:
        raise ValueError(f"--port must be in 0..65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere it would share the address with another server
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ValueError(f"cannot listen at --host {host} --port {port}: {error}; give others") from error
    return bound


def address_of(bound: socket.socket) -> str:
    """http://... of a bound socket, or the path of a Unix one."""
    name = bound.getsockname()
    if isinstance(name, str):
        return name
    return f"http://[{name[0]}]:{name[1]}" if ":" in name[0] else f"http://{name[0]}:{name[1]}"


def _is_loopback(bound):
    name = bound.getsockname()
    return not isinstance(name, str) and ipaddress.ip_address(name[0]).is_loopback


class Server(uvicorn.Server):
    """
    uvicorn's, of one model.

    Args:
        engine ([`Engine`]). settings ([`ServeSettings`]).
        tell (callable, *optional*): called when requests are taken.
        access_log (bool): a line for each request.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ServeSettings,
        tell: Callable[[], None] | None = None,
        access_log: bool = False,
    ) -> None:
        self._tell = tell
        self.app = create_app(engine, settings, self._end)
        self.service = self.app.state.service
        super().__init__(
            uvicorn.Config(
                self.app,
                log_level="info" if access_log else "warning",
                access_log=access_log,
                server_header=False,
                timeout_graceful_shutdown=settings.shutdown_seconds,
            )
        )

    def run_on(self, bound: socket.socket) -> None:
        """Take requests until SIGTERM, SIGINT or `should_exit`, then answer what was let in.

        Raises:
            ValueError: the model cannot be warmed up. KeyboardInterrupt: of SIGINT, at the end.
        """
        if _is_loopback(bound):  # a page of another site could give its own name this address, and read answers
            hosts = [*_LOOPBACK, bound.getsockname()[0], *self.service.settings.hosts]
            self.app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
        with _no_death_of_sigterm():
            self.run(sockets=[bound])
        if self.service.failed is not None:
            error = self.service.failed
            raise ValueError(f"the model cannot be warmed up: {type(error).__name__}: {error}") from error

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and tell."""
        await super().startup(sockets)
        if self._tell is not None:
            self._tell()

    def _end(self):
        self.should_exit = True


@contextmanager
def _no_death_of_sigterm() -> Iterator[None]:
    """uvicorn raises a signal again when it is done, for its caller. Ours has nothing more to do, and exits with 0."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
