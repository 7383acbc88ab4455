"""What the orchestrator counts and times."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from antiphon.conversation.timeline import Timeline
from antiphon.registry.snapshot import RegistryReader

_SPEECH_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2, 1.6, 2.2, 3, 5, 10)
_REACTION_S = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.35, 0.5, 0.7, 1, 2)


class _Malformed(Collector):
    """A counter that lies with a reader of the registry."""

    def __init__(self, reader: RegistryReader) -> None:
        self._reader = reader

    def collect(self) -> Iterator[Metric]:
        counter = CounterMetricFamily(
            "antiphon_registry_malformed_records", "Records that could not be read and were skipped", labels=["kind"]
        )
        for kind, count in self._reader.malformed.items():
            counter.add_metric([kind], count)
        yield counter


class OrchestratorMetrics:
    """The metric set of one orchestrator, in the registry that is handed in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.orchestrator = Info("antiphon_orchestrator", "Which process this is", registry=registry)
        self.sessions = Gauge("antiphon_sessions", "Sessions that are open", registry=registry)
        self.sessions_resumed = Counter(
            "antiphon_sessions_resumed", "Sessions that a client came back to", registry=registry
        )
        self.sessions_ended = Counter(
            "antiphon_sessions_ended", "Sessions that ended, by why", ["reason"], registry=registry
        )
        self.refusals = Counter("antiphon_refusals", "Requests refused, by the limit", ["limit"], registry=registry)
        self.errors = Counter(
            "antiphon_errors", "Errors that callers were told of, by reason", ["reason"], registry=registry
        )
        self.dropped_frames = Counter(
            "antiphon_dropped_reply_frames", "Frames of a stopped reply that were not sent any more", registry=registry
        )
        self.audio_requests = Counter(
            "antiphon_audio_requests", "Requests to /v1/audio, by how they ended", ["api", "outcome"], registry=registry
        )
        self.registry_age = Gauge(
            "antiphon_registry_age_seconds", "How long ago what routing goes by was known to be true", registry=registry
        )
        self.lacking = Counter(
            "antiphon_streams_lacking_a_model",
            "Streams whose model no worker held, by what was lacking",
            ["model", "reason"],
            registry=registry,
        )
        self.turns = Counter("antiphon_turns", "Turns that are over", ["interrupted"], registry=registry)
        self._voice_to_voice = self._histogram(
            "antiphon_voice_to_voice_seconds", "The user's last voiced sample to the reply's first frame", _SPEECH_S
        )
        self._onset_to_duck = self._histogram(
            "antiphon_onset_to_duck_seconds", "Onset of the user's speech to the lowered voice", _REACTION_S
        )
        self._onset_to_stop = self._histogram(
            "antiphon_onset_to_stop_seconds", "Onset of the user's speech to the stopped voice", _REACTION_S
        )

    def watch_registry(self, reader: RegistryReader) -> None:
        """Tell at every reading how old the reader's snapshot is, and what it could not read."""
        self.registry_age.set_function(lambda: reader.age_s)
        self.registry.register(_Malformed(reader))

    def turn(self, timeline: Timeline) -> None:
        """Count a turn that is over, with what its timeline says."""
        self.turns.labels("yes" if timeline.stopped is not None else "no").inc()
        for histogram, start, end in (
            (self._voice_to_voice, "speech_end", "first_audio"),
            (self._onset_to_duck, "speech_start", "ducked"),
            (self._onset_to_stop, "speech_start", "stopped"),
        ):
            span_ms = timeline.span_ms(start, end)
            if span_ms is not None and span_ms >= 0:
                histogram.observe(span_ms / 1000)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)
