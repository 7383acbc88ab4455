"""The images of `services/docker/`, built without a registry: a Debian base by mmdebstrap, Docker's daemon by hand.

Layers stay in `.cache/cluster`, so that a change of code costs seconds. It takes root and Debian's packages `docker.io`
and `mmdebstrap`. Run it to build them all.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from cluster_binaries import CACHE, Missing, one_at_a_time
from cluster_processes import Daemon, wait_for

ROOT = Path(__file__).parents[2]
IMAGES = CACHE / "images"
DOCKERFILES = ROOT / "services/docker"
BASE_IMAGE = "antiphon-test-base:1"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE_PACKAGES = "ca-certificates,python3,python3-venv"
NOT_NEEDED = ("doc", "man", "locale")
PACKAGES = {"dockerd": "docker.io", "docker": "docker.io", "mmdebstrap": "mmdebstrap"}
DAEMON = """
mkdir -p /run/docker /run/containerd
mount -t tmpfs tmpfs /run/docker
mount -t tmpfs tmpfs /run/containerd
exec "$@"
"""


def version() -> str:
    """The version that the images are tagged with."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


STAND_INS = f"antiphon-e2e-stand-ins:{version()}"
"""What stands in for the world outside in end-to-end cases."""


class ImageBuilder:
    """Docker's daemon in a namespace of its own, without a network of its own; use it with `with`."""

    def __init__(self) -> None:
        missing = {package for name, package in PACKAGES.items() if shutil.which(name) is None}
        if missing:
            raise Missing(f"packages are missing: apt-get install {' '.join(sorted(missing))}")
        self._folder = Path(tempfile.mkdtemp(prefix="antiphon-docker-"))
        self._socket = f"unix://{self._folder}/docker.sock"
        flags = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none")
        places = {"data-root": CACHE / "docker", "exec-root": self._folder / "run", "pidfile": self._folder / "pid"}
        dockerd = ["dockerd", "-H", self._socket, *flags, *(f"--{name}={value}" for name, value in places.items())]
        namespace = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ]
        IMAGES.mkdir(parents=True, exist_ok=True)
        self._daemon = Daemon("dockerd", [*namespace, "sh", "-euc", DAEMON, "-", *dockerd], IMAGES / "dockerd.log")

    def __enter__(self) -> Self:
        self._daemon.start()
        try:
            wait_for(lambda: self._daemon.must_live() and self._docker("version", check=False), "Docker's daemon")
            self._make_base()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._daemon.stop(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def build(self, name: str, dockerfile: Path, context: Path = ROOT, **arguments: str) -> None:
        """Build an image of a Dockerfile whose base is given by its argument BASE."""
        given = {"BASE": BASE_IMAGE} | arguments
        options = [word for key, value in given.items() for word in ("--build-arg", f"{key}={value}")]
        print(f"building the image {name}", file=sys.stderr, flush=True)
        self._docker("build", "-q", "--network=host", *options, "-t", name, "-f", str(dockerfile), str(context))

    def save(self, archive: Path, *names: str) -> None:
        """Write images into one archive, what they share once."""
        self._docker("save", "-o", str(archive), *names)

    def _make_base(self) -> None:
        """A Debian with Python, and with the certificates that this machine trusts."""
        if self._docker("image", "inspect", BASE_IMAGE, check=False):
            return
        archive = self._folder / "base.tar"
        exclude = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in NOT_NEEDED]
        trust = f"--customize-hook=copy-in {CERTIFICATES} /etc/ssl/certs"
        print("making the base image", file=sys.stderr, flush=True)
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={BASE_PACKAGES}", *exclude, trust]
        subprocess.run([*command, "bookworm", archive], check=True)
        trusted = [f"-c=ENV {name}={CERTIFICATES}" for name in ("SSL_CERT_FILE", "PIP_CERT")]
        self._docker("import", *trusted, str(archive), BASE_IMAGE)

    def _docker(self, *arguments: str, check: bool = True) -> bool:
        command = ["docker", "-H", self._socket, *arguments]
        done = subprocess.run(command, env=os.environ | {"DOCKER_BUILDKIT": "0"}, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"docker {arguments[0]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.returncode == 0


def digest_of(files: Iterable[Path]) -> str:
    """Changes when a file's name or content does."""
    told = hashlib.sha256()
    for file in sorted(files):
        told.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return told.hexdigest()


def sources() -> list[Path]:
    """What the images are built from."""
    folders = ("services/antiphon", "operator/antiphon_operator", "services/docker", "e2e/stand_ins")
    inside = [file for folder in folders for file in (ROOT / folder).rglob("*") if "__pycache__" not in file.parts]
    return [*(file for file in inside if file.is_file()), ROOT / "pyproject.toml", ROOT / "uv.lock"]


def images() -> Path:
    """One archive of all images of services/docker/ and of e2e/stand_ins/, built when their sources have changed."""
    with one_at_a_time():
        return build_images()


def build_images() -> Path:
    archive, stamp, told = IMAGES / "images.tar", IMAGES / "images.stamp", digest_of(sources())
    if archive.exists() and stamp.exists() and stamp.read_text() == told:
        return archive
    named = {
        f"antiphon-{file.name.removesuffix('.Dockerfile')}:{version()}": file
        for file in DOCKERFILES.glob("*.Dockerfile")
    }
    with ImageBuilder() as builder:
        for name, dockerfile in sorted(named.items()):
            builder.build(name, dockerfile)
        folder = ROOT / "e2e/stand_ins"
        builder.build(STAND_INS, folder / "Dockerfile", folder, ORCHESTRATOR=f"antiphon-orchestrator:{version()}")
        builder.save(archive, *named, STAND_INS)
    stamp.write_text(told)
    return archive


if __name__ == "__main__":
    built = images()
    print(f"{built} {built.stat().st_size >> 20} MiB")
