"""Every kind of pool becomes its objects, with pods that restricted Pod Security admits; then all is quiet."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_operator import lead, operator, writes
from cluster_processes import Daemon, wait_for
from control_plane import ControlPlane

pytestmark = pytest.mark.cluster

POOLS = list(yaml.safe_load_all((Path(__file__).parent / "manifests/good/workerpools.yaml").read_text()))
NAMES = [pool["metadata"]["name"] for pool in POOLS]
NVIDIA = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"}


@pytest.fixture(scope="module")
def plane(cluster_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A plane without nodes that has every good pool, in a namespace with restricted Pod Security."""
    with ControlPlane(tmp_path_factory.mktemp("become")) as plane:
        space = plane.create_namespace("become", **{"pod-security.kubernetes.io/enforce": "restricted"})
        plane.apply(NVIDIA, *({**pool, "metadata": {**pool["metadata"], "namespace": space}} for pool in POOLS))
        yield plane


@pytest.fixture(scope="module", autouse=True)
def running(plane: ControlPlane) -> Iterator[Daemon]:
    """An operator that has made what the pools ask for."""
    daemon = operator(plane, plane.folder, "first")
    lead(plane, daemon)
    wait_for(lambda: is_told(plane), "a status of every pool", 60)
    yield daemon
    daemon.stop()


def is_told(plane: ControlPlane) -> bool:
    pools = plane.get("-n", "become", "workerpools")["items"]
    return all(
        any(
            each["type"] == "Accepted" and each["status"] == "True"
            for each in pool.get("status", {}).get("conditions", ())
        )
        for pool in pools
    )


def is_quiet(plane: ControlPlane) -> bool:
    mark = plane.audit_mark()
    time.sleep(5)
    return writes(plane, mark) == []


def test_a_restart_writes_nothing(plane: ControlPlane, running: Daemon) -> None:
    wait_for(lambda: is_quiet(plane), "the end of what the first start had to say", 90)
    mark = plane.audit_mark()
    running.stop()
    lead(plane, running)
    time.sleep(4)
    assert writes(plane, mark) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_pool_has_its_pods(plane: ControlPlane, name: str) -> None:
    deployment = plane.get("-n", "become", "deployment", name)
    pods = plane.get("-n", "become", "pods", "-l", f"antiphon.dev/pool={name}")["items"]
    assert len(pods) == deployment["spec"]["replicas"]


def asked(plane: ControlPlane, name: str) -> dict[str, Any]:
    """What the pool's container asks for."""
    pod = plane.get("-n", "become", "deployment", name)["spec"]["template"]["spec"]
    return {**pod["containers"][0].get("resources", {}).get("limits", {}), "class": pod.get("runtimeClassName")}


@pytest.mark.parametrize(
    ("name", "resource", "count"),
    [
        ("whole-gpu", "nvidia.com/gpu", "1"),
        ("all-fields", "nvidia.com/gpu", "2"),
        ("mig-slices", "nvidia.com/mig-1g.10gb", "2"),
        ("time-slices", "nvidia.com/gpu.shared", "1"),
        ("time-slices-not-renamed", "nvidia.com/gpu", "1"),
        ("mps-shares", "nvidia.com/gpu.shared", "1"),
        ("other-vendor", "amd.com/gpu", "1"),
    ],
)
def test_a_gpu_is_asked_for_as_its_device_plugin_offers_it(
    plane: ControlPlane, name: str, resource: str, count: str
) -> None:
    assert asked(plane, name)[resource] == count
