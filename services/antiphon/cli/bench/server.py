"""An `antiphon up` of the bench's own: another process, on a free port, with a configuration made to be measured."""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from antiphon.cli.children import Child
from antiphon.cli.embedded import UpOptions, complete_config
from antiphon.cli.running import Running
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec, Residency
from antiphon.orchestrator.config import (
    AssistantConfig,
    DefaultsConfig,
    OrchestratorConfig,
    ServerConfig,
    TurnsConfig,
    VoiceConfig,
)

SILENCE_MS = 300
"""The silence that ends a turn, unless a suite asks for another."""
MOCK = "mock"
"""The assistant with a voice of tones and a recogniser that hears what it was told to."""
_STREAMS = 128
_START_S = 180.0
_GRACE_S = 20.0
_READY = "antiphon is ready at "


@dataclass(frozen=True, slots=True)
class OwnServer:
    """What the bench started, and what it knows of it."""

    url: str
    config: OrchestratorConfig
    data_dir: Path
    pid: int

    def processes(self) -> list[psutil.Process]:
        """`antiphon up` and all that it started."""
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    def registry(self) -> Running:
        """Where its workers announce themselves."""
        return Running.find(self.data_dir)

    def model(self, task: str, engine: str) -> ModelSpec:
        """The model of an engine. Raises `AntiphonError(MODEL_UNKNOWN)` when it serves none."""
        for spec in self.config.models:
            if (spec.task, spec.engine) == (task, engine):
                return spec
        raise AntiphonError(Reason.MODEL_UNKNOWN, f"The bench's server has no {task} model of the engine {engine}.")


def bench_config() -> OrchestratorConfig:
    """`default`: the voice and recogniser of `antiphon up`, echo; `mock`: the same conversation without any model."""
    stay = Residency(policy="Pinned")
    base = complete_config(UpOptions())
    mocks = (
        ModelSpec(name="mock-voice", task="tts", engine="mock", residency=stay),
        ModelSpec(name="mock-recogniser", task="asr", engine="mock", residency=stay),
    )
    turns = TurnsConfig(silence_duration_ms=SILENCE_MS)
    voice, recogniser = base.default.voice, base.default.recogniser
    return OrchestratorConfig(
        assistants={
            "default": AssistantConfig(turns=turns),
            MOCK: AssistantConfig(recogniser="mock-recogniser", voice=VoiceConfig(model="mock-voice"), turns=turns),
        },
        default=DefaultsConfig(assistant="default", voice=voice, recogniser=recogniser),
        models=(*base.models, *mocks),
        server=ServerConfig(port=0),
    )


@asynccontextmanager
async def own_server(folder: Path) -> AsyncIterator[OwnServer]:
    """One that takes calls, until the block ends.

    Args:
        folder: Takes its logs.

    Raises:
        AntiphonError: When it does not come up, with its last words.
    """
    config = bench_config()
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as made:
        data_dir = Path(made)
        file = data_dir / "config.yaml"
        told = config.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"registry"})
        file.write_text(yaml.safe_dump(told))
        listening = asyncio.Event()
        lines: list[str] = []

        def announced(line: str) -> None:
            lines.append(line)
            if _READY in line:
                listening.set()

        child = Child(
            "antiphon up",
            [
                sys.executable,
                "-m",
                "antiphon.cli.main",
                "up",
                "--config",
                str(file),
                "--port",
                "0",
                "--data-dir",
                str(data_dir),
            ],
            environment={"ANTIPHON_WORKER_MAX_STREAMS": str(_STREAMS), "COLUMNS": "200"},
            log=folder / "antiphon-up.log",
            warn=lines.append,
            announce=announced,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child.supervise(), name="antiphon-up")
            try:
                await _until(listening, lines)
                url = next(line.split(_READY)[1].split()[0] for line in lines if _READY in line)
                assert child.pid is not None
                yield OwnServer(url, config, data_dir, child.pid)
            finally:
                await child.stop(_GRACE_S)


async def _until(listening: asyncio.Event, lines: list[str]) -> None:
    try:
        async with asyncio.timeout(_START_S):
            await listening.wait()
    except TimeoutError:
        said = json.dumps(lines[-3:])
        raise AntiphonError(
            Reason.NO_WORKER, f"The bench's `antiphon up` is not ready after {_START_S:g} s; it said {said}."
        ) from None
