"""Prometheus metric sets, and the port on which they are read."""

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from antiphon.contracts.errors import AntiphonError, Reason

_LATENCY_S = (0.01, 0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3, 0.5, 0.8, 1.2, 2, 5, 10)
_WAIT_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
_LOAD_S = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600)
_MODEL = ("model", "revision")
_FACTOR = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 3)


class WorkerMetrics:
    """The metric set of one worker, in the registry that is handed in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.streams = Gauge("antiphon_worker_streams", "Streams that are open", ["task"], registry=registry)
        self.streams_ended = Counter(
            "antiphon_worker_streams_ended",
            "Streams that ended: ok, cancelled, or why not",
            ["task", "outcome"],
            registry=registry,
        )
        self.errors = Counter(
            "antiphon_worker_errors", "Errors that callers were told of, by reason", ["reason"], registry=registry
        )
        self.first_audio = self._histogram(
            "antiphon_worker_first_audio_seconds", "First complete clause to first frame written", _LATENCY_S, *_MODEL
        )
        self.final = self._histogram(
            "antiphon_worker_final_seconds", "End of the utterance to its final transcript", _LATENCY_S, *_MODEL
        )
        self.real_time_factor = self._histogram(
            "antiphon_worker_real_time_factor", "Compute time over audio time, by stream", _FACTOR, *_MODEL
        )
        self.sent_audio = Counter(
            "antiphon_worker_sent_audio_seconds", "Speech that was sent", _MODEL, registry=registry
        )
        self.received_audio = Counter(
            "antiphon_worker_received_audio_seconds", "Speech that was received", _MODEL, registry=registry
        )
        self.silent_clauses = Counter(
            "antiphon_worker_silent_clauses", "Clauses for which an engine gave no audio", _MODEL, registry=registry
        )
        self.queue_wait = self._histogram(
            "antiphon_worker_queue_wait_seconds", "Time a hop waited for a thread", _WAIT_S, "executor"
        )
        self.resident = Gauge("antiphon_worker_resident_models", "Models that are held", registry=registry)
        self.resident_mib = Gauge("antiphon_worker_resident_mib", "Memory that models take", registry=registry)
        self.loads = Counter("antiphon_worker_loads", "Loads, by result", [*_MODEL, "result"], registry=registry)
        self.load_time = self._histogram(
            "antiphon_worker_load_seconds", "A load, from fetching to warm", _LOAD_S, *_MODEL
        )
        self.evictions = Counter(
            "antiphon_worker_evictions", "Models let go, by why", [*_MODEL, "cause"], registry=registry
        )
        self.draining = Gauge("antiphon_worker_draining", "1 while the worker takes nothing new", registry=registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)


@contextlib.contextmanager
def metrics_server(registry: CollectorRegistry, host: str, port: int | None) -> Iterator[int | None]:
    """Serve `/metrics` from a thread of its own while the block runs.

    Args:
        registry: What is served.
        host: The address to listen on.
        port: 0: any free one. None: no server.

    Yields:
        The port, or None.

    Raises:
        AntiphonError: INVALID_REQUEST when it cannot listen there.
    """
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        message = f"Metrics cannot be served on {host}:{port}: {error.strerror}. Name another metrics port; 0: any."
        raise AntiphonError(Reason.INVALID_REQUEST, message) from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
