"""A model is swapped while twenty callers listen: each word is numbered by its tone, and none is lost."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from registry_cluster import RATE_HZ, Player, voice
from worker_site import Site, own, site

from antiphon.audio.pcm import pcm_to_float
from antiphon.contracts.models import ModelSpec, revision_digest
from antiphon.conversation.ports import ModelLoading, SynthesisRequest
from antiphon.registry.fitness import RouteRequest, revisions
from antiphon.registry.records import ModelRecord, Revision
from antiphon.testing.tones import decode_words

pytestmark = [pytest.mark.component, pytest.mark.timeout(180)]

CALLERS, WORDS = 20, 12
TEXT = " ".join(f"w{number}" + ("." if number % 6 == 5 else "") for number in range(WORDS))
OLD_MS, NEW_MS = 60, 90
"""How long a word lasts: so a reply tells which revision spoke it."""
OLD, NEW = (voice("tones", ms_per_word=ms, memory_mib=30) for ms in (OLD_MS, NEW_MS))


def record(*shares: tuple[ModelSpec, int]) -> ModelRecord:
    """The catalogue's record of `tones`: its first revision is its own."""
    first, _ = shares[0]
    known = tuple(
        Revision(digest=revision_digest(spec), weight=weight, spec=spec.model_dump(mode="json", by_alias=True))
        for spec, weight in shares
    )
    return own(first).model_copy(update={"revisions": known if len(shares) > 1 else ()})


def in_the_half_of(spec: ModelSpec) -> str:
    """A session's id whose hash gives it this revision, where both have half of the weight."""
    known, digest = record((OLD, 50), (NEW, 50)), revision_digest(spec)
    sessions = (f"fresh-{number}" for number in range(1000))
    return next(
        session
        for session in sessions
        if revisions(RouteRequest("tts", "tones", session_id=session), known, random.Random(1))[0] == digest
    )


class PatientPlayer(Player):
    """Counts what it is told of loads."""

    loading = 0

    def _take(self, part: Any) -> None:
        if isinstance(part, ModelLoading):
            self.loading += 1
        else:
            super()._take(part)


class Callers:
    """Twenty callers, each with a session of its own."""

    def __init__(self, made: Site) -> None:
        self._voices = made.orchestrator.voices
        self.spoken: Counter[int] = Counter()
        self.waited = 0
        """Replies that began with the word that the model is being loaded."""
        self.over = False

    async def call(self, session: str) -> list[int]:
        """Replies, one after another, until the test is over; how long a word lasted in each."""
        lengths: list[int] = []
        while not self.over:
            request = SynthesisRequest(session_id=session, model="tones", sample_rate_hz=RATE_HZ)
            stream = self._voices.open(request)
            try:
                stream.push_text(TEXT)
                stream.end()
                player = PatientPlayer(stream, speed=2)
                await player.run()
            finally:
                await stream.aclose()
            samples = pcm_to_float(bytes(player.pcm))
            assert decode_words(samples, RATE_HZ) == list(range(WORDS)) and not player.restarted
            lengths.append(min((OLD_MS, NEW_MS), key=lambda ms: abs(len(samples) / RATE_HZ * 1000 - ms * WORDS)))
            self.spoken[lengths[-1]] += 1
            self.waited += bool(player.loading)
        return lengths

    async def spoken_more(self, ms: int, replies: int = CALLERS) -> None:
        target = self.spoken[ms] + replies
        async with asyncio.timeout(60):
            while self.spoken[ms] < target:
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def calling(callers: Callers) -> AsyncIterator[list[list[int]]]:
    """They call while the block runs; what each heard is in the list afterwards."""
    heard: list[list[int]] = []
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(callers.call(f"session-{number}")) for number in range(CALLERS)]
        try:
            yield heard
        finally:
            callers.over = True
    heard += [call.result() for call in calls]


async def test_no_word_is_lost_when_the_new_revision_stands_beside_the_old() -> None:
    async with site() as made, made.worker("w1", MEMORY_BUDGET_MIB=100):
        made.writer.set_models([record((OLD, 100))])
        made.place("w1", OLD)
        await made.warm("w1", OLD)
        callers = Callers(made)
        async with calling(callers) as heard:
            await callers.spoken_more(OLD_MS)
            made.writer.set_models([record((OLD, 100), (NEW, 0))])
            made.place("w1", OLD, NEW)
            await made.warm("w1", NEW)
            made.writer.set_models([record((OLD, 50), (NEW, 50))])
            await callers.spoken_more(OLD_MS)
            fresh = asyncio.create_task(callers.call(in_the_half_of(NEW)))
            await callers.spoken_more(NEW_MS, 1)
            made.writer.set_models([record((OLD, 0), (NEW, 100))])
            await callers.spoken_more(NEW_MS)
            made.writer.set_models([record((NEW, 100))])
            made.place("w1", NEW)
            await made.gone("w1", OLD)
            await callers.spoken_more(NEW_MS)
            counted = made.held("w1", NEW)
        assert set(await fresh) == {NEW_MS}
        assert counted is not None and counted.served and not counted.failed and counted.first_audio_ms > 0
        print(f"replies by milliseconds a word: {dict(callers.spoken)}; lost: 0")
        for lengths in heard:  # half way nobody changes voice; then each does once
            assert lengths == sorted(lengths) and {lengths[0], lengths[-1]} == {OLD_MS, NEW_MS}


async def test_no_word_is_lost_when_memory_does_not_allow_both_and_two_workers_take_turns() -> None:
    async with site() as made, made.worker("w1", MEMORY_BUDGET_MIB=40), made.worker("w2", MEMORY_BUDGET_MIB=40):
        made.writer.set_models([record((OLD, 100))])
        for worker in ("w1", "w2"):
            made.place(worker, OLD)
            await made.warm(worker, OLD)
        callers = Callers(made)
        async with calling(callers) as heard:
            await callers.spoken_more(OLD_MS)
            made.writer.set_models([record((OLD, 100), (NEW, 0))])
            made.place("w1", OLD, NEW)
            await made.has("w1", NEW, lambda held: held.reason == "WORKER_FULL")
            made.place("w1", NEW)
            await made.warm("w1", NEW)
            assert made.held("w1", OLD) is None
            made.writer.set_models([record((OLD, 50), (NEW, 50))])
            await callers.spoken_more(OLD_MS)
            made.writer.set_models([record((OLD, 0), (NEW, 100))])
            made.place("w2", NEW)
            await made.warm("w2", NEW)
            made.writer.set_models([record((NEW, 100))])
            await callers.spoken_more(NEW_MS)
        print(f"replies by milliseconds a word: {dict(callers.spoken)}; lost: 0")
        assert all(lengths == sorted(lengths) for lengths in heard)


async def test_with_one_worker_and_no_memory_for_both_new_replies_wait_and_are_told_so() -> None:
    slow = voice("tones", ms_per_word=NEW_MS, memory_mib=30, load_ms=300)
    async with site() as made, made.worker("w1", MEMORY_BUDGET_MIB=40):
        made.writer.set_models([record((OLD, 100))])
        made.place("w1", OLD)
        await made.warm("w1", OLD)
        callers = Callers(made)
        async with calling(callers) as heard:
            await callers.spoken_more(OLD_MS)
            made.writer.set_models([record((OLD, 100), (slow, 0))])
            await callers.spoken_more(OLD_MS)
            made.writer.set_models([record((OLD, 0), (slow, 100))])
            made.place("w1", slow)
            await callers.spoken_more(NEW_MS)
        print(f"replies by milliseconds a word: {dict(callers.spoken)}; {callers.waited} waited; lost: 0")
        assert callers.waited and all(lengths == sorted(lengths) for lengths in heard)


async def test_no_word_is_lost_while_a_revision_that_fails_has_half_of_the_weight() -> None:
    broken = voice("tones", ms_per_word=NEW_MS, memory_mib=30, fail_every=1)
    async with site() as made, made.worker("w1"):
        made.writer.set_models([record((OLD, 50), (broken, 50))])
        made.place("w1", OLD, broken)
        for spec in (OLD, broken):
            await made.warm("w1", spec)
        callers = Callers(made)
        async with calling(callers) as heard:
            await callers.spoken_more(OLD_MS, 3 * CALLERS)
        counted = await made.has("w1", broken, lambda held: held.failed >= 10)
        assert counted.served == 0 and all(set(lengths) == {OLD_MS} for lengths in heard)
        print(f"replies: {callers.spoken.total()}; the broken revision failed {counted.failed} times; lost: 0")
