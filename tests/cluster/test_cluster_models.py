"""VoiceModels against a real API server, a real registry and real workers: placed, said, swapped, rolled back, gone."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from cluster_operator import lead, operator, writes
from cluster_processes import Daemon, wait_for
from cluster_registry import Valkey, registry, secrets
from control_plane import ControlPlane
from process_node import ProcessNode

from antiphon.registry.keys import Keys
from antiphon.registry.snapshot import RegistryReader, Snapshot

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NAMESPACE = "models"
PATIENCE_S = 40.0


class Site:
    """A plane with two workers of the mock engine, an operator and a registry."""

    def __init__(self, plane: ControlPlane, node: ProcessNode, running: Daemon, valkey: Valkey) -> None:
        self.plane = plane
        self.node = node
        self.operator = running
        self.valkey = valkey
        self.url = valkey.url

    def apply(self, name: str, **spec: Any) -> None:
        self.plane.apply(model(name, **spec))

    def patch(self, name: str, spec: dict[str, Any]) -> None:
        self.plane.kubectl("-n", NAMESPACE, "patch", "vmod", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def status(self, name: str) -> dict[str, Any]:
        return self.plane.get("-n", NAMESPACE, "voicemodel", name).get("status", {})

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        return next((each for each in self.status(name).get("conditions", ()) if each["type"] == kind), {})

    def until(self, name: str, kind: str, reason: str, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """The condition once it has this reason (or status)."""
        wait_for(
            lambda: reason in (self.condition(name, kind).get("reason"), self.condition(name, kind).get("status")),
            f"{name} {kind} {reason}",
            within_s,
        )
        return self.condition(name, kind)

    def delete(self, *names: str) -> None:
        self.plane.kubectl("-n", NAMESPACE, "delete", "vmod", *names)

    def snapshot(self) -> Snapshot:
        """What the registry says, as an orchestrator reads it."""

        async def read() -> Snapshot:
            reader = RegistryReader(self.url, NAMESPACE)
            running = asyncio.create_task(reader.run())
            try:
                async with asyncio.timeout(5):
                    return await reader.changed(0)
            finally:
                running.cancel()
                await asyncio.wait((running,))

        return asyncio.run(read())

    def holders(self, name: str) -> list[str]:
        """Workers that say they hold it."""
        workers = self.snapshot().workers.values()
        found = [(worker.name, worker.lease.resident(name)) for worker in workers if worker.lease is not None]
        return sorted(worker for worker, held in found if held is not None and held.state in ("warm", "in_use"))

    def wait_patiently(self, condition: Any, what: str) -> None:
        wait_for(condition, what, PATIENCE_S)


def pool(name: str = "tones", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "antiphon.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"tier": name}},
        "spec": {"image": "localhost/antiphon-worker:1", "replicas": 2, "memoryBudgetMiB": 300, **spec},
    }


def model(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "antiphon.dev/v1alpha1",
        "kind": "VoiceModel",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "task": "tts",
            "engine": "mock",
            "memory": {"weightsMiB": 20},
            "residency": {"policy": "Pinned"},
            **spec,
        },
    }


def settings(**values: object) -> list[dict[str, str]]:
    return [{"name": name, "value": json.dumps(value)} for name, value in values.items()]


@pytest.fixture(scope="module")
def site(cluster_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("models")
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane(folder / "plane"))
        plane.create_namespace(NAMESPACE)
        valkey = stack.enter_context(registry(folder))
        node = stack.enter_context(ProcessNode(plane, folder / "node", env={"ANTIPHON_WORKER_METRICS_PORT": "0"}))
        running = operator(plane, folder, "first", valkey.url)
        stack.callback(running.stop, signal.SIGKILL)
        lead(plane, running)
        plane.apply(*secrets(NAMESPACE, valkey.url), pool())
        site = Site(plane, node, running, valkey)
        wait_for(lambda: len(node.running()) == 2, "two workers", 60)
        yield site


def test_a_model_is_placed_loaded_and_said_to_be_ready(site: Site) -> None:
    site.apply("joe", residency={"policy": "Pinned", "minReplicas": 2}, aliases=["alloy"])
    site.until("joe", "Ready", "Callable")
    site.wait_patiently(lambda: site.status("joe").get("resident") == "2/2", "both workers")
    for kind in ("Accepted", "ArtifactCached", "Scheduled", "Resident"):
        assert site.until("joe", kind, "True")
    assert site.until("joe", "Progressing", "Complete") and site.until("joe", "Degraded", "AsWanted")
    known = site.snapshot()
    assert known.model("tts", "alloy") is known.models["joe"]
    assert len(site.holders("joe")) == 2
    site.plane.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "voicemodel", "joe", "--timeout=5s")


@pytest.mark.parametrize(
    ("spec", "reason", "remedy"),
    [
        ({"poolSelector": {"matchLabels": {"tier": "gold"}}}, "NoPool", "No WorkerPool has the labels tier=gold"),
        ({"engine": "piper-of-old"}, "NoEngine", "give a WorkerPool an image that has it"),
        ({"memory": {"weightsMiB": 5000}}, "TooLarge", "raise memoryBudgetMiB"),
        ({"residency": {"policy": "Pinned", "minReplicas": 3}}, "TooFewWorkers", "raise replicas of a pool"),
        ({"residency": {"policy": "OnDemand"}, "engine": "piper-of-old"}, "NoEngine", "give a WorkerPool an image"),
    ],
)
def test_what_cannot_be_placed_says_why_and_what_to_do(
    site: Site, spec: dict[str, Any], reason: str, remedy: str, request: pytest.FixtureRequest
) -> None:
    name = f"odd-{request.node.callspec.id.lower().split('-')[0]}"
    site.apply(name, **spec)
    try:
        found = site.until(name, "Scheduled", reason)
        assert found["status"] == "False" and remedy in found["message"]
        if reason != "TooFewWorkers":
            assert site.condition(name, "Ready")["status"] == "False"
    finally:
        site.delete(name)


def test_an_alias_belongs_to_the_model_that_had_it_first(site: Site) -> None:
    site.apply("late", aliases=["alloy", "echo"])
    try:
        assert "alloy is joe's" in site.until("late", "Accepted", "AliasTaken")["message"]
        site.until("late", "Ready", "Callable")  # by its own name, and by the alias that was free
        known = site.snapshot()
        assert known.model("tts", "alloy") is known.models["joe"] and known.model("tts", "echo") is known.models["late"]
    finally:
        site.delete("late")
    site.wait_patiently(lambda: "late" not in site.snapshot().models, "no such model any more")


def test_a_model_on_demand_is_ready_before_anybody_holds_it(site: Site) -> None:
    site.apply("rare", residency={"policy": "OnDemand"})
    try:
        site.until("rare", "Ready", "OnDemand")
        assert site.holders("rare") == []
        want = [worker.want for worker in site.snapshot().workers.values()]
        assert len(want) == 2 and all(each is not None and each.allows("rare") for each in want)
    finally:
        site.delete("rare")


def test_a_new_revision_takes_over_without_a_pod_being_touched(site: Site) -> None:
    pods, before = site.node.running(), site.status("joe")["active"]["digest"]
    site.patch("joe", {"engineConfig": settings(ms_per_word=120)})
    site.wait_patiently(lambda: site.status("joe")["active"]["digest"] != before, "the new revision")
    site.wait_patiently(lambda: site.status("joe")["resident"] == "2/2", "it on both workers")
    site.wait_patiently(lambda: not site.snapshot().models["joe"].revisions, "the old one out of the catalogue")
    assert site.snapshot().models["joe"].digest == site.status("joe")["active"]["digest"]
    assert site.node.running() == pods and "candidate" not in site.status("joe")
    site.wait_patiently(lambda: _revisions(site, "joe") == {site.status("joe")["active"]["digest"]}, "the old one gone")


def test_a_revision_that_cannot_be_loaded_is_rolled_back_and_left_alone(site: Site) -> None:
    before = site.status("joe")["active"]["digest"]
    site.patch("joe", {"engineConfig": settings(fail_load="out of tune")})
    found = site.until("joe", "Degraded", "RolledBack")
    assert "out of tune" in found["message"], found
    status = site.status("joe")
    assert status["active"]["digest"] == before and status["refused"] and "candidate" not in status
    assert site.condition("joe", "Ready")["status"] == "True"
    site.patch("joe", {"residency": {"priority": 5}})  # another change is no reason to try it again
    site.wait_patiently(
        lambda: site.status("joe")["observedGeneration"] == _generation(site, "joe"), "the new spec seen"
    )
    assert site.status("joe")["refused"] == status["refused"]
    site.patch("joe", {"engineConfig": settings(ms_per_word=120)})
    site.until("joe", "Degraded", "AsWanted")
    assert site.status("joe")["active"]["digest"] == before


def test_a_rollout_goes_on_where_it_was_when_the_operator_was_killed(site: Site) -> None:
    steps = [{"weight": 10, "pauseSeconds": 600}, {"weight": 100}]
    site.patch("joe", {"rollout": {"steps": steps}, "engineConfig": settings(ms_per_word=110)})
    site.wait_patiently(lambda: site.status("joe").get("candidate", {}).get("weight") == 10, "the first step")
    site.wait_patiently(
        lambda: [each.weight for each in site.snapshot().models["joe"].revisions] == [90, 10], "weights"
    )
    site.until("joe", "Progressing", "Shifting")
    time.sleep(2)
    before, known = site.status("joe"), site.snapshot()
    mark = site.plane.audit_mark()
    site.operator.stop(signal.SIGKILL)
    lead(site.plane, site.operator)
    site.wait_patiently(lambda: site.snapshot().epoch > known.epoch, "a higher epoch")
    time.sleep(4)
    assert writes(site.plane, mark) == []
    assert site.status("joe") == before and site.snapshot().models == known.models
    site.patch("joe", {"rollout": {"steps": [{"weight": 100}]}})
    site.wait_patiently(lambda: "candidate" not in site.status("joe"), "the end of the rollout")


def test_ready_is_not_said_of_what_has_died(site: Site) -> None:
    site.until("joe", "Ready", "Callable")
    mark, pods = site.plane.audit_mark(), site.node.running()
    for pod in pods:
        site.node.kill(pod)
    site.until("joe", "Ready", "False")
    entries = site.plane.audit(mark, writes=True)
    deaths = {each.name: each.at for each in reversed(entries) if each.resource == "pods" and each.name in pods}
    last = max(deaths.values())
    said = [each.at for each in entries if each.resource == "voicemodels" and each.name == "joe" and each.at > last]
    site.until("joe", "Ready", "Callable")
    took_s = (said[0] - last).total_seconds()
    assert len(deaths) == 2 and took_s < 1.0, f"{took_s:.2f} s after the Pods said so"


def test_a_registry_that_was_lost_is_said_and_filled_again(site: Site) -> None:
    site.wait_patiently(lambda: len(site.holders("joe")) == 2, "both workers")
    site.until("joe", "Ready", "Callable")
    site.valkey.stop(signal.SIGKILL)
    site.until("joe", "Degraded", "RegistryUnreachable")
    assert site.condition("joe", "Ready")["status"] == "True"  # calls go on as they were routed
    site.valkey.start()
    begun = time.monotonic()

    def is_routable() -> bool:
        try:
            known = site.snapshot()
        except TimeoutError:
            return False
        return "joe" in known.models and len(site.holders("joe")) == 2

    site.wait_patiently(is_routable, "the registry filled again")
    took_s = time.monotonic() - begun
    site.until("joe", "Degraded", "AsWanted")
    assert took_s < 8, f"{took_s:.1f} s"


def test_what_another_hand_wrote_into_the_registry_is_put_right(site: Site) -> None:
    with redis.Redis.from_url(site.url) as client:
        client.hset(Keys(NAMESPACE).models, "foreign", "{}")
        client.hdel(Keys(NAMESPACE).workers, site.node.running()[0])
        site.wait_patiently(lambda: not client.hexists(Keys(NAMESPACE).models, "foreign"), "the comparison")
        assert len(client.hkeys(Keys(NAMESPACE).workers)) == 2


def test_one_worker_without_room_for_two_changes_over_in_place(site: Site) -> None:
    site.plane.apply(pool("narrow", replicas=1, memoryBudgetMiB=30))
    site.apply("lone", poolSelector={"matchLabels": {"tier": "narrow"}})
    site.until("lone", "Ready", "Callable", 60)
    before = site.status("lone")["active"]["digest"]
    site.patch("lone", {"engineConfig": settings(ms_per_word=120)})
    wait_for(lambda: site.status("lone")["active"]["digest"] != before, "the new revision", 60)
    site.until("lone", "Ready", "Callable")
    # One that no worker can hold, not even alone, takes no session.
    site.patch("lone", {"memory": {"weightsMiB": 500}, "engineConfig": settings(ms_per_word=130)})
    site.wait_patiently(lambda: "correct memory.weightsMiB" in site.condition("lone", "Progressing")["message"], "why")
    time.sleep(3)
    assert site.condition("lone", "Ready")["status"] == "True" and site.status("lone")["candidate"]["weight"] == 0
    site.patch("lone", {"memory": {"weightsMiB": 20}})
    wait_for(lambda: "candidate" not in site.status("lone"), "the revision that fits now", 60)
    site.until("lone", "Ready", "Callable")
    site.delete("lone")
    site.plane.kubectl("-n", NAMESPACE, "delete", "workerpool", "narrow")


def test_when_all_is_deleted_nothing_is_left_in_the_registry(site: Site) -> None:
    site.delete("joe")
    site.plane.kubectl("-n", NAMESPACE, "delete", "workerpool", "tones")
    keys = Keys(NAMESPACE)
    with redis.Redis.from_url(site.url) as client:
        tables = (keys.models, keys.pools, keys.workers, keys.want)
        site.wait_patiently(lambda: not any(client.exists(key) for key in tables), "an empty registry")


def _revisions(site: Site, name: str) -> set[str]:
    """Of a model, what any worker has in memory."""
    leases = [worker.lease for worker in site.snapshot().workers.values() if worker.lease is not None]
    return {each.revision for lease in leases for each in lease.models if each.name == name}


def _generation(site: Site, name: str) -> int:
    generation: int = site.plane.get("-n", NAMESPACE, "voicemodel", name)["metadata"]["generation"]
    return generation
