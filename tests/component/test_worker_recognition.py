"""Recognize over real gRPC, with the mock recogniser."""

import uuid

import pytest
from worker_calls import END, RATE_HZ, Listening, ears, is_idle, running, told, until

from antiphon.contracts.errors import Reason

pytestmark = pytest.mark.component

TEXT = "good morning to you"


async def test_hears_an_utterance_with_partials_a_speculative_final_and_word_times() -> None:
    async with running(ears(texts=(TEXT,), ms_per_word=200)) as (worker, channel):
        listening = await Listening(channel, partials=True, word_times=True).begin()
        await listening.push(500)
        first = (await listening.read()).partial
        await listening.push(500)
        second = (await listening.read()).partial
        assert (first.text, second.text) == ("good morning", TEXT[: len(second.text)])
        assert second.stable_chars == len(first.text)
        assert second.stability == pytest.approx(len(first.text) / len(second.text))
        await listening.pause(3, silence_ms=600)
        speculative = (await listening.read()).speculative
        assert speculative.pause_id == 3 and speculative.end_of_turn_probability > 0.9
        assert speculative.transcript.text == TEXT
        await listening.end()
        final = (await listening.read()).final
        await listening.call.done_writing()
        assert await listening.read() is END
        await is_idle(worker)
    assert final.transcript.text == TEXT
    assert (final.model, final.audio_ms) == ("script", 1000)
    assert [word.text for word in final.transcript.words] == TEXT.split()
    assert final.transcript.words[-1].end_samples == pytest.approx(RATE_HZ, abs=RATE_HZ // 20)


async def test_no_partial_begins_when_the_speaker_falls_silent() -> None:
    async with running(ears(texts=(TEXT,), ms_per_word=200)) as (_, channel):
        listening = await Listening(channel, partials=True).begin()
        await listening.push(300, level=0.3)
        await listening.push(300, level=0.001)
        await listening.pause(1)
        assert (await listening.read()).speculative.transcript.text == TEXT
        await listening.push(20, level=0.3)
        assert (await listening.read()).partial.text, "and it comes when the speaker goes on"
        await listening.end()
        assert (await listening.read()).final.transcript.text == TEXT


async def test_an_end_right_after_a_pause_computes_nothing_again() -> None:
    async with running(ears(texts=(TEXT,), fail_after_calls=1)) as (_, channel):
        listening = await Listening(channel).begin()
        await listening.push(500)
        await listening.pause(1)
        assert (await listening.read()).speculative.transcript.text == TEXT
        await listening.end()
        assert (await listening.read()).final.transcript.text == TEXT


async def test_audio_after_a_pause_is_heard_in_the_final() -> None:
    script = ({"at_least_ms": 0, "text": "good"}, {"at_least_ms": 900, "text": "good morning"})
    async with running(ears(by_duration=script)) as (_, channel):
        listening = await Listening(channel, sample_rate_hz=16_000).begin()
        await listening.push(500)
        await listening.pause(1)
        assert (await listening.read()).speculative.transcript.text == "good"
        await listening.push(500)
        await listening.end()
        assert (await listening.read()).final.transcript.text == "good morning"


async def test_nothing_said_is_an_empty_transcript() -> None:
    async with running(ears(texts=(TEXT,))) as (_, channel):
        listening = await Listening(channel).begin()
        await listening.call.done_writing()
        final = (await listening.read()).final
        assert (final.transcript.text, final.audio_ms) == ("", 0)


async def test_what_cannot_be_heard_is_refused_by_name() -> None:
    async with running(max_utterance_s=1.0) as (worker, channel):
        for config, reason in (
            ({"sample_rate_hz": 44_100}, Reason.AUDIO_FORMAT),
            ({"model": "tones"}, Reason.MODEL_UNKNOWN),
            ({"stream_id": "me"}, Reason.INVALID_REQUEST),
        ):
            with told(reason):
                await (await Listening(channel, **config).begin()).read()
        with told(Reason.UTTERANCE_TOO_LONG):
            listening = await Listening(channel).begin()
            await listening.push(1100)
            await listening.read()
        with told(Reason.AUDIO_FORMAT):
            raw = channel.stream_stream("/antiphon.v1.SpeechRecognition/Recognize")()
            listening = Listening(channel)
            await raw.write(b"\x0a" + bytes([listening.config.ByteSize()]) + listening.config.SerializeToString())
            await raw.write(b"\x12\x05\x0a\x03abc")  # three bytes of PCM
            await raw.read()
            listening.call.cancel()
        await is_idle(worker)


async def test_a_caller_that_vanishes_leaves_nothing_behind() -> None:
    async with running(ears(texts=(TEXT,), latency_ms=700)) as (worker, channel):
        await worker.models.load("script")
        listening = await Listening(channel, stream_id=str(uuid.uuid4())).begin()
        await listening.push(500)
        await listening.end()
        await until(lambda: worker.models.view("script").streams == 1, "the model was in use")
        listening.call.cancel()
        await is_idle(worker)


async def test_a_recogniser_that_fails_is_an_error() -> None:
    async with running(ears(texts=(TEXT,), fail_after_calls=1)) as (worker, channel):
        listening = await Listening(channel).begin()
        await listening.push(500)
        await listening.pause(1)
        assert (await listening.read()).speculative.transcript.text == TEXT
        await listening.push(100)
        await listening.end()
        with told(Reason.ENGINE_FAULT):
            await listening.read()
        await is_idle(worker)
