"""Streams, threads, estimates, settings, and what is told of errors."""

import asyncio
import json
import logging
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.telemetry.logs import JsonFormatter, TextFormatter, where
from antiphon.telemetry.metrics import WorkerMetrics
from antiphon.telemetry.tracing import extract, inject
from antiphon.worker.config import WorkerConfig
from antiphon.worker.device import device
from antiphon.worker.executor import Executor
from antiphon.worker.faults import engine_fault, told
from antiphon.worker.quiet import Quiet
from antiphon.worker.recognition import end_of_turn_probability
from antiphon.worker.speech import estimated_words
from antiphon.worker.streams import REMEMBER_MOST, REMEMBER_S, Streams, checked_id

pytestmark = pytest.mark.unit


class AnyStream:
    def leave(self) -> None: ...


def metrics() -> WorkerMetrics:
    return WorkerMetrics(CollectorRegistry())


async def test_streams_are_counted_refused_and_waited_for() -> None:
    streams = Streams(2, metrics())
    with streams.open("tts", "a", AnyStream()):
        with pytest.raises(AntiphonError, match="of this id"), streams.open("tts", "a", AnyStream()):
            pass
        with streams.open("asr", "b", AnyStream()):
            with pytest.raises(AntiphonError) as full, streams.open("tts", "c", AnyStream()):
                pass
            assert full.value.reason is Reason.WORKER_FULL
        streams.drain()
        with pytest.raises(AntiphonError) as draining, streams.open("tts", "d", AnyStream()):
            pass
        assert draining.value.reason is Reason.DRAINING
        ended = asyncio.create_task(streams.ended())
        await asyncio.sleep(0)
        assert not ended.done()
    await ended


def test_how_a_stream_ended_is_counted() -> None:
    counted = metrics()
    streams = Streams(2, counted)
    ends: dict[str, BaseException] = {
        "ENGINE_FAULT": ExceptionGroup("g", [AntiphonError(Reason.ENGINE_FAULT, "It fails.")]),
        "INTERNAL": KeyError("x"),
        "cancelled": grpc.aio.InternalError("The call is over."),
    }
    for outcome, error in ends.items():
        with pytest.raises(type(error)), streams.open("tts", "a", AnyStream()):
            raise error
        assert counted.streams_ended.labels("tts", outcome)._value.get() == 1
    with pytest.raises(asyncio.CancelledError), streams.open("tts", "a", AnyStream()):
        raise asyncio.CancelledError
    assert counted.streams_ended.labels("tts", "cancelled")._value.get() == 2


def test_the_device_is_named_by_the_gpus_whose_nodes_are_here(tmp_path: Path) -> None:
    driver, nodes = tmp_path / "driver", tmp_path / "dev"
    nodes.mkdir()
    assert device(driver, nodes) == "cpu"
    for minor, model in enumerate(("NVIDIA L4", "NVIDIA L4", "NVIDIA H100 80GB HBM3")):
        told = driver / "gpus" / f"0000:0{minor}:00.0" / "information"
        told.parent.mkdir(parents=True)
        told.write_text(f"Model: \t\t {model}\nIRQ:   \t\t 1\nGPU UUID: \t GPU-{minor}\nDevice Minor: \t {minor}\n")
    assert device(driver, nodes) == "cpu", "the driver tells of GPUs that are others'"
    (nodes / "nvidiactl").touch()
    (nodes / "nvidia2").touch()
    assert device(driver, nodes) == "NVIDIA H100 80GB HBM3"
    (nodes / "nvidia0").touch()
    (nodes / "nvidia1").touch()
    assert device(driver, nodes) == "NVIDIA H100 80GB HBM3, 2 x NVIDIA L4"


async def test_a_stop_is_remembered_for_ten_seconds_and_not_without_bound() -> None:
    now = 0.0
    streams = Streams(2, metrics(), clock=lambda: now)
    streams.remember_stop("a")
    assert streams.take_stop("a") and not streams.take_stop("a")
    streams.remember_stop("a")
    now = REMEMBER_S
    assert not streams.take_stop("a")
    for number in range(REMEMBER_MOST + 1):
        streams.remember_stop(str(number))
    assert not streams.take_stop("0") and streams.take_stop("1")


def test_an_id_is_a_uuid() -> None:
    assert checked_id("6BA7B810-9DAD-11D1-80B4-00C04FD430C8") == "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    with pytest.raises(AntiphonError, match="UUID"):
        checked_id("me")


async def test_a_cancelled_hop_is_waited_for_and_one_that_has_not_begun_never_does() -> None:
    executor = Executor("test", 1, metrics())
    begun, gate, ran = threading.Event(), threading.Event(), []

    def hop() -> None:
        begun.set()
        gate.wait(1)
        ran.append("first")

    first = asyncio.create_task(executor.run(hop, cancel=gate.set))
    await asyncio.to_thread(begun.wait, 1)
    assert not executor.has_free_thread
    second = asyncio.create_task(executor.run(ran.append, "second"))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.wait((first, second))
    assert first.cancelled() and second.cancelled()
    assert ran == ["first"]
    assert executor.has_free_thread
    executor.close()


async def test_letting_go_runs_to_its_end_and_tells_of_its_failure() -> None:
    executor = Executor("test", 1, metrics())
    gate, ran = threading.Event(), []

    def hop() -> None:
        gate.wait(1)
        ran.append("done")

    task = asyncio.create_task(executor.run_to_end(hop))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wait((task,))
    assert task.cancelled() and ran == ["done"]

    def failing() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        await executor.run_to_end(failing)
    executor.close()


def test_words_share_their_clause_by_length() -> None:
    words = estimated_words("Oh, I see ... well!", 1000)
    assert [(word.text_start, word.text_end) for word in words] == [(0, 3), (4, 5), (6, 9), (14, 19)]
    assert words[0].start_samples == 0 and words[-1].end_samples == 1000
    assert all(first.end_samples == second.start_samples for first, second in zip(words, words[1:], strict=False))
    assert estimated_words("...", 1000) == ()


def test_the_longer_the_silence_the_likelier_the_end() -> None:
    likely = [end_of_turn_probability(ms) for ms in (0, 200, 600, 1000, 3000)]
    assert likely == sorted(likely) and likely[1] == 0.5 and likely[0] < 0.25 and likely[-1] > 0.99


def test_settings_come_from_the_environment_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("- {name: joe, task: tts, engine: piper, aliases: [tts-1]}\n")
    monkeypatch.setenv("ANTIPHON_WORKER_MODELS", str(path))
    monkeypatch.setenv("ANTIPHON_WORKER_PORT", "0")
    monkeypatch.setenv("ANTIPHON_WORKER_LOUDNESS_LUFS", "none")
    config = WorkerConfig()
    assert (config.port, config.loudness_lufs, [spec.name for spec in config.models]) == (0, None, ["joe"])
    monkeypatch.setenv("ANTIPHON_WORKER_MODELS", '[{"name": "tiny", "task": "asr", "engine": "mock"}]')
    assert [spec.name for spec in WorkerConfig().models] == ["tiny"]
    with pytest.raises(ValidationError, match="used twice: tts-1"):
        WorkerConfig(models=(*config.models, config.models[0].model_copy(update={"name": "other"})))
    assert config.is_loopback and not WorkerConfig(host="0.0.0.0").is_loopback


def test_what_an_engine_raised_is_told_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("what somebody said")
    except ValueError as error:
        fault = engine_fault(error, "joe")
        assert "test_worker_parts.py" in where(error)
    assert fault.reason is Reason.ENGINE_FAULT and "somebody" not in fault.message
    assert "somebody" not in caplog.text
    group = BaseExceptionGroup("", [ValueError(), BaseExceptionGroup("", [fault])])
    assert told(group) is fault
    assert told(ValueError()) is None


def test_log_lines_carry_their_fields() -> None:
    record = logging.makeLogRecord({"msg": "model warm", "levelname": "INFO", "name": "n", "model": "joe"})
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["model"], line["level"]) == ("model warm", "joe", "info")
    assert TextFormatter().format(record).endswith("model warm model=joe")


def test_a_trace_context_survives_the_metadata() -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    from opentelemetry import context

    token = context.attach(extract((("traceparent", parent), ("blob-bin", b"\x00"))))
    try:
        assert ("traceparent", parent) in inject((("authorization", "x"),))
    finally:
        context.detach(token)


def test_a_speaker_is_quiet_only_after_having_been_loud() -> None:
    def frame(level: float) -> bytes:
        return np.full(320, level * 32767, "<i2").tobytes()

    quiet = Quiet(16_000)
    seen = []
    for level in (0.0, 0.001, 0.2, 0.05, 0.015, 0.1):
        quiet.hear(frame(level))
        seen.append(quiet.now)
    assert seen == [False, False, False, False, True, False]
    quiet.hear(frame(0.2) + frame(0.001))
    quiet.hear(b"")
    assert quiet.now, "only the newest 20 ms count, and nothing new changes nothing"
