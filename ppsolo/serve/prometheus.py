"""The service's counters for Prometheus, summed over all workers."""

import os
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # set it in the environment of workers before they import prometheus_client
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one service. Counters of several workers are added up, see `ppsolo.serve.workers`.

    waiting: returns the number of waiting requests.
    """

    def __init__(self, waiting: Callable[[], int]):
        self._waiting = waiting
        self._together = METRICS_FOLDER in os.environ
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "ppsolo_requests",
            "Requests to predict, by status (499: the client disconnected)",
            ["status"],
            registry=self._registry,
        )
        self.request_seconds = Histogram(
            "ppsolo_request_seconds",
            "Seconds from a request's head to the end of its answer",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.batch_seconds = Histogram(
            "ppsolo_batch_seconds", "Seconds to predict one batch", buckets=SECONDS, registry=self._registry
        )
        self.batch_size = Histogram(
            "ppsolo_batch_size", "Images predicted together", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self._registry
        )
        self.instances = Counter("ppsolo_instances", "Instances found", registry=self._registry)
        self._queue = Gauge(
            "ppsolo_queue_length",
            "Requests that wait for prediction",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        if not self._together:
            ProcessCollector(registry=self._registry)

    def observe_batch(self, size: int, seconds: float) -> None:
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)
        self.observe_queue()

    def observe_queue(self) -> None:
        """Record the number of waiting requests."""
        self._queue.set(self._waiting())

    def text(self) -> bytes:
        """Return all counters in the text format of Prometheus."""
        self.observe_queue()
        if not self._together:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)


class CountRequests:
    """ASGI middleware: counts every request to predict, with its status and time."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics):
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _predicts(scope["path"]):
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        self._metrics.observe_queue()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.requests.labels(str(status)).inc()
            self._metrics.request_seconds.observe(time.perf_counter() - started)


def _predicts(path: str) -> bool:
    """Whether this address predicts: /predict, or its counterpart in the Open Inference Protocol."""
    return path == "/predict" or (path.startswith("/v2/models/") and path.endswith("/infer"))
