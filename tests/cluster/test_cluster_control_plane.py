"""The control plane that the other tests stand on: it schedules, refuses, audits, and survives its API server."""

import os
import subprocess

import pytest
from cluster_binaries import program
from cluster_processes import wait_for
from control_plane import ControlPlane, KubectlError

pytestmark = pytest.mark.cluster


def deployment(name: str, replicas: int, gpus: int) -> dict:
    container = {"name": "main", "image": "none", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def test_a_ninth_gpu_pod_stays_pending(own_control_plane: ControlPlane) -> None:
    plane = own_control_plane
    plane.add_gpu_nodes(1, gpus=8)
    plane.apply(deployment("full", replicas=9, gpus=1))
    wait_for(lambda: plane.get("deployment", "full")["status"].get("readyReplicas") == 8, "eight ready pods")
    waiting = [pod for pod in plane.get("pods")["items"] if pod["status"]["phase"] == "Pending"]
    assert len(waiting) == 1
    assert "Insufficient nvidia.com/gpu" in waiting[0]["status"]["conditions"][0]["message"]


def test_the_audit_log_names_who_wrote(control_plane: ControlPlane, cluster_namespace: str) -> None:
    mark = control_plane.audit_mark()
    control_plane.kubectl("-n", cluster_namespace, "create", "configmap", "a")
    control_plane.kubectl("-n", cluster_namespace, "get", "configmap", "a")
    asked = control_plane.audit(mark, agent="kubectl", user="admin")
    written = control_plane.audit(mark, agent="kubectl", writes=True)
    assert {entry.verb for entry in asked} >= {"create", "get"}
    assert [(entry.verb, entry.resource, entry.name, entry.code) for entry in written] == [
        ("create", "configmaps", "a", 201)
    ]


def test_a_service_account_has_no_rights_of_its_own(control_plane: ControlPlane, cluster_namespace: str) -> None:
    kubeconfig = control_plane.service_account_kubeconfig(cluster_namespace, "default")
    command = [program("kubectl"), f"--kubeconfig={kubeconfig}", "-n", cluster_namespace, "get", "secrets"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode and f"system:serviceaccount:{cluster_namespace}:default" in refused.stderr


def test_restricted_pod_security_refuses_root(control_plane: ControlPlane, cluster_namespace: str) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    control_plane.kubectl("label", "namespace", cluster_namespace, label)
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        control_plane.kubectl("-n", cluster_namespace, "run", "root", "--image=none")


def test_a_stopped_api_server_comes_back_with_everything(own_control_plane: ControlPlane) -> None:
    plane = own_control_plane
    plane.kubectl("create", "configmap", "kept")
    plane.stop_api()
    with pytest.raises(KubectlError, match="refused"):
        plane.kubectl("get", "configmap", "kept")
    plane.start_api()
    assert plane.get("configmap", "kept")["metadata"]["name"] == "kept"


def test_a_stopped_plane_leaves_no_process(own_control_plane: ControlPlane) -> None:
    pids = [daemon.pid for daemon in own_control_plane.daemons]
    assert all(pid is not None and os.path.exists(f"/proc/{pid}") for pid in pids)
    own_control_plane.stop()
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
