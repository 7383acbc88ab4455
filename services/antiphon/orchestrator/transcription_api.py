"""`POST /v1/audio/transcriptions`: a recording to text as OpenAI's API has it, in any length, cut at its pauses."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from aiohttp import web
from pydantic import Field, field_validator

from antiphon.audio.files import stream_audio
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.items import new_id
from antiphon.conversation.ports import RecognitionRequest
from antiphon.orchestrator.config import DEFAULT
from antiphon.orchestrator.context import Context
from antiphon.orchestrator.http_requests import (
    MODEL_HEADER,
    FieldError,
    Fields,
    Reply,
    break_off,
    counted,
    model_of,
    parse_fields,
)
from antiphon.orchestrator.listening import listen
from antiphon.orchestrator.recordings import SplitSettings, Splitter, pieces_of
from antiphon.orchestrator.transcripts import HeardPiece, Recording, plain_json, subrip, verbose_json, webvtt
from antiphon.orchestrator.uploads import Upload, uploaded

MAX_RECORDING_S = 4 * 3600.0
"""A recording may be this long, however small its file is."""
_CONTENT_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


class ChunkingFields(Fields):
    """Where the recording may be cut."""

    type: Literal["auto", "server_vad"] = "auto"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    silence_duration_ms: int = Field(default=300, ge=100, le=10_000)
    prefix_padding_ms: int = Field(default=300, ge=0, le=2000)


class TranscriptionFields(Fields):
    """The form's fields beside the file."""

    model: str = Field(default=DEFAULT, max_length=256)
    language: str = Field(default="", max_length=16)
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] = "json"
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()
    chunking_strategy: ChunkingFields = ChunkingFields()
    stream: bool = False
    prompt: str = ""
    temperature: float = 0.0
    include: tuple[str, ...] = ()

    @field_validator("prompt", "temperature", "include")
    @classmethod
    def _refused(cls, value: Any) -> Any:
        if value:
            raise ValueError("no recogniser here can act upon it, leave it out")
        return value

    @property
    def word_times(self) -> bool:
        """Whether the answer shows when a word was said."""
        return self.response_format in ("srt", "vtt", "verbose_json")


def routes(context: Context) -> list[web.RouteDef]:
    """The route of this API."""

    async def transcriptions(request: web.Request) -> web.StreamResponse:
        reply = Reply(request)
        async with counted(context, "transcriptions", request) as count:
            async with uploaded(request, context.config.server.max_upload_bytes) as upload:
                fields = _fields(upload.values)
                recognition = _recognition_request(context, fields)
                if not fields.stream:
                    recording = await _hear(context, fields, recognition, upload)
                    return _answer(fields, recording)
                try:
                    await _stream(context, fields, recognition, upload, reply)
                except AntiphonError as error:
                    await break_off(context, count, reply, error, sse=True)
        return reply.response

    return [web.post("/v1/audio/transcriptions", transcriptions)]


def _fields(values: Mapping[str, Any]) -> TranscriptionFields:
    fields = parse_fields(TranscriptionFields, _nested(values))
    if fields.timestamp_granularities and fields.response_format != "verbose_json":
        raise FieldError("timestamp_granularities", "timestamp_granularities need the response_format verbose_json.")
    if fields.stream and fields.response_format not in ("json", "text"):
        raise FieldError("stream", f"The response_format {fields.response_format} cannot be streamed: take json.")
    return fields


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Form names as fields: `name[]` is a list, `name[key]` a part of an object, `auto` an object's type."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        inner = re.fullmatch(r"(\w+)\[(\w+)\]", name)
        if inner:
            part = fields.setdefault(inner[1], {})
            if not isinstance(part, dict):
                raise FieldError(inner[1], f"{inner[1]} is given twice.")
            part[inner[2]] = value
        else:
            fields[name.removesuffix("[]")] = value
    if isinstance(strategy := fields.get("chunking_strategy"), str):
        fields["chunking_strategy"] = _json_or_word(strategy)
    return fields


def _json_or_word(strategy: str) -> Any:
    try:
        return json.loads(strategy)
    except ValueError:
        return {"type": strategy}


def _recognition_request(context: Context, fields: TranscriptionFields) -> RecognitionRequest:
    model = model_of(context, "asr", fields.model)
    record = context.snapshot().model("asr", model)
    capabilities = record.capabilities if record is not None else None
    if "word" in fields.timestamp_granularities and capabilities is not None and not capabilities.word_times:
        raise FieldError("timestamp_granularities", f"The model '{model}' does not know when a word was said.")
    return RecognitionRequest(
        session_id=new_id("transcription"),
        model=model,
        language=fields.language,
        word_times=fields.word_times,
        fallback=context.fallback("asr", model),
    )


async def _hear(
    context: Context,
    fields: TranscriptionFields,
    recognition: RecognitionRequest,
    upload: Upload,
    reply: Reply | None = None,
) -> Recording:
    """Hear the recording; with a reply, each piece's text is sent as soon as the pieces before it were."""
    vad = await asyncio.to_thread(context.vad.open)
    if vad.rate_hz != recognition.sample_rate_hz:
        raise AntiphonError(Reason.INTERNAL, f"The VAD hears at {vad.rate_hz} Hz; the recogniser needs 16000.")
    chunking = fields.chunking_strategy
    settings = SplitSettings(chunking.threshold, chunking.silence_duration_ms, chunking.prefix_padding_ms)
    splitter = Splitter(vad, settings)
    recording = Recording()

    async def heard(piece: HeardPiece) -> None:
        delta = f" {piece.transcript.text}" if recording.text else piece.transcript.text
        recording.heard.append(piece)
        if reply is not None and not reply.begun:
            reply.models = recording.models
        if reply is not None and piece.transcript.text:
            await reply.event({"type": "transcript.text.delta", "delta": delta})

    decoded = stream_audio(upload.path, vad.rate_hz, limit_s=MAX_RECORDING_S)
    await listen(context.recogniser, recognition, pieces_of(decoded, splitter), heard)
    recording.duration_s = splitter.heard_s
    return recording


async def _stream(
    context: Context, fields: TranscriptionFields, recognition: RecognitionRequest, upload: Upload, reply: Reply
) -> None:
    reply.content_type = "text/event-stream"
    recording = await _hear(context, fields, recognition, upload, reply)
    await reply.event({"type": "transcript.text.done", "text": recording.text, "models": recording.models})
    await reply.event("[DONE]")


def _answer(fields: TranscriptionFields, recording: Recording) -> web.Response:
    response = _written(fields, recording)
    if recording.models:
        response.headers[MODEL_HEADER] = ", ".join(recording.models)
    return response


def _written(fields: TranscriptionFields, recording: Recording) -> web.Response:
    match fields.response_format:
        case "json":
            return web.json_response(plain_json(recording))
        case "verbose_json":
            return web.json_response(verbose_json(recording, fields.timestamp_granularities, fields.language))
        case "text":
            text = recording.text + "\n"
        case "srt":
            text = subrip(recording)
        case "vtt":
            text = webvtt(recording)
    return web.Response(text=text, content_type=_CONTENT_TYPES[fields.response_format], charset="utf-8")
