"""The suites, in the order in which they run: each one module, with what it plans, measures and reports."""

from antiphon.cli.bench.stage import Suite
from antiphon.cli.bench.suites import (
    barge_in,
    concurrency,
    early_turns,
    false_stops,
    first_audio,
    idle,
    jitter,
    leases,
    pause,
    routing,
    transcript,
    voice_to_voice,
)

_MODULES = (
    first_audio,
    pause,
    barge_in,
    false_stops,
    early_turns,
    transcript,
    voice_to_voice,
    concurrency,
    jitter,
    idle,
    routing,
    leases,
)
SUITES: dict[str, Suite] = {module.SUITE.name: module.SUITE for module in _MODULES}
