"""`helm upgrade` of both charts while people talk: every orchestrator is another one afterwards, no answer was cut."""

import re
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_processes import wait_for
from image_builder import ROOT, version
from installation import RELEASE, Installation

pytestmark = pytest.mark.e2e

CALLERS = ("caller-1", "caller-2")
"""Pods of people who talk, each again as soon as the answer was heard."""
TALKS = """
antiphon say "What will the weather be like tomorrow?" --output /tmp/question.wav
while [ ! -e /tmp/enough ]; do
  antiphon talk --input /tmp/question.wav --output /tmp/answer.wav
  python -c 'import wave; it = wave.open("/tmp/answer.wav"); print("ANSWER", it.getnframes() / it.getframerate())'
done
"""
PATH_OF_A_FIELD = "jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.residentCap.type}"


def caller(name: str) -> dict[str, Any]:
    """Somebody in the cluster, who calls the orchestrators' Service."""
    key = {"secretKeyRef": {"name": f"{RELEASE}-api-keys", "key": "keys"}}
    container = {
        "name": "caller",
        "image": f"antiphon-orchestrator:{version()}",
        "command": ["sh", "-euc", TALKS],
        "env": [
            {"name": "ANTIPHON_URL", "value": f"http://{RELEASE}-orchestrator"},
            {"name": "ANTIPHON_API_KEY", "valueFrom": key},
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [container], "securityContext": security, "volumes": [{"name": "tmp", "emptyDir": {}}]}
    whole = {**spec, "restartPolicy": "Never", "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole}


def older_definitions(folder: Path, installation: Installation) -> Path:
    """The chart of the definitions as an earlier version might have been packaged: pools without `residentCap`."""
    copy = folder / "antiphon-crds"
    subprocess.run(["cp", "-r", ROOT / "charts/antiphon-crds", copy], check=True)
    file = copy / "templates/workerpools.yaml"
    definition = yaml.safe_load(file.read_text())
    for each in definition["spec"]["versions"]:
        del each["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["residentCap"]
    file.write_text(yaml.safe_dump(definition))
    told = installation.target.helm("package", copy, "--version", "0.0.9", "--destination", folder)
    return Path(told.strip().rpartition(" ")[2])


def test_calls_go_on_while_everything_is_upgraded(installation: Installation, tmp_path: Path) -> None:
    installation.kubectl("wait", "--for=condition=Ready", "voicemodel", "--all", "--timeout=8m")
    helm, where, definition = installation.target.helm, ("-n", installation.namespace), "workerpools.antiphon.dev"
    helm("upgrade", "antiphon-crds", older_definitions(tmp_path, installation), *where, "--wait")
    assert not installation.target.kubectl("get", "crd", definition, "--output", PATH_OF_A_FIELD)
    before = orchestrators(installation)
    installation.target.apply(installation.namespace, *map(caller, CALLERS))
    try:
        wait_for(lambda: all(answers(installation, name) for name in CALLERS), "an answer for each", 120, 1.0)

        began = time.monotonic()
        helm("upgrade", "antiphon-crds", ROOT / "charts/antiphon-crds", *where, "--wait")
        another = "orchestrator.env[0].name=UPGRADED,orchestrator.env[0].value=yes"
        helm("upgrade", RELEASE, ROOT / "charts/antiphon", *where, "--reuse-values", "--set", another, "--wait")
        installation.kubectl("wait", "--for=delete", *(f"pod/{name}" for name in before), "--timeout=2m")
        print(f"upgraded in {time.monotonic() - began:.1f} s")

        for name in CALLERS:
            installation.kubectl("exec", name, "--", "touch", "/tmp/enough")
            installation.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "--timeout=1m")
        heard = [length for name in CALLERS for length in answers(installation, name)]
    finally:
        installation.kubectl("delete", "pod", *CALLERS, "--now", "--ignore-not-found")
    print(f"{len(heard)} answers, of {min(heard):.1f} to {max(heard):.1f} s")
    # Cut short, none; an answer whose orchestrator went may come a little later, or say a clause again.
    usual = statistics.median(heard)
    assert len(heard) > 2 * len(CALLERS) and min(heard) > 0.9 * usual and max(heard) < usual + 5
    assert not orchestrators(installation) & before
    assert installation.target.kubectl("get", "crd", definition, "--output", PATH_OF_A_FIELD) == "integer"


def orchestrators(installation: Installation) -> set[str]:
    items = installation.get("pods", "-l", "app.kubernetes.io/name=antiphon-orchestrator")["items"]
    return {pod["metadata"]["name"] for pod in items}


def answers(installation: Installation, name: str) -> list[float]:
    """How long each answer was that a caller has heard, in seconds."""
    told = installation.target.logs(installation.namespace, name)
    return [float(length) for length in re.findall(r"^ANSWER ([0-9.]+)$", told, re.M)]
