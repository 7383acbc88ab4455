"""A pool whose workers are real processes: what is said of it follows them, and is quiet while they live."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from cluster_operator import lead, operator, writes
from cluster_processes import Daemon, wait_for
from cluster_registry import registry, secrets
from control_plane import ControlPlane
from process_node import ProcessNode

pytestmark = pytest.mark.cluster

NAMESPACE = "team"
DIED_S, GONE_S = 5.0, 1.0
"""A status says no more that a worker can be called, so long after it died, or after its Pod began to go."""
MARGIN_S = 1.5
"""For a busy machine, and for kubectl to ask."""


class Site:
    """A plane, a registry, an operator, and a pool of two on a node of processes."""

    def __init__(self, plane: ControlPlane, node: ProcessNode, valkey: Daemon) -> None:
        self.plane, self.node, self.valkey = plane, node, valkey

    def condition(self, kind: str) -> str:
        """`status reason` of a condition."""
        found = self.plane.get("-n", NAMESPACE, "workerpool", "voices").get("status", {}).get("conditions", ())
        return next((f"{each['status']} {each['reason']}" for each in found if each["type"] == kind), "")

    def said(self, kind: str, expected: str) -> Callable[[], bool]:
        return lambda: self.condition(kind).startswith(expected)

    def pods(self) -> list[dict[str, Any]]:
        return self.plane.get("-n", NAMESPACE, "pods")["items"]


@pytest.fixture(scope="module")
def site(cluster_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("workers")
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane(folder / "plane"))
        plane.create_namespace(NAMESPACE)
        valkey = stack.enter_context(registry(folder))
        node = stack.enter_context(ProcessNode(plane, folder / "node", env={"ANTIPHON_WORKER_METRICS_PORT": "0"}))
        running = operator(plane, folder, "first", valkey.url)
        stack.callback(running.stop, signal.SIGKILL)
        lead(plane, running)
        site = Site(plane, node, valkey)
        plane.apply(
            *secrets(NAMESPACE, valkey.url),
            {
                "apiVersion": "antiphon.dev/v1alpha1",
                "kind": "WorkerPool",
                "metadata": {"name": "voices", "namespace": NAMESPACE},
                "spec": {"image": "localhost/antiphon-worker:1", "replicas": 2, "drainTimeoutSeconds": 5},
            },
        )
        wait_for(site.said("Ready", "True"), "a ready pool", 60)
        yield site


def test_a_pool_is_ready_once_its_workers_are_registered_and_then_nothing_is_written(site: Site) -> None:
    assert site.condition("Available").startswith("True") and site.condition("Degraded").startswith("False")
    assert "voices   2/2       True" in site.plane.kubectl("-n", NAMESPACE, "get", "antiphon")
    site.plane.kubectl(
        "-n", NAMESPACE, "wait", "--for=jsonpath={.status.readyReplicas}=2", "wpool/voices", "--timeout=30s"
    )
    wait_for(site.said("Progressing", "False"), "rest", 30)
    time.sleep(3)
    mark = site.plane.audit_mark()
    time.sleep(10)
    assert writes(site.plane, mark) == []


def test_ready_is_not_said_for_long_of_a_worker_that_was_killed(site: Site) -> None:
    wait_for(site.said("Ready", "True"), "a ready pool", 60)
    killed = site.pods()[0]["metadata"]["name"]
    began = time.monotonic()
    site.node.kill(killed)
    wait_for(site.said("Ready", "False"), "the pool's word", DIED_S + MARGIN_S)
    print(f"not ready {time.monotonic() - began:.2f} s after the kill")
    wait_for(site.said("Ready", "True"), "the worker back", 60)


def test_a_pod_that_goes_counts_no_more_at_once(site: Site) -> None:
    wait_for(site.said("Ready", "True"), "a ready pool", 60)
    gone = site.pods()[0]["metadata"]["name"]
    began = time.monotonic()
    site.plane.kubectl("-n", NAMESPACE, "delete", "pod", gone, "--wait=false")
    wait_for(site.said("Ready", "False"), "the pool's word", GONE_S + MARGIN_S)
    print(f"not ready {time.monotonic() - began:.2f} s after the deletion")
    wait_for(site.said("Ready", "True"), "another worker", 60)


def test_a_lost_registry_is_said_and_changes_nothing_else(site: Site) -> None:
    wait_for(site.said("Ready", "True"), "a ready pool", 60)
    site.valkey.stop(signal.SIGKILL)
    wait_for(site.said("Degraded", "True RegistryOutOfReach"), "the loss", 20)
    assert site.condition("Ready").startswith("True") and len(site.pods()) == 2
    site.valkey.start()
    wait_for(site.said("Degraded", "False"), "the registry back", 20)
    wait_for(site.said("Ready", "True"), "a ready pool", 20)
