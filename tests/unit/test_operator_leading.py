"""The comparison of everything, against an API server in memory: what it cannot read holds up nothing else."""

import asyncio
import logging
from typing import Any

import pytest
from operator_cluster import InMemoryCluster
from prometheus_client import CollectorRegistry

from antiphon_operator.config import OperatorConfig
from antiphon_operator.kube import ApiError
from antiphon_operator.leading import Leader
from antiphon_operator.main import _unserved
from antiphon_operator.metrics import OperatorMetrics
from antiphon_operator.queueing import WorkQueue
from antiphon_operator.world import World

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


class Guarded(InMemoryCluster):
    """Some namespaces may not be read."""

    def __init__(self, *closed: str) -> None:
        super().__init__()
        self.closed = set(closed)
        for namespace in ("gone", "team"):
            self.store("WorkerPool", {"metadata": {"namespace": namespace, "name": "voices"}})

    async def list(self, kind: str, namespace: str = "") -> tuple[list[dict[str, Any]], int]:
        if namespace in self.closed:
            raise ApiError(403, "workerpools is forbidden")
        bodies, version = await super().list(kind, namespace)
        return [body for body in bodies if body["metadata"]["namespace"] == namespace], version


def leader_of(cluster: InMemoryCluster, *namespaces: str) -> tuple[Leader, World]:
    queue = WorkQueue()
    world = World(queue.touch)
    config = OperatorConfig(namespaces=namespaces)
    metrics = OperatorMetrics(CollectorRegistry())
    return Leader(config, world, queue, cluster, metrics), world  # type: ignore[arg-type]


async def test_a_namespace_that_may_not_be_read_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Guarded("gone")
    leader, world = leader_of(cluster, "gone", "team")
    with caplog.at_level(logging.WARNING):
        await leader._compare()
        await leader._compare()
    assert world.namespaces() == {"team"}
    assert [record.namespace for record in caplog.records] == ["gone"]  # type: ignore[attr-defined]
    assert await _unserved(("gone", "team"), cluster) == ""  # type: ignore[arg-type]


async def test_what_was_known_of_a_namespace_stands_while_it_may_not_be_read() -> None:
    cluster = Guarded()
    leader, world = leader_of(cluster, "gone", "team")
    await leader._compare()
    cluster.closed = {"gone"}
    await leader._compare()
    assert world.namespaces() == {"gone", "team"}


async def test_nothing_is_compared_before_anything_can_be_read() -> None:
    cluster = Guarded("team")
    leader, world = leader_of(cluster, "team")
    compare = asyncio.create_task(leader._compare())
    await asyncio.sleep(5)
    assert not compare.done() and "forbidden" in await _unserved(("team",), cluster)  # type: ignore[arg-type]
    cluster.closed.clear()
    await compare
    assert world.namespaces() == {"team"}


async def test_an_api_server_that_does_not_answer_is_waited_for() -> None:
    cluster = Guarded("gone")
    cluster.down = True
    leader, world = leader_of(cluster, "gone", "team")
    compare = asyncio.create_task(leader._compare())
    await asyncio.sleep(5)
    assert not compare.done()
    cluster.down = False
    await compare
    assert world.namespaces() == {"team"}
