"""A worker as a whole: models, health, token, metrics, lease, drain, signals."""

import asyncio
import contextlib
import json
import signal
import sys
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from worker_calls import END, Action, GatedLoader, Listening, Speaking, ears, is_idle, running, told, until, voice

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.frames import frame_samples
from antiphon.contracts.models import revision_digest
from antiphon.contracts.v1 import models_pb2 as pb
from antiphon.contracts.v1.models_pb2_grpc import ModelsStub
from antiphon.registry.client import open_client
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.worker.config import WorkerConfig
from antiphon.worker.server import Worker
from antiphon.worker.slots import ModelState

pytestmark = pytest.mark.component

FRAME = frame_samples(24_000)
State = pb.ModelStatus.State


async def test_lists_loads_watches_and_unloads_models() -> None:
    async with running(voice(voices=("high", "low")), ears()) as (worker, channel):
        models = ModelsStub(channel)
        watching = models.WatchModels(pb.WatchModelsRequest())
        listed = (await models.ListModels(pb.ListModelsRequest())).models
        assert [(model.name, model.state) for model in listed] == [("tones", State.ABSENT), ("script", State.ABSENT)]
        loaded = await models.LoadModel(pb.LoadModelRequest(name="tones"))
        assert (loaded.state, loaded.memory_mib) == (State.WARM, 1)
        described = await models.DescribeModel(pb.DescribeModelRequest(name="tones"))
        assert list(described.capabilities.voices) == ["high", "low"]
        assert described.capabilities.sample_rate_hz == 24_000
        with told(Reason.MODEL_UNKNOWN):
            await models.UnloadModel(pb.UnloadModelRequest(name="tones", digest="sha256:other"))
        gone = await models.UnloadModel(pb.UnloadModelRequest(name="tones", digest=described.digest))
        assert gone.state == State.ABSENT
        again = await models.LoadModel(pb.LoadModelRequest(name="tones"))
        revision = worker.models.view("tones").revision
        assert (await models.UnloadModel(pb.UnloadModelRequest(name="tones", digest=revision))).state == State.ABSENT
        assert again.state == State.WARM and revision != described.digest
        seen = []
        while seen[-2:] != [State.LEAVING, State.ABSENT]:
            status = await watching.read()
            if status.name == "tones" and status.state not in seen[-1:]:
                seen.append(status.state)
        assert seen[0] == State.ABSENT and State.WARM in seen
        watching.cancel()


async def test_loads_no_name_that_the_catalogue_does_not_know() -> None:
    async with running() as (_, channel):
        for name in ("nobody", "hf://somebody/something", ""):
            with told(Reason.MODEL_UNKNOWN):
                await ModelsStub(channel).LoadModel(pb.LoadModelRequest(name=name))


async def test_a_load_that_fails_names_its_cause_and_when_to_try_again() -> None:
    async with running(voice(fail_load="The weights are cracked.")) as (_, channel):
        for _ in range(2):
            with told(Reason.LOAD_FAILED) as errors:
                await (await Speaking(channel).begin(end=False)).read_all()
            assert errors[0].message == "The weights are cracked."
            assert errors[0].retry_after_ms is not None and 0 < errors[0].retry_after_ms <= 1000
        status = await ModelsStub(channel).DescribeModel(pb.DescribeModelRequest(name="tones"))
        assert (status.state, status.message) == (State.FAILED, "The weights are cracked.")


async def test_a_model_that_loads_for_too_long_is_said_to_be_loading() -> None:
    async with running(voice(load_ms=600), load_wait_s=0.1) as (_, channel):
        with told(Reason.MODEL_LOADING) as errors:
            await (await Speaking(channel).begin(end=False)).read_all()
        assert errors[0].retry_after_ms == 1000


async def test_health_and_reflection() -> None:
    async with running() as (worker, channel):
        health = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        for service in ("", "antiphon.v1.SpeechSynthesis", "antiphon.v1.Models", "liveness"):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == serving
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        names = {service.name for service in (await call.read()).list_services_response.service}
        await call.done_writing()
        assert {"antiphon.v1.SpeechSynthesis", "antiphon.v1.SpeechRecognition", "antiphon.v1.Models"} <= names
        worker.drain()
        await worker.ended()
        assert (await health.Check(health_pb2.HealthCheckRequest())).status != serving


async def test_a_worker_serves_once_what_it_begins_with_is_warm() -> None:
    async with running(voice(residency={"policy": "Pinned"}, load_ms=500)) as (worker, channel):
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="antiphon.v1.SpeechSynthesis"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        alive = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="liveness"))
        assert alive.status == health_pb2.HealthCheckResponse.SERVING
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert worker.models.view("tones").state is ModelState.WARM
        watch.cancel()


async def test_a_token_is_asked_for_by_all_but_health(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("sesame\n")
    async with running(token_file=token) as (worker, channel):
        models = ModelsStub(channel)
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "sesame"),)):
            with told(Reason.UNAUTHENTICATED):
                await models.ListModels(pb.ListModelsRequest(), metadata=metadata)
        with told(Reason.UNAUTHENTICATED):
            await (await Speaking(channel).begin(end=False)).read_all()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            await call.read()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await models.ListModels(pb.ListModelsRequest(), metadata=(("authorization", "Bearer sesame"),))
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())


async def test_without_a_token_only_loopback_is_served(tmp_path: Path) -> None:
    with pytest.raises(AntiphonError, match="needs a token_file"):
        async with Worker(WorkerConfig(host="0.0.0.0", port=0, metrics_port=None)):
            pass
    empty = tmp_path / "token"
    empty.touch()
    with pytest.raises(AntiphonError, match="is empty"):
        async with Worker(WorkerConfig(port=0, metrics_port=None, token_file=empty)):
            pass


async def test_a_port_in_use_is_said() -> None:
    async with running() as (worker, _):
        with pytest.raises(AntiphonError, match="is the port in use"):
            async with Worker(WorkerConfig(port=worker.port, metrics_port=None)):
                pass
    async with running(metrics_port=0) as (worker, _):
        with pytest.raises(
            AntiphonError, match=f"Metrics cannot be served on 127.0.0.1:{worker.metrics_port}: Address"
        ):
            async with Worker(WorkerConfig(port=0, metrics_port=worker.metrics_port)):
                pass


async def test_metrics_are_served() -> None:
    async with running(metrics_port=0) as (worker, channel):
        await (await Speaking(channel).begin("One two.")).read_all()
        url = f"http://127.0.0.1:{worker.metrics_port}/metrics"

        def read() -> str:
            with urllib.request.urlopen(url, timeout=5) as response:
                return str(response.read().decode())

        text = await asyncio.to_thread(read)
    revision = revision_digest(voice()).removeprefix("sha256:")[:12]
    assert f'antiphon_worker_first_audio_seconds_count{{model="tones",revision="{revision}"}} 1.0' in text
    assert f'antiphon_worker_loads_total{{model="tones",result="ok",revision="{revision}"}} 1.0' in text
    assert "antiphon_worker_resident_models 1.0" in text
    assert 'antiphon_worker_streams{task="tts"} 0.0' in text


async def test_a_drain_refuses_what_is_new_and_lets_the_running_finish() -> None:
    loader = GatedLoader()
    async with running(loader=loader, drain_timeout_s=10) as (worker, channel):
        speaking = await Speaking(channel, max_lead_ms=60_000).begin("Hello there.")
        loader.engine.gate.release()
        await speaking.read_until(FRAME)
        worker.drain()
        ended = asyncio.create_task(worker.ended())
        assert worker.lease().draining
        with told(Reason.DRAINING):
            await (await Speaking(channel).begin(end=False)).read_all()
        with told(Reason.DRAINING):
            await (await Listening(channel).begin()).read()
        with told(Reason.DRAINING):
            await ModelsStub(channel).LoadModel(pb.LoadModelRequest(name="tones"))
        assert not ended.done()
        loader.engine.gate.release(100)
        await speaking.read_all(play=False)
        assert speaking.summary is not None and not speaking.summary.stopped
        assert speaking.summary.audio_ms == 5000
        await ended


async def test_a_grace_that_is_too_short_ends_streams_after_the_clause_being_spoken() -> None:
    async with running(voice(ms_per_word=400, real_time_factor=0.5), drain_timeout_s=1.0) as (worker, channel):
        text = "One two three four five. " * 20
        speaking = await Speaking(channel, max_lead_ms=60_000).begin(text)
        await speaking.read_until(FRAME)
        worker.drain()
        ended = asyncio.create_task(worker.ended())
        with told(Reason.DRAINING):
            await speaking.read_all(play=False)
        starts = [audio.clause for audio in speaking.audio if audio.HasField("clause")]
        spoken_ms = len(speaking.pcm) // 2 * 1000 // 24_000
        assert spoken_ms == 2000 * len(starts) < 40_000
        await ended
        await is_idle(worker)


async def test_leaving_cuts_what_does_not_end() -> None:
    async with running(drain_timeout_s=0.2) as (worker, channel):
        speaking = await Speaking(channel).begin("One two.", end=False)
        paused = await Speaking(channel).begin("One two three.", end=False)
        await paused.control(Action.PAUSE)
        worker.drain()
        await worker.ended()
    for call in (speaking, paused):
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            while await call.call.read() is not END:
                pass


async def test_the_lease_says_what_the_worker_holds_and_that_it_drains() -> None:
    async with EmbeddedValkey() as registry:
        client = open_client(registry.url, block_s=10)
        leases: list[dict[str, object]] = []

        async def read() -> dict[str, object] | None:
            value = await client.get("{antiphon:test}:lease:w")
            return None if value is None else dict(json.loads(value))

        async def until_lease(condition: object) -> None:
            async with asyncio.timeout(5):
                while not condition(await read()):  # type: ignore[operator]
                    await asyncio.sleep(0.01)

        preloaded = voice(residency={"policy": "Preload"})
        async with running(preloaded, redis_url=registry.url, namespace="test") as (worker, _):
            await until_lease(lambda lease: lease and lease["models"] and lease["models"][0]["state"] == "warm")
            lease = await read()
            assert lease is not None
            assert (lease["worker"], lease["address"]) == ("w", f"127.0.0.1:{worker.port}")
            assert "mock" in lease["engines"]  # type: ignore[operator]
            assert lease["max_streams"] == worker.config.max_streams
            worker.drain()
            await until_lease(lambda lease: lease and lease["draining"])
        assert await read() is None
        await client.aclose()
        assert not leases


async def test_sigterm_drains_a_process(tmp_path: Path) -> None:
    models = tmp_path / "models.yaml"
    models.write_text("models:\n  - {name: tones, task: tts, engine: mock, engineConfig: {ms_per_word: 500}}\n")
    environment = {
        "ANTIPHON_WORKER_MODELS": str(models),
        "ANTIPHON_WORKER_PORT": "0",
        "ANTIPHON_WORKER_METRICS_PORT": "0",
        "ANTIPHON_WORKER_LOG_JSON": "true",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "antiphon.worker", env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            while True:
                line = json.loads(await process.stderr.readline())
                if line["message"] == "worker ready":
                    break
            async with grpc.aio.insecure_channel(line["address"]) as channel:
                speaking = await Speaking(channel, max_lead_ms=60_000).begin("One two three.")
                await speaking.read_until(FRAME)
                process.send_signal(signal.SIGTERM)
                await speaking.read_all(play=False)
            assert speaking.summary is not None and speaking.summary.audio_ms == 1500
            rest = (await process.communicate())[1].decode()
            assert process.returncode == 0, rest
            assert [json.loads(text)["message"] for text in rest.splitlines()][-1] == "worker ended"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        with contextlib.suppress(AttributeError):
            process._transport.close()  # type: ignore[attr-defined]


async def test_streams_that_are_open_are_counted() -> None:
    async with running() as (worker, channel):
        speaking = await Speaking(channel).begin("One.", end=False)
        await until(lambda: worker.lease().streams == 1, "the stream was counted")
        await speaking.end()
        await speaking.read_all()
        await until(lambda: worker.lease().streams == 0, "the stream was not counted any more")
