"""A worker as a pod has it: told by the environment that the operator renders, probed without a token, drained."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from registry_cluster import NAMESPACE, voice
from worker_calls import Speaking, told
from worker_site import own, site

from antiphon.contracts.errors import Reason
from antiphon.contracts.resources import WorkerPool
from antiphon.contracts.v1.models_pb2 import ListModelsRequest
from antiphon.contracts.v1.models_pb2_grpc import ModelsStub
from antiphon_operator.reconcile import pool as rendering

pytestmark = [pytest.mark.component, pytest.mark.timeout(180)]

SERVING = health_pb2.HealthCheckResponse.SERVING
SPEC = voice("tones", ms_per_word=200)


def environment(tmp_path: Path, url: str, ports: tuple[int, int]) -> dict[str, str]:
    """What the operator renders, with what a node would fill in; paths and ports are this machine's."""
    (tmp_path / "token").write_text("sesame\n")
    pool = WorkerPool.model_validate(
        {
            "metadata": {"name": "mock", "namespace": NAMESPACE, "uid": "u"},
            "spec": {"image": "example.org/worker:1", "drainTimeoutSeconds": 20},
        }
    )
    around = rendering.Surroundings("antiphon-registry", "antiphon-workers")
    deployment = rendering.manifests(pool, around)["Deployment"]
    rendered: list[dict[str, Any]] = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    filled = {"metadata.name": "mock-1", "status.podIP": "127.0.0.1", "url": url}
    given = {}
    for variable in rendered:
        source = variable.get("valueFrom", {})
        key = source.get("fieldRef", {}).get("fieldPath") or source.get("secretKeyRef", {}).get("key")
        given[variable["name"]] = filled[key] if key else variable["value"]
    here = {
        "TOKEN_FILE": tmp_path / "token",
        "CACHE": tmp_path / "cache",
        "PORT": ports[0],
        "METRICS_PORT": ports[1],
    }
    assert {f"ANTIPHON_WORKER_{name}" for name in here} <= given.keys()
    return (
        given | {f"ANTIPHON_WORKER_{name}": str(value) for name, value in here.items()} | {"PATH": os.environ["PATH"]}
    )


async def said(process: asyncio.subprocess.Process) -> AsyncIterator[dict[str, Any]]:
    """What the worker logs, line by line."""
    assert process.stderr is not None
    while line := await process.stderr.readline():
        yield json.loads(line)


async def until_said(lines: AsyncIterator[dict[str, Any]], message: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        async for line in lines:
            if message in line["message"]:
                return line
    pytest.fail(f"it ended without saying {message!r}")


async def test_a_pods_worker_from_start_to_drain(tmp_path: Path, unused_tcp_port_factory: Any) -> None:
    ports = unused_tcp_port_factory(), unused_tcp_port_factory()
    async with site() as made:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "antiphon.worker",
            env=environment(tmp_path, made.url, ports),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            lines = said(process)
            listens = await until_said(lines, "worker listens")
            assert (listens["worker"], listens["address"]) == ("mock-1", f"127.0.0.1:{ports[0]}")
            async with grpc.aio.insecure_channel(listens["address"]) as channel:
                probe = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]

                async def status(service: str = "") -> int:
                    answer = await probe.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
                    return int(answer.status)

                assert await status(rendering.LIVENESS) == SERVING and await status() != SERVING
                made.writer.set_models([own(SPEC)])
                made.place("mock-1", SPEC)
                await until_said(lines, "worker ready")
                assert await status() == SERVING
                with told(Reason.UNAUTHENTICATED):
                    await ModelsStub(channel).ListModels(ListModelsRequest())  # type: ignore[no-untyped-call]
                await made.lose()
                await until_said(lines, "registry out of reach")
                assert await status() == SERVING and await status(rendering.LIVENESS) == SERVING

                speaking = Speaking(channel, max_lead_ms=60_000)
                speaking.call = speaking.stub.Synthesize(metadata=(("authorization", "Bearer sesame"),))
                await speaking.begin("One two three four five.")
                await speaking.read_until(480)
                process.send_signal(signal.SIGTERM)
                await speaking.read_all(play=False)
                assert speaking.summary is not None and speaking.summary.audio_ms == 1000
            await until_said(lines, "worker ended")
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            process._transport.close()  # type: ignore[attr-defined]
