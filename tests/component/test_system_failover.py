"""Workers that are killed in the middle of a reply, or of what the user says, under `antiphon up`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from antiphon.cli.realtime import RealtimeSession, connect
from antiphon.cli.running import Running
from antiphon.registry.snapshot import RegistryReader
from antiphon.testing.speech import require_recordings
from antiphon.testing.system import System, running
from antiphon.testing.tones import decode_words

pytestmark = [pytest.mark.component, pytest.mark.timeout(240)]

RATE = 24_000
GAP_S = 2.0
"""What a listener may have to wait when a worker dies."""
CLAUSES = ". ".join(" ".join(str(word) for word in range(start, start + 8)) for start in range(0, 64, 8)) + "."


def config(**engine: Any) -> dict[str, Any]:
    return {
        "models": [
            {
                "name": "tones",
                "task": "tts",
                "engine": "mock",
                "residency": {"policy": "Pinned"},
                "engineConfig": {"ms_per_word": 160, **engine},
            },
            {
                "name": "script",
                "task": "asr",
                "engine": "mock",
                "residency": {"policy": "Pinned"},
                "engineConfig": {
                    "by_duration": [{"at_least_ms": 0, "text": "nothing"}, {"at_least_ms": 2500, "text": "all of it"}]
                },
            },
        ],
    }


@asynccontextmanager
async def talking(system: System) -> AsyncIterator[RealtimeSession]:
    async with connect(system.url, extension=True) as session:
        streaming = asyncio.create_task(session.stream_microphone())
        try:
            yield session
        finally:
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)


async def busy_worker(system: System) -> psutil.Process:
    """The process of the worker that has a stream, as its lease tells."""
    noted = Running.find(system.data_dir)
    reader = RegistryReader(noted.registry, noted.namespace)
    reading = asyncio.create_task(reader.run())
    try:
        async with asyncio.timeout(20):
            while True:
                snapshot = await reader.changed(reader.snapshot.version)
                for worker in snapshot.workers.values():
                    if worker.lease is not None and worker.lease.streams:
                        return process_of(system, worker.name)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def process_of(system: System, worker: str) -> psutil.Process:
    for process in system.children("worker"):
        if worker in process.environ().values() or any(worker in part for part in process.cmdline()):
            return process
    raise AssertionError(f"{worker} is not among the children")


async def test_a_speaking_worker_is_killed_and_the_reply_goes_on_from_its_clause(tmp_path: Path) -> None:
    with running(config(real_time_factor=0.8), tmp_path, "--workers", "2") as system:
        async with talking(system) as session:
            await session.say_text(CLAUSES)
            await session.expect("response.output_audio.delta", within_s=10)
            victim = await busy_worker(system)
            killed_s = session.now_s
            victim.kill()
            done = await session.expect("response.done", within_s=40)
        assert done.body["response"]["status"] == "completed"
        words = decode_words(session.speaker.recording(), RATE)
        repeated = len(words) - len(set(words))
        assert sorted(set(words)) == list(range(64)), "no word is lost"
        assert repeated <= 8, "nothing is heard twice but one clause"
        assert longest_gap_s(session, after_s=killed_s) <= GAP_S


def longest_gap_s(session: RealtimeSession, after_s: float) -> float:
    pieces = [piece for piece in session.speaker.pieces() if piece.start_s >= after_s - 1]
    ends = [piece.start_s + len(piece.samples) / RATE for piece in pieces]
    return max((later.start_s - end for end, later in zip(ends, pieces[1:], strict=False)), default=0.0)


async def test_with_no_worker_left_the_client_is_told_and_the_session_lives_on(tmp_path: Path) -> None:
    with running(config(real_time_factor=0.8), tmp_path) as system:
        async with talking(system) as session:
            await session.say_text(CLAUSES)
            await session.expect("response.output_audio.delta", within_s=10)
            for worker in system.children("worker"):
                worker.kill()
            done = await session.expect("response.done", within_s=40)
            if done.body["response"]["status"] == "failed":
                problem = await session.expect("antiphon.problem", within_s=1)
                assert problem.body["source"] == "synthesiser"
            else:
                assert sorted(set(decode_words(session.speaker.recording(), RATE))) == list(range(64))
            async with asyncio.timeout(60):
                while True:
                    seen = len(session.events)
                    await session.say_text("0 1 2 3")
                    done = await session.expect("response.done", since=seen, within_s=30)
                    if done.body["response"]["status"] == "completed":
                        break


async def test_a_recogniser_is_killed_in_mid_utterance_and_the_transcript_is_complete(tmp_path: Path) -> None:
    recording = next(one for one in require_recordings(least_words=6) if 3.0 < len(one.samples()) / 16_000 < 4.5)
    with running(config(), tmp_path, "--workers", "2") as system:
        async with talking(system) as session:
            session.say(np.asarray(recording.samples(RATE)))
            await session.expect("input_audio_buffer.speech_started", within_s=10)
            (await busy_worker(system)).kill()
            heard = await session.expect("conversation.item.input_audio_transcription.completed", within_s=20)
            assert heard.body["transcript"] == "all of it", "the new recogniser was given the whole utterance"
