"""`GET /v1/models`: assistants and models, as OpenAI's API lists them, with what antiphon knows beside it."""

from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from antiphon.contracts.errors import Reason
from antiphon.orchestrator.config import DEFAULT
from antiphon.orchestrator.context import Context
from antiphon.orchestrator.http_requests import FieldError
from antiphon.registry.records import ModelRecord
from antiphon.registry.snapshot import Snapshot


def routes(context: Context) -> list[web.RouteDef]:
    """The routes of this API."""

    async def list_models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [*_assistants(context), *_models(context.snapshot())]})

    async def retrieve(request: web.Request) -> web.Response:
        return web.json_response(_entry(context, request.match_info["id"]))

    return [web.get("/v1/models", list_models), web.get("/v1/models/{id:.+}", retrieve)]


def _entry(context: Context, name: str) -> dict[str, Any]:
    """The entry of this name or alias: an assistant's first, then a model's."""
    own = context.config.aliases.models.get(name, name)
    if own == DEFAULT:
        own = context.config.default_assistant
    for entry in _assistants(context):
        if entry["id"] == own:
            return entry
    found = context.names.model("tts", name) or context.names.model("asr", name)
    for entry in _models(context.snapshot()):
        if entry["id"] == found:
            return entry
    raise FieldError("model", f"There is no model or assistant '{name}'.", Reason.MODEL_UNKNOWN)


def _assistants(context: Context) -> Iterator[dict[str, Any]]:
    names = sorted(context.config.assistants) or [DEFAULT]
    for name in names:
        yield _described(name, "assistant", {"default": name == context.config.default_assistant})


def _models(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    for record in sorted(snapshot.models.values(), key=lambda record: (record.task, record.name)):
        yield _described(record.name, record.task, _facts(record, snapshot))


def _facts(record: ModelRecord, snapshot: Snapshot) -> dict[str, Any]:
    leases = [worker.lease for worker in snapshot.workers.values() if worker.lease is not None]
    held = [resident for lease in leases if (resident := lease.resident(record.name)) is not None]
    facts: dict[str, Any] = {
        "engine": record.engine,
        "aliases": list(record.aliases),
        "digest": record.digest,
        "resident": sum(resident.state in ("warm", "in_use") for resident in held),
    }
    if record.capabilities is not None:
        capabilities = record.capabilities
        facts |= {
            "languages": list(capabilities.languages),
            "voices": list(capabilities.voices),
            "sample_rate_hz": capabilities.sample_rate_hz,
            "streaming": capabilities.streaming_input or capabilities.streaming_output,
            "word_times": capabilities.word_times,
            "cloning": capabilities.cloning,
            "emotion": capabilities.emotion,
            "licence": capabilities.licence,
        }
    return facts


def _described(name: str, task: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    # `created` is required of every entry, and not known of ours.
    return {"id": name, "object": "model", "created": 0, "owned_by": "antiphon", "task": task, **facts}
