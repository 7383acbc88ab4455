"""A model is swapped while twenty callers listen: each word is numbered by its tone, and none is lost."""

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from registry_cluster import NAMESPACE, RATE_HZ, Player, voice
from test_orchestrator_load_on_miss import Orchestrator

from antiphon.audio.pcm import pcm_to_float
from antiphon.contracts.models import ModelSpec, revision_digest
from antiphon.conversation.ports import SynthesisRequest
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.registry.fitness import RouteRequest, revisions
from antiphon.registry.records import ModelRecord, ModelRef, ResidentModel, Revision, Want
from antiphon.registry.writer import RegistryWriter
from antiphon.testing.tones import decode_words

pytestmark = [pytest.mark.component, pytest.mark.timeout(90)]

CALLERS, WORDS = 20, 12
TEXT = " ".join(f"w{number}" + ("." if number % 6 == 5 else "") for number in range(WORDS))
OLD_MS, NEW_MS = 60, 90
"""How long a word lasts: so a reply tells which revision spoke it."""
OLD, NEW = (voice("tones", ms_per_word=ms, memory_mib=30) for ms in (OLD_MS, NEW_MS))


def record(*shares: tuple[ModelSpec, int]) -> ModelRecord:
    """The catalogue's record of `tones`: its first revision is its own."""
    own, _ = shares[0]
    known = tuple(
        Revision(digest=revision_digest(spec), weight=weight, spec=spec.model_dump(mode="json", by_alias=True))
        for spec, weight in shares
    )
    made = ModelRecord.of(own, digest=revision_digest(own))
    return made.model_copy(update={"revisions": known if len(shares) > 1 else ()})


def wanted(*specs: ModelSpec) -> Want:
    return Want(hold=tuple(ModelRef(name="tones", digest=revision_digest(spec)) for spec in specs))


def in_the_half_of(spec: ModelSpec) -> str:
    """A session's id whose hash gives it this revision, where both have half of the weight."""
    known, digest = record((OLD, 50), (NEW, 50)), revision_digest(spec)
    sessions = (f"fresh-{number}" for number in range(1000))
    return next(
        session
        for session in sessions
        if revisions(RouteRequest("tts", "tones", session_id=session), known, random.Random(1))[0] == digest
    )


class Site:
    """One placed worker or more as processes, their registry, and an orchestrator's part that finds them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.want: dict[str, Want] = {}
        self.writer = RegistryWriter(url, NAMESPACE, adopt="local")
        self.orchestrator = Orchestrator("one", url)
        self.spoken: Counter[int] = Counter()
        self.over = False

    def place(self, worker: str, *specs: ModelSpec) -> None:
        self.writer.put_want(worker, wanted(*specs))

    def held(self, worker: str, spec: ModelSpec) -> ResidentModel | None:
        known = self.orchestrator.reader.snapshot.workers.get(worker)
        lease = known.lease if known is not None else None
        return lease.resident("tones", revision_digest(spec)) if lease is not None else None

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await self.orchestrator.reader.changed(self.orchestrator.reader.snapshot.version)

    async def warm(self, worker: str, spec: ModelSpec) -> None:
        await self.until(lambda: (held := self.held(worker, spec)) and held.state in ("warm", "in_use"))

    async def gone(self, worker: str, spec: ModelSpec) -> None:
        await self.until(lambda: self.held(worker, spec) is None)

    @contextlib.asynccontextmanager
    async def worker(self, name: str, **settings: Any) -> AsyncIterator[None]:
        told = {"WORKER_ID": name, "PORT": 0, "METRICS_PORT": 0, "REDIS_URL": self.url, "NAMESPACE": NAMESPACE}
        told |= {"MAX_STREAMS": 64, "LOG_LEVEL": "ERROR"} | settings
        environment = {f"ANTIPHON_WORKER_{key}": str(value) for key, value in told.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "antiphon.worker", env=os.environ | environment
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()

    async def call(self, session: str) -> list[int]:
        """Replies, one after another, until the test is over; how long a word lasted in each."""
        lengths: list[int] = []
        while not self.over:
            request = SynthesisRequest(session_id=session, model="tones", sample_rate_hz=RATE_HZ)
            stream = self.orchestrator.voices.open(request)
            try:
                stream.push_text(TEXT)
                stream.end()
                player = Player(stream, speed=2)
                await player.run()
            finally:
                await stream.aclose()
            samples = pcm_to_float(bytes(player.pcm))
            assert decode_words(samples, RATE_HZ) == list(range(WORDS)) and not player.restarted
            lengths.append(min((OLD_MS, NEW_MS), key=lambda ms: abs(len(samples) / RATE_HZ * 1000 - ms * WORDS)))
            self.spoken[lengths[-1]] += 1
        return lengths

    async def spoken_more(self, ms: int, replies: int = CALLERS) -> None:
        target = self.spoken[ms] + replies
        async with asyncio.timeout(20):
            while self.spoken[ms] < target:
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def site() -> AsyncIterator[Site]:
    async with EmbeddedValkey() as valkey:
        made = Site(valkey.url)
        tasks = [asyncio.create_task(made.writer.run()), asyncio.create_task(made.orchestrator.reader.run())]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await made.orchestrator.fleet.aclose()
            await made.orchestrator.channels.aclose()


@contextlib.asynccontextmanager
async def calling(made: Site) -> AsyncIterator[list[list[int]]]:
    """Twenty callers while the block runs; what each heard is in the list afterwards."""
    heard: list[list[int]] = []
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(made.call(f"session-{number}")) for number in range(CALLERS)]
        try:
            yield heard
        finally:
            made.over = True
    heard += [call.result() for call in calls]


async def test_no_word_is_lost_when_the_new_revision_stands_beside_the_old() -> None:
    async with site() as made, made.worker("w1", MEMORY_BUDGET_MIB=100):
        made.writer.set_models([record((OLD, 100))])
        made.place("w1", OLD)
        await made.warm("w1", OLD)
        async with calling(made) as heard:
            await made.spoken_more(OLD_MS)
            made.writer.set_models([record((OLD, 100), (NEW, 0))])
            made.place("w1", OLD, NEW)
            await made.warm("w1", NEW)
            made.writer.set_models([record((OLD, 50), (NEW, 50))])
            await made.spoken_more(OLD_MS)
            fresh = asyncio.create_task(made.call(in_the_half_of(NEW)))
            await made.spoken_more(NEW_MS, 1)
            made.writer.set_models([record((OLD, 0), (NEW, 100))])
            await made.spoken_more(NEW_MS)
            made.writer.set_models([record((NEW, 100))])
            made.place("w1", NEW)
            await made.gone("w1", OLD)
            await made.spoken_more(NEW_MS)
            counted = made.held("w1", NEW)
        assert set(await fresh) == {NEW_MS}
        assert counted is not None and counted.served and not counted.failed and counted.first_audio_ms > 0
        print(f"replies by milliseconds a word: {dict(made.spoken)}; lost: 0")
        for lengths in heard:  # half way nobody changes voice; then each does once
            assert lengths == sorted(lengths) and {lengths[0], lengths[-1]} == {OLD_MS, NEW_MS}


async def test_no_word_is_lost_when_memory_does_not_allow_both_and_two_workers_take_turns() -> None:
    async with site() as made, made.worker("w1", MEMORY_BUDGET_MIB=40), made.worker("w2", MEMORY_BUDGET_MIB=40):
        made.writer.set_models([record((OLD, 100))])
        for worker in ("w1", "w2"):
            made.place(worker, OLD)
            await made.warm(worker, OLD)
        async with calling(made) as heard:
            await made.spoken_more(OLD_MS)
            made.writer.set_models([record((OLD, 100), (NEW, 0))])
            made.place("w1", OLD, NEW)
            await made.until(lambda: (held := made.held("w1", NEW)) and held.reason == "WORKER_FULL")
            made.place("w1", NEW)
            await made.warm("w1", NEW)
            assert made.held("w1", OLD) is None
            made.writer.set_models([record((OLD, 50), (NEW, 50))])
            await made.spoken_more(OLD_MS)
            made.writer.set_models([record((OLD, 0), (NEW, 100))])
            made.place("w2", NEW)
            await made.warm("w2", NEW)
            made.writer.set_models([record((NEW, 100))])
            await made.spoken_more(NEW_MS)
        print(f"replies by milliseconds a word: {dict(made.spoken)}; lost: 0")
        assert all(lengths == sorted(lengths) for lengths in heard)
