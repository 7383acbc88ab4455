"""The orchestrator as a process: ready when it would serve, typed errors, metrics, and a drain by signal."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from antiphon.contracts.adapters import Capabilities
from antiphon.contracts.errors import AntiphonError
from antiphon.orchestrator import app
from antiphon.orchestrator.app import Addresses, serve
from antiphon.orchestrator.config import OrchestratorConfig
from antiphon.orchestrator.sessions import SessionKeeper
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.registry.lease import LeaseKeeper
from antiphon.registry.records import Lease, ModelRecord, ResidentModel, WorkerRecord
from antiphon.registry.writer import RegistryWriter

pytestmark = pytest.mark.component

LIMIT_S = 20.0
MODELS = [
    ModelRecord(name="joe", task="tts", engine="mock", capabilities=Capabilities("tts", 24_000)),
    ModelRecord(name="tiny", task="asr", engine="mock", capabilities=Capabilities("asr", 16_000)),
]


def configured(valkey: EmbeddedValkey, **server: Any) -> OrchestratorConfig:
    return OrchestratorConfig.model_validate({"server": {"port": 0, **server}, "registry": {"url": valkey.url}})


@asynccontextmanager
async def served(config: OrchestratorConfig) -> AsyncIterator[tuple[str, "asyncio.Task[None]"]]:
    """The orchestrator's URL and its task, which is expected to end by a signal, or is ended by one."""
    listening: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(LIMIT_S):
        task = asyncio.create_task(serve(config, ready=listening.set_result), name="serve")
        await asyncio.wait((task, listening), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        try:
            yield (await listening).url, task
        finally:
            if not task.done():
                os.kill(os.getpid(), signal.SIGTERM)
            await task


@asynccontextmanager
async def worker(valkey: EmbeddedValkey, state: Any) -> AsyncIterator[dict[str, Any]]:
    """A worker's word, and the operator's; `held["state"]` may be changed while it runs."""
    held = {"state": state}

    def lease() -> Lease:
        models = tuple(ResidentModel(name=model.name, state=held["state"]) for model in MODELS)
        return Lease(worker="w1", incarnation="one", engines={"mock": "1"}, models=models)

    writer = RegistryWriter(valkey.url, "default")
    writer.set_models(MODELS)
    writer.put_worker("w1", WorkerRecord(address="127.0.0.1:9"))
    keeper = LeaseKeeper(valkey.url, "default", "w1", lease)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(writer.run()), tasks.create_task(keeper.run())]
        try:
            yield held
        finally:
            for task in running:
                task.cancel()


async def until_ready_says(http: aiohttp.ClientSession, url: str, status: int, words: str) -> None:
    while True:
        async with http.get(f"{url}/readyz") as response:
            body = await response.text()
            if response.status == status and words in body:
                return
        await asyncio.sleep(0.05)


async def test_ready_follows_the_registry() -> None:
    async with (
        EmbeddedValkey() as valkey,
        served(configured(valkey)) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        async with http.get(f"{url}/healthz") as response:
            assert response.status == 200
        await until_ready_says(http, url, 503, "NO_WORKER")
        async with worker(valkey, "loading") as held:
            await until_ready_says(http, url, 503, "MODEL_LOADING")
            held["state"] = "warm"
            await until_ready_says(http, url, 200, "ready")
            held["state"] = "failed"
            await until_ready_says(http, url, 503, "'tiny'")
            async with http.get(f"{url}/readyz?exclude=models") as response:
                assert response.status == 200  # it takes calls, and tells each what is missing
            async with http.get(f"{url}/readyz?exclude=registry") as response:
                assert response.status == 400


async def test_errors_are_typed_and_counted_and_metrics_are_open() -> None:
    async with (
        EmbeddedValkey() as valkey,
        served(configured(valkey)) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        async with http.get(f"{url}/v1/models/nothing") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "MODEL_UNKNOWN")
        async with http.get(f"{url}/nowhere") as response:
            assert (response.status, (await response.json())["error"]["type"]) == (404, "invalid_request_error")
        async with http.put(f"{url}/v1/audio/speech") as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
        async with http.get(f"{url}/metrics") as response:
            assert 'antiphon_errors_total{reason="MODEL_UNKNOWN"} 1.0' in await response.text()


async def test_signal_drains_and_a_second_one_ends_at_once() -> None:
    async with (
        EmbeddedValkey() as valkey,
        served(configured(valkey, drain_grace_s=600)) as (url, task),
        aiohttp.ClientSession() as http,
    ):
        async with http.ws_connect(f"{url}/v1/realtime") as socket:
            await socket.receive_json()
            # Nobody hears this one: the session is not at rest, and the drain waits for its turn to end.
            await socket.send_json({"type": "response.create"})
            assert (await socket.receive_json())["type"] == "response.created"
            os.kill(os.getpid(), signal.SIGTERM)
            await until_ready_says(http, url, 503, "DRAINING")
            assert not task.done()
            os.kill(os.getpid(), signal.SIGTERM)
            async for _ in socket:
                pass
            assert socket.close_code == 1012
            await task


async def test_unguarded_address_and_taken_port_are_refused() -> None:
    async with EmbeddedValkey() as valkey:
        with pytest.raises(AntiphonError, match=r"server\.keys"):
            await serve(configured(valkey, host="0.0.0.0"))
        async with served(configured(valkey)) as (url, _):
            with pytest.raises(AntiphonError, match="Is another server there"):
                await serve(configured(valkey, port=int(url.rsplit(":", 1)[1])))


async def test_status_has_a_port_of_its_own_and_says_which_process_it_is() -> None:
    listening: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    async with EmbeddedValkey() as valkey, asyncio.timeout(LIMIT_S):
        config = configured(valkey, metrics_port=0, id="one", reuse_port=True)
        task = asyncio.create_task(serve(config, ready=listening.set_result), name="serve")
        where = await listening
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{where.status_url}/metrics") as response:
                assert 'antiphon_orchestrator_info{id="one/' in await response.text()
            async with http.ws_connect(f"{where.url}/v1/realtime") as socket:
                await socket.receive_json()
                await socket.send_json({"type": "response.create"})
                assert (await socket.receive_json())["type"] == "response.created"
                os.kill(os.getpid(), signal.SIGTERM)
                await until_ready_says(http, where.status_url, 503, "DRAINING")
                with pytest.raises(aiohttp.ClientConnectorError):  # who connects now reaches the others on the port
                    await http.get(f"{where.url}/healthz")
                os.kill(os.getpid(), signal.SIGTERM)
                async for _ in socket:
                    pass
                assert socket.close_code == 1012
        await task


async def test_an_orchestrator_that_cannot_keep_its_sessions_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: SessionKeeper) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(SessionKeeper, "_renew", broken)
    async with EmbeddedValkey() as valkey, asyncio.timeout(LIMIT_S):
        with pytest.raises(ExceptionGroup) as raised:
            await serve(configured(valkey))
    assert raised.group_contains(ValueError, match="a fault of ours")


async def test_a_request_that_runs_when_the_server_is_told_to_go_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "CLOSE_S", 0.2)
    async with (
        EmbeddedValkey() as valkey,
        served(configured(valkey, drain_grace_s=600)) as (url, task),
        aiohttp.ClientSession() as http,
    ):

        async def slow_body() -> AsyncIterator[bytes]:
            yield b'{"input": "hello", '
            await asyncio.sleep(0.5)
            os.kill(os.getpid(), signal.SIGTERM)
            await until_ready_says(http, url, 503, "DRAINING")
            async with http.post(f"{url}/v1/audio/speech", json={"input": "hello"}) as late:
                assert (await late.json())["error"]["code"] == "DRAINING"
            await asyncio.sleep(1.0)
            yield b'"model": "nobody"}'

        async with http.post(f"{url}/v1/audio/speech", data=slow_body()) as response:
            assert (await response.json())["error"]["code"] == "MODEL_UNKNOWN"
        await task
