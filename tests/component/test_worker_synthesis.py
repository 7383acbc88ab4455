"""Synthesize and Control over real gRPC, with the mock voice or one that the test steps."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from worker_calls import (
    END,
    RATE_HZ,
    Action,
    GatedLoader,
    Speaking,
    is_idle,
    running,
    told,
    until,
    voice,
)

from antiphon.contracts.errors import Reason
from antiphon.contracts.frames import frame_bytes, frame_samples
from antiphon.contracts.v1 import synthesis_pb2 as tts
from antiphon.contracts.v1.synthesis_pb2_grpc import SpeechSynthesisStub
from antiphon.worker.outbox import READY_MS

pytestmark = pytest.mark.component

FRAME = frame_samples(RATE_HZ)
SECOND = RATE_HZ


async def test_speaks_whole_frames_the_first_alone_with_words_and_a_summary() -> None:
    async with running(voice(ms_per_word=100)) as (worker, channel):
        speaking = await Speaking(channel, generation=7).begin("One two three four. ", "Five six.")
        await speaking.read_all()
        assert "antiphon_worker_errors_total{" not in _metrics(worker)
    sizes = [len(audio.pcm) for audio in speaking.audio]
    assert sizes[0] == frame_bytes(RATE_HZ)
    assert all(size % frame_bytes(RATE_HZ) == 0 for size in sizes)
    assert {audio.generation for audio in speaking.audio} == {7}
    assert [audio.position_samples for audio in speaking.audio] == [sum(sizes[:i]) // 2 for i in range(len(sizes))]
    clauses = [audio.clause for audio in speaking.audio if audio.HasField("clause")]
    assert [(clause.index, clause.text_start, clause.text_end) for clause in clauses] == [(0, 0, 20), (1, 20, 29)]
    words = [word for message in speaking.words for word in message.words]
    assert [word.text for word in words] == ["One", "two", "three", "four.", "Five", "six."]
    assert [word.start_samples for word in words] == [index * 2400 for index in range(6)]
    assert not any(word.estimated for word in words)
    assert speaking.summary is not None
    assert (speaking.summary.model, speaking.summary.audio_ms, speaking.summary.stopped) == ("tones", 600, False)
    assert speaking.summary.digest.startswith("sha256:")


async def test_the_first_frame_is_out_before_the_second_chunk_is_computed() -> None:
    loader = GatedLoader()
    async with running(loader=loader) as (worker, channel):
        speaking = await Speaking(channel).begin("Hello there.")
        loader.engine.gate.release()
        await speaking.read_until(FRAME)
        assert loader.engine.given == 1
        assert len(speaking.audio[0].pcm) == frame_bytes(RATE_HZ)
        await speaking.control(Action.STOP)
        await speaking.read_all()


async def test_a_clause_is_spoken_before_the_text_is_complete() -> None:
    async with running(voice(ms_per_word=40)) as (_, channel):
        speaking = await Speaking(channel).begin("One two three. Four", end=False)
        await speaking.read_until(FRAME)
        await speaking.flush()
        while not any(word.text == "Four" for message in speaking.words for word in message.words):
            assert await speaking.read() is not END
        await speaking.end()
        await speaking.read_all()
        assert speaking.summary is not None and speaking.summary.audio_ms == 160


async def test_words_without_times_are_estimated_and_say_so() -> None:
    async with running(voice(ms_per_word=100, word_times=False)) as (_, channel):
        speaking = await (await Speaking(channel).begin("Aaa bbb ccc ddd.")).read_all()
    (message,) = speaking.words
    assert [word.text for word in message.words] == ["Aaa", "bbb", "ccc", "ddd."]
    assert all(word.estimated for word in message.words)
    assert message.words[0].start_samples == 0
    assert message.words[-1].end_samples == 4 * 2400


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
async def test_speaks_at_the_rate_asked_for(rate_hz: int) -> None:
    async with running(voice(ms_per_word=200)) as (_, channel):
        speaking = await (await Speaking(channel, sample_rate_hz=rate_hz).begin("One two three.")).read_all()
    assert all(len(audio.pcm) % frame_bytes(rate_hz) == 0 for audio in speaking.audio)
    assert speaking.summary is not None and speaking.summary.audio_ms == 600


async def test_pause_holds_one_stream_alone_and_resume_goes_on_at_the_next_sample() -> None:
    async with running(voice(ms_per_word=500)) as (_, channel):
        held = await Speaking(channel).begin("One two three four five six.")
        other = await Speaking(channel).begin("One two three four five six.")
        await held.read_until(FRAME)
        position = (await held.control(Action.PAUSE)).position_samples
        await held.control(Action.PAUSE)
        await other.read_all()
        assert other.summary is not None and other.summary.audio_ms == 3000
        await held.played(position)
        await held.read_until(position)
        late = asyncio.create_task(held.read())
        done, _ = await asyncio.wait((late,), timeout=0.2)
        assert not done or (await late).WhichOneof("kind") == "words"
        assert held.end_samples == position
        assert (await held.control(Action.RESUME)).position_samples == position
        await late
        await held.read_all()
    assert held.pcm == other.pcm


async def test_a_caller_that_holds_the_first_frame_back_spoils_no_measure_of_the_model() -> None:
    async with running() as (worker, channel):
        held, other = await Speaking(channel).begin(end=False), await Speaking(channel).begin(end=False)
        for speaking in (held, other):
            if speaking is held:
                await held.control(Action.PAUSE)
            await speaking.push("One two three. ")
            await speaking.end()
        await other.read_all()
        measured_ms = worker.models.view("tones").first_audio_ms
        assert measured_ms > 0
        await asyncio.sleep(0.3)
        await held.control(Action.RESUME)
        await held.read_all()
        assert held.summary is not None and held.summary.first_audio_ms >= 300
        assert worker.models.view("tones").first_audio_ms == measured_ms
        assert worker.models.view("tones").served == 2


async def test_stop_ends_one_stream_within_a_chunk_and_frees_its_thread_and_model() -> None:
    async with running(voice(ms_per_word=5000, real_time_factor=0.1), synthesis_threads=1) as (worker, channel):
        first = await Speaking(channel).begin("One two three four.")
        await first.read_until(FRAME)
        await first.control(Action.STOP)
        await first.read_all()
        assert first.summary is not None and first.summary.stopped
        await is_idle(worker)
        await first.control(Action.STOP)  # idempotent
        second = await Speaking(channel).begin("One.")
        await second.read_until(FRAME)
        await second.control(Action.STOP)
        await second.read_all()


async def test_a_stop_that_comes_before_its_stream_holds() -> None:
    async with running() as (worker, channel):
        speaking = Speaking(channel)
        await speaking.control(Action.STOP)
        await speaking.begin("One two three.")
        await speaking.read_all()
        assert speaking.summary is not None and speaking.summary.stopped
        assert not speaking.audio
        await is_idle(worker)


async def test_a_stop_while_the_model_loads_ends_the_stream() -> None:
    async with running(voice(load_ms=1500)) as (worker, channel):
        speaking = await Speaking(channel).begin("One two three.")
        await speaking.control(Action.STOP)
        await asyncio.wait_for(speaking.read_all(), 1.0)
        assert speaking.summary is not None and speaking.summary.stopped
        await is_idle(worker)


async def test_the_lead_bounds_a_caller_that_reports_nothing_or_reads_nothing() -> None:
    loader = GatedLoader()
    async with running(loader=loader) as (worker, channel):
        speaking = await Speaking(channel, max_lead_ms=500).begin("Hello there.")
        loader.engine.gate.release(50)
        # What has left, what may be held ready, and the chunk that is being put.
        most = (500 + READY_MS) // 100 + 2
        await until(lambda: loader.engine.given >= most - 2, "the lead was used")
        await asyncio.sleep(0.1)
        assert loader.engine.given <= most
        await speaking.read_until(SECOND // 2)
        assert speaking.end_samples == SECOND // 2
        await speaking.played(SECOND // 2)
        await speaking.read_until(SECOND)
        await speaking.control(Action.STOP)
        await speaking.read_all()


async def test_a_caller_that_vanishes_leaves_nothing_behind() -> None:
    loader = GatedLoader()
    async with running(loader=loader) as (worker, channel):
        speaking = await Speaking(channel).begin("Hello there.")
        loader.engine.gate.release()
        await speaking.read_until(FRAME)
        speaking.call.cancel()
        await is_idle(worker)
        assert loader.engine.open_streams == 0
        blocked = await Speaking(channel, max_lead_ms=60_000).begin("Hello there.")
        loader.engine.gate.release(50)  # it does not read, either
        await until(lambda: loader.engine.given >= 10, "it was spoken to")
        blocked.call.cancel()
        await is_idle(worker)
        assert loader.engine.open_streams == 0
        assert worker.metrics.streams_ended.labels("tts", "cancelled")._value.get() == 2


async def test_an_engine_that_fails_is_an_error_and_harms_nobody_else() -> None:
    async with running(
        voice(ms_per_word=500), voice("frail", ms_per_word=1000, chunk_ms=3000, fail_after_chunks=2)
    ) as (worker, channel):
        well = await Speaking(channel).begin("One two three four.")
        frail = await Speaking(channel, model="frail", max_lead_ms=60_000).begin(
            "One two three four five six seven eight nine."
        )
        with told(Reason.ENGINE_FAULT):
            await frail.read_all(play=False)
        assert frail.audio
        await well.read_all()
        assert well.summary is not None and well.summary.audio_ms == 2000
        await is_idle(worker)
        assert 'antiphon_worker_errors_total{reason="ENGINE_FAULT"} 1.0' in _metrics(worker)


async def test_text_without_a_word_is_silence_not_an_error() -> None:
    async with running() as (_, channel):
        speaking = await (await Speaking(channel).begin(" ... \n", "!?")).read_all()
        assert speaking.summary is not None and speaking.summary.audio_ms == 0


async def test_what_cannot_be_honoured_is_refused_by_name() -> None:
    refused: list[tuple[dict[str, object], Reason]] = [
        ({"sample_rate_hz": 44_100}, Reason.AUDIO_FORMAT),
        ({"model": "nobody"}, Reason.MODEL_UNKNOWN),
        ({"digest": "sha256:other"}, Reason.MODEL_UNKNOWN),
        ({"voice": "nobody"}, Reason.INVALID_REQUEST),
        ({"speed": 9.0}, Reason.INVALID_REQUEST),
        ({"max_lead_ms": 100_000}, Reason.INVALID_REQUEST),
        ({"stream_id": "me"}, Reason.INVALID_REQUEST),
    ]
    async with running() as (worker, channel):
        for config, reason in refused:
            with told(reason):
                await (await Speaking(channel, **config).begin(end=False)).read_all()
        await is_idle(worker)


async def test_a_megabyte_of_text_is_refused() -> None:
    async with running() as (worker, channel):
        other = await Speaking(channel).begin("One two three.", end=False)
        with told(Reason.TEXT_TOO_LONG):
            await (await Speaking(channel).begin("word " * 200_000, end=False)).read_all()
        await other.end()
        await other.read_all()
        await is_idle(worker)


async def test_garbage_is_refused_and_counted() -> None:
    async with running() as (worker, channel):
        raw = channel.stream_stream("/antiphon.v1.SpeechSynthesis/Synthesize")
        call = raw()
        await call.write(b"\xff\xff\xff not protobuf")
        with told(Reason.INVALID_REQUEST):
            await call.read()
        with told(Reason.INVALID_REQUEST):
            await channel.unary_unary("/antiphon.v1.SpeechSynthesis/Control")(b"\xff\xff\xff")
        with told(Reason.INVALID_REQUEST):
            call = SpeechSynthesisStub(channel).Synthesize()
            await call.write(tts.SynthesizeRequest(text=tts.TextInput(text="no config")))
            await call.read()
        with told(Reason.INVALID_REQUEST):
            speaking = await Speaking(channel).begin("One.", end=False)
            await speaking.call.write(tts.SynthesizeRequest(config=speaking.config))
            await speaking.read_all()
        await is_idle(worker)
        assert 'antiphon_worker_errors_total{reason="INVALID_REQUEST"} 4.0' in _metrics(worker)


async def test_control_of_an_unknown_stream_and_a_second_stream_of_one_id() -> None:
    async with running() as (_, channel):
        stub = SpeechSynthesisStub(channel)
        for action in (Action.PAUSE, Action.RESUME):
            with told(Reason.STREAM_UNKNOWN):
                await stub.Control(tts.ControlRequest(stream_id=str(uuid.uuid4()), action=action))
        speaking = await Speaking(channel).begin("One.", end=False)
        with told(Reason.INVALID_REQUEST):
            await (await Speaking(channel, stream_id=speaking.id).begin(end=False)).read_all()
        with told(Reason.INVALID_REQUEST):
            await stub.Control(tts.ControlRequest(stream_id=speaking.id))
        await speaking.control(Action.STOP)
        await speaking.read_all()


async def test_one_stream_too_many_is_refused_with_a_hint() -> None:
    async with running(max_streams=1) as (_, channel):
        speaking = await Speaking(channel).begin("One.", end=False)
        with told(Reason.WORKER_FULL) as errors:
            await (await Speaking(channel).begin(end=False)).read_all()
        assert errors[0].retry_after_ms == 1000
        await speaking.end()
        await speaking.read_all()


async def test_a_stream_that_lasts_too_long_is_ended() -> None:
    async with running(max_stream_s=0.3) as (worker, channel):
        speaking = await Speaking(channel).begin("One.", end=False)
        with told(Reason.STREAM_TOO_LONG):
            await speaking.read_all()
        await is_idle(worker)


async def test_two_streams_take_turns_on_one_thread() -> None:
    async with running(voice(ms_per_word=1000, real_time_factor=0.2), synthesis_threads=1) as (_, channel):
        long = await Speaking(channel).begin("One two three four five.")
        await long.read_until(FRAME)
        short = await Speaking(channel).begin("One.")
        await short.read_all()
        assert long.end_samples < 5 * SECOND
        await long.control(Action.STOP)
        await long.read_all()


def _metrics(worker: object) -> str:
    from prometheus_client import generate_latest

    return generate_latest(worker.metrics.registry).decode()  # type: ignore[attr-defined]


async def test_a_refusal_reaches_a_caller_that_is_still_sending() -> None:
    async with running(max_streams=1) as (worker, channel):
        speaking = await Speaking(channel).begin("One.", end=False)
        for _ in range(20):

            async def requests() -> AsyncIterator[tts.SynthesizeRequest]:
                yield tts.SynthesizeRequest(config=tts.SynthesisConfig(stream_id=str(uuid.uuid4()), model="tones"))
                for _ in range(20):
                    yield tts.SynthesizeRequest(text=tts.TextInput(text="Hello there. "))

            with told(Reason.WORKER_FULL):
                async for _ in SpeechSynthesisStub(channel).Synthesize(requests()):
                    pass
        await speaking.control(Action.STOP)
        await speaking.read_all()


async def test_the_last_word_reaches_a_caller_that_is_still_reporting() -> None:
    async with running(voice(ms_per_word=100)) as (_, channel):
        for _ in range(5):
            speaking = await Speaking(channel).begin("One two three.")

            async def report(speaking: Speaking = speaking) -> None:
                while True:
                    await speaking.played(0)
                    await asyncio.sleep(0.001)

            reporting = asyncio.create_task(report())
            while (response := await speaking.call.read()).WhichOneof("kind") != "summary":
                pass
            reporting.cancel()
            await asyncio.wait((reporting,))
            assert response.summary.audio_ms == 300
            speaking.call.cancel()
