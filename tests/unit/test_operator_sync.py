"""What the leader knows of a namespace's workers: from Pods, from the registry, and from what it said itself."""

import asyncio
import random
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from operator_cluster import InMemoryCluster
from registry_simulation import SimulatedRedis

from antiphon.registry.records import Lease, ModelRecord, ModelRef, Want, WorkerRecord
from antiphon.registry.roster import Worker
from antiphon.registry.snapshot import RegistryReader, Snapshot
from antiphon.registry.writer import RegistryWriter
from antiphon_operator.config import OperatorConfig
from antiphon_operator.context import Context
from antiphon_operator.models import reconcile_model, reconcile_registry
from antiphon_operator.queueing import Key, WorkQueue
from antiphon_operator.status import StatusWriter
from antiphon_operator.sync import ABSENT_S, RegistrySync
from antiphon_operator.sync import Registries as LiveRegistries
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


async def registry_of(namespace: str, simulated: SimulatedRedis) -> dict[str, set[str]]:
    """What a reader finds there, by kind."""
    reader = RegistryReader("redis://", namespace, connect=simulated.connect("reader"))
    running = asyncio.create_task(reader.run())
    async with asyncio.timeout(30):
        snapshot = await reader.changed(0)
        while snapshot.stale:
            snapshot = await reader.changed(snapshot.version)
    running.cancel()
    await asyncio.wait({running})
    return {"models": set(snapshot.models), "pools": set(snapshot.pools), "workers": set(snapshot.workers)}


async def test_the_next_leader_is_believed_though_a_namespace_came_and_went_and_redis_was_emptied() -> None:
    simulated = SimulatedRedis(random.Random(1))
    reader = RegistryReader("redis://", "team", connect=simulated.connect("reader"))
    reading = asyncio.create_task(reader.run())
    for term in (3, 4):
        async with LiveRegistries("redis://", term, WorkQueue(), simulated.connect(f"leader {term}")) as registries:
            for _ in range(5):
                registries.open("team").say([], {}, {})
                await asyncio.sleep(10)
                assert reader.snapshot.epoch == registries["team"].epoch and not reader.snapshot.stale
                while not registries.close("team"):
                    await asyncio.sleep(1)
        simulated.empty()
    reading.cancel()
    await asyncio.wait({reading})


async def test_what_went_while_nobody_led_is_taken_out_of_the_registry() -> None:
    simulated, queue = SimulatedRedis(random.Random(1)), WorkQueue()
    before = RegistryWriter("redis://", "team", epoch_floor=1, connect=simulated.connect("before"))
    before.set_models([ModelRecord(name="joe", task="tts", engine="piper")])
    before.set_workers({"a": MEMBER})
    writing = asyncio.create_task(before.run())
    await asyncio.sleep(10)
    writing.cancel()
    await asyncio.wait({writing})
    assert (await registry_of("team", simulated))["models"] == {"joe"}
    world = World(lambda key: None)
    async with LiveRegistries("redis://", 3, queue, simulated.connect("leader")) as registries:
        context = context_of(InMemoryCluster(), world, queue, registries)
        await reconcile_registry(context, "team")
        assert not registries, "what cannot be read is not taken for gone"
        world.mark_read("team")
        assert world.keys() == [Key("Registry", "team")]
        await reconcile_registry(context, "team")
        while registries:
            key = await queue.take()
            if key.kind == "Registry":
                await reconcile_registry(context, "team")
            queue.finish(key)
        await reconcile_registry(context, "team")
        assert not registries, "once is enough"
    assert await registry_of("team", simulated) == {"models": set(), "pools": set(), "workers": set()}


class HeardRegistries(dict[str, RegistrySync]):
    """One namespace's, heard from the start."""

    def is_known(self, namespace: str, now: float) -> bool:
        return True

    def open(self, namespace: str) -> RegistrySync:
        return self[namespace]


def context_of(
    cluster: InMemoryCluster, world: World, queue: WorkQueue, registries: Mapping[str, RegistrySync]
) -> Context:
    clock = asyncio.get_running_loop().time
    return Context(
        config=OperatorConfig(),
        world=world,
        cluster=cluster,  # type: ignore[arg-type]
        queue=queue,
        registries=registries,  # type: ignore[arg-type]
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
    context = context_of(InMemoryCluster(), world, queue, HeardRegistries(team=sync))
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


async def test_what_a_silent_worker_held_is_placed_anew_once_it_counts_as_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, world = WorkQueue(), World(lambda key: None)
    sync = RegistrySync("redis://127.0.0.1:1", "team", 0, lambda change: None)
    alive = {name: Worker(name, MEMBER, Lease(worker=name, incarnation="i", engines={"piper": "1"})) for name in "ab"}
    monkeypatch.setattr(sync, "_reader", SimpleNamespace(snapshot=Snapshot(version=1, stale=False, workers=alive)))
    monkeypatch.setattr(sync, "_read_s", 0.0)
    context = context_of(InMemoryCluster(), world, queue, HeardRegistries(team=sync))
    labels = {"app.kubernetes.io/name": "antiphon-worker", "antiphon.dev/pool": "voices"}
    world.put("WorkerPool", {"metadata": {"namespace": "team", "name": "voices"}, "spec": {"image": "w:1"}})
    for name in alive:
        status = {"phase": "Running", "podIP": "10.0.0.1"}
        world.put("Pod", {"metadata": {"namespace": "team", "name": name, "labels": labels}, "status": status})
    residency = {"policy": "Pinned", "minReplicas": 1, "maxReplicas": 1}
    spec = {"task": "tts", "engine": "piper", "residency": residency}
    world.put("VoiceModel", {"metadata": {"namespace": "team", "name": "joe", "generation": 1}, "spec": spec})
    begun_s = context.clock()
    monkeypatch.setattr(sync, "_last", {name: (worker.lease, begun_s) for name, worker in alive.items()})
    await reconcile_registry(context, "team")
    [(holder,)] = sync.plan.holders.values()
    other = "b" if holder == "a" else "a"
    await asyncio.sleep(3.0)
    heard = {holder: Worker(holder, MEMBER), other: alive[other]}
    monkeypatch.setattr(sync, "_reader", SimpleNamespace(snapshot=Snapshot(version=2, stale=False, workers=heard)))
    queue.add(Key("Registry", "team"))  # its lease has ended
    async with asyncio.timeout(ABSENT_S):
        while list(sync.plan.holders.values()) != [(other,)]:
            key = await queue.take()
            sync._last[other] = (sync._last[other][0], context.clock())
            if key.kind == "Registry":
                await reconcile_registry(context, "team")
            queue.finish(key)
    assert context.clock() - begun_s > ABSENT_S


async def test_of_a_new_spec_nothing_is_said_before_places_were_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, queue = InMemoryCluster(), WorkQueue()
    world = World(queue.add)
    sync = RegistrySync("redis://127.0.0.1:1", "team", 0, lambda change: None)
    monkeypatch.setattr(sync, "_reader", SimpleNamespace(snapshot=Snapshot(version=1, stale=False)))
    monkeypatch.setattr(sync, "_begun_s", 0.0)
    monkeypatch.setattr(sync, "_read_s", 0.0)
    context = context_of(cluster, world, queue, HeardRegistries(team=sync))

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
