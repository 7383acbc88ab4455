"""Who leads, in virtual time: handed over, lost, deposed, out of reach."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from operator_cluster import InMemoryCluster

from antiphon_operator.election import DEADLINE_S, LEASE_S, RETRY_S, YIELD_S, Election
from antiphon_operator.kube import ApiError, Cluster

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


class Candidate:
    """An election and what it led to."""

    def __init__(self, cluster: InMemoryCluster, name: str) -> None:
        self.election = Election(cluster, namespace="team", name="lease", identity=name)  # type: ignore[arg-type]
        self.leads = False
        self.terms: list[int] = []
        self.begun_s = 0.0
        self.ended_s = 0.0
        self.ends = asyncio.Event()
        self.task = asyncio.create_task(self.election.campaign(self._lead), name=name)

    async def _lead(self, term: int) -> None:
        self.leads, self.begun_s = True, now()
        self.terms.append(term)
        try:
            await self.ends.wait()
        finally:
            self.leads, self.ended_s = False, now()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def cluster() -> InMemoryCluster:
    return InMemoryCluster()


@contextlib.asynccontextmanager
async def two(cluster: InMemoryCluster) -> AsyncIterator[tuple[Candidate, Candidate]]:
    first = Candidate(cluster, "first")
    await asyncio.sleep(0.1)
    second = Candidate(cluster, "second")
    await asyncio.sleep(5)
    assert first.leads and not second.leads
    try:
        yield first, second
    finally:
        for each in (first, second):
            await each.stop()


async def test_who_is_told_to_go_hands_over_at_once(cluster: InMemoryCluster) -> None:
    async with two(cluster) as (first, second):
        began = now()
        await first.stop()
        await asyncio.sleep(2 * RETRY_S)
        assert second.leads and second.begun_s - began <= RETRY_S + 0.01
        assert first.terms == [0] and second.terms == [1]


async def test_a_leader_that_dies_is_replaced_when_its_lease_is_over(
    cluster: InMemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(cluster) as (first, second):

        async def never(*_: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(first.election, "_write", never)
        began = now()
        assert first.election.holds
        await asyncio.sleep(LEASE_S + 1)
        assert not first.election.holds and second.election.holds
        assert second.leads and second.begun_s - began <= LEASE_S + RETRY_S
        # It had stopped before the other began.
        assert not first.leads and first.ended_s < second.begun_s
        assert first.ended_s - began <= DEADLINE_S + 1


async def test_without_the_api_server_nobody_leads_and_the_same_one_goes_on_afterwards(
    cluster: InMemoryCluster,
) -> None:
    async with two(cluster) as (first, second):
        cluster.down = True
        await asyncio.sleep(20)
        assert not first.leads and not second.leads
        cluster.down = False
        await asyncio.sleep(2 * RETRY_S)
        assert [each.leads for each in (first, second)].count(True) == 1


async def test_a_short_stumble_costs_nothing(cluster: InMemoryCluster) -> None:
    async with two(cluster) as (first, second):
        cluster.down = True
        await asyncio.sleep(DEADLINE_S - 1.5)
        cluster.down = False
        await asyncio.sleep(10)
        assert first.leads and first.terms == [0] and second.terms == []


async def test_who_finds_another_in_the_lease_stops(cluster: InMemoryCluster) -> None:
    async with two(cluster) as (first, second):
        lease = cluster.objects["Lease", "team", "lease"]
        cluster.store("Lease", {**lease, "spec": {**lease["spec"], "holderIdentity": "by-hand"}})
        await asyncio.sleep(1.5)
        assert not first.leads


async def test_who_cannot_find_out_whose_the_lease_is_stops_in_time(
    cluster: InMemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(cluster) as (first, _):

        async def slow_refusal(*_: object) -> None:
            await asyncio.sleep(1.9)
            raise ApiError(409, "changed since")

        async def never(*_: object) -> None:
            await asyncio.Event().wait()

        began = now()
        monkeypatch.setattr(first.election, "_write", slow_refusal)
        monkeypatch.setattr(first.election, "_acquire", never)
        await asyncio.sleep(2 * LEASE_S)
        assert not first.leads and first.ended_s - began < DEADLINE_S + 0.1


async def test_who_gives_up_lets_others_lead(cluster: InMemoryCluster) -> None:
    async with two(cluster) as (first, second):
        first.ends.set()
        await asyncio.sleep(YIELD_S - 1)
        assert second.leads and not first.leads
        await asyncio.sleep(20)
        assert second.leads and first.terms == [0]


async def test_a_leader_that_was_stopped_for_longer_than_its_lease_writes_nothing_when_it_goes_on(
    cluster: InMemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        async def param_serialize(self, method: str, path: str, **_: Any) -> tuple[Any, ...]:
            return method, path, {}, None, None

        async def call_api(self, method: str, *_: Any) -> Any:
            sent.append(method)
            return SimpleNamespace(status=200, read=answer)

    async def answer() -> bytes:
        return b"{}"

    sent: list[str] = []
    async with two(cluster) as (first, _):
        api = Cluster(Client(), may_write=lambda: first.election.holds)  # type: ignore[arg-type]
        pool = {"metadata": {"namespace": "team", "name": "voices", "uid": "u"}}
        await api.write_status("WorkerPool", pool, {})
        monkeypatch.setattr("antiphon_operator.election._now", lambda: now() + LEASE_S)
        with pytest.raises(ApiError, match="leads no more"):
            await api.write_status("WorkerPool", pool, {})
        await api.get("WorkerPool", "team", "voices")
    assert sent == ["PATCH", "GET"]


async def test_two_never_lead_together(cluster: InMemoryCluster) -> None:
    candidates = [Candidate(cluster, f"c{number}") for number in range(4)]
    for step in range(60):
        cluster.down = step % 13 > 10
        await asyncio.sleep(0.7)
        assert sum(each.leads for each in candidates) <= 1
        if step % 9 == 0:
            with contextlib.suppress(StopIteration):
                leader = next(each for each in candidates if each.leads)
                candidates.remove(leader)
                await leader.stop()
                candidates.append(Candidate(cluster, "again"))
    terms = [term for each in candidates for term in each.terms]
    assert len(terms) == len(set(terms))
    for each in candidates:
        await each.stop()
