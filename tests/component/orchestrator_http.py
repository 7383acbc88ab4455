"""The orchestrator's HTTP routes on loopback, over fakes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
from aiohttp import web
from prometheus_client import CollectorRegistry

from antiphon.contracts.adapters import Capabilities
from antiphon.conversation.ports import Recogniser, Synthesiser
from antiphon.orchestrator import models_api, speech_api, transcription_api
from antiphon.orchestrator.admission import Admission
from antiphon.orchestrator.api_errors import error_middleware
from antiphon.orchestrator.config import OrchestratorConfig
from antiphon.orchestrator.context import Context
from antiphon.orchestrator.metrics import OrchestratorMetrics
from antiphon.registry.records import ModelRecord
from antiphon.registry.snapshot import Snapshot
from antiphon.testing.fakes import FakeRecogniser, FakeSynthesiser, FakeVad
from antiphon.testing.realtime import sessions_of

CONFIG: dict[str, Any] = {
    "assistants": {"guide": {}, "waiter": {}},
    "default": {"assistant": "waiter", "voice": "joe"},
    "aliases": {
        "models": {"tts-1": "joe", "whisper-1": "default", "gpt-realtime": "guide"},
        "voices": {"alloy": "mid"},
    },
}
SNAPSHOT = Snapshot(
    version=1,
    models={
        record.name: record
        for record in (
            ModelRecord(
                name="joe",
                task="tts",
                engine="piper",
                capabilities=Capabilities("tts", 22_050, voices=("low", "mid"), licence="MIT"),
            ),
            ModelRecord(name="anna", task="tts", engine="piper"),
            ModelRecord(
                name="tiny-en",
                task="asr",
                engine="faster-whisper",
                capabilities=Capabilities("asr", 16_000, word_times=True),
            ),
        )
    },
)


class FakeVads:
    def open(self) -> FakeVad:
        return FakeVad()


@dataclass
class Serving:
    context: Context
    url: str
    client: openai.AsyncOpenAI

    def counted(self, api: str, outcome: str) -> float:
        return (
            self.context.metrics.registry.get_sample_value(
                "antiphon_audio_requests_total", {"api": api, "outcome": outcome}
            )
            or 0
        )


@asynccontextmanager
async def serving(
    *,
    synthesiser: Synthesiser | None = None,
    recogniser: Recogniser | None = None,
    snapshot: Callable[[], Snapshot] = lambda: SNAPSHOT,
    vad: Any = None,
    assistants: Any = None,
    **server: Any,
) -> AsyncIterator[Serving]:
    config = OrchestratorConfig.model_validate(
        CONFIG | {"server": server, "assistants": assistants or CONFIG["assistants"]}
    )
    metrics = OrchestratorMetrics(CollectorRegistry())
    context = Context(
        config=config,
        recogniser=recogniser or FakeRecogniser(["Hello."], delay_s=0.0),
        synthesiser=synthesiser or FakeSynthesiser(latency_s=0.0),
        responders={},
        vad=vad or FakeVads(),
        snapshot=snapshot,
        admission=Admission(config.server, metrics),
        metrics=metrics,
        sessions=sessions_of(config),
    )
    app = web.Application(middlewares=[error_middleware(metrics)])
    for api in (speech_api, transcription_api, models_api):
        app.add_routes(api.routes(context))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
            yield Serving(context, url, client)
    finally:
        await runner.cleanup()
