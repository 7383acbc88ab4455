"""The programs a cluster is made of, built once from the Go modules beside this file.

Run it to build them all: `python tests/cluster/cluster_binaries.py`. What is there is not built again until a go.mod
changes; the first build takes about ten minutes on two cores, later ones come out of Go's own cache in seconds.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("ANTIPHON_CLUSTER_CACHE", HERE.parents[1] / ".cache/cluster")).absolute()
BINARIES = CACHE / "bin"
STAGES = CACHE / "kwok-stages.yaml"

KUBERNETES = "1.36.3"
KWOK = "v0.8.0"
HELM = "v3.22.0"
# Without stages kwok does nothing. These five make a node Ready, keep it so, and run, complete and delete its pods.
KWOK_STAGES = (
    "node/fast/node-initialize",
    "node/heartbeat-with-lease/node-heartbeat-with-lease",
    "pod/fast/pod-ready",
    "pod/fast/pod-complete",
    "pod/fast/pod-delete",
)


class Missing(Exception):
    """Something that this machine has not got; the message names it and how to get it."""


@dataclass(frozen=True)
class Module:
    """One `go build`: a folder with a go.mod (or none, for what `go install` fetches) and what comes out of it."""

    programs: tuple[str, ...]
    packages: tuple[str, ...]
    folder: Path | None = None
    flags: tuple[str, ...] = field(default=())

    def stamp(self) -> str:
        """Changes when what would be built changes."""
        told = hashlib.sha256(repr((self.programs, self.packages, self.flags)).encode())
        for file in sorted(self.folder.iterdir()) if self.folder else ():
            told.update(file.read_bytes())
        return told.hexdigest()

    def stamp_file(self) -> Path:
        return BINARIES / f".{self.programs[0]}.stamp"

    def current(self) -> bool:
        stamp = self.stamp_file()
        there = all((BINARIES / program).exists() for program in self.programs)
        return there and stamp.exists() and stamp.read_text() == self.stamp()


def kubernetes_version_flags() -> str:
    """Linker flags without which every program says version v0.0.0."""
    major, minor, _ = KUBERNETES.split(".")
    package = "k8s.io/component-base/version"
    facts = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X {package}.{name}={value}" for name, value in facts.items())


KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "kube-proxy",
)
MODULES = (
    Module(
        KUBERNETES_PROGRAMS,
        tuple(f"k8s.io/kubernetes/cmd/{program}" for program in KUBERNETES_PROGRAMS),
        HERE / "go/kubernetes",
        (f"-ldflags={kubernetes_version_flags()}",),
    ),
    Module(("etcd",), ("go.etcd.io/etcd/server/v3",), HERE / "go/etcd"),
    Module(("kwok",), (f"sigs.k8s.io/kwok/cmd/kwok@{KWOK}",)),
    Module(("helm",), (f"helm.sh/helm/v3/cmd/helm@{HELM}",)),
    Module(("coredns",), (".",), HERE / "go/coredns"),
    Module(("pause",), (".",), HERE / "go/pause"),
)


def build(*programs: str) -> None:
    """Build the modules that hold these programs (all of them, without names) unless they are built.

    Raises:
        Missing: there is no Go here to build with.
    """
    with one_at_a_time():
        build_missing(*programs)


def build_missing(*programs: str) -> None:
    for module in MODULES:
        if (not programs or set(programs) & set(module.programs)) and not module.current():
            build_module(module)
    if (not programs or "kwok" in programs) and not STAGES.exists():
        write_stages()


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let one process build at a time; the next one finds everything built."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_module(module: Module) -> None:
    go = shutil.which("go")
    if go is None:
        raise Missing(
            "Go is not installed: install Go 1.26 or later (https://go.dev/dl) to build " + module.programs[0]
        )
    BINARIES.mkdir(parents=True, exist_ok=True)
    print(f"building {', '.join(module.programs)}", file=sys.stderr, flush=True)
    common = ["-trimpath", "-buildvcs=false", *module.flags]
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "auto"}
    if module.folder is None:
        command = [go, "install", *common, *module.packages]
        environment["GOBIN"] = str(BINARIES)
    else:
        output = BINARIES if len(module.programs) > 1 else BINARIES / module.programs[0]
        command = [
            go,
            "build",
            *common,
            "-o",
            str(output) + ("/" if len(module.programs) > 1 else ""),
            *module.packages,
        ]
    subprocess.run(command, cwd=module.folder or BINARIES, env=environment, check=True)
    module.stamp_file().write_text(module.stamp())


def write_stages() -> None:
    """Put kwok's own stage files into one, out of the module that kwok was built from."""
    module = subprocess.run(["go", "env", "GOMODCACHE"], check=True, capture_output=True, text=True).stdout.strip()
    stages = Path(module) / f"sigs.k8s.io/kwok@{KWOK}/kustomize/stage"
    STAGES.write_text("\n---\n".join((stages / f"{name}.yaml").read_text() for name in KWOK_STAGES))


def program(name: str) -> Path:
    """Where a program lies.

    Raises:
        Missing: it was not built yet.
    """
    path = BINARIES / name
    if not path.exists():
        raise Missing(f"{name} is not built: make cluster-binaries")
    return path


if __name__ == "__main__":
    try:
        build(*sys.argv[1:])
    except Missing as missing:
        raise SystemExit(str(missing)) from None
