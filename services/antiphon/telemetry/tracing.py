"""W3C trace context in gRPC metadata.

Only `opentelemetry-api` is needed: without an SDK in the process, contexts are passed on and spans cost nothing.
"""

from collections.abc import Iterable

from opentelemetry import propagate, trace
from opentelemetry.context import Context

Metadata = Iterable[tuple[str, str | bytes]]

tracer = trace.get_tracer("antiphon")


def inject(metadata: Metadata = ()) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata, with the current trace context added."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return (*metadata, *carrier.items())


def extract(metadata: Metadata) -> Context:
    """The trace context that a caller sent; an empty one when it sent none."""
    return propagate.extract({key: value for key, value in metadata if isinstance(value, str)})
