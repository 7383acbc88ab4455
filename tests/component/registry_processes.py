"""Two orchestrators and four workers, each a process of its own, that know of one another through a registry alone."""

import asyncio
import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from registry_servers import Urls

from antiphon.contracts.models import ModelSpec
from antiphon.registry.records import ModelRecord, ModelRef, Want
from antiphon.registry.snapshot import RegistryReader, Snapshot
from antiphon.registry.writer import RegistryWriter
from antiphon.testing.system import ANTIPHON, START_S

NAMESPACE = "prod"
LOAD_MS = 1500
WORD_MS = {"ann": 60, "bob": 100, "cat": 140, "large": 180}
"""How long each model takes for a word, by which it is told from the others."""
HOLD = {"w1": ("ann",), "w2": ("ann", "bob"), "w3": ("bob",), "w4": ("cat",)}
"""What each worker holds; each may load any of them, and nobody holds `large`."""
ORCHESTRATORS = ("o1", "o2")
ASSISTANTS = {
    "anna": {"voice": {"model": "large", "fallback": "ann"}},
    "bert": {"voice": {"model": "large"}},
}
STOP_S = 10.0


def specifications() -> list[ModelSpec]:
    return [
        ModelSpec(
            name=name,
            task="tts",
            engine="mock",
            engine_config={"ms_per_word": ms, "load_ms": LOAD_MS if name == "large" else 0},
        )
        for name, ms in WORD_MS.items()
    ]


@dataclass
class Processes:
    """What runs, and what each worker says that it has done."""

    folder: Path
    reader: RegistryReader
    http: aiohttp.ClientSession
    urls: dict[str, str]
    """By orchestrator."""

    async def until(self, condition: Callable[[Snapshot], bool], within_s: float = START_S) -> Snapshot:
        snapshot = self.reader.snapshot
        try:
            async with asyncio.timeout(within_s):
                while not condition(snapshot):
                    snapshot = await self.reader.changed(snapshot.version)
        except TimeoutError:
            raise AssertionError(f"it does not come to that: {snapshot}\n{self.logs()}") from None
        return snapshot

    def logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()[-4000:]}" for log in sorted(self.folder.glob("*.log")))

    async def models(self, orchestrator: str) -> set[str]:
        """The catalogue, as this orchestrator knows it."""
        async with self.http.get(f"{self.urls[orchestrator]}/v1/models") as response:
            return {model["id"] for model in (await response.json())["data"]}

    async def spoken(self) -> dict[str, Counter[str]]:
        """By worker: how often it has spoken with each model."""
        return await self._counted(r'antiphon_worker_first_audio_seconds_count\{model="(\w+)".*\} ([\d.]+)')

    async def loaded(self) -> dict[str, Counter[str]]:
        """By worker: how often it has loaded each model."""
        return await self._counted(r'antiphon_worker_loads_total\{model="(\w+)".*result="ok".*\} ([\d.]+)')

    async def _counted(self, pattern: str) -> dict[str, Counter[str]]:
        counts: dict[str, Counter[str]] = {}
        for worker in HOLD:
            [port] = re.findall(r"worker listens .*metrics_port=(\d+)", (self.folder / f"{worker}.log").read_text())
            async with self.http.get(f"http://127.0.0.1:{port}/metrics") as response:
                found = re.findall(pattern, await response.text())
            counts[worker] = Counter()
            for model, count in found:
                counts[worker][model] += int(float(count))
        return counts


@contextlib.asynccontextmanager
async def processes(where: Urls, folder: Path) -> AsyncIterator[Processes]:
    """All of them, the workers with what they should hold, the orchestrators listening."""
    async with contextlib.AsyncExitStack() as stack:
        writer = RegistryWriter(where.operator, NAMESPACE, adopt="local", place=lambda lease: _want(lease.worker))
        writer.set_models(ModelRecord.of(spec) for spec in specifications())
        reader = RegistryReader(where.operator, NAMESPACE)
        for part in (writer, reader):
            stack.push_async_callback(_cancelled, asyncio.create_task(part.run()))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)))
        made = Processes(folder, reader, http, {})
        started = [_worker(made, name, where.worker, stack) for name in HOLD]
        started += [_orchestrator(made, name, where.orchestrator, stack) for name in ORCHESTRATORS]
        await asyncio.gather(*started)
        await made.until(lambda known: all(_held(known, name) == set(HOLD[name]) for name in HOLD))
        yield made


async def _worker(made: Processes, name: str, url: str, stack: contextlib.AsyncExitStack) -> None:
    told = {
        "WORKER_ID": name,
        "PORT": "0",
        "METRICS_PORT": "0",
        "MODELS": "[]",
        "REDIS_URL": url,
        "NAMESPACE": NAMESPACE,
        "CACHE": str(made.folder / "cache"),
        "MAX_STREAMS": "64",
        "LOUDNESS_LUFS": "none",
    }
    await _process(made, name, ("worker",), {f"ANTIPHON_WORKER_{key}": value for key, value in told.items()}, stack)


async def _orchestrator(made: Processes, name: str, url: str, stack: contextlib.AsyncExitStack) -> None:
    file = made.folder / f"{name}.yaml"
    registry = {"url": url, "namespace": NAMESPACE}
    file.write_text(
        json.dumps({"assistants": ASSISTANTS, "registry": registry, "server": {"port": 0, "id": name}})  # JSON is YAML
    )
    process = await _process(made, name, ("orchestrator", "--config", str(file)), {}, stack)
    assert process.stdout is not None
    async with asyncio.timeout(START_S):
        made.urls[name] = (await process.stdout.readline()).decode().strip()
    assert made.urls[name].startswith("http"), made.logs()
    async with asyncio.timeout(START_S):
        while not WORD_MS.keys() <= await made.models(name):
            await asyncio.sleep(0.05)


async def _process(
    made: Processes, name: str, arguments: tuple[str, ...], told: Mapping[str, str], stack: contextlib.AsyncExitStack
) -> asyncio.subprocess.Process:
    with (made.folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *ANTIPHON, *arguments, env=os.environ | told, stdout=asyncio.subprocess.PIPE, stderr=log
        )
    stack.push_async_callback(_ended, process)
    return process


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def _cancelled(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _want(worker: str) -> Want:
    return Want(
        hold=tuple(ModelRef(name=name) for name in HOLD[worker]),
        may=tuple(ModelRef(name=name) for name in WORD_MS if name not in HOLD[worker]),
    )


def _held(snapshot: Snapshot, name: str) -> set[str]:
    worker = snapshot.workers.get(name)
    models = worker.lease.models if worker is not None and worker.lease is not None else ()
    return {model.name for model in models if model.state in ("warm", "in_use")}
