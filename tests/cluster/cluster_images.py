"""Container images without a registry: archives that a node imports."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from cluster_binaries import program

PAUSE = "localhost/antiphon-test-pause:1"


def pause_image(folder: Path) -> Path:
    """The image that holds a pod's namespaces: one static program."""
    archive = folder / "pause.tar"
    if not archive.exists() or archive.stat().st_mtime < program("pause").stat().st_mtime:
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            add(tar, "pause", program("pause").read_bytes(), mode=0o755)
        write_image(archive, PAUSE, layer.getvalue(), {"Entrypoint": ["/pause"], "User": "65535:65535"})
    return archive


def write_image(archive: Path, name: str, layer: bytes, config: dict) -> None:
    """An archive, as `docker save` writes it, of an image of one layer."""
    digest = hashlib.sha256(layer).hexdigest()
    layers = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    image = json.dumps({"architecture": "amd64", "os": "linux", "config": config, "rootfs": layers}).encode()
    image_name = f"{hashlib.sha256(image).hexdigest()}.json"
    manifest = [{"Config": image_name, "RepoTags": [name], "Layers": [f"{digest}.tar"]}]
    with tarfile.open(archive, "w") as tar:
        add(tar, image_name, image)
        add(tar, "manifest.json", json.dumps(manifest).encode())
        add(tar, f"{digest}.tar", layer)


def add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
