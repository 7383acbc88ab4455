"""What a real node changes on its machine: one mount and pid namespace, one address, some sysctls; all put back.

Everything that belongs to the node runs in the namespace, so that killing one process ends daemons, shims and pods, and
their mounts are gone with it. The network is the machine's own: its processes and the pods reach each other.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
from pathlib import Path

from cluster_processes import Daemon, wait_for

ADDRESS = "10.200.0.1"
PODS = "10.244.0.0/16"
LINK = "antiphon0"
RUN = Path("/run/antiphon-cluster")
LOCK = Path("/run/antiphon-cluster.lock")
# kubelet and kube-proxy write these and never put them back.
SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.route_localnet",
    "net.bridge.bridge-nf-call-iptables",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
)
PRIVATE = ("/run/netns", "/run/containerd", "/var/log/containers", "/var/lib/cni")
KUBELET = "/var/lib/kubelet"
INIT = """
mount --make-rshared /
for folder in {private}; do mount -t tmpfs -o mode=755 tmpfs $folder; done
mount --bind {kubelet} /var/lib/kubelet
touch {ready}
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done
"""


class NodeNamespace:
    """The namespace of one node; `folder` holds what kubelet keeps in /var/lib/kubelet, and the log."""

    def __init__(self, folder: Path) -> None:
        self.kubelet = folder / "var-lib-kubelet"
        script = INIT.format(private=" ".join(PRIVATE), kubelet=self.kubelet, ready=RUN / "ready")
        self._lock = LOCK.open("w")
        # One a machine: the end of another one is waited for.
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        flags = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
        self._init = Daemon("namespace", ["unshare", *flags, "bash", "-euc", script], folder / "namespace.log")

    def up(self) -> None:
        """Enter into being; what a killed predecessor left behind is cleared first."""
        clear()
        RUN.mkdir(parents=True)
        save_sysctls()
        self.kubelet.mkdir(parents=True, exist_ok=True)
        for place in (*PRIVATE, KUBELET):
            if not os.path.isdir(place):
                os.makedirs(place)
                with (RUN / "made").open("a") as made:
                    made.write(f"{place}\n")
        self._init.start()
        wait_for(lambda: self._init.must_live() and (RUN / "ready").exists(), "the namespace")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        ip("link", "add", LINK, "type", "bridge")
        ip("address", "add", f"{ADDRESS}/32", "dev", LINK)
        ip("link", "set", LINK, "up")

    def down(self) -> None:
        """End everything inside and put the machine back."""
        self._init.stop(signal.SIGKILL)
        clear()
        self._lock.close()

    def enter(self, *command: str | Path) -> list[str | Path]:
        """A command line that runs a command inside."""
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        return ["nsenter", "-t", children[0], "-m", "-p", "--", *command]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def sysctl_file(name: str) -> Path:
    # Their names have dots in them only between the parts.
    return Path("/proc/sys") / name.replace(".", "/")


def save_sysctls() -> None:
    lines = [f"{name}={sysctl_file(name).read_text().strip()}" for name in SYSCTLS if sysctl_file(name).exists()]
    (RUN / "sysctls").write_text("\n".join(lines))


def restore_sysctls() -> None:
    saved = RUN / "sysctls"
    for line in saved.read_text().splitlines() if saved.exists() else ():
        name, _, value = line.partition("=")
        file = sysctl_file(name)
        if file.exists() and file.read_text().strip() != value:
            file.write_text(value)


def remove_places() -> None:
    """Remove the mount points that were made for the namespace."""
    made = RUN / "made"
    for place in made.read_text().splitlines() if made.exists() else ():
        with contextlib.suppress(OSError):
            os.rmdir(place)


def clear() -> None:
    """Remove what outlives the namespace: cgroups, packet rules, the link, changed sysctls."""
    remove_cgroups()
    # The kernel would take a dead pod's network apart some time later; the next pod may get its address before.
    for route in pod_routes():
        subprocess.run(["ip", "link", "delete", route.split()[2]], capture_output=True)
    remove_packet_rules()
    subprocess.run(["ip", "link", "delete", LINK], capture_output=True)
    restore_sysctls()
    remove_places()
    shutil.rmtree(RUN, ignore_errors=True)


def pod_routes() -> list[str]:
    """Routes to pods: one goes with each pod's link."""
    told = subprocess.run(["ip", "route", "show", "root", PODS], check=True, capture_output=True, text=True).stdout
    return told.splitlines()


def cgroups() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    return [folder for folder in (root / "kubepods", *root.glob("*/kubepods")) if folder.is_dir()]


def remove_cgroups() -> None:
    def empty() -> bool:
        for top in cgroups():
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        return not cgroups()

    wait_for(empty, "the pods' processes to be gone from their cgroups", timeout_s=20)


def remove_packet_rules() -> None:
    for family in ("iptables", "ip6tables"):
        rules = subprocess.run([f"{family}-save"], capture_output=True, text=True).stdout
        if "KUBE-" in rules:
            kept = "\n".join(line for line in rules.splitlines() if "KUBE-" not in line) + "\n"
            subprocess.run([f"{family}-restore"], input=kept, check=True, capture_output=True, text=True)


def leftovers() -> list[str]:
    """What a node that is down has left on the machine; empty when it left nothing."""
    links = subprocess.run(["ip", "-brief", "link"], check=True, capture_output=True, text=True).stdout
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True).stdout
    return [
        *(f"cgroup {folder}" for folder in cgroups()),
        *(f"link {line.split()[0]}" for line in links.splitlines() if line.startswith(LINK)),
        *(f"route {route}" for route in pod_routes()),
        *(["iptables rules"] if "KUBE-" in rules else []),
        *([str(RUN)] if RUN.exists() else []),
    ]
