"""WorkerPools against a real API server: what is made, put back, left alone, said and cleaned up."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster_operator import lead, operator, writes
from cluster_processes import Daemon, wait_for
from control_plane import ControlPlane

pytestmark = pytest.mark.cluster

CHILDREN = ("deployment", "service", "serviceaccount", "poddisruptionbudget", "networkpolicy")
PLURALS = ("deployments", "services", "serviceaccounts", "poddisruptionbudgets", "networkpolicies")
SOON_S = 1.0
"""A hand-edited child is back within it; tests allow for a busy machine."""
PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def plane(cluster_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("pools")) as plane:
        plane.add_gpu_nodes(1, gpus=8)
        yield plane


@pytest.fixture(scope="module")
def running(plane: ControlPlane) -> Iterator[Daemon]:
    daemon = operator(plane, plane.folder, "first")
    lead(plane, daemon)
    yield daemon
    daemon.stop()


@pytest.fixture
def place(plane: ControlPlane, running: Daemon, request: pytest.FixtureRequest) -> str:
    """A fresh namespace with restricted Pod Security, and an operator that looks after it."""
    name = re.sub("[^a-z]+", "-", request.node.name.removeprefix("test_").lower())[:60].strip("-")
    return plane.create_namespace(name, **{"pod-security.kubernetes.io/enforce": "restricted"})


def pool(namespace: str, name: str = "voices", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "antiphon.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"image": "localhost/antiphon-worker:1", **spec},
    }


def status(plane: ControlPlane, namespace: str, name: str = "voices") -> dict[str, Any]:
    return plane.get("-n", namespace, "workerpool", name).get("status", {})


def condition(plane: ControlPlane, namespace: str, kind: str, name: str = "voices") -> dict[str, Any]:
    found = status(plane, namespace, name).get("conditions", ())
    return next((each for each in found if each["type"] == kind), {})


def is_said(plane: ControlPlane, namespace: str, kind: str, value: str, name: str = "voices") -> Callable[[], bool]:
    return lambda: condition(plane, namespace, kind, name).get("status") == value


def settle(plane: ControlPlane, namespace: str, pods: int, name: str = "voices") -> None:
    wait_for(lambda: status(plane, namespace, name).get("readyReplicas") == pods, "a status with its pods", PATIENCE_S)


def test_a_pool_becomes_its_objects_and_one_status(plane: ControlPlane, place: str) -> None:
    mark = plane.audit_mark()
    plane.apply(pool(place, replicas=2, gpu={}))
    settle(plane, place, 2)
    owner = plane.get("-n", place, "workerpool", "voices")["metadata"]["uid"]
    for kind in CHILDREN:
        child = plane.get("-n", place, kind, "voices")
        assert [each["uid"] for each in child["metadata"]["ownerReferences"]] == [owner]
        assert not child["metadata"].get("finalizers")
    time.sleep(3)
    written = [each for each in plane.audit(mark, agent="antiphon-operator", writes=True) if each.namespace == place]
    assert sorted(each.resource for each in written if not each.subresource) == sorted(PLURALS)
    # One, or two where the machine is so busy that the pods come long after their Deployment.
    assert 1 <= sum(each.subresource == "status" for each in written) <= 2


def test_nothing_is_written_when_nothing_changes(plane: ControlPlane, place: str, running: Daemon) -> None:
    plane.apply(
        pool(
            place,
            replicas=1,
            cache={"kind": "Claim", "sizeMiB": 2048},
            downloads={"secretName": "hub", "hubEndpoint": "http://mirror.example:8080"},
            template={
                "resources": {"requests": {"cpu": "1500m", "memory": "1024Mi"}, "limits": {"cpu": 2, "memory": "2Gi"}},
                "env": [{"name": "EMPTY", "value": ""}, {"name": "ANTIPHON_WORKER_LOG_LEVEL", "value": "DEBUG"}],
                "tolerations": [{"key": "voices", "operator": "Exists", "effect": "NoSchedule"}],
            },
        )
    )
    wait_for(lambda: bool(status(plane, place)), "a status", PATIENCE_S)
    time.sleep(2)
    mark = plane.audit_mark()
    running.stop()
    lead(plane, running)
    time.sleep(4)
    assert writes(plane, mark) == []


@pytest.mark.parametrize(
    ("kind", "edit", "path", "expected"),
    [
        ("deployment", ("scale", "deployment/voices", "--replicas=5"), "{.spec.replicas}", "2"),
        ("service", ("delete", "service/voices"), "{.spec.clusterIP}", "None"),
        (
            "poddisruptionbudget",
            ("patch", "pdb/voices", "--type=merge", '-p={"spec":{"maxUnavailable":2}}'),
            "{.spec.maxUnavailable}",
            "1",
        ),
        (
            "networkpolicy",
            ("patch", "netpol/voices", "--type=merge", '-p={"spec":{"ingress":[{}]}}'),
            "{.spec.ingress[0].ports[0].port}",
            "7001",
        ),
        (
            "serviceaccount",
            ("label", "sa/voices", "app.kubernetes.io/managed-by-", "antiphon.dev/pool-"),
            "{.metadata.labels.antiphon\\.dev/pool}",
            "voices",
        ),
    ],
)
def test_what_a_hand_changes_is_put_back(
    plane: ControlPlane, place: str, kind: str, edit: tuple[str, ...], path: str, expected: str
) -> None:
    plane.apply(pool(place, replicas=2))
    settle(plane, place, 2)
    plane.kubectl("-n", place, *edit)
    began = time.monotonic()

    def is_back() -> bool:
        return (
            plane.kubectl("-n", place, "get", kind, "voices", "--ignore-not-found", "-o", f"jsonpath={path}")
            == expected
        )

    wait_for(is_back, f"the {kind} as it was", SOON_S + 1)
    print(f"{kind} back after {time.monotonic() - began:.2f} s")
    plane.kubectl("delete", "namespace", place, "--wait=false")


def test_what_others_manage_is_left_alone(plane: ControlPlane, place: str) -> None:
    plane.apply(pool(place))
    settle(plane, place, 1)
    plane.kubectl("-n", place, "annotate", "deployment/voices", "team.example/owner=speech")
    plane.kubectl("-n", place, "rollout", "restart", "deployment/voices")
    plane.kubectl("-n", place, "patch", "workerpool/voices", "--type=merge", '-p={"spec":{"streamsPerWorker":3}}')
    wait_for(
        lambda: '"value": "3"' in plane.kubectl("-n", place, "get", "deployment/voices", "-o", "json"), "the change"
    )
    live = plane.get("-n", place, "deployment", "voices")
    assert live["metadata"]["annotations"]["team.example/owner"] == "speech"
    assert "kubectl.kubernetes.io/restartedAt" in live["spec"]["template"]["metadata"]["annotations"]
    plane.kubectl("-n", place, "set", "env", "deployment/voices", "OTHERS=1")
    time.sleep(2)
    mark = plane.audit_mark()
    for _ in range(3):  # each is a reason to look at the pool
        plane.kubectl("-n", place, "rollout", "restart", "deployment/voices")
        time.sleep(1.5)
    assert '"OTHERS"' in plane.kubectl("-n", place, "get", "deployment/voices", "-o", "json")
    applied = [each for each in plane.audit(mark, agent="antiphon-operator", writes=True) if each.namespace == place]
    assert not [each for each in applied if each.resource == "deployments"]


def test_what_is_asked_for_no_more_goes(plane: ControlPlane, place: str) -> None:
    plane.apply(pool(place, template={"nodeSelector": {"disk": "fast"}}, cache={"kind": "Claim", "sizeMiB": 100}))
    wait_for(lambda: plane.succeeds("-n", place, "get", "pvc", "voices"), "the claim", PATIENCE_S)
    wait_for(lambda: plane.succeeds("-n", place, "get", "deployment", "voices"), "the deployment", PATIENCE_S)
    plane.apply(pool(place))

    def is_gone() -> bool:
        selector = plane.get("-n", place, "deployment", "voices")["spec"]["template"]["spec"].get("nodeSelector")
        return selector is None

    wait_for(is_gone, "the selector gone", PATIENCE_S)
    wait_for(
        lambda: (
            "deletionTimestamp"
            in plane.kubectl("-n", place, "get", "pvc", "voices", "--ignore-not-found", "-o", "yaml")
            or not plane.succeeds("-n", place, "get", "pvc", "voices")
        ),
        "the claim leaving",
        PATIENCE_S,
    )


def test_a_deleted_pool_leaves_nothing(plane: ControlPlane, place: str) -> None:
    plane.apply(pool(place, cache={"kind": "Claim", "sizeMiB": 100}))
    wait_for(lambda: plane.succeeds("-n", place, "get", "deployment", "voices"), "the deployment", PATIENCE_S)
    plane.kubectl("-n", place, "delete", "workerpool", "voices")
    kinds = ",".join((*CHILDREN, "persistentvolumeclaim", "pod"))
    left = ("-n", place, "get", kinds, "-l", "app.kubernetes.io/name=antiphon-worker", "-o", "name")
    wait_for(lambda: plane.kubectl(*left) == "", "nothing left", 30)


def test_a_ninth_worker_names_what_is_short(plane: ControlPlane, place: str) -> None:
    plane.apply(pool(place, replicas=9, gpu={}))
    wait_for(is_said(plane, place, "Scheduled", "False"), "the condition Scheduled", 20)
    wait_for(lambda: status(plane, place).get("readyReplicas", 0) >= 1, "ready pods", 20)
    said = condition(plane, place, "Scheduled")
    assert said["reason"] == "InsufficientResources"
    assert "nvidia.com/gpu is short" in said["message"]
    plane.kubectl("-n", place, "scale", "workerpool/voices", "--replicas=1")
    wait_for(is_said(plane, place, "Scheduled", "True"), "the condition Scheduled", PATIENCE_S)
    wait_for(is_said(plane, place, "RolloutInterrupts", "True"), "a warning", PATIENCE_S)
    assert plane.get("-n", place, "workerpool/voices")["spec"]["replicas"] == 1
    wait_for(lambda: len(plane.get("-n", place, "pods")["items"]) == 1, "one pod", PATIENCE_S)
    plane.kubectl("delete", "namespace", place, "--wait=false")


def test_the_workers_that_must_leave_are_marked_first(plane: ControlPlane, place: str) -> None:
    plane.apply(pool(place, replicas=3))
    settle(plane, place, 3)
    mark = plane.audit_mark()
    plane.kubectl("-n", place, "scale", "workerpool/voices", "--replicas=1")
    wait_for(lambda: len(plane.get("-n", place, "pods")["items"]) == 1, "one pod", PATIENCE_S)
    done = [
        (each.verb, each.resource)
        for each in plane.audit(mark, agent="antiphon-operator", writes=True)
        if each.namespace == place and not each.subresource and each.resource != "events"
    ]
    assert done == [("patch", "pods"), ("patch", "pods"), ("patch", "deployments")]
    left = plane.get("-n", place, "pods")["items"][0]
    assert "antiphon.dev/draining" not in left["metadata"].get("annotations", {})


def test_an_object_of_somebody_else_is_not_taken_and_stops_nobody(plane: ControlPlane, place: str) -> None:
    plane.kubectl("-n", place, "create", "service", "clusterip", "voices", "--tcp=80")
    plane.apply(pool(place), pool(place, "others"))
    wait_for(is_said(plane, place, "Accepted", "False"), "the refusal", PATIENCE_S)
    said = condition(plane, place, "Accepted")
    assert said["reason"] == "ServiceRefused" and "is not the pool's" in said["message"]
    assert plane.get("-n", place, "service", "voices")["spec"]["ports"][0]["port"] == 80
    wait_for(is_said(plane, place, "Accepted", "True", "others"), "the other pool", PATIENCE_S)
    plane.kubectl("-n", place, "delete", "service", "voices")
    wait_for(is_said(plane, place, "Accepted", "True"), "the name free", PATIENCE_S)


def test_what_the_api_server_refuses_is_said(plane: ControlPlane, place: str) -> None:
    terms = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{}]}]}}
    plane.apply(pool(place, template={"affinity": {"nodeAffinity": terms}}))
    wait_for(is_said(plane, place, "Accepted", "False"), "the refusal", PATIENCE_S)
    said = condition(plane, place, "Accepted")
    assert said["reason"] == "DeploymentRefused" and "affinity" in said["message"]


@pytest.mark.parametrize(
    ("gpu", "resource"),
    [
        ({}, "nvidia.com/gpu"),
        ({"resourceName": "nvidia.com/mig-1g.10gb", "sharing": "MIG"}, "nvidia.com/mig-1g.10gb"),
        (
            {"resourceName": "nvidia.com/gpu.shared", "sharing": "TimeSlicing", "memoryMiB": 8000},
            "nvidia.com/gpu.shared",
        ),
        ({"resourceName": "nvidia.com/gpu.shared", "sharing": "MPS", "memoryMiB": 8000}, "nvidia.com/gpu.shared"),
    ],
)
def test_every_kind_of_gpu_is_asked_for_as_the_device_plugin_expects(
    plane: ControlPlane, place: str, gpu: dict[str, Any], resource: str
) -> None:
    plane.apply(pool(place, gpu={"product": "NVIDIA-H100-80GB-HBM3", "runtimeClassName": "nvidia", **gpu}))
    wait_for(lambda: plane.succeeds("-n", place, "get", "deployment", "voices"), "the deployment", PATIENCE_S)
    pod = plane.get("-n", place, "deployment", "voices")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"] == {"limits": {resource: "1"}, "requests": {resource: "1"}}
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert pod["runtimeClassName"] == "nvidia"
    plane.kubectl("delete", "namespace", place, "--wait=false")
