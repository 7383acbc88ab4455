"""A registry, its writer, a reader, and workers in this process or in their own, for tests."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from antiphon.contracts.models import ModelSpec
from antiphon.conversation.ports import ClauseBegins, ClauseWords, SpeechAudio, SynthesisStream
from antiphon.orchestrator.config import AliasesConfig
from antiphon.orchestrator.names import Names
from antiphon.orchestrator.workers.channels import WorkerChannels
from antiphon.orchestrator.workers.fleet import Deadlines, Fleet
from antiphon.orchestrator.workers.recogniser import RoutedRecogniser
from antiphon.orchestrator.workers.synthesiser import RoutedSynthesiser
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.registry.records import ModelRecord
from antiphon.registry.snapshot import RegistryReader, Snapshot
from antiphon.registry.writer import RegistryWriter
from antiphon.worker.config import WorkerConfig
from antiphon.worker.server import Worker

BOUND_S = 80
RATE_HZ = 24_000
FRAME_SAMPLES = 480
NAMESPACE = "test"
PATIENT = Deadlines(register_s=10.0, first_s=10.0, stall_s=10.0)
"""Of an orchestrator that does not take a busy machine for a worker that has failed."""
_PROCESS = "from antiphon.worker import server, config; server.run(config.WorkerConfig())"


def voice(name: str = "tones", **settings: Any) -> ModelSpec:
    return ModelSpec(
        name=name,
        task="tts",
        engine="mock",
        residency={"policy": "Pinned"},
        engine_config={"ms_per_word": 100} | settings,
    )


def ears(name: str = "script", **settings: Any) -> ModelSpec:
    return ModelSpec(name=name, task="asr", engine="mock", residency={"policy": "Pinned"}, engine_config=settings)


class Cluster:
    """What one test runs against."""

    def __init__(self, valkey: EmbeddedValkey, models: tuple[ModelSpec, ...], deadlines: Deadlines) -> None:
        self.valkey = valkey
        self.models = models
        self.reader = RegistryReader(valkey.url, NAMESPACE)
        self.writer = RegistryWriter(valkey.url, NAMESPACE, adopt="local")
        self.writer.set_models(ModelRecord.of(spec) for spec in models)
        self.channels = WorkerChannels()
        names = Names(AliasesConfig(models={"tts-1": models[0].name}), {"tts": None, "asr": None}, self.snapshot)
        fleet = Fleet(self.reader, self.channels, names, deadlines, random.Random(7))
        self.synthesiser = RoutedSynthesiser(fleet)
        self.recogniser = RoutedRecogniser(fleet)
        self.workers: dict[str, Worker] = {}
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.exit = contextlib.AsyncExitStack()

    def snapshot(self) -> Snapshot:
        return self.reader.snapshot

    async def until(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        snapshot = self.reader.snapshot
        async with asyncio.timeout(30):
            while not condition(snapshot):
                snapshot = await self.reader.changed(snapshot.version)
        return snapshot

    async def add(self, *names: str, **changes: Any) -> Worker:
        """Workers in this process, warm; returns the last."""
        for name in names:
            settings = {"worker_id": name, "models": self.models} | changes
            config = WorkerConfig(
                port=0,
                metrics_port=None,
                loudness_lufs=None,
                redis_url=self.valkey.url,
                namespace=NAMESPACE,
                **settings,
            )
            self.workers[name] = await self.exit.enter_async_context(Worker(config))
        await self.until(lambda snapshot: all(self.is_warm(snapshot, name) for name in names))
        return self.workers[names[-1]]

    async def spawn(self, *names: str) -> None:
        """Workers in processes of their own, warm."""
        for name in names:
            told = {
                "ANTIPHON_WORKER_WORKER_ID": name,
                "ANTIPHON_WORKER_PORT": "0",
                "ANTIPHON_WORKER_METRICS_PORT": "0",
                "ANTIPHON_WORKER_REDIS_URL": self.valkey.url,
                "ANTIPHON_WORKER_NAMESPACE": NAMESPACE,
                "ANTIPHON_WORKER_LOG_LEVEL": "ERROR",
                "ANTIPHON_WORKER_LOUDNESS_LUFS": "none",
                "ANTIPHON_WORKER_MODELS": json.dumps([spec.model_dump(mode="json") for spec in self.models]),
            }
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _PROCESS, env=os.environ | told
            )
            self.exit.push_async_callback(self.end, name)
        await self.until(lambda snapshot: all(self.is_warm(snapshot, name) for name in names))

    async def end(self, name: str) -> None:
        """SIGKILL; idempotent."""
        process = self.processes[name]
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()

    def is_warm(self, snapshot: Snapshot, name: str) -> bool:
        worker = snapshot.workers.get(name)
        held = [] if worker is None or worker.lease is None else worker.lease.models
        return {model.name for model in held if model.state in ("warm", "in_use")} == {
            spec.name for spec in self.models
        }

    def busy(self) -> str:
        """The one worker that has a stream, as the registry tells it."""
        [name] = [w.name for w in self.snapshot().workers.values() if w.lease is not None and w.lease.streams]
        return name

    async def until_busy(self) -> str:
        await self.until(
            lambda snapshot: sum(bool(w.lease and w.lease.streams) for w in snapshot.workers.values()) == 1
        )
        return self.busy()


@contextlib.asynccontextmanager
async def cluster(*models: ModelSpec, deadlines: Deadlines | None = None) -> AsyncIterator[Cluster]:
    async with asyncio.timeout(BOUND_S), EmbeddedValkey() as valkey:
        made = Cluster(valkey, models or (voice(), ears()), deadlines or Deadlines())
        tasks = [asyncio.create_task(made.writer.run()), asyncio.create_task(made.reader.run())]
        try:
            async with made.exit:
                await made.until(lambda snapshot: len(snapshot.models) == len(made.models))
                yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await made.channels.aclose()


class Player:
    """A listener: plays what comes, as fast as told, and throws away what became void."""

    def __init__(self, stream: SynthesisStream, speed: float = 1.0) -> None:
        self.stream = stream
        self.speed = speed
        self.pcm = bytearray()
        self.played_samples = 0
        self.void_samples = 0
        self.clauses: list[ClauseBegins] = []
        self.words: dict[tuple[int, int], int] = {}
        self.starts: dict[int, int] = {}
        self.restarted: list[int] = []
        self.longest_wait_s = 0.0
        self._received = asyncio.Event()

    async def run(self) -> None:
        """Until the last frame was played. Raises what the stream raises."""
        playing = asyncio.create_task(self._play())
        try:
            async for part in self.stream.parts():
                self._take(part)
                self._received.set()
            while self.played_samples * 2 < len(self.pcm):
                await asyncio.sleep(0.01)
        finally:
            playing.cancel()
            await asyncio.wait((playing,))

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._received.clear()
            await self._received.wait()

    def _take(self, part: Any) -> None:
        if isinstance(part, SpeechAudio):
            assert part.pcm and len(part.pcm) % (2 * FRAME_SAMPLES) == 0
            self.pcm += part.pcm
        elif isinstance(part, ClauseBegins):
            if part.index in self.starts:
                self.restarted.append(part.index)
                end = max(self.starts[part.index], min(self.played_samples, len(self.pcm) // 2))
                self.void_samples += len(self.pcm) // 2 - end
                del self.pcm[2 * end :]
            self.starts[part.index] = len(self.pcm) // 2
            self.clauses.append(part)
        else:
            assert isinstance(part, ClauseWords)
            for word in part.words:
                assert 0 <= word.start_samples < word.end_samples
                self.words[word.text_start, word.text_end] = self.starts[part.clause_index] + word.start_samples

    async def _play(self) -> None:
        loop = asyncio.get_running_loop()
        due = waited_since = loop.time()
        while True:
            due += 0.02 / self.speed
            await asyncio.sleep(max(0.0, due - loop.time()))
            if self.played_samples * 2 >= len(self.pcm):
                if self.played_samples:
                    self.longest_wait_s = max(self.longest_wait_s, loop.time() - waited_since)
                continue
            waited_since = loop.time()
            self.played_samples += FRAME_SAMPLES
            self.stream.played(self.played_samples + self.void_samples)
