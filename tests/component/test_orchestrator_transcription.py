"""`/v1/audio/transcriptions` and `/v1/models` as a stock client uses them."""

import asyncio
import io
import wave
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent, TranscriptionVerbose
from orchestrator_http import serving

from antiphon.audio.encoding import Encoder, Format
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.ports import ModelLoading, RecognitionRequest, Transcript, TranscriptWord
from antiphon.testing.fakes import FakeRecogniser, FakeRecognitionStream

pytestmark = pytest.mark.component

RATE_HZ = 16_000
GREETING = Transcript(
    "Good day.", "en", (TranscriptWord("Good", 0.3, 0.5, 0.9), TranscriptWord("day.", 0.5, 0.9, 0.9)), -0.1, 0.0
)
FAREWELL = Transcript("So long.", "en", (TranscriptWord("So", 0.3, 0.5, 0.9), TranscriptWord("long.", 0.5, 0.8, 0.9)))


class Recogniser(FakeRecogniser):
    """Remembers what it was asked, and how many streams were open at once."""

    def __init__(self, *script: Any, **options: Any) -> None:
        super().__init__(script, **({"delay_s": 0.0} | options))
        self.requests: list[RecognitionRequest] = []
        self.most_at_once = 0

    def open(self, request: RecognitionRequest) -> Any:
        self.requests.append(request)
        stream = super().open(request)
        self.most_at_once = max(self.most_at_once, sum(not each.closed for each in self.streams))
        return stream


def sound(*parts: tuple[float, float], rate_hz: int = RATE_HZ) -> bytes:
    """A WAV file of stretches of a tone's level and a length in seconds."""
    pieces = [level * np.sin(np.arange(round(seconds * rate_hz)) * 0.3) for level, seconds in parts]
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, rate_hz, 0, "NONE", ""))
        writer.writeframes((np.concatenate(pieces) * 32_767).astype("<i2").tobytes())
    return file.getvalue()


TWO_SENTENCES = sound((0.0, 1.0), (0.5, 2.0), (0.0, 6.0), (0.5, 2.0), (0.0, 1.0))


async def test_json_with_usage() -> None:
    recogniser = Recogniser(GREETING, FAREWELL)
    async with serving(recogniser=recogniser) as server:
        answer = await server.client.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", TWO_SENTENCES), language="en"
        )
        assert server.counted("transcriptions", "completed") == 1
    assert answer.text == "Good day. So long."
    assert answer.usage is not None and answer.usage.type == "duration"
    assert answer.usage.seconds == pytest.approx(12.0, abs=0.01)
    assert {(each.model, each.language, each.sample_rate_hz) for each in recogniser.requests} == {
        ("tiny-en", "en", RATE_HZ)
    }
    assert [len(stream.pcm) / 32_000 for stream in recogniser.streams] == pytest.approx([2.6, 2.6], abs=0.1)
    assert all(stream.closed for stream in recogniser.streams)


class FirstByFallback(FakeRecognitionStream):
    """Tells first that the fallback hears it."""

    async def results(self) -> Any:
        yield ModelLoading("tiny-en", 0.0, "small")
        async for result in super().results():
            yield result


class StandIn(Recogniser):
    """The first piece is heard by the fallback."""

    def open(self, request: RecognitionRequest) -> Any:
        stream = super().open(request)
        assert request.fallback == "small"
        if stream is self.streams[0]:
            stream = self.streams[0] = FirstByFallback(stream.transcript, stream.delay_s, stream.probability)
        return stream


async def test_who_heard_it_is_told_when_it_was_not_the_model_that_was_asked_for() -> None:
    assistants = {"waiter": {"recogniser_fallback": "small"}}
    options: Any = {"model": "whisper-1", "file": ("a.wav", TWO_SENTENCES)}
    async with serving(recogniser=StandIn(GREETING, FAREWELL), assistants=assistants) as server:
        plain = await server.client.audio.transcriptions.with_raw_response.create(**options)
        assert plain.headers["antiphon-model"] == "small, tiny-en"
    async with serving(recogniser=StandIn(GREETING, FAREWELL), assistants=assistants) as server:
        async with server.client.audio.transcriptions.with_streaming_response.create(**options, stream=True) as answer:
            assert answer.headers["antiphon-model"] == "small"
            body = await answer.text()
    assert '"models": ["small", "tiny-en"]' in body


async def test_words_are_where_they_are_in_the_recording() -> None:
    async with serving(recogniser=Recogniser(GREETING, FAREWELL)) as server:
        answer = await server.client.audio.transcriptions.create(
            model="default",
            file=("a.wav", TWO_SENTENCES),
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    TranscriptionVerbose.model_validate(answer.model_dump(), strict=True)
    assert answer.words is not None and answer.segments is not None
    assert [word.word for word in answer.words] == ["Good", "day.", "So", "long."]
    assert [word.start for word in answer.words] == pytest.approx([1.0, 1.2, 9.0, 9.2], abs=0.05)
    assert [segment.text for segment in answer.segments] == ["Good day.", "So long."]
    assert answer.duration == pytest.approx(12.0, abs=0.01)


@pytest.mark.parametrize(
    ("format", "media", "begins"),
    [
        ("text", "text/plain", "Good day. So long.\n"),
        ("srt", "application/x-subrip", "1\n00:00:01,00"),
        ("vtt", "text/vtt", "WEBVTT\n\n00:00:01.00"),
    ],
)
async def test_text_and_subtitles(format: Any, media: str, begins: str) -> None:
    async with serving(recogniser=Recogniser(*(GREETING, FAREWELL) * 2)) as server:
        file = ("a.wav", TWO_SENTENCES)
        create = server.client.audio.transcriptions.with_raw_response.create
        raw = await create(model="default", file=file, response_format=format)
        plain = await server.client.audio.transcriptions.create(model="default", file=file, response_format=format)
    assert raw.headers["content-type"].startswith(media)
    assert str(plain).startswith(begins)
    assert "long." in str(plain)


async def test_deltas_are_streamed_as_pieces_are_heard() -> None:
    async with serving(recogniser=Recogniser(GREETING, FAREWELL)) as server:
        stream = await server.client.audio.transcriptions.create(
            model="default", file=("a.wav", TWO_SENTENCES), stream=True
        )
        events = [event async for event in stream]
    for event in events[:-1]:
        TranscriptionTextDeltaEvent.model_validate(event.model_dump(), strict=True)
    done = events[-1]
    TranscriptionTextDoneEvent.model_validate(done.model_dump(), strict=True)
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert [getattr(event, "delta", None) for event in events[:-1]] == ["Good day.", " So long."]
    assert done.text == "Good day. So long."


@pytest.mark.parametrize("format", ["mp3", "opus", "aac", "flac"])
async def test_any_container_is_decoded(format: Format) -> None:
    encoder = Encoder(format, 24_000)
    pcm = sound((0.5, 2.0), rate_hz=24_000)[44:]
    recogniser = Recogniser(GREETING)
    async with serving(recogniser=recogniser) as server:
        file = (f"a.{format}", encoder.push(pcm) + encoder.finish())
        answer = await server.client.audio.transcriptions.create(model="default", file=file)
    assert answer.text == "Good day."
    assert len(recogniser.streams[0].pcm) / 32_000 == pytest.approx(2.0, abs=0.2)


class MeetingStream:
    """Gives its answer only when two streams have met."""

    def __init__(self, stream: Any, met: asyncio.Event) -> None:
        self.push, self.end, self.aclose = stream.push, stream.end, stream.aclose
        self._stream, self._met = stream, met

    async def results(self) -> Any:
        await self._met.wait()
        async for result in self._stream.results():
            yield result


class Meeting(Recogniser):
    """Gives its first answer only when a second stream is open."""

    def __init__(self, *script: Any) -> None:
        super().__init__(*script)
        self.met = asyncio.Event()

    def open(self, request: RecognitionRequest) -> Any:
        stream = super().open(request)
        if len(self.streams) == 2:
            self.met.set()
        return MeetingStream(stream, self.met)


async def test_a_long_recording_is_never_one_stream_and_two_at_once() -> None:
    talk = sound(*[(0.5, 8.0), (0.0, 0.8)] * 40)  # six minutes
    recogniser = Meeting(*(f"part {index}" for index in range(100)))
    async with serving(recogniser=recogniser) as server:
        answer = await server.client.audio.transcriptions.create(model="default", file=("a.wav", talk))
    assert answer.text == " ".join(f"part {index}" for index in range(len(recogniser.streams)))
    assert len(recogniser.streams) > 12
    assert max(len(stream.pcm) for stream in recogniser.streams) <= 25 * 32_000
    assert recogniser.most_at_once == 2


async def test_silence_is_an_empty_transcript_and_asks_nobody() -> None:
    recogniser = Recogniser(GREETING)
    async with serving(recogniser=recogniser) as server:
        answer = await server.client.audio.transcriptions.create(model="default", file=("a.wav", sound((0.0, 3.0))))
    assert answer.text == ""
    assert recogniser.streams == []


@pytest.mark.parametrize(
    ("options", "status", "code", "param"),
    [
        ({"model": "nobody"}, 404, "MODEL_UNKNOWN", "model"),
        ({"model": "joe"}, 404, "MODEL_UNKNOWN", "model"),
        ({"prompt": "Names: Ann."}, 400, "INVALID_REQUEST", "prompt"),
        ({"temperature": 0.4}, 400, "INVALID_REQUEST", "temperature"),
        ({"include": ["logprobs"]}, 400, "INVALID_REQUEST", "include"),
        ({"known_speaker_names": ["Ann"]}, 400, "INVALID_REQUEST", "known_speaker_names"),
        ({"timestamp_granularities": ["word"]}, 400, "INVALID_REQUEST", "timestamp_granularities"),
        ({"response_format": "srt", "stream": True}, 400, "INVALID_REQUEST", "stream"),
        ({"response_format": "diarized_json"}, 400, "INVALID_REQUEST", "response_format"),
        ({"file": ("a.wav", b"RIFF, but no sound at all")}, 400, "AUDIO_FORMAT", None),
        ({"file": ("a.wav", b"")}, 400, "AUDIO_FORMAT", None),
        ({"file": ("a.wav", sound((0.5, 40.0)))}, 413, "UPLOAD_TOO_LARGE", "file"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 3}}, 400, "INVALID_REQUEST", None),
    ],
)
async def test_a_request_that_cannot_be_granted_names_its_field(
    options: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    recogniser = Recogniser(GREETING)
    async with serving(recogniser=recogniser, max_upload_bytes=1 << 20) as server:
        with pytest.raises(openai.APIStatusError) as caught:
            await server.client.audio.transcriptions.create(
                **({"model": "default", "file": ("a.wav", TWO_SENTENCES)} | options)
            )
        assert server.counted("transcriptions", "refused") == 1
    assert (caught.value.status_code, caught.value.code) == (status, code)
    if param is not None:
        assert caught.value.param == param
    assert recogniser.streams == []


async def test_where_to_cut_can_be_asked_for() -> None:
    recogniser = Recogniser(GREETING)
    async with serving(recogniser=recogniser) as server:
        strategy: Any = {"type": "server_vad", "threshold": 0.6, "prefix_padding_ms": 0, "silence_duration_ms": 200}
        for chosen in (strategy, "auto"):
            await server.client.audio.transcriptions.create(
                model="default", file=("a.wav", sound((0.0, 2), (0.5, 2.0), (0.0, 4))), chunking_strategy=chosen
            )
    assert [len(stream.pcm) / 32_000 for stream in recogniser.streams] == pytest.approx([2.0, 2.6], abs=0.1)


HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


@pytest.mark.parametrize("body", [b"", b"--x\r\ngarbage", b"\x00" * 1000, HEAD, HEAD + b"cut off", b"--x--\r\n"])
@pytest.mark.parametrize("media", ["application/json", "multipart/form-data", "multipart/form-data; boundary=x"])
async def test_garbage_is_refused(body: bytes, media: str) -> None:
    async with serving() as server, aiohttp.ClientSession() as http:
        async with http.post(
            f"{server.url}/audio/transcriptions", data=body, headers={"Content-Type": media}
        ) as response:
            assert response.status == 400
            assert (await response.json())["error"]["code"] == "INVALID_REQUEST"


async def test_a_recogniser_that_fails_is_an_error_and_never_an_empty_text() -> None:
    error = AntiphonError(Reason.WORKER_FULL, "Every worker is full.", retry_after_ms=2000)
    async with serving(recogniser=Recogniser(error)) as server:
        file = ("a.wav", TWO_SENTENCES)
        with pytest.raises(openai.RateLimitError, match="Every worker is full"):
            await server.client.audio.transcriptions.create(model="default", file=file)
        with pytest.raises(openai.RateLimitError):
            await server.client.audio.transcriptions.create(model="default", file=file, stream=True)


async def test_a_full_worker_in_the_middle_of_a_recording_is_waited_for() -> None:
    full = AntiphonError(Reason.WORKER_FULL, "Every worker is full.", retry_after_ms=10)
    talk = sound(*[(0.5, 2.0), (0.0, 4.0)] * 4)
    recogniser = Recogniser("one", "two", full, "three", "four")
    async with serving(recogniser=recogniser) as server:
        answer = await server.client.audio.transcriptions.create(model="default", file=("a.wav", talk))
    assert sorted(answer.text.split()) == ["four", "one", "three", "two"]


async def test_a_fault_in_the_middle_of_a_stream_is_an_event() -> None:
    fault = AntiphonError(Reason.INTERNAL, "The recogniser failed.")
    async with serving(recogniser=Recogniser(GREETING, fault)) as server:
        stream = await server.client.audio.transcriptions.create(
            model="default", file=("a.wav", sound(*[(0.5, 2.0), (0.0, 4.0)] * 3)), stream=True
        )
        deltas = []
        with pytest.raises(openai.APIError, match="The recogniser failed"):
            async for event in stream:
                deltas.append(event)
        assert len(deltas) == 1
        assert server.counted("transcriptions", "failed") == 1


@pytest.mark.parametrize("whole", [True, False])
async def test_a_client_that_leaves_ends_the_hearing(whole: bool) -> None:
    recogniser = Recogniser(GREETING, delay_s=600)
    async with serving(recogniser=recogniser) as server:
        form, begun = aiohttp.FormData({"model": "default"}), asyncio.Event()
        form.add_field("file", TWO_SENTENCES if whole else _never_ending(begun), filename="a.wav")
        async with aiohttp.ClientSession() as http:
            post = asyncio.create_task(http.post(f"{server.url}/audio/transcriptions", data=form))
            await until(lambda: len(recogniser.streams) == 2 if whole else begun.is_set())
            post.cancel()
            await asyncio.wait((post,))
        await until(lambda: server.counted("transcriptions", "abandoned") == 1)
    assert len(recogniser.streams) == (2 if whole else 0)
    assert all(stream.closed for stream in recogniser.streams)


async def _never_ending(begun: asyncio.Event) -> Any:
    yield TWO_SENTENCES
    begun.set()
    await asyncio.sleep(600)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_models_and_assistants_are_listed_and_found_by_every_name() -> None:
    async with serving() as server:
        listed = {model.id: model async for model in server.client.models.list()}
        found = {
            name: (await server.client.models.retrieve(name)).id
            for name in ("guide", "joe", "tiny-en", "gpt-realtime", "tts-1", "default")
        }
        with pytest.raises(openai.NotFoundError) as caught:
            await server.client.models.retrieve("nobody")
    assert list(listed) == ["guide", "waiter", "tiny-en", "anna", "joe"]
    for model in listed.values():
        type(model).model_validate(model.model_dump(), strict=True)
    assert getattr(listed["joe"], "voices", None) == ["low", "mid"]
    assert getattr(listed["waiter"], "default", None) is True
    assert found == {
        "guide": "guide",
        "joe": "joe",
        "tiny-en": "tiny-en",
        "gpt-realtime": "guide",
        "tts-1": "joe",
        "default": "waiter",
    }
    assert caught.value.code == "MODEL_UNKNOWN"
