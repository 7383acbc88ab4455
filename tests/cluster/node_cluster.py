"""A Kubernetes of one real node: the control plane, and beside it kubelet, containerd, kube-proxy, DNS and eight GPUs.

The GPUs are pretended, everything else is real: pods run, call each other through Services, and are drained. It takes
root on Linux and Debian's packages `containerd runc containernetworking-plugins iptables`. One a machine: addresses and
the cgroup are fixed. Run this file to have one until Ctrl-C; what a killed one left behind, the next one clears.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml
from cluster_binaries import CACHE, Missing, program
from cluster_images import PAUSE, pause_image
from cluster_processes import Daemon, end_by_interrupt, wait_for, wait_for_the_end
from control_plane import ControlPlane
from node_namespace import ADDRESS, PODS, RUN, NodeNamespace, leftovers

NODE = "antiphon-test-node"
FOLDER = CACHE / "node"
CNI = Path("/usr/lib/cni")
SOCKET = RUN / "containerd.sock"
PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "ip": "iproute2",
}
GPUS = 8


class NodeCluster(ControlPlane):
    """The control plane with one real node. Pods reach the machine at `ADDRESS`, and the machine reaches the pods."""

    CONTEXT = "antiphon-e2e"
    ADDRESS = ADDRESS
    DEFINITIONS = None  # a chart brings them

    def __init__(self, folder: Path = FOLDER) -> None:
        self.namespace = NodeNamespace(folder)
        # Images stay, so that the next start is quick; everything else is new.
        for kept in ("etcd", "kubelet", "var-lib-kubelet", "pods"):
            shutil.rmtree(folder / kept, ignore_errors=True)
        for log in (*folder.glob("*.log"), folder / "audit.jsonl"):
            log.unlink(missing_ok=True)
        super().__init__(folder)

    def start(self) -> None:
        """Start everything; returns when the node is Ready and offers its GPUs."""
        self.namespace.up()
        self.containerd = self._inside("containerd", "containerd", f"--config={self._containerd_config()}")
        self.containerd.start()
        super().start()
        wait_for(lambda: self.succeeds("get", "node", NODE), "the node to register")
        self.kubectl("wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=90s")
        self.kubectl(
            "label", "node", NODE, "nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory=81559"
        )
        offered = f"--for=jsonpath={{.status.allocatable.nvidia\\.com/gpu}}={GPUS}"
        self.kubectl("wait", offered, f"node/{NODE}", "--timeout=30s")

    def stop(self) -> None:
        """End everything and put the machine back."""
        super().stop()
        self.namespace.down()

    def start_nodes(self) -> None:
        wait_for(lambda: self.containerd.must_live() and self._ctr("version"), "containerd")
        self.import_image(pause_image(self.folder))
        self.apply(*dns_rights())
        self.nodes = (
            self.containerd,
            self._inside("kubelet", program("kubelet"), *self._kubelet_flags()),
            self._inside("kube-proxy", program("kube-proxy"), f"--config={self._proxy_config()}"),
            self._daemon("coredns", "-conf", str(self._corefile())),
            self._inside(
                "fake-gpus", sys.executable, Path(__file__).with_name("fake_gpus.py"), "nvidia.com/gpu", str(GPUS)
            ),
        )
        super().start_nodes()

    def import_image(self, archive: Path) -> None:
        """Make an image known to the node, unless just this archive was imported before."""
        stamp = self.folder / f"{archive.name}.imported"
        told = f"{archive.stat().st_mtime_ns} {archive.stat().st_size}"
        if stamp.exists() and stamp.read_text() == told:
            return
        command = self.namespace.enter("ctr", "-a", SOCKET, "-n", "k8s.io", "images", "import", archive.absolute())
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{archive.name} was not imported: {done.stderr}")
        stamp.write_text(told)

    def _node_daemons(self) -> tuple[Daemon, ...]:
        return ()

    def _ctr(self, *arguments: str) -> bool:
        command = self.namespace.enter("ctr", "-a", SOCKET, *arguments)
        return subprocess.run(command, capture_output=True).returncode == 0

    def _inside(self, name: str, *command: str | Path) -> Daemon:
        return Daemon(name, self.namespace.enter(*command), self.folder / f"{name}.log")

    def _api_flags(self) -> list[str]:
        certificate, key = self.authority.issue("apiserver-kubelet", "/O=system:masters/CN=apiserver-kubelet")
        return [
            *super()._api_flags(),
            "--allow-privileged=true",
            f"--kubelet-client-certificate={certificate}",
            f"--kubelet-client-key={key}",
            f"--kubelet-certificate-authority={self.authority.certificate}",
            # Or exec and logs need the node's name to resolve.
            "--kubelet-preferred-address-types=InternalIP",
        ]

    def _controller_flags(self) -> list[str]:
        return [*super()._controller_flags(), "--enable-hostpath-provisioner=true"]

    def _kubelet_flags(self) -> list[str]:
        kubeconfig = self._kubeconfig("kubelet", f"/O=system:nodes/CN=system:node:{NODE}")
        certificate, key = self.authority.issue("kubelet-server", f"/CN={NODE}", f"DNS:{NODE}", f"IP:{ADDRESS}")
        resolver = self._write("resolv.conf", "")
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": ADDRESS,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.authority.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(resolver),
            "podLogsDir": str(self.folder / "pods"),
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "nodefs.inodesFree": "1%",
                "imagefs.available": "1%",
                "imagefs.inodesFree": "1%",
            },
            # An image that is collected here cannot be pulled again.
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "2s",
        }
        return [
            f"--config={self._write('kubelet.yaml', yaml.safe_dump(settings))}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
            f"--root-dir={self.folder / 'kubelet'}",
        ]

    def _proxy_config(self) -> Path:
        kubeconfig = self._kubeconfig("kube-proxy", "/CN=system:kube-proxy")
        settings = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "bindAddress": ADDRESS,
            "hostnameOverride": NODE,
            "clusterCIDR": PODS,
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "healthzBindAddress": f"{ADDRESS}:10256",
            "metricsBindAddress": f"{ADDRESS}:10249",
            "iptables": {"localhostNodePorts": False},
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        return self._write("kube-proxy.yaml", yaml.safe_dump(settings))

    def _containerd_config(self) -> Path:
        network = {
            "cniVersion": "1.0.0",
            "name": "antiphon-test",
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(RUN / "ipam"),
                        "ranges": [[{"subnet": PODS}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
        (self.folder / "cni").mkdir(exist_ok=True)
        self._write("cni/10-antiphon.conflist", json.dumps(network))
        return self._write(
            "containerd.toml",
            f"""version = 2
root = "{self.folder / "containerd"}"
state = "{RUN / "containerd"}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.folder / "opt"}"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
    conf_dir = "{self.folder / "cni"}"
""",
        )

    def _corefile(self) -> Path:
        kubeconfig = self._kubeconfig("coredns", "/CN=antiphon-test:coredns")
        return self._write(
            "Corefile",
            f"""cluster.local in-addr.arpa {{
  bind {ADDRESS}
  errors
  kubernetes cluster.local {{
    kubeconfig {kubeconfig} {self.CONTEXT}
    ttl 1
  }}
}}
. {{
  bind {ADDRESS}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
""",
        )

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


def dns_rights() -> tuple[dict, dict]:
    """What lets CoreDNS read Services and their endpoints."""
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces", "endpoints"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    named = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "antiphon-test-coredns"}}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "antiphon-test-coredns"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "antiphon-test:coredns"}
    return (
        named | {"kind": "ClusterRole", "rules": rules},
        named | {"kind": "ClusterRoleBinding", "roleRef": reference, "subjects": [subject]},
    )


def require_a_node() -> None:
    """Raise Missing unless a real node can be had here."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Missing("a real node takes Linux and root")
    packages = {package for name, package in PACKAGES.items() if shutil.which(name) is None}
    if not (CNI / "ptp").exists():
        packages.add("containernetworking-plugins")
    if packages:
        raise Missing(f"packages are missing: apt-get install {' '.join(sorted(packages))}")


def main() -> None:
    """Have a cluster until Ctrl-C."""
    end_by_interrupt()
    began = time.monotonic()
    with NodeCluster() as cluster:
        print(f"up after {time.monotonic() - began:.1f} s: export KUBECONFIG={cluster.kubeconfig}", flush=True)
        wait_for_the_end()
    left = leftovers()
    print("down; nothing is left" if not left else f"down, but left: {', '.join(left)}")


if __name__ == "__main__":
    sys.exit(main())
