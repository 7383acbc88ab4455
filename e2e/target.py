"""The cluster that end-to-end cases run on: named explicitly, never whatever kubeconfig happens to point at."""

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cluster_binaries import program
from cluster_processes import Daemon, free_ports, wait_for


class CommandError(Exception):
    """kubectl or helm failed; the message is what it said."""


@dataclass(frozen=True)
class Target:
    """One context of one kubeconfig. `is_ours`: made for these cases, and its Services can be called from here."""

    kubeconfig: Path
    context: str
    is_ours: bool

    def kubectl(self, *arguments: str | Path, stdin: str | None = None, timeout_s: float = 900.0) -> str:
        """What kubectl prints.

        Raises:
            CommandError: it failed.
        """
        return run([*self._kubectl(), *map(str, arguments)], stdin, timeout_s)

    def helm(self, *arguments: str | Path, timeout_s: float = 900.0) -> str:
        """What helm prints.

        Raises:
            CommandError: it failed.
        """
        where = [f"--kubeconfig={self.kubeconfig}", f"--kube-context={self.context}"]
        return run([str(program("helm")), *where, *map(str, arguments)], None, timeout_s)

    def get(self, *arguments: str) -> dict[str, Any]:
        """What `kubectl get … -o json` says."""
        told: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return told

    def apply(self, namespace: str, *objects: dict[str, Any]) -> None:
        """Apply objects in a namespace."""
        self.kubectl("-n", namespace, "apply", "--server-side", "-f", "-", stdin=yaml_of(objects))

    @contextlib.contextmanager
    def forwarded(self, namespace: str, service: str, port: int, log: Path) -> Iterator[str]:
        """The base URL at which a Service answers here: its own address where that can be called, else forwarded."""
        if self.is_ours:
            address = self.get("-n", namespace, "service", service)["spec"]["clusterIP"]
            yield f"http://{address}:{port}"
            return
        (local,) = free_ports(1)
        command = [*self._kubectl(), "-n", namespace, "port-forward", f"service/{service}", f"{local}:{port}"]
        forward = Daemon("port-forward", command, log)
        forward.start()
        try:
            wait_for(lambda: forward.must_live() and listens(local), "the forwarded port")
            yield f"http://127.0.0.1:{local}"
        finally:
            forward.stop()

    def report(self, namespace: str) -> str:
        """What a person needs to see when a case failed: objects, events, and the pods' last lines."""
        told = []
        for command in (
            ("get", "pods,workerpools,voicemodels", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("describe", "workerpools,voicemodels"),
        ):
            with contextlib.suppress(CommandError):
                told.append(self.kubectl("-n", namespace, *command))
        with contextlib.suppress(CommandError):
            for pod in self.get("-n", namespace, "pods")["items"]:
                name = pod["metadata"]["name"]
                told.append(f"--- {name}\n{self.logs(namespace, name, 40)}")
        return "\n".join(told)

    def logs(self, namespace: str, pod: str, lines: int = -1) -> str:
        """A pod's log, as far as there is one."""
        try:
            return self.kubectl("-n", namespace, "logs", pod, f"--tail={lines}", "--all-containers")
        except CommandError as error:
            return str(error)

    def _kubectl(self) -> list[str]:
        return [str(program("kubectl")), f"--kubeconfig={self.kubeconfig}", f"--context={self.context}"]


def run(command: list[str], stdin: str | None, timeout_s: float) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        raise CommandError(f"{' '.join(command[3:])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def yaml_of(objects: tuple[dict[str, Any], ...]) -> str:
    # JSON is YAML in which no name is read as anything but a name.
    return "\n---\n".join(map(json.dumps, objects))


def documents(file: Path) -> list[dict[str, Any]]:
    """The objects of a YAML file."""
    return [told for told in yaml.safe_load_all(file.read_text()) if told]
