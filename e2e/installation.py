"""Antiphon as a person installs it: both charts, a chat server that stands in, the samples, and somebody who talks."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_builder import ROOT, STAND_INS, version
from target import Target, documents

NAMESPACE = "antiphon-e2e"
RELEASE = "antiphon"
REPLY = (
    "The weather is fine today, and it will stay so until tomorrow evening. On Friday clouds will come from the west, "
    "and the wind will turn. Take a coat with you when you leave the house early in the morning."
)
HUB = "http://hub:8091"
BREAK_AFTER = 20_000_000
"""The hub breaks the first file off that is longer than so many bytes, once."""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@dataclass(frozen=True)
class Installation:
    """What runs in one namespace of the cluster."""

    target: Target
    folder: Path
    namespace: str = NAMESPACE

    def install(self) -> None:
        """The stand-ins, the definitions, the chart; returns when all of their pods are ready."""
        self._wait_until_gone()
        labels = {"metadata": {"name": self.namespace, "labels": RESTRICTED}}
        self.target.apply("default", {"apiVersion": "v1", "kind": "Namespace"} | labels)
        for stand_in in (chat_server(), hub()):
            self.target.apply(self.namespace, *stand_in)
        charts = ROOT / "charts"
        self.target.helm(
            "upgrade", "--install", "antiphon-crds", charts / "antiphon-crds", "-n", self.namespace, "--wait"
        )
        values = Path(__file__).with_name("values.yaml")
        images = f"image.tag={version()},valkey.image={STAND_INS}"
        where = ("-n", self.namespace, "-f", values, "--set", images, "--wait", "--timeout=5m")
        self.target.helm("upgrade", "--install", RELEASE, charts / "antiphon", *where)

    def _wait_until_gone(self) -> None:
        """Wait for the end of a former installation that is being deleted."""
        phase = "-o=jsonpath={.status.phase}"
        if self.target.kubectl("get", "namespace", self.namespace, "--ignore-not-found", phase) == "Terminating":
            self.target.kubectl("wait", "--for=delete", f"namespace/{self.namespace}", "--timeout=10m")

    def apply_samples(self) -> None:
        """`crds/samples/`, with the hub that stands in and a share of a small machine."""
        for file in sorted((ROOT / "crds/samples").glob("*.yaml")):
            self.target.apply(self.namespace, *(for_a_small_machine(told) for told in documents(file)))

    def kubectl(self, *arguments: str | Path, **options: Any) -> str:
        """kubectl in the namespace."""
        return self.target.kubectl("-n", self.namespace, *arguments, **options)

    def get(self, *arguments: str) -> dict[str, Any]:
        """What is there, parsed."""
        return self.target.get("-n", self.namespace, *arguments)

    def condition(self, kind: str, name: str, of_type: str) -> dict[str, Any]:
        """One condition of an object; empty while there is none."""
        told = self.get(kind, name).get("status", {}).get("conditions", [])
        return next((condition for condition in told if condition["type"] == of_type), {})

    def pods(self, pool: str) -> list[dict[str, Any]]:
        """The pods of a pool."""
        items: list[dict[str, Any]] = self.get("pods", "-l", f"antiphon.dev/pool={pool}")["items"]
        return items

    @contextmanager
    def caller(self) -> Iterator["Caller"]:
        """Somebody who calls the orchestrators' Service, with the key that was made at install."""
        secret = self.get("secret", f"{RELEASE}-api-keys")["data"]["keys"]
        key = base64.b64decode(secret).decode().splitlines()[0]
        with self.target.forwarded(self.namespace, f"{RELEASE}-orchestrator", 80, self.folder / "forward.log") as url:
            yield Caller(url, key)


@dataclass(frozen=True)
class Caller:
    """The command line of a person who knows the address and a key."""

    url: str
    key: str

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "antiphon.cli.main", *map(str, arguments)]

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "ANTIPHON_URL": self.url,
            "ANTIPHON_API_KEY": self.key,
            "COLUMNS": "200",
            "PYTHONUNBUFFERED": "1",
        }

    def antiphon(self, *arguments: str | Path, timeout_s: float = 120.0) -> str:
        """What an `antiphon` command prints; AssertionError with its errors when it fails."""
        command = self.command(*arguments)
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout_s)
        assert done.returncode == 0, f"antiphon {arguments[0]} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout


def for_a_small_machine(told: dict[str, Any]) -> dict[str, Any]:
    """A sample whose pool asks for less CPU and fetches from the hub that stands in."""
    if told["kind"] == "WorkerPool":
        told["spec"]["downloads"] = {"hubEndpoint": HUB}
        told["spec"]["template"]["resources"]["requests"] = {"cpu": "50m", "memory": "256Mi"}
    return told


def chat_server() -> list[dict[str, Any]]:
    """An OpenAI-compatible chat server that always says the same."""
    words = ["antiphon.testing.chat_server", "--host", "0.0.0.0", "--port", "8090", "--reply", REPLY]
    return stand_in("chat", 8090, words)


def hub() -> list[dict[str, Any]]:
    """A mirror of the Hugging Face hub that has what the samples name, and breaks off once."""
    words = ["antiphon.testing.mirror", "--root", "/hub", "--host", "0.0.0.0", "--port", "8091"]
    return stand_in("hub", 8091, [*words, "--break-after", str(BREAK_AFTER)])


def stand_in(name: str, port: int, module: list[str]) -> list[dict[str, Any]]:
    labels = {"app": name}
    container = {
        "name": name,
        "image": STAND_INS,
        "command": ["python", "-m", *module],
        "ports": [{"containerPort": port}],
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {"containers": [container], "securityContext": security, "automountServiceAccountToken": False}
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    service = {"selector": labels, "ports": [{"port": port}]}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service},
    ]
