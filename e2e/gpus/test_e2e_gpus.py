"""GPUs run out: what finds none waits, and the pool says which resource is short."""

import pytest
from cluster_processes import wait_for
from image_builder import version
from installation import Installation

pytestmark = pytest.mark.e2e

POOL = {
    "apiVersion": "antiphon.dev/v1alpha1",
    "kind": "WorkerPool",
    "metadata": {"name": "many"},
    "spec": {
        "replicas": 7,
        "image": f"antiphon-worker-mock:{version()}",
        "gpu": {"resourceName": "nvidia.com/gpu"},
        "template": {"resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}},
    },
}


def test_a_ninth_gpu_is_named_as_short(installation: Installation) -> None:
    wait_for(lambda: bool(installation.pods("gpu-voices") and installation.pods("gpu-ears")), "two pods with GPUs")
    installation.target.apply(installation.namespace, POOL)
    try:
        wait_for(
            lambda: phases(installation) == {"Running": 6, "Pending": 1}, "six of seven pods to run", timeout_s=120
        )
        short = installation.condition("workerpool", "many", "Scheduled")
        assert short["status"] == "False" and "nvidia.com/gpu" in short["message"], short
        installation.kubectl("scale", "wpool/many", "--replicas=6")
        installation.kubectl("wait", "--for=condition=Scheduled", "wpool/many", "--timeout=30s")
    finally:
        installation.kubectl("delete", "workerpool", "many")


def phases(installation: Installation) -> dict[str, int]:
    found: dict[str, int] = {}
    for pod in installation.pods("many"):
        found[pod["status"]["phase"]] = found.get(pod["status"]["phase"], 0) + 1
    return found
