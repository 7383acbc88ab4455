"""What the leader knows of a namespace's workers: from Pods, from the registry, and from what it said itself."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from operator_cluster import InMemoryCluster

from antiphon.registry.records import Lease, ModelRef, Want, WorkerRecord
from antiphon.registry.roster import Worker
from antiphon.registry.snapshot import Snapshot
from antiphon_operator.config import OperatorConfig
from antiphon_operator.context import Context
from antiphon_operator.models import reconcile_model, reconcile_registry
from antiphon_operator.queueing import Key, WorkQueue
from antiphon_operator.status import StatusWriter
from antiphon_operator.sync import RegistrySync
from antiphon_operator.world import World

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

MEMBER = WorkerRecord(address="10.0.0.1:7001", pool="voices")


async def test_an_end_that_a_pod_tells_counts_though_the_registry_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sync = RegistrySync("redis://127.0.0.1:1", "team", 0, lambda change: None)
    await asyncio.sleep(1.0)
    heard = Worker("a", MEMBER, Lease(worker="a", incarnation="i"), heard_s=1.0, want=Want())
    stale = SimpleNamespace(snapshot=Snapshot(version=1, stale=True, workers={"a": heard}))
    monkeypatch.setattr(sync, "_reader", stale)
    sync.say_members({"a": MEMBER})
    known = sync.worker("a")
    assert known is not None and known.serving and known.want == Want()
    sync.say([], {}, {"a": Want(hold=(ModelRef(name="joe"),))})
    told = sync.worker("a")
    assert told is not None and told.want is not None and told.want.hold[0].name == "joe"
    sync.say_members({})
    assert sync.worker("a") is None
    await asyncio.sleep(1.0)
    # Its container runs again: what was heard before was another process's word.
    sync.say_members({"a": MEMBER})
    again = sync.worker("a")
    assert again is not None and not again.serving


class Registries(dict[str, RegistrySync]):
    """One namespace's, heard from the start."""

    def is_known(self, namespace: str, now: float) -> bool:
        return True

    def open(self, namespace: str) -> RegistrySync:
        return self[namespace]


def context_of(cluster: InMemoryCluster, world: World, queue: WorkQueue, sync: RegistrySync) -> Context:
    clock = asyncio.get_running_loop().time
    return Context(
        config=OperatorConfig(),
        world=world,
        cluster=cluster,  # type: ignore[arg-type]
        queue=queue,
        registries=Registries(team=sync),  # type: ignore[arg-type]
        statuses=StatusWriter(cluster, world, queue, clock),  # type: ignore[arg-type]
        clock=clock,
    )


async def test_a_pool_is_looked_at_once_its_worker_was_told_what_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, world = WorkQueue(), World(lambda key: None)
    sync = RegistrySync("redis://127.0.0.1:1", "team", 0, lambda change: None)
    lease = Lease(worker="a", incarnation="i")
    snapshot = Snapshot(version=1, stale=False, workers={"a": Worker("a", MEMBER, lease)})
    monkeypatch.setattr(sync, "_reader", SimpleNamespace(snapshot=snapshot))
    monkeypatch.setattr(sync, "_read_s", 0.0)
    monkeypatch.setattr(sync, "_last", {"a": (lease, 0.0)})
    context = context_of(InMemoryCluster(), world, queue, sync)
    labels = {"app.kubernetes.io/name": "antiphon-worker", "antiphon.dev/pool": "voices"}
    status = {"phase": "Running", "podIP": "10.0.0.1"}
    world.put("WorkerPool", {"metadata": {"namespace": "team", "name": "voices"}, "spec": {"image": "w:1"}})
    world.put("Pod", {"metadata": {"namespace": "team", "name": "a", "labels": labels}, "status": status})
    await reconcile_registry(context, "team")
    assert sync.wanted == {"a": Want()}
    key = await queue.take()
    assert key == Key("WorkerPool", "team", "voices")
    queue.finish(key)
    sync.not_before_s = 0.0
    await asyncio.sleep(1.0)
    await reconcile_registry(context, "team")
    assert queue.due == 0


async def test_of_a_new_spec_nothing_is_said_before_places_were_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, queue = InMemoryCluster(), WorkQueue()
    world = World(queue.add)
    sync = RegistrySync("redis://127.0.0.1:1", "team", 0, lambda change: None)
    monkeypatch.setattr(sync, "_reader", SimpleNamespace(snapshot=Snapshot(version=1, stale=False)))
    monkeypatch.setattr(sync, "_begun_s", 0.0)
    monkeypatch.setattr(sync, "_read_s", 0.0)
    context = context_of(cluster, world, queue, sync)

    def ask(generation: int, **residency: object) -> None:
        spec = {"task": "tts", "engine": "piper", "residency": {"policy": "Pinned", **residency}}
        metadata = {"namespace": "team", "name": "joe", "generation": generation}
        world.put("VoiceModel", cluster.store("VoiceModel", {"metadata": metadata, "spec": spec}))

    async def said() -> dict[str, Any]:
        await reconcile_model(context, "team", "joe")
        await asyncio.sleep(1.0)
        await reconcile_model(context, "team", "joe")
        found: dict[str, Any] = cluster.objects["VoiceModel", "team", "joe"].get("status", {})
        return found

    await asyncio.sleep(10.0)
    ask(1)
    assert await said() == {}  # nor of a new model
    await reconcile_registry(context, "team")
    first = await said()
    assert first["observedGeneration"] == 1 and first["wantedWorkers"] == 1
    await asyncio.sleep(1.0)
    ask(2, minReplicas=2)
    assert (await said())["observedGeneration"] == 1
    await reconcile_registry(context, "team")
    second = await said()
    assert second["observedGeneration"] == 2 and second["wantedWorkers"] == 2
