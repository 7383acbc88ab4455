"""Places, and the rate of events."""

import pytest
from prometheus_client import CollectorRegistry

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.admission import Admission, EventRate
from antiphon.orchestrator.config import ServerConfig
from antiphon.orchestrator.metrics import OrchestratorMetrics

pytestmark = pytest.mark.unit


def admission(**limits: int) -> tuple[Admission, CollectorRegistry]:
    registry = CollectorRegistry()
    return Admission(ServerConfig.model_validate(limits), OrchestratorMetrics(registry)), registry


async def test_places_are_counted_and_given_back() -> None:
    door, registry = admission(max_sessions=2)
    with door.session("a"), door.session("b"):
        with pytest.raises(AntiphonError) as raised, door.session("c"):
            pass
        assert raised.value.reason is Reason.WORKER_FULL
        assert raised.value.retry_after_ms
        assert registry.get_sample_value("antiphon_sessions") == 2
    assert door.sessions == 0
    assert registry.get_sample_value("antiphon_refusals_total", {"limit": "max_sessions"}) == 1
    await door.wait_empty()


async def test_places_of_one_key_are_bounded() -> None:
    door, registry = admission(max_sessions=9, max_sessions_per_key=1)
    with door.session("a"), door.session("b"):
        with pytest.raises(AntiphonError, match="This key"), door.session("a"):
            pass
    with door.session("a"):
        pass
    assert registry.get_sample_value("antiphon_refusals_total", {"limit": "max_sessions_per_key"}) == 1


async def test_draining_takes_nothing_new() -> None:
    door, _ = admission()
    door.drain()
    with pytest.raises(AntiphonError) as raised, door.session(""):
        pass
    assert raised.value.reason is Reason.DRAINING
    await door.wait_draining()


def test_event_rate_is_a_token_bucket() -> None:
    rate = EventRate(per_s=10, burst=3)
    assert [rate.allow(0.0) for _ in range(4)] == [True, True, True, False]
    assert rate.allow(0.1)
    assert not rate.allow(0.1)
    assert [rate.allow(99.0) for _ in range(4)] == [True, True, True, False]
