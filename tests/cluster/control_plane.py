"""A Kubernetes control plane on 127.0.0.1: API server, controllers, scheduler, and nodes that kwok pretends.

    with ControlPlane(folder) as plane:
        plane.add_gpu_nodes(2, gpus=8)
        plane.kubectl("apply", "-f", "pool.yaml")

Every port is a free one, so several planes run side by side. Run this file to have one until Ctrl-C.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import yaml
from cluster_audit import AuditEntry, read_audit
from cluster_binaries import STAGES, program
from cluster_certificates import Authority, write_kubeconfig
from cluster_processes import Daemon, end_by_interrupt, free_ports, wait_for, wait_for_the_end

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "crds"
FAKE_NODE = "kwok.x-k8s.io/node"
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


class ControlPlane:
    """One control plane; everything it writes lies in `folder`.

    `kubeconfig` names an administrator; its one context is `antiphon-test`.
    """

    CONTEXT = "antiphon-test"
    ADDRESS = "127.0.0.1"
    DEFINITIONS: Path | None = CRDS
    """What is applied at the start; None: nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.etcd_port, self._peer_port, self.port = free_ports(3)
        self.url = f"https://{self.ADDRESS}:{self.port}"
        self.authority = Authority(folder / "pki")
        self.kubeconfig = self._kubeconfig("admin", "/O=system:masters/CN=admin")
        self.audit_log = folder / "audit.jsonl"
        self.etcd = self._daemon("etcd", *self._etcd_flags())
        self.api = self._daemon("kube-apiserver", *self._api_flags())
        self.controllers = self._daemon("kube-controller-manager", *self._controller_flags())
        self.scheduler = self._daemon("kube-scheduler", *self._scheduler_flags())
        self.nodes = self._node_daemons()
        self._named = 0

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; returns when the API server is ready and serves the definitions in crds/.

        Raises:
            RuntimeError: a component ended; the end of its log is in the message.
            TimeoutError: it was not ready in time.
        """
        self.etcd.start()
        self.start_api()
        # The garbage collector learns of kinds that come later only every half minute.
        if self.DEFINITIONS:
            self.apply_crds(self.DEFINITIONS)
        for daemon in (self.controllers, self.scheduler):
            daemon.start()
        self.start_nodes()
        wait_for(lambda: self.succeeds("get", "serviceaccount", "default"), "the default service account")
        for daemon in self.daemons:
            daemon.must_live()

    def start_nodes(self) -> None:
        """Start what stands for nodes."""
        for daemon in self.nodes:
            daemon.start()

    def stop(self) -> None:
        """End everything. A stopped plane can be started again and has kept its objects."""
        for daemon in reversed(self.daemons):
            daemon.stop(signal.SIGKILL)

    @property
    def daemons(self) -> tuple[Daemon, ...]:
        return (self.etcd, self.api, self.controllers, self.scheduler, *self.nodes)

    def stop_api(self) -> None:
        """Let the API server vanish, as on a crash; etcd stays."""
        self.api.stop(signal.SIGKILL)

    def start_api(self) -> None:
        """Start the API server, on the same port as before, and wait until it is ready."""
        self.api.start()
        wait_for(lambda: self.api.must_live() and self.succeeds("get", "--raw", "/readyz"), "the API server")

    def kubectl(self, *arguments: str | Path, stdin: str | None = None, timeout_s: float = 120.0) -> str:
        """What kubectl prints, called as the administrator.

        Raises:
            KubectlError: it failed; the message is what it wrote to stderr.
        """
        common = (f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.folder / 'kubectl-cache'}")
        command = [program("kubectl"), *common, *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s)
        if done.returncode:
            raise KubectlError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def succeeds(self, *arguments: str | Path) -> bool:
        """Whether a kubectl command succeeds now."""
        try:
            self.kubectl(*arguments, timeout_s=10)
        except (KubectlError, subprocess.TimeoutExpired):
            return False
        return True

    def get(self, *arguments: str) -> dict[str, Any]:
        """What `kubectl get … -o json` says."""
        told: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return told

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects server-side, as `kubectl apply` of a person would."""
        self.kubectl("apply", "--server-side", "-f", "-", stdin="\n---\n".join(map(json.dumps, objects)))

    def apply_crds(self, folder: Path = CRDS) -> None:
        """Apply the custom resource definitions of a folder and wait until they are served."""
        files = sorted(folder.glob("*.yaml"))
        if files:
            named = [argument for file in files for argument in ("-f", str(file))]
            self.kubectl("apply", "--server-side", *named)
            self.kubectl("wait", "--for=condition=Established", "--timeout=30s", *named)

    def create_namespace(self, name: str, **labels: str) -> str:
        """A namespace with its default service account; returns its name."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        wait_for(lambda: self.succeeds("-n", name, "get", "serviceaccount", "default"), f"the namespace {name}")
        return name

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig that calls as a service account, with the rights it has and no more."""
        token = self.kubectl("-n", namespace, "create", "token", name, "--duration=24h").strip()
        path = self.folder / f"{namespace}.{name}.kubeconfig"
        return write_kubeconfig(path, self.url, self.authority.certificate, {"token": token}, self.CONTEXT)

    def add_gpu_nodes(
        self,
        count: int,
        gpus: int = 8,
        *,
        resource: str = "nvidia.com/gpu",
        product: str = "NVIDIA-H100-80GB-HBM3",
        memory_mib: int = 81559,
        labels: dict[str, str] | None = None,
    ) -> list[str]:
        """Add nodes on which kwok makes every pod Ready at once; returns their names. `gpus=0`: nodes without."""
        names = [f"node-{self._named + index}" for index in range(count)]
        self._named += count
        gpu_labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": str(memory_mib)} if gpus else {}
        capacity = {"cpu": "64", "memory": "256Gi", "pods": "250"} | ({resource: str(gpus)} if gpus else {})
        self.apply(*(fake_node(name, capacity, gpu_labels | (labels or {})) for name in names))
        self.kubectl("wait", "--for=condition=Ready", "--timeout=60s", *(f"node/{name}" for name in names))
        return names

    def audit_mark(self) -> int:
        """Where the audit log ends now: the `since` of a later `audit`."""
        return self.audit_log.stat().st_size if self.audit_log.exists() else 0

    def audit(
        self, since: int = 0, *, user: str | None = None, agent: str | None = None, writes: bool = False
    ) -> list[AuditEntry]:
        """The requests answered since a mark, oldest first.

        `user`: only of this user; `agent`: only where the user agent begins so; `writes`: only what changes something.
        """
        return [
            entry
            for entry in read_audit(self.audit_log, since)
            if (user is None or entry.user == user)
            and (agent is None or entry.agent.startswith(agent))
            and (not writes or entry.is_write)
        ]

    def report(self) -> str:
        """What a person needs to see when a test failed: pods, events, and each component that ended."""
        told = [f"{daemon.name} ended:\n{daemon.tail()}" for daemon in self.daemons if not daemon.alive()]
        for command in (("get", "pods", "-A", "-o", "wide"), ("get", "events", "-A", "--sort-by=.lastTimestamp")):
            with contextlib.suppress(KubectlError, subprocess.TimeoutExpired):
                told.append(self.kubectl(*command, timeout_s=10))
        return "\n".join(told)

    def _node_daemons(self) -> tuple[Daemon, ...]:
        return (self._daemon("kwok", *self._kwok_flags()),)

    def _daemon(self, name: str, *flags: str) -> Daemon:
        return Daemon(name, [program(name), *flags], self.folder / f"{name}.log")

    def _kubeconfig(self, name: str, subject: str) -> Path:
        certificate, key = self.authority.issue(name, subject)
        user = {"client-certificate": str(certificate), "client-key": str(key)}
        path = self.folder / f"{name}.kubeconfig"
        return write_kubeconfig(path, self.url, self.authority.certificate, user, self.CONTEXT)

    def _etcd_flags(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.etcd_port, self._peer_port))
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync=true",
        ]

    def _api_flags(self) -> list[str]:
        names = ("DNS:localhost", "DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc")
        addresses = (f"IP:{self.ADDRESS}", "IP:10.96.0.1")
        certificate, key = self.authority.issue("apiserver", "/CN=kube-apiserver", *addresses, *names)
        signing, verifying = self.authority.signing_key()
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump(AUDIT_POLICY))
        return [
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--bind-address={self.ADDRESS}",
            f"--advertise-address={self.ADDRESS}",
            f"--secure-port={self.port}",
            # A Service's endpoints may not be on loopback; there nobody calls the API server through its Service.
            f"--endpoint-reconciler-type={'none' if self.ADDRESS == '127.0.0.1' else 'lease'}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--service-account-key-file={verifying}",
            f"--service-account-signing-key-file={signing}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.folder / 'audit.jsonl'}",
        ]

    def _controller_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self._kubeconfig('controllers', '/CN=system:kube-controller-manager')}",
            f"--root-ca-file={self.authority.certificate}",
            f"--service-account-private-key-file={self.authority.signing_key()[0]}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]

    def _scheduler_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self._kubeconfig('scheduler', '/CN=system:kube-scheduler')}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]

    def _kwok_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self.kubeconfig}",
            f"--config={STAGES}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-annotation-selector={FAKE_NODE}=fake",
            "--node-lease-duration-seconds=40",
        ]


class KubectlError(Exception):
    """kubectl failed; the message is what it said."""


def fake_node(name: str, capacity: dict[str, str], labels: dict[str, str]) -> dict[str, Any]:
    """A node that kwok takes care of."""
    named = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": named | labels, "annotations": {FAKE_NODE: "fake"}},
        "status": {"capacity": capacity, "allocatable": capacity},
    }


def main() -> None:
    """Have a plane until Ctrl-C."""
    end_by_interrupt()
    with tempfile.TemporaryDirectory(prefix="antiphon-plane-") as folder:
        began = time.monotonic()
        with ControlPlane(Path(folder)) as plane:
            plane.add_gpu_nodes(2)
            print(f"up after {time.monotonic() - began:.1f} s: export KUBECONFIG={plane.kubeconfig}", flush=True)
            wait_for_the_end()


if __name__ == "__main__":
    sys.exit(main())
