"""The charts installed, upgraded and taken away by helm; the operator at work with the rights that they give it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml
from cluster_binaries import build
from cluster_processes import free_ports, wait_for
from control_plane import ControlPlane
from helm_charts import ANTIPHON, CRDS, helm

from antiphon.registry.embedded import EmbeddedValkey

pytestmark = [pytest.mark.cluster]

SAMPLES = Path(__file__).parents[2] / "crds/samples"
NAMESPACE = "talk"
OUR_CRDS = ("voicemodels.antiphon.dev", "workerpools.antiphon.dev")


@pytest.fixture(scope="module")
def plane(cluster_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A plane with a node and a restricted namespace, whose CRDs come by the chart alone."""
    build("helm")
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        plane.kubectl("delete", "crd", *OUR_CRDS)
        plane.add_gpu_nodes(1)
        plane.create_namespace(NAMESPACE, **{"pod-security.kubernetes.io/enforce": "restricted"})
        yield plane


def install(plane: ControlPlane, *arguments: str | Path, values: dict | None = None) -> str:
    """`helm upgrade --install`, as a person types it."""
    kubeconfig = f"--kubeconfig={plane.kubeconfig}"
    return helm("upgrade", "--install", *arguments, "--namespace", NAMESPACE, kubeconfig, values=values, timeout_s=240)


def secrets(plane: ControlPlane) -> dict[str, dict[str, str]]:
    """What each Secret of the namespace holds, as it lies there."""
    found = plane.get("--namespace", NAMESPACE, "secrets", "--field-selector", "type=Opaque")["items"]
    return {each["metadata"]["name"]: each["data"] for each in found}


def older(chart: Path, folder: Path) -> Path:
    """The chart of the resources as an earlier version might have been packaged: without pools' `residentCap`."""
    copy = folder / chart.name
    subprocess.run(["cp", "-r", chart, copy], check=True)
    file = copy / "templates/workerpools.yaml"
    lines = file.read_text()
    documents = yaml.safe_load(lines)
    for version in documents["spec"]["versions"]:
        del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["residentCap"]
    file.write_text(yaml.safe_dump(documents))
    told = helm("package", copy, "--version", "0.0.9", "--destination", folder)
    return Path(told.strip().rpartition(" ")[2])


def test_install_upgrade_and_uninstall(plane: ControlPlane, tmp_path: Path) -> None:
    install(plane, "antiphon-crds", older(CRDS, tmp_path), "--wait")
    install(plane, "voice", ANTIPHON, "--wait")
    made = secrets(plane)
    assert set(made) == {"voice-antiphon-api-keys", "voice-antiphon-valkey", "antiphon-registry", "antiphon-workers"}
    path = "jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.residentCap.type}"
    assert not plane.kubectl("get", "crd", OUR_CRDS[1], "--output", path)

    pods = plane.get("--namespace", NAMESPACE, "pods")["items"]
    install(plane, "antiphon-crds", CRDS, "--wait")
    notes = install(plane, "voice", ANTIPHON, "--wait", values={"samples": {"enabled": True}})
    assert plane.kubectl("get", "crd", OUR_CRDS[1], "--output", path) == "integer", "an upgrade brings new fields"
    assert secrets(plane) == made, "an upgrade keeps what was made at install"
    same = {pod["metadata"]["uid"] for pod in plane.get("--namespace", NAMESPACE, "pods")["items"]}
    assert same >= {pod["metadata"]["uid"] for pod in pods}, "and restarts nothing that did not change"
    assert "kubectl wait voicemodel --all" in notes and "antiphon talk" in notes

    helm("uninstall", "voice", "--namespace", NAMESPACE, f"--kubeconfig={plane.kubeconfig}", "--wait")
    helm("uninstall", "antiphon-crds", "--namespace", NAMESPACE, f"--kubeconfig={plane.kubeconfig}", "--wait")
    assert not secrets(plane)
    plane.kubectl("get", "crd", *OUR_CRDS)


def test_autoscaling_begins_with_as_many_as_there_are(plane: ControlPlane) -> None:
    """And an upgrade leaves the number to it."""
    replicas = ("--namespace", NAMESPACE, "get", "deployment", "many-antiphon-orchestrator", "--output")
    install(plane, "many", ANTIPHON, values={"orchestrator": {"replicas": 3}})
    for there in ("3", "4"):
        plane.kubectl(
            "--namespace", NAMESPACE, "scale", "deployment", "many-antiphon-orchestrator", f"--replicas={there}"
        )
        install(plane, "many", ANTIPHON, values={"orchestrator": {"replicas": 3, "autoscaling": {"enabled": True}}})
        assert plane.kubectl(*replicas, "jsonpath={.spec.replicas}") == there
    helm("uninstall", "many", "--namespace", NAMESPACE, f"--kubeconfig={plane.kubeconfig}", "--wait")


def test_a_kept_registry_is_turned_on_and_outlives_its_release(plane: ControlPlane) -> None:
    where = ("--namespace", NAMESPACE, f"--kubeconfig={plane.kubeconfig}")
    claim = ("--namespace", NAMESPACE, "get", "persistentvolumeclaim", "kept-antiphon-valkey")
    for _ in range(2):
        for kept in (False, True, False, True):
            install(plane, "kept", ANTIPHON, values={"valkey": {"persistence": {"enabled": kept}}})
        assert plane.succeeds(*claim)
        helm("uninstall", "kept", *where, "--wait")
        assert plane.succeeds(*claim), "and is taken up by the next release of its name"
    plane.kubectl("--namespace", NAMESPACE, "delete", "persistentvolumeclaim", "kept-antiphon-valkey", "--wait=false")


@contextlib.asynccontextmanager
async def operator(plane: ControlPlane, redis_url: str, log: Path) -> AsyncIterator[None]:
    """The real operator with the rights of its ServiceAccount in the chart, and no more."""
    metrics_port, health_port = free_ports(2)
    settings = {
        "NAMESPACES": NAMESPACE,
        "LEASE_NAME": "voice-antiphon-operator",
        "LEASE_NAMESPACE": NAMESPACE,
        "REDIS_URL": redis_url,
        "METRICS_PORT": str(metrics_port),
        "HEALTH_PORT": str(health_port),
    }
    environment = os.environ | {f"ANTIPHON_OPERATOR_{name}": value for name, value in settings.items()}
    environment["KUBECONFIG"] = str(plane.service_account_kubeconfig(NAMESPACE, "voice-antiphon-operator"))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("antiphon-operator")), env=environment, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await process.wait()


async def test_the_rights_that_the_chart_gives_are_enough(plane: ControlPlane, tmp_path: Path) -> None:
    install(plane, "antiphon-crds", CRDS, "--take-ownership")
    install(plane, "voice", ANTIPHON, values={"operator": {"replicas": 1}})
    user, log = f"system:serviceaccount:{NAMESPACE}:voice-antiphon-operator", tmp_path / "operator.log"
    for file in sorted(SAMPLES.rglob("*.yaml")):
        plane.kubectl("--namespace", NAMESPACE, "apply", "--server-side", "-f", file)
    pools = {each["metadata"]["name"] for each in plane.get("--namespace", NAMESPACE, "workerpools")["items"]}
    assert len(pools) >= 8

    def children() -> bool:
        kinds = "deployments,services,serviceaccounts,poddisruptionbudgets,networkpolicies"
        ours = "app.kubernetes.io/managed-by=antiphon-operator"
        found = plane.get("--namespace", NAMESPACE, kinds, "--selector", ours)["items"]
        return len(found) == 5 * len(pools)

    def told() -> bool:
        found = plane.get("--namespace", NAMESPACE, "workerpools,voicemodels")["items"]
        return all(each.get("status", {}).get("conditions") for each in found)

    mark = plane.audit_mark()
    async with EmbeddedValkey() as valkey, operator(plane, valkey.url, log):
        try:
            await asyncio.to_thread(wait_for, children, "every pool's children", 60)
            await asyncio.to_thread(wait_for, told, "a status of every object", 60)
            claim = {"spec": {"cache": {"kind": "Claim", "sizeMiB": 100}}}
            patch = ("patch", "workerpool", "cpu-voices", "--type=merge", "--patch")
            plane.kubectl("--namespace", NAMESPACE, *patch, yaml.safe_dump(claim))
            has_claim = ("--namespace", NAMESPACE, "get", "persistentvolumeclaim", "cpu-voices")
            await asyncio.to_thread(wait_for, lambda: plane.succeeds(*has_claim), "the pool's claim", 60)
        except TimeoutError:
            print(log.read_text())
            raise
    asked = plane.audit(mark, user=user)
    refused = {(entry.verb, entry.resource) for entry in asked if entry.code == 403}
    assert asked and not refused - LOOKED_FOR, refused


LOOKED_FOR = {("list", "namespaces"), ("watch", "namespaces"), ("list", "customresourcedefinitions"),
              ("watch", "customresourcedefinitions")}  # fmt: skip
"""What kopf follows where it may, and does without where it may not."""
