"""The operator's Prometheus metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)


class OperatorMetrics:
    """The metric set of one operator, in the registry that is handed in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.leader = Gauge("antiphon_operator_leader", "1 while this operator leads", registry=registry)
        self.reconciles = Counter(
            "antiphon_operator_reconciles", "Objects that were looked at", ["kind", "result"], registry=registry
        )
        self.reconcile_time = Histogram(
            "antiphon_operator_reconcile_seconds", "Time for one object", ["kind"], buckets=_SECONDS, registry=registry
        )
        self.queued = Gauge("antiphon_operator_queued", "Objects that wait to be looked at", registry=registry)
        self.requests = Counter(
            "antiphon_operator_api_requests", "Requests to the API server", ["verb", "code"], registry=registry
        )
        self.comparisons = Histogram(
            "antiphon_operator_comparison_seconds", "Full comparisons with the API server", registry=registry
        )
