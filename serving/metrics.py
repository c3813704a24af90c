"""Counters and histograms of a server, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """
    The figures of one server. Memory and time of its process are among them where the system tells them.

    Args:
        waiting, inside (callable): pictures that wait for the model; pictures that are let in and not answered.
        batch_size (int): the most of a batch.
    """

    def __init__(self, waiting: Callable[[], int], inside: Callable[[], int], batch_size: int) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "decodetr_requests", "Requests that were answered.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "decodetr_request_seconds",
            "From head to answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        sizes = sorted({1, *(2**i for i in range(1, 10) if 2**i < batch_size), batch_size})
        self.batches = Histogram("decodetr_batch_pictures", "Pictures of a batch.", buckets=sizes, registry=registry)
        self.model = Histogram("decodetr_batch_seconds", "The model on a batch.", buckets=_SECONDS, registry=registry)
        Gauge("decodetr_queue_pictures", "Pictures that wait for the model.", registry=registry).set_function(waiting)
        Gauge("decodetr_inside_pictures", "Pictures let in and not answered.", registry=registry).set_function(inside)

    def batch(self, pictures: int, seconds: float) -> None:
        """Count a batch."""
        self.batches.observe(pictures)
        self.model.observe(seconds)

    def text(self) -> bytes:
        """What /metrics says."""
        return generate_latest(self.registry)


class Counted:
    """Counts requests of an application, by the address of their route and by status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # not what a client made up
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)
