"""A pool reconciled against an API server in memory: what is written, in which order, and how often."""

import asyncio
import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
from operator_cluster import InMemoryCluster

from antiphon.registry.records import Lease, Want, WorkerRecord
from antiphon.registry.roster import Worker
from antiphon.registry.snapshot import Snapshot
from antiphon_operator.config import OperatorConfig
from antiphon_operator.context import Context
from antiphon_operator.kube import ApiError
from antiphon_operator.pools import LEAVES, MARK_S, reconcile_pool, surroundings
from antiphon_operator.queueing import Key, WorkQueue
from antiphon_operator.status import BETWEEN_NUMBERS_S, BETWEEN_S, SETTLE_S, StatusWriter
from antiphon_operator.world import KINDS, World

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

KEY = Key("WorkerPool", "team", "voices")


@dataclass
class FakeRegistry:
    """What the registry would say."""

    snapshot: Snapshot = field(default_factory=lambda: Snapshot(version=1, stale=False))
    trouble: str = ""
    has_read: bool = True

    def say(self, **streams: int) -> None:
        workers = {
            name: Worker(
                name,
                WorkerRecord(address="a:1", pool="voices"),
                Lease(worker=name, incarnation="i", streams=count),
                want=Want(),
            )
            for name, count in streams.items()
        }
        self.snapshot = Snapshot(version=self.snapshot.version + 1, stale=False, workers=workers)

    def worker(self, name: str) -> Worker | None:
        return self.snapshot.workers.get(name)


class FakeRegistries(dict[str, FakeRegistry]):
    """All of them, heard from the start."""

    def is_known(self, namespace: str, now: float) -> bool:
        return namespace in self


class Site:
    """A cluster, what the operator knows of it, and one pool."""

    def __init__(self, **spec: Any) -> None:
        self.cluster = InMemoryCluster()
        self.queue = WorkQueue()
        self.world = World(self.queue.add)
        self.registry = FakeRegistry()
        clock = asyncio.get_running_loop().time
        self.context = Context(
            config=OperatorConfig(),
            world=self.world,
            cluster=self.cluster,  # type: ignore[arg-type]
            queue=self.queue,
            registries=FakeRegistries(team=self.registry),  # type: ignore[arg-type]
            statuses=StatusWriter(self.cluster, self.world, self.queue, clock),  # type: ignore[arg-type]
            clock=clock,
        )
        self.generation = 0
        self.ask(**spec)

    def ask(self, **spec: Any) -> None:
        """As a person would."""
        self.generation += 1
        self.put("WorkerPool", "voices", generation=self.generation, spec={"image": "w:1", **spec})

    def put(self, kind: str, name: str, *, spec: dict[str, Any] | None = None, **metadata: Any) -> None:
        body = {"metadata": {"namespace": "team", "name": name, **metadata}}
        self.cluster.store(kind, body | ({"spec": spec} if spec is not None else {}))
        self.hear()

    def pods(self, *names: str, phase: str = "Running") -> None:
        labels = {"app.kubernetes.io/name": "antiphon-worker", "antiphon.dev/pool": "voices"}
        for name in names:
            metadata = {"namespace": "team", "name": name, "labels": labels}
            self.cluster.store("Pod", {"metadata": metadata, "status": {"phase": phase, "podIP": "10.0.0.1"}})
        self.hear()

    def hear(self) -> None:
        """The watches tell what there is."""
        for (kind, _, _), body in list(self.cluster.objects.items()):
            if kind in KINDS:
                self.world.put(kind, body)

    async def reconcile(self) -> list[tuple[str, ...]]:
        """What was written by it."""
        before = len(self.cluster.written)
        await reconcile_pool(self.context, "team", "voices")
        self.hear()
        return self.cluster.written[before:]

    async def settle(self) -> None:
        """Until nothing is written any more."""
        for _ in range(6):
            await self.reconcile()
            await asyncio.sleep(BETWEEN_S)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.objects["WorkerPool", "team", "voices"].get("status", {})
        return found


async def test_what_a_former_pool_leaves_for_a_while_is_said_and_holds_up_nothing_else() -> None:
    site = Site(cache={"kind": "Claim", "sizeMiB": 100})
    former = [{"kind": "WorkerPool", "name": "voices", "uid": "of-old"}]
    site.put("PersistentVolumeClaim", "voices", uid="claim-of-old", ownerReferences=former, deletionTimestamp="now")
    await site.settle()
    assert site.cluster.holds("Deployment", "voices", {"spec": {"replicas": 1}})
    said = {each["type"]: each for each in site.status()["conditions"]}["Accepted"]
    assert said["reason"] == "PersistentVolumeClaimRefused" and "belongs to a former pool" in said["message"]
    gone = site.cluster.objects.pop(("PersistentVolumeClaim", "team", "voices"))
    site.world.remove("PersistentVolumeClaim", gone)
    assert KEY in [await site.queue.take() for _ in range(len(site.queue))]
    assert ("create", "PersistentVolumeClaim", "voices") in await site.reconcile()


async def test_what_others_add_to_a_list_is_no_reason_to_apply_again(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    apply = site.cluster.apply

    async def merged(kind: str, body: Any, *, force: bool = True) -> Any:
        answer = await apply(kind, copy.deepcopy(body), force=force)
        if kind == "Deployment":
            answer["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "OTHERS", "value": "1"})
        return answer

    monkeypatch.setattr(site.cluster, "apply", merged)
    await site.settle()
    assert await site.reconcile() == []
    env = site.cluster.objects["Deployment", "team", "voices"]["spec"]["template"]["spec"]["containers"][0]["env"]
    env[3]["value"] = "by hand"
    site.put("Deployment", "voices")
    assert await site.reconcile() == [("apply", "Deployment", "voices")]


async def test_after_a_failure_nothing_is_on_its_way_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    apply = site.cluster.apply

    async def slow(kind: str, body: Any, *, force: bool = True) -> Any:
        await asyncio.sleep(1.0 if kind == "Service" else 0.0)
        if kind == "NetworkPolicy":
            raise ApiError(500, "etcd is away")
        return await apply(kind, body, force=force)

    monkeypatch.setattr(site.cluster, "apply", slow)
    with pytest.raises(ApiError):
        await site.reconcile()
    before = list(site.cluster.written)  # who leads no more has nothing written after that
    await asyncio.sleep(5)
    assert site.cluster.written == before


async def test_a_pool_is_made_by_its_objects_and_one_status_and_then_by_nothing() -> None:
    site = Site()
    written = await site.reconcile()
    assert sorted(kind for _, kind, _ in written) == [
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    ]
    assert written[-1][1] == "Deployment"
    await asyncio.sleep(SETTLE_S + 0.1)
    assert await site.reconcile() == [("status", "WorkerPool", "voices")]
    for _ in range(3):
        await asyncio.sleep(10)
        assert await site.reconcile() == []


async def test_a_first_status_waits_until_kubernetes_has_seen_the_deployment() -> None:
    site = Site()
    await site.reconcile()
    live = site.cluster.objects["Deployment", "team", "voices"]
    site.cluster.store("Deployment", {"metadata": {**live["metadata"], "generation": 1}})
    site.hear()
    for _ in range(2):
        await asyncio.sleep(SETTLE_S)
        assert await site.reconcile() == []
    live = site.cluster.objects["Deployment", "team", "voices"]
    site.cluster.store("Deployment", {**live, "status": {"observedGeneration": 1}})
    site.hear()
    assert await site.reconcile() == []
    await asyncio.sleep(SETTLE_S + 0.1)
    assert await site.reconcile() == [("status", "WorkerPool", "voices")]


async def test_only_what_differs_is_applied() -> None:
    site = Site()
    await site.settle()
    live = site.cluster.objects["Deployment", "team", "voices"]
    site.cluster.store("Deployment", {**live, "spec": {**live["spec"], "replicas": 7}})
    site.hear()
    assert ("apply", "Deployment", "voices") in await site.reconcile()
    assert site.cluster.holds("Deployment", "voices", {"spec": {"replicas": 1}})
    site.cluster.store(
        "Deployment",
        {
            "metadata": {
                **live["metadata"],
                "annotations": {**live["metadata"]["annotations"], "team.example/owner": "speech"},
            }
        },
    )
    site.hear()
    assert await site.reconcile() == []


async def test_what_the_api_server_refuses_is_a_condition_and_an_error_is_not() -> None:
    site = Site()
    site.cluster.refuses["NetworkPolicy"] = "no network policies here"
    await site.settle()
    said = {each["type"]: each for each in site.status()["conditions"]}
    assert said["Accepted"]["reason"] == "NetworkPolicyRefused" and "no network" in said["Accepted"]["message"]
    assert site.cluster.holds("Deployment", "voices", {"spec": {"replicas": 1}})
    site.cluster.down = True
    site.ask(replicas=2)
    with pytest.raises(Exception, match="does not answer"):
        await reconcile_pool(site.context, "team", "voices")


async def test_the_idlest_leave_and_are_marked_before_the_deployment_shrinks() -> None:
    site = Site(replicas=3)
    await site.settle()
    site.pods("a", "b", "c")
    site.registry.say(a=2, b=0, c=5)
    await site.settle()
    site.ask(replicas=1)
    began = asyncio.get_running_loop().time()
    written = await site.reconcile()
    assert written[:3] == [("annotate", "Pod", "b"), ("annotate", "Pod", "a"), ("apply", "Deployment", "voices")]
    assert asyncio.get_running_loop().time() - began >= MARK_S
    marked = site.cluster.objects["Pod", "team", "b"]["metadata"]["annotations"]
    assert marked["controller.kubernetes.io/pod-deletion-cost"] == LEAVES
    assert marked["antiphon.dev/draining"] == "true"
    # They are still there: the marks stand, and are not written again.
    assert [each for each in await site.reconcile() if each[1] == "Pod"] == []


async def test_who_may_stay_after_all_takes_calls_again() -> None:
    site = Site(replicas=2)
    await site.settle()
    site.pods("a", "b")
    site.registry.say(a=1, b=0)
    site.ask(replicas=1)
    await site.reconcile()
    site.ask(replicas=2)
    assert ("annotate", "Pod", "b") in await site.reconcile()
    assert site.cluster.objects["Pod", "team", "b"]["metadata"]["annotations"] == {}


async def test_an_evicted_pod_that_lies_there_keeps_nobody_marked() -> None:
    site = Site(replicas=2)
    await site.settle()
    site.pods("a", "b", "evicted")
    evicted = site.cluster.objects["Pod", "team", "evicted"]
    site.cluster.store("Pod", {**evicted, "status": {"phase": "Failed"}})
    site.hear()
    site.registry.say(a=1, b=0)
    site.ask(replicas=1)
    assert [each for each in await site.reconcile() if each[1] == "Pod"] == [("annotate", "Pod", "b")]
    site.ask(replicas=2)
    await site.reconcile()
    assert site.cluster.objects["Pod", "team", "b"]["metadata"]["annotations"] == {}


async def test_a_pod_without_a_worker_leaves_first_and_one_that_is_not_heard_of_last() -> None:
    site = Site(replicas=3)
    await site.settle()
    site.pods("a", "b")
    site.pods("c", phase="Pending")
    site.registry.say(a=9)
    site.ask(replicas=1)
    assert (await site.reconcile())[:2] == [("annotate", "Pod", "c"), ("annotate", "Pod", "a")]


async def test_an_account_of_others_is_not_taken_over_though_it_was_not_heard_of_yet() -> None:
    site = Site()
    site.cluster.store("ServiceAccount", {"metadata": {"namespace": "team", "name": "voices", "labels": {}}})
    with pytest.raises(ApiError):
        await reconcile_pool(site.context, "team", "voices")
    site.hear()
    await site.settle()
    said = {each["type"]: each for each in site.status()["conditions"]}
    assert said["Accepted"]["reason"] == "ServiceAccountRefused"
    assert "ownerReferences" not in site.cluster.objects["ServiceAccount", "team", "voices"]["metadata"]


async def test_a_claim_that_is_asked_for_no_more_is_deleted() -> None:
    site = Site(cache={"kind": "Claim", "sizeMiB": 10})
    await site.settle()
    assert site.cluster.holds("PersistentVolumeClaim", "voices", {"spec": {"accessModes": ["ReadWriteOnce"]}})
    site.ask()
    assert ("delete", "PersistentVolumeClaim", "voices") in await site.reconcile()


async def test_what_a_deleted_pool_left_on_purpose_is_taken_up_by_its_successor() -> None:
    site = Site()
    await site.settle()
    for kind in ("Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"):
        live = site.cluster.objects[kind, "team", "voices"]
        metadata = {name: value for name, value in live["metadata"].items() if name != "ownerReferences"}
        del site.cluster.objects[kind, "team", "voices"]
        site.cluster.store(kind, {**live, "metadata": metadata})
    site.hear()
    assert len([each for each in await site.reconcile() if each[0] == "apply"]) == 5
    assert site.cluster.holds("Deployment", "voices", {"metadata": {"ownerReferences": [{"kind": "WorkerPool"}]}})


async def test_a_spec_that_cannot_be_read_is_said_and_touches_nothing() -> None:
    site = Site(replicas=-1)
    await site.settle()
    assert [kind for _, kind, _ in site.cluster.written] == ["WorkerPool"]
    assert site.status()["conditions"][0]["reason"] == "InvalidSpec"


async def test_a_pool_that_cannot_be_read_any_more_keeps_what_was_counted() -> None:
    site = Site(replicas=2)
    site.pods("a", "b")
    site.registry.say(a=1, b=2)
    await site.settle()
    counted = {name: value for name, value in site.status().items() if name not in ("conditions", "observedGeneration")}
    assert counted["replicas"] == 2 and counted["selector"]
    site.ask(replicas=-1)
    await site.settle()
    assert site.status().items() >= counted.items() and site.status()["conditions"][0]["reason"] == "InvalidSpec"


# --- how often a status is written ------------------------------------------------------------------------------------


async def test_a_status_is_written_once_a_second_at_most() -> None:
    site = Site(replicas=3)
    await site.settle()
    site.cluster.written.clear()
    for step in range(40):
        site.pods(f"p{step}")
        await site.reconcile()
        await asyncio.sleep(0.1)
    assert 3 <= len([each for each in site.cluster.written if each[0] == "status"]) <= 5


async def test_streams_that_come_and_go_are_told_less_often_and_in_the_end() -> None:
    site = Site(replicas=1)
    site.pods("a")
    site.registry.say(a=1)
    await site.settle()
    site.cluster.written.clear()
    for step in range(int(BETWEEN_NUMBERS_S * 3)):
        site.registry.say(a=step)
        await site.reconcile()
        await asyncio.sleep(1)
    assert 2 <= len([each for each in site.cluster.written if each[0] == "status"]) <= 4
    await asyncio.sleep(BETWEEN_NUMBERS_S)
    await site.reconcile()
    assert site.status()["streams"] == int(BETWEEN_NUMBERS_S * 3) - 1


async def test_a_condition_that_turns_is_told_as_an_event_and_one_that_stands_is_not() -> None:
    site = Site(replicas=1)
    site.pods("a")
    await site.settle()
    assert site.cluster.events == []
    site.registry.say(a=0)
    await site.settle()
    assert ("voices", "Ready") in site.cluster.events
    told = len(site.cluster.events)
    await site.settle()
    assert len(site.cluster.events) == told
    site.registry.say()
    await site.settle()
    assert ("voices", "NotRegistered") in site.cluster.events


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("redis://:secret@valkey:6380/0", (6379, 6380)),
        ("redis://valkey", (6379,)),
        ("redis+sentinel://a:26379,b/main", (6379, 26379)),
    ],
)
async def test_where_the_registry_is_may_be_reached(url: str, ports: tuple[int, ...]) -> None:
    assert surroundings(OperatorConfig(redis_url=url)).redis_ports == ports  # type: ignore[arg-type]
