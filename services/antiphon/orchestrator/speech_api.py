"""`POST /v1/audio/speech`: text to speech as OpenAI's API has it, sent while it is synthesised."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

from aiohttp import web
from pydantic import Field

from antiphon.audio.encoding import CONTENT_TYPES, Encoder, Format
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.frames import SAMPLE_BYTES
from antiphon.conversation.items import new_id
from antiphon.conversation.ports import ModelLoading, SpeechAudio, SynthesisRequest, SynthesisStream
from antiphon.orchestrator.config import DEFAULT
from antiphon.orchestrator.context import Context
from antiphon.orchestrator.http_requests import FieldError, Fields, Reply, break_off, counted, model_of, parse_fields
from antiphon.orchestrator.names import Names

SPEECH_RATE_HZ = 24_000
"""Of everything that this route sends. Source: OpenAI's text-to-speech guide, "pcm"."""
_CHAR_BYTES = 12
"""A code point in JSON at its longest: two escapes."""
_OTHER_FIELDS_BYTES = 65_536


class VoiceReference(Fields):
    """A voice by its identifier."""

    id: str = Field(max_length=256)


class SpeechFields(Fields):
    """The request's body."""

    input: str = Field(min_length=1)
    model: str = Field(default=DEFAULT, max_length=256)
    voice: str | VoiceReference = DEFAULT
    instructions: str = Field(default="", max_length=4096)
    response_format: Format = "mp3"
    speed: float = Field(default=1.0, ge=0.25, le=4.0)
    stream_format: Literal["audio", "sse"] = "audio"

    @property
    def voice_name(self) -> str:
        """The voice's name, however it was given."""
        return self.voice if isinstance(self.voice, str) else self.voice.id


def routes(context: Context) -> list[web.RouteDef]:
    """The route of this API."""

    async def speech(request: web.Request) -> web.StreamResponse:
        reply = Reply(request)
        async with counted(context, "speech", request) as count:
            fields = await _fields(request, context.config.server.max_input_chars)
            sse = fields.stream_format == "sse"
            reply.content_type = "text/event-stream" if sse else CONTENT_TYPES[fields.response_format]
            wanted = _synthesis_request(context, fields)
            reply.models = (wanted.model,)
            stream = context.synthesiser.open(wanted)
            try:
                stream.push_text(fields.input)
                stream.end()
                await _send(fields, stream, reply)
            except AntiphonError as error:
                await break_off(context, count, reply, error, sse=sse)
            finally:
                await stream.aclose()
        return reply.response

    return [web.post("/v1/audio/speech", speech)]


async def _fields(request: web.Request, max_input_chars: int) -> SpeechFields:
    limit_bytes = max_input_chars * _CHAR_BYTES + _OTHER_FIELDS_BYTES
    too_long = FieldError(
        "input", f"The input is longer than {max_input_chars} characters: send it in parts.", Reason.TEXT_TOO_LONG
    )
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > limit_bytes:
            raise too_long
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise FieldError("body", "The body is not JSON.") from None
    if not isinstance(values, dict):
        raise FieldError("body", "The body must be a JSON object with `input`, `model` and `voice`.")
    fields = parse_fields(SpeechFields, values)
    if len(fields.input) > max_input_chars:
        raise too_long
    if not fields.input.strip():
        raise FieldError("input", "The input holds no words.")
    return fields


def _synthesis_request(context: Context, fields: SpeechFields) -> SynthesisRequest:
    names = context.names
    model, voice = _voice(context, names, model_of(context, "tts", fields.model), fields.voice_name)
    record = context.snapshot().model("tts", model)
    capabilities = record.capabilities if record is not None else None
    if fields.instructions.strip() and capabilities is not None and not capabilities.emotion:
        raise FieldError("instructions", f"The model '{model}' takes no instructions: leave the field out.")
    return SynthesisRequest(
        session_id=new_id("speech"),
        model=model,
        voice=voice,
        sample_rate_hz=SPEECH_RATE_HZ,
        speed=fields.speed,
        style=fields.instructions,
        fallback=context.fallback("tts", model),
    )


def _voice(context: Context, names: Names, model: str, voice: str) -> tuple[str, str]:
    """The model and the voice of it that speak; a model that has not said what voices it has is asked for any."""
    if voice in ("", DEFAULT):
        return model, ""
    found = names.voice(voice, model)
    if found is not None:
        return found
    known = names.voices(model)
    if not known:
        return model, context.config.aliases.voices.get(voice, voice)
    raise FieldError("voice", f"The model '{model}' has no voice '{voice}'; it has {', '.join(known)}.")


async def _send(fields: SpeechFields, stream: SynthesisStream, reply: Reply) -> None:
    sse = fields.stream_format == "sse"
    async with aclosing(_encoded(fields.response_format, stream, reply)) as pieces:
        async for piece, received_samples in pieces:
            if piece:
                await (reply.event(_delta(piece)) if sse else reply.write(piece))
            stream.played(received_samples)  # whatever the client has taken is out of our hands
    if not reply.begun:
        raise AntiphonError(Reason.ENGINE_FAULT, "The voice gave no sound for this input.")
    if sse:
        await reply.event(_DONE)


async def _encoded(format: Format, stream: SynthesisStream, reply: Reply) -> AsyncGenerator[tuple[bytes, int], None]:
    """Pieces of the file, each with the samples received up to it; a piece may be empty.

    Raises `AntiphonError(MODEL_LOADING)` rather than go on with another voice than the one that began.
    """
    encoder = Encoder(format, SPEECH_RATE_HZ)
    # A codec takes milliseconds for a long chunk; what is only passed on needs no thread.
    in_thread = format not in ("pcm", "wav")
    received_samples = 0
    async for part in stream.parts():
        if isinstance(part, ModelLoading) and part.fallback:
            if received_samples and part.fallback not in reply.models:
                raise AntiphonError(Reason.MODEL_LOADING, f"Nobody holds the model '{part.model}' any more: ask again.")
            reply.models = (part.fallback,)
        if not isinstance(part, SpeechAudio):
            continue
        received_samples += len(part.pcm) // SAMPLE_BYTES
        piece = await asyncio.to_thread(encoder.push, part.pcm) if in_thread else encoder.push(part.pcm)
        yield piece, received_samples
    if received_samples:
        yield await asyncio.to_thread(encoder.finish), received_samples


def _delta(piece: bytes) -> dict[str, Any]:
    return {"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()}


_DONE = {"type": "speech.audio.done", "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}}
"""Nothing here is counted in tokens."""
