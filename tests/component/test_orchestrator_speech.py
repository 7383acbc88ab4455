"""`/v1/audio/speech` as a stock client uses it."""

import asyncio
import base64
import json
import time
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
from orchestrator_http import serving

from antiphon.audio.files import read_audio
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.ports import ModelLoading
from antiphon.orchestrator.workers.fleet import StillLoading
from antiphon.registry.snapshot import Snapshot
from antiphon.testing.fakes import FakeSynthesiser

pytestmark = pytest.mark.component

WITH_FALLBACK = {"guide": {"voice": {"model": "anna"}}, "waiter": {"voice": {"fallback": "anna"}}}
TEXT = "one two three four five"
SECONDS = 5 * 0.2
MEDIA = {"mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav"}


async def spoken(serving: Any, **options: Any) -> tuple[bytes, Any]:
    options = {"model": "tts-1", "voice": "alloy", "input": TEXT} | options
    async with serving.client.audio.speech.with_streaming_response.create(**options) as response:
        return b"".join([piece async for piece in response.iter_bytes()]), response.headers


@pytest.mark.parametrize("format", MEDIA)
async def test_each_format_decodes_to_the_whole_speech(format: str) -> None:
    async with serving() as server:
        body, headers = await spoken(server, response_format=format)
        assert headers["content-type"] == MEDIA[format]
        assert len(read_audio(body, 24_000)) / 24_000 == pytest.approx(SECONDS, abs=0.12)
        assert server.counted("speech", "completed") == 1


async def test_pcm_is_sent_as_it_is_spoken() -> None:
    synthesiser = FakeSynthesiser(latency_s=0.0)
    async with serving(synthesiser=synthesiser) as server:
        body, headers = await spoken(server, response_format="pcm", speed=1.5, voice={"id": "low"})
    assert headers["content-type"] == "audio/pcm"
    assert list(dict.fromkeys(np.frombuffer(body, "<i2"))) == [1000, 1001, 1002, 1003, 1004]
    stream = synthesiser.streams[0]
    assert (stream.request.model, stream.request.voice, stream.request.speed) == ("joe", "low", 1.5)
    assert stream.played_samples == len(body) // 2
    assert stream.closed


class SlowSynthesiser(FakeSynthesiser):
    """Holds back what follows the first part of audio until it is let go."""

    def __init__(self, **options: Any) -> None:
        super().__init__(latency_s=0.0, **options)
        self.go_on = asyncio.Event()

    def open(self, request: Any) -> Any:
        stream = super().open(request)
        whole = stream.parts

        async def parts() -> Any:
            audio = 0
            async for part in whole():
                if hasattr(part, "pcm"):
                    audio += 1
                    if audio == 2:
                        await self.go_on.wait()
                yield part

        stream.parts = parts
        return stream


@pytest.mark.parametrize("format", ["pcm", "wav", "mp3", "opus", "aac", "flac"])
async def test_first_sound_comes_before_the_second_is_synthesised(format: str) -> None:
    synthesiser = SlowSynthesiser(word_ms=400)
    async with serving(synthesiser=synthesiser) as server:
        options: Any = {"model": "tts-1", "voice": "low", "input": TEXT, "response_format": format}
        async with server.client.audio.speech.with_streaming_response.create(**options) as response:
            pieces = response.iter_bytes()
            first = await asyncio.wait_for(anext(pieces), 5)
            assert first and not synthesiser.go_on.is_set()
            synthesiser.go_on.set()
            rest = b"".join([piece async for piece in pieces])
    if format != "pcm":
        assert len(read_audio(first + rest, 24_000)) / 24_000 == pytest.approx(2.0, abs=0.12)


async def test_events_carry_the_same_audio() -> None:
    async with serving() as server:
        body, headers = await spoken(server, response_format="pcm", stream_format="sse")
    assert headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in body.decode().split("\n\n") if line]
    assert [event["type"] for event in events] == ["speech.audio.delta"] * 5 + ["speech.audio.done"]
    assert len(b"".join(base64.b64decode(event["audio"]) for event in events[:-1])) == SECONDS * 48_000


@pytest.mark.parametrize(
    ("options", "status", "code", "param"),
    [
        ({"model": "nobody"}, 404, "MODEL_UNKNOWN", "model"),
        ({"model": "tiny-en"}, 404, "MODEL_UNKNOWN", "model"),
        ({"voice": "nobody"}, 400, "INVALID_REQUEST", "voice"),
        ({"input": "word " * 1000}, 400, "TEXT_TOO_LONG", "input"),
        ({"input": "x" * 1_000_000}, 400, "TEXT_TOO_LONG", "input"),
        ({"input": " "}, 400, "INVALID_REQUEST", "input"),
        ({"instructions": "Shout."}, 400, "INVALID_REQUEST", "instructions"),
        ({"response_format": "midi"}, 400, "INVALID_REQUEST", "response_format"),
        ({"speed": 9.0}, 400, "INVALID_REQUEST", "speed"),
        ({"extra_body": {"seed": 7}}, 400, "INVALID_REQUEST", "seed"),
    ],
)
async def test_a_request_that_cannot_be_granted_names_its_field(
    options: dict[str, Any], status: int, code: str, param: str
) -> None:
    synthesiser = FakeSynthesiser()
    async with serving(synthesiser=synthesiser) as server:
        with pytest.raises(openai.APIStatusError) as caught:
            await spoken(server, **options)
        assert server.counted("speech", "refused") == 1
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (status, code, param)
    assert synthesiser.streams == []


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
async def test_garbage_is_refused(body: bytes) -> None:
    async with serving() as server, aiohttp.ClientSession() as http:
        async with http.post(f"{server.url}/audio/speech", data=body) as response:
            assert response.status == 400
            assert (await response.json())["error"]["code"] == "INVALID_REQUEST"


async def test_defaults_speak_with_the_default_voice() -> None:
    synthesiser = FakeSynthesiser(latency_s=0.0)
    async with serving(synthesiser=synthesiser) as server:
        await spoken(server, model="default", voice="default")
        await spoken(server, model="anna", voice="anything")  # it has not said yet what voices it has
    assert [(each.request.model, each.request.voice) for each in synthesiser.streams] == [
        ("joe", ""),
        ("anna", "anything"),
    ]


class StandIn(FakeSynthesiser):
    """Tells that the fallback speaks, before the part of that number."""

    def __init__(self, before: int, fallback: str) -> None:
        super().__init__(latency_s=0.0)
        self.before, self.fallback = before, fallback

    def open(self, request: Any) -> Any:
        stream = super().open(request)
        whole = stream.parts

        async def parts() -> Any:
            number = 0
            async for part in whole():
                if number == self.before:
                    yield ModelLoading(request.model, 0.5, self.fallback)
                number += 1
                yield part

        stream.parts = parts  # type: ignore[method-assign]
        return stream


async def test_the_fallback_speaks_while_the_model_loads_and_the_header_says_so() -> None:
    synthesiser = StandIn(0, "anna")
    async with serving(synthesiser=synthesiser, assistants=WITH_FALLBACK) as server:
        body, headers = await spoken(server, response_format="pcm")
        assert len(body) == SECONDS * 48_000 and headers["antiphon-model"] == "anna"
    assert synthesiser.streams[0].request.fallback == "anna"
    async with serving(synthesiser=(waits := StandIn(0, ""))) as server:
        _, headers = await spoken(server, response_format="pcm")
        assert headers["antiphon-model"] == "joe"
    assert waits.streams[0].request.fallback == ""


async def test_no_other_voice_goes_on_with_what_one_has_begun() -> None:
    async with serving(synthesiser=StandIn(4, "anna"), assistants=WITH_FALLBACK) as server:
        body, headers = await spoken(server, response_format="pcm", stream_format="sse")
    assert headers["antiphon-model"] == "joe"
    last = json.loads(body.decode().strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "MODEL_LOADING"


async def test_a_model_that_loads_for_too_long_is_asked_for_again() -> None:
    async with serving(synthesiser=FakeSynthesiser(error=StillLoading("joe"))) as server:
        with pytest.raises(openai.InternalServerError) as caught:
            await spoken(server)
    assert (caught.value.status_code, caught.value.code) == (503, "MODEL_LOADING")
    assert caught.value.response.headers["retry-after"] == "1"


async def test_before_the_registry_was_read_no_model_is_unknown() -> None:
    async with serving(snapshot=Snapshot) as server:
        with pytest.raises(openai.InternalServerError) as caught:
            await spoken(server)
    assert (caught.value.status_code, caught.value.code) == (503, "NO_WORKER")
    assert "retry-after" in caught.value.response.headers


async def test_an_error_before_the_first_sound_has_its_status() -> None:
    error = AntiphonError(Reason.WORKER_FULL, "Every worker is full.", retry_after_ms=1500)
    async with serving(synthesiser=FakeSynthesiser(error=error)) as server:
        with pytest.raises(openai.RateLimitError, match="Every worker is full") as caught:
            await spoken(server)
        assert caught.value.response.headers["retry-after"] == "2"
        assert server.counted("speech", "refused") == 1


async def test_a_server_that_is_about_to_go_takes_nothing_new() -> None:
    async with serving() as server:
        server.context.admission.drain()
        with pytest.raises(openai.InternalServerError) as caught:
            await spoken(server)
    assert (caught.value.status_code, caught.value.code) == (503, "DRAINING")
    assert "retry-after" in caught.value.response.headers


async def test_an_error_after_it_breaks_the_response_off() -> None:
    synthesiser = FakeSynthesiser(error=AntiphonError(Reason.ENGINE_FAULT, "The voice failed."), error_after=2)
    async with serving(synthesiser=synthesiser) as server:
        with pytest.raises(openai.APIError):
            try:
                await spoken(server, response_format="pcm")
            except Exception as error:
                raise openai.APIError(str(error), request=None, body=None) from error  # type: ignore[arg-type]
        assert server.counted("speech", "failed") == 1
        body, _ = await spoken(server, response_format="pcm", stream_format="sse")
        last = json.loads(body.decode().strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["code"] == "ENGINE_FAULT"
        assert server.counted("speech", "failed") == 2
    assert all(stream.closed for stream in synthesiser.streams)


@pytest.mark.parametrize("before_sound", [True, False])
async def test_a_client_that_leaves_stops_the_synthesis(before_sound: bool) -> None:
    synthesiser = FakeSynthesiser(latency_s=600) if before_sound else SlowSynthesiser()
    async with serving(synthesiser=synthesiser) as server:
        async with aiohttp.ClientSession() as http:
            asked = http.post(f"{server.url}/audio/speech", json={"input": TEXT, "response_format": "pcm"})
            if before_sound:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await asked
            else:
                response = await asked
                await response.content.read(100)
                response.close()
        await until(lambda: server.counted("speech", "abandoned") == 1)
    assert synthesiser.streams[0].closed


async def test_a_client_that_does_not_read_holds_the_voice_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.orchestrator.http_requests.SLOW_CLIENT_S", 1.0)
    synthesiser = FakeSynthesiser(latency_s=0.0, word_ms=20_000)
    async with serving(synthesiser=synthesiser) as server:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(server.url.split(":")[2].split("/")[0]), limit=1
        )
        body = json.dumps({"input": "word " * 700, "response_format": "pcm"}).encode()
        writer.write(b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await until(lambda: server.counted("speech", "abandoned") == 1)
        stream = synthesiser.streams[0]
        assert stream.closed
        assert stream.played_samples < 700 * 20 * 24_000 / 2
        writer.transport.abort()


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.01)
