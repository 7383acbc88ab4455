"""The whole of antiphon as a person runs it: `antiphon up` in a process of its own, for tests that talk to it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ANTIPHON = (sys.executable, "-m", "antiphon.cli.main")
START_S = 90.0
"""How long a start may take on a busy machine: models are loaded and warmed up."""


@dataclass
class System:
    """An `antiphon up` that runs."""

    process: subprocess.Popen[bytes]
    folder: Path
    url: str = ""

    @property
    def data_dir(self) -> Path:
        """Its data directory: logs, and the note by which other commands find it."""
        return self.folder / "data"

    def told(self) -> str:
        """What it has printed."""
        return (self.folder / "output").read_text()

    def logs(self) -> str:
        """What its processes have logged."""
        logs = sorted((self.data_dir / "logs").glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in logs)

    def children(self, word: str) -> list[psutil.Process]:
        """Its living child processes with this word in their command: `worker`, `orchestrator`."""
        return [child for child in psutil.Process(self.process.pid).children() if word in _command(child)]

    def wait_ready(self) -> None:
        """Wait until it takes calls. Raises `AssertionError` with all that it said when it does not."""

        def ready() -> bool:
            assert self.process.poll() is None, self.told() + self.logs()
            return re.search(r"ready at (\S+)", self.told()) is not None

        wait_until(ready, lambda: "antiphon does not get ready:\n" + self.told() + self.logs(), START_S)
        found = re.search(r"ready at (\S+)", self.told())
        assert found is not None
        self.url = found.group(1)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.ZombieProcess, psutil.NoSuchProcess):
        return []


def wait_until(condition: Callable[[], object], otherwise: Callable[[], str], limit_s: float) -> None:
    """Look until a condition holds. Raises `AssertionError` with what `otherwise` says when it never does."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise())
        time.sleep(0.02)


@contextmanager
def launched(
    config: Mapping[str, Any], folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[System]:
    """`antiphon up` with this configuration, on a free port; killed, with all its children, when the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    command = [*ANTIPHON, "up", "--port", "0", "--config", str(file), "--data-dir", str(folder / "data"), *options]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
    try:
        yield System(process, folder)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def running(
    config: Mapping[str, Any], folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[System]:
    """`antiphon up` that takes calls."""
    with launched(config, folder, *options, environment=environment) as system:
        system.wait_ready()
        yield system
