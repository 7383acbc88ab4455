"""Two orchestrators and four placed workers: calls go to who holds the model, and what nobody holds is loaded once."""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from registry_cluster import NAMESPACE, voice

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec
from antiphon.conversation.ports import ModelLoading, SpeechAudio, SynthesisRequest
from antiphon.orchestrator.config import AliasesConfig
from antiphon.orchestrator.names import Names
from antiphon.orchestrator.workers.channels import WorkerChannels
from antiphon.orchestrator.workers.fleet import Choice, Deadlines, Fleet, Tries, Wanted
from antiphon.orchestrator.workers.synthesiser import RoutedSynthesiser
from antiphon.registry.client import open_client
from antiphon.registry.demand import DemandKeeper
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.registry.keys import Keys
from antiphon.registry.records import Demand, Lease, ModelRecord, ModelRef, Want
from antiphon.registry.snapshot import RegistryReader, Snapshot
from antiphon.registry.writer import RegistryWriter

pytestmark = [pytest.mark.component, pytest.mark.timeout(90)]

REQUESTS, AT_ONCE = 200, 24
HOLD = {"w1": ("north",), "w2": ("north", "east"), "w3": ("east",), "w4": ("south",)}
MAY = {"w3": ("slow",), "w4": ("slow",)}
MODELS: tuple[ModelSpec, ...] = (
    voice("north", ms_per_word=40),
    voice("east", ms_per_word=40),
    voice("south", ms_per_word=40),
    voice("slow", ms_per_word=40, load_ms=2000),
    voice("nowhere"),
)
_PROCESS = "from antiphon.worker import server, config; server.run(config.WorkerConfig())"


def place(lease: Lease) -> Want:
    hold, may = HOLD[lease.worker], MAY.get(lease.worker, ())
    return Want(hold=tuple(ModelRef(name=name) for name in hold), may=tuple(ModelRef(name=name) for name in may))


class CountingFleet(Fleet):
    """Remembers what was spoken by whom."""

    served: Counter[tuple[str, str]]

    def _remember(self, wanted: Wanted, choice: Choice, tries: Tries) -> None:
        self.served[choice.model, choice.candidate.worker] += 1
        super()._remember(wanted, choice, tries)


class Orchestrator:
    """The part of an orchestrator that finds workers."""

    def __init__(self, name: str, url: str) -> None:
        self.reader = RegistryReader(url, NAMESPACE)
        self.demand = DemandKeeper(url, NAMESPACE, name)
        self.channels = WorkerChannels()
        names = Names(AliasesConfig(), {"tts": None, "asr": None}, lambda: self.reader.snapshot)
        deadlines = Deadlines(no_worker_s=0.5)
        self.fleet = CountingFleet(
            self.reader, self.channels, names, deadlines, random.Random(name), note_demand=self.demand.note
        )
        self.fleet.served = Counter()
        self.voices = RoutedSynthesiser(self.fleet)

    async def speak(self, model: str, fallback: str = "") -> tuple[int, list[ModelLoading]]:
        """The samples of a short reply, and what was told of loads meanwhile."""
        request = SynthesisRequest(session_id=f"{model}-{random.random()}", model=model, fallback=fallback)
        stream, samples, loading = self.voices.open(request), 0, []
        try:
            stream.push_text("One two three.")
            stream.end()
            async for part in stream.parts():
                if isinstance(part, SpeechAudio):
                    samples += len(part.pcm) // 2
                    stream.played(samples)
                elif isinstance(part, ModelLoading):
                    loading.append(part)
        finally:
            await stream.aclose()
        return samples, loading


class Site:
    """Four workers in processes of their own, their registry, and two orchestrators."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.writer = RegistryWriter(url, NAMESPACE, adopt="local", place=place)
        self.writer.set_models(ModelRecord.of(spec) for spec in MODELS)
        self.orchestrators = (Orchestrator("first", url), Orchestrator("second", url))

    async def until(self, condition: Callable[[Snapshot], bool]) -> None:
        async with asyncio.timeout(40):
            for orchestrator in self.orchestrators:
                snapshot = orchestrator.reader.snapshot
                while not condition(snapshot):
                    snapshot = await orchestrator.reader.changed(snapshot.version)

    @contextlib.asynccontextmanager
    async def worker(self, name: str) -> AsyncIterator[None]:
        told = {
            "WORKER_ID": name,
            "PORT": "0",
            "METRICS_PORT": "0",
            "REDIS_URL": self.url,
            "NAMESPACE": NAMESPACE,
            "MAX_STREAMS": "64",
            "LOUDNESS_LUFS": "none",
        }
        environment = {f"ANTIPHON_WORKER_{key}": value for key, value in told.items()}
        with self.log(name).open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _PROCESS, env=os.environ | environment, stderr=log
            )
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def counted(self, name: str, metric: str, **labels: str) -> int:
        """A worker's own count."""
        [port] = re.findall(r"worker listens .*metrics_port=(\d+)", self.log(name).read_text())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = [line for line in lines if line.startswith(metric) and all(label in line for label in wanted)]
        return sum(round(float(line.rsplit(" ", 1)[1])) for line in found)


def held(snapshot: Snapshot, worker: str) -> set[str]:
    lease = snapshot.workers[worker].lease if worker in snapshot.workers else None
    return {model.name for model in lease.models if model.state in ("warm", "in_use")} if lease is not None else set()


@contextlib.asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    async with EmbeddedValkey() as valkey, contextlib.AsyncExitStack() as stack:
        made = Site(valkey.url, folder)
        tasks = [asyncio.create_task(made.writer.run())]
        for orchestrator in made.orchestrators:
            tasks += [asyncio.create_task(orchestrator.reader.run()), asyncio.create_task(orchestrator.demand.run())]
            stack.push_async_callback(orchestrator.channels.aclose)
            stack.push_async_callback(orchestrator.fleet.aclose)
        try:
            for name in HOLD:
                await stack.enter_async_context(made.worker(name))
            await made.until(lambda snapshot: all(held(snapshot, name) == set(HOLD[name]) for name in HOLD))
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def speak_many(made: Site) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            model = ("north", "east", "south")[number % 3]
            samples, loading = await made.orchestrators[number % 2].speak(model, fallback="south")
            assert samples >= 3 * 0.04 * 24_000 and loading == []

    await asyncio.gather(*(one(number) for number in range(REQUESTS)))


async def demand_for(url: str, model: str) -> list[Demand]:
    client: Any = open_client(url, block_s=10)
    try:
        fields = await client.hgetall(Keys(NAMESPACE).demand(model))
    finally:
        await client.aclose()
    return [Demand.model_validate(json.loads(value)) for value in fields.values()]


async def test_calls_go_to_who_holds_the_model_and_what_nobody_holds_is_loaded_once(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        first, second = made.orchestrators
        await speak_many(made)
        served = first.fleet.served + second.fleet.served
        print("served", dict(sorted(served.items())))
        assert served.total() == REQUESTS
        assert all(model in HOLD[worker] for model, worker in served)
        assert {worker for model, worker in served if model == "north"} == {"w1", "w2"}
        ended = {name: made.counted(name, "antiphon_worker_streams_ended_total") for name in HOLD}
        assert ended == {name: sum(count for (_, worker), count in served.items() if worker == name) for name in HOLD}

        # Ten callers at once, of both orchestrators: half of them have a fallback.
        callers = [(orchestrator, fallback) for orchestrator in (first, second) for fallback in ("", "north") * 3][:10]
        answers = await asyncio.gather(*(caller.speak("slow", fallback) for caller, fallback in callers))
        loads = {name: made.counted(name, "antiphon_worker_loads_total", model="slow") for name in HOLD}
        served = first.fleet.served + second.fleet.served - served
        print("loads of slow", loads, "served", dict(sorted(served.items())))
        assert sum(loads.values()) == 1 and loads["w3"] + loads["w4"] == 1
        assert all(samples for samples, _ in answers)
        assert all(loading for _, loading in answers)
        assert sum(bool(loading[0].fallback) for _, loading in answers) == 5
        assert sum(count for (model, _), count in served.items() if model == "slow") == 5
        assert sum(count for (model, _), count in served.items() if model == "north") == 5

        # From now on, as soon as its worker's lease says so, it is resident.
        await made.until(lambda snapshot: "slow" in snapshot.index.warm)
        assert (await first.speak("slow", "north"))[1] == [] and (await second.speak("slow"))[1] == []

        async with asyncio.timeout(5):
            while sum(demand.count for demand in await demand_for(made.url, "slow")) < 10:
                await asyncio.sleep(0.1)
        assert {demand.reason for demand in await demand_for(made.url, "slow")} == {Reason.MODEL_LOADING}

        # What no worker may load is refused, or spoken by the fallback.
        with pytest.raises(AntiphonError) as caught:
            await first.speak("nowhere")
        assert caught.value.reason is Reason.NO_WORKER and caught.value.retry_after_ms
        assert (await first.speak("nowhere", "south"))[1] == [ModelLoading("nowhere", 0.0, "south")]

        # What leaves the catalogue leaves the workers.
        made.writer.set_models(ModelRecord.of(spec) for spec in MODELS if spec.name != "east")
        await made.until(lambda snapshot: all("east" not in held(snapshot, name) for name in HOLD))
