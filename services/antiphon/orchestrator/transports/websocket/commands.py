"""What each client event does to the conversation."""

import asyncio
import base64
import binascii
from collections.abc import Callable
from functools import singledispatchmethod
from typing import Any

from antiphon.conversation.engine import ClientError, Conversation
from antiphon.conversation.settings import ResponseOptions
from antiphon.orchestrator.transports.websocket import binary, client_events
from antiphon.orchestrator.transports.websocket.item_json import item_json, to_item
from antiphon.orchestrator.transports.websocket.server_events import JsonObject, server_event
from antiphon.orchestrator.transports.websocket.session_resource import (
    SessionResource,
    functions,
    not_in_force,
    token_limit,
)

MAX_APPEND_BYTES = 15 * 2**20
"""Audio of one append, as OpenAI bounds it."""
SLICE_CHARS = 65_536
"""Base64 decoded at a time; a multiple of 4."""
PIECE_MS = 100
"""Audio handed to the conversation before other tasks have their turn: three VAD windows."""


class Commands:
    """Carries out a client's events on one conversation, in order."""

    def __init__(
        self, conversation: Conversation, session: SessionResource, send: Callable[[JsonObject], None]
    ) -> None:
        self._conversation = conversation
        self._send = send
        self.session = session
        """What is in force."""

    async def execute(self, event: client_events.ClientEvent) -> None:
        """Do what an event says. Raises `ClientError` when it cannot be done."""
        if isinstance(event, client_events.AppendAudio):
            await self._append(event.audio)
        else:
            self._execute(event)

    async def hear_frame(self, message: bytes) -> None:
        """Take a binary message of the user's audio. Raises `ClientError` for what is none."""
        frame = binary.unpack(message)
        if frame.kind != binary.USER_AUDIO:
            raise ClientError("invalid_value", f"Binary messages of kind {frame.kind} are not taken from clients.")
        self._check_whole_samples(len(frame.audio))
        await self._hear(frame.audio)

    # --- audio --------------------------------------------------------------------------------------------------------

    async def _append(self, audio: str) -> None:
        size = len(audio) // 4 * 3 - audio[-2:].count("=")
        if size > MAX_APPEND_BYTES:
            raise ClientError("invalid_value", f"One append holds at most {MAX_APPEND_BYTES} bytes.", param="audio")
        if len(audio) % 4:
            raise ClientError(
                "invalid_value", "The audio is not base64: its length is no multiple of 4.", param="audio"
            )
        self._check_whole_samples(size)
        for start in range(0, len(audio), SLICE_CHARS):
            try:
                piece = base64.b64decode(audio[start : start + SLICE_CHARS], validate=True)
            except (binascii.Error, ValueError):
                raise ClientError("invalid_value", "The audio is not base64.", param="audio") from None
            await self._hear(piece)

    def _check_whole_samples(self, size: int) -> None:
        sample_bytes = self.session.input_format.sample_bytes
        if size % sample_bytes:
            raise ClientError("invalid_value", f"Audio comes in whole samples of {sample_bytes} bytes.", param="audio")

    async def _hear(self, audio: bytes) -> None:
        audio_format = self.session.input_format
        pcm = audio_format.to_pcm(audio)
        piece_bytes = audio_format.rate_hz * PIECE_MS // 1000 * 2
        for start in range(0, len(pcm), piece_bytes):
            if start:
                await asyncio.sleep(0)
            self._conversation.hear(pcm[start : start + piece_bytes])

    # --- the rest: each at once ---------------------------------------------------------------------------------------

    @singledispatchmethod
    def _execute(self, event: Any) -> None:
        raise NotImplementedError(type(event).__name__)

    @_execute.register
    def _(self, event: client_events.UpdateSession) -> None:
        updated = self.session.updated(event.session)
        self._conversation.update(updated.settings)
        self.session = updated
        shown = updated.as_json()
        if updated.extended:
            asked = event.session.model_dump(exclude_unset=True)
            shown["antiphon"] = {"not_in_force": not_in_force(asked, shown)}
        self._send(server_event("session.updated", session=shown))

    @_execute.register
    def _(self, event: client_events.CommitAudio) -> None:
        self._conversation.commit_audio()

    @_execute.register
    def _(self, event: client_events.ClearAudio) -> None:
        self._conversation.clear_audio()

    @_execute.register
    def _(self, event: client_events.CreateItem) -> None:
        self._conversation.add_item(to_item(event.item), event.previous_item_id)

    @_execute.register
    def _(self, event: client_events.RetrieveItem) -> None:
        item = self._conversation.history.get(event.item_id)
        if item is None:
            raise ClientError("item_retrieve_invalid_item_id", "There is no item of this id.", param="item_id")
        shown = item_json(item, transcription=self.session.settings.transcription)
        self._send(server_event("conversation.item.retrieved", item=shown))

    @_execute.register
    def _(self, event: client_events.DeleteItem) -> None:
        self._conversation.delete_item(event.item_id)

    @_execute.register
    def _(self, event: client_events.TruncateItem) -> None:
        self._conversation.truncate_item(event.item_id, event.audio_end_ms)

    @_execute.register
    def _(self, event: client_events.CreateResponse) -> None:
        if self.session.kind == "transcription":
            raise ClientError("invalid_value", "This session only transcribes; open one without intent=transcription.")
        self._conversation.respond(self._options(event.response or client_events.ResponseUpdate()))

    @_execute.register
    def _(self, event: client_events.CancelResponse) -> None:
        self._conversation.cancel_response(event.response_id)

    def _options(self, update: client_events.ResponseUpdate) -> ResponseOptions:
        unknown = [name for name, value in (update.model_extra or {}).items() if value is not None]
        if unknown:
            name = unknown[0]
            raise ClientError("unsupported_parameter", f"'{name}' is not supported here.", param=f"response.{name}")
        return ResponseOptions(
            instructions=update.instructions,
            tools=functions(update.tools) if update.tools is not None else None,
            tool_choice=update.tool_choice,
            max_output_tokens=token_limit(update.max_output_tokens),
            audio_output=update.output_modalities == ["audio"] if update.output_modalities is not None else None,
            voice=self._voice(update),
            metadata=update.metadata,
        )

    def _voice(self, update: client_events.ResponseUpdate) -> str | None:
        """The voice of one reply: one of the session's model, for a reply does not change the model."""
        session, output = self.session, update.audio.output if update.audio is not None else None
        if output is None:
            return None
        asked = output.format.model_dump(exclude_unset=True) if output.format is not None else {}
        if not_in_force(asked, session.output_format.as_json()):
            raise ClientError(
                "invalid_value", "A reply has the session's format.", param="response.audio.output.format"
            )
        if output.voice is None:
            return None
        found = session.names.voice(output.voice, session.settings.voice_model)
        if found is None or found[0] != session.names.model("tts", session.settings.voice_model):
            raise ClientError(
                "invalid_value", "The session's model has no such voice.", param="response.audio.output.voice"
            )
        return found[1] or None
