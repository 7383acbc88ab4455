"""What a conversation tells, as the Realtime API's server events.

Events of our own (`antiphon.*`) are for clients that negotiated `antiphon.v1`; the others never see them.
"""

import base64
from collections.abc import Callable, Iterator
from functools import singledispatchmethod
from typing import Any

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation import events
from antiphon.conversation.engine import ClientError
from antiphon.conversation.items import new_id
from antiphon.conversation.ports import Usage
from antiphon.orchestrator.transports.websocket.item_json import item_json
from antiphon.orchestrator.transports.websocket.session_resource import SessionResource

JsonObject = dict[str, Any]

_CODES = {
    Reason.UNAUTHENTICATED: "invalid_api_key",
    Reason.MODEL_UNKNOWN: "model_not_found",
    Reason.SESSION_UNKNOWN: "session_not_found",
    Reason.WORKER_FULL: "server_full",
    Reason.DRAINING: "server_draining",
}
"""Where clients look for a word of OpenAI's, or of a transport's; else the reason itself."""


def server_event(type_: str, **fields: Any) -> JsonObject:
    """A server event with an id of its own."""
    return {"type": type_, "event_id": new_id("event"), **fields}


def error_fields(error: AntiphonError) -> JsonObject:
    """An error's type, code, message and param, as OpenAI's clients read them."""
    code = error.code if isinstance(error, ClientError) else _CODES.get(error.reason, error.reason.value)
    kind = "invalid_request_error" if error.meaning.http_status < 500 else "server_error"
    return {
        "type": kind,
        "code": code,
        "message": error.message,
        "param": error.param if isinstance(error, ClientError) else None,
    }


def error_event(error: AntiphonError, client_event_id: str | None = None) -> JsonObject:
    """An `error` event about a client's event."""
    return server_event("error", error={**error_fields(error), "event_id": client_event_id})


class ServerEvents:
    """Translates the events of one conversation; remembers only what one event needs of an earlier one."""

    def __init__(self, session: Callable[[], SessionResource], conversation_id: str, *, extended: bool) -> None:
        self._session = session
        self._conversation_id = conversation_id
        self._extended = extended
        self._response: JsonObject = {}
        self._open_speech: events.SpeechStarted | None = None

    def translate(self, event: events.Event) -> list[JsonObject]:
        """The server events that this one becomes, in order; none for what this client does not see.

        Reply audio becomes an event here; a transport with binary frames sends it by itself.
        """
        return list(self._translate(event))

    @singledispatchmethod
    def _translate(self, event: Any) -> Iterator[JsonObject]:
        raise NotImplementedError(type(event).__name__)

    def _own(self, type_: str, **fields: Any) -> Iterator[JsonObject]:
        if self._extended:
            yield server_event(f"antiphon.{type_}", **fields)

    def _item(self, item: Any) -> JsonObject:
        return item_json(item, transcription=self._session().settings.transcription)

    # --- the user -----------------------------------------------------------------------------------------------------

    @_translate.register
    def _(self, event: events.SpeechStarted) -> Iterator[JsonObject]:
        self._open_speech = event
        yield server_event(
            "input_audio_buffer.speech_started", item_id=event.item_id, audio_start_ms=event.audio_start_ms
        )

    @_translate.register
    def _(self, event: events.SpeechStopped) -> Iterator[JsonObject]:
        self._open_speech = None
        yield server_event("input_audio_buffer.speech_stopped", item_id=event.item_id, audio_end_ms=event.audio_end_ms)

    @_translate.register
    def _(self, event: events.SpeechDismissed) -> Iterator[JsonObject]:
        speech, self._open_speech = self._open_speech, None
        if speech is not None and speech.item_id == event.item_id:  # a client that was told of a start needs an end
            end = {"item_id": event.item_id, "audio_end_ms": speech.audio_start_ms}
            yield server_event("input_audio_buffer.speech_stopped", **end)
            yield server_event("input_audio_buffer.cleared")
        yield from self._own("speech.dismissed", item_id=event.item_id)

    @_translate.register
    def _(self, event: events.UtteranceCommitted) -> Iterator[JsonObject]:
        self._open_speech = None
        yield server_event(
            "input_audio_buffer.committed", item_id=event.item_id, previous_item_id=event.previous_item_id
        )

    @_translate.register
    def _(self, event: events.UtteranceCleared) -> Iterator[JsonObject]:
        yield server_event("input_audio_buffer.cleared")

    @_translate.register
    def _(self, event: events.TranscriptPartial) -> Iterator[JsonObject]:
        if self._session().settings.transcription:
            yield from self._own("transcript.partial", item_id=event.item_id, text=event.text)

    @_translate.register
    def _(self, event: events.TranscriptDelta) -> Iterator[JsonObject]:
        yield from self._transcription("delta", event.item_id, delta=event.delta)

    @_translate.register
    def _(self, event: events.TranscriptDone) -> Iterator[JsonObject]:
        usage = {"type": "duration", "seconds": round(event.audio_s, 3)}
        yield from self._transcription("completed", event.item_id, transcript=event.text, usage=usage)

    @_translate.register
    def _(self, event: events.TranscriptFailed) -> Iterator[JsonObject]:
        yield from self._transcription("failed", event.item_id, error=error_fields(event.error))

    def _transcription(self, what: str, item_id: str, **fields: Any) -> Iterator[JsonObject]:
        if self._session().settings.transcription:
            type_ = f"conversation.item.input_audio_transcription.{what}"
            yield server_event(type_, item_id=item_id, content_index=0, **fields)

    # --- items --------------------------------------------------------------------------------------------------------

    @_translate.register
    def _(self, event: events.ItemAdded) -> Iterator[JsonObject]:
        yield self._conversation_item("added", event.item, event.previous_item_id)

    @_translate.register
    def _(self, event: events.ItemDone) -> Iterator[JsonObject]:
        yield self._conversation_item("done", event.item, event.previous_item_id)

    @_translate.register
    def _(self, event: events.ItemDeleted) -> Iterator[JsonObject]:
        yield server_event("conversation.item.deleted", item_id=event.item_id)

    @_translate.register
    def _(self, event: events.ItemTruncated) -> Iterator[JsonObject]:
        yield server_event(
            "conversation.item.truncated", item_id=event.item_id, content_index=0, audio_end_ms=event.audio_end_ms
        )

    def _conversation_item(self, what: str, item: Any, previous_item_id: str | None) -> JsonObject:
        return server_event(f"conversation.item.{what}", item=self._item(item), previous_item_id=previous_item_id)

    # --- the reply ----------------------------------------------------------------------------------------------------

    @_translate.register
    def _(self, event: events.ResponseCreated) -> Iterator[JsonObject]:
        session = self._session()
        self._response = {
            "object": "realtime.response",
            "id": event.response_id,
            "conversation_id": self._conversation_id,
            "metadata": event.metadata,
            "output_modalities": ["audio"] if event.audio else ["text"],
            "max_output_tokens": session.settings.max_output_tokens or "inf",
            "audio": {"output": {"format": session.output_format.as_json(), "voice": session.voice}},
        }
        yield server_event(
            "response.created",
            response={**self._response, "status": "in_progress", "status_details": None, "output": [], "usage": None},
        )

    @_translate.register
    def _(self, event: events.OutputMessageStarted) -> Iterator[JsonObject]:
        place = self._place(event.response_id, event.item.id, event.output_index)
        yield from self._output_item_added(event)
        part = {"type": "audio", "transcript": ""} if event.item.spoken else {"type": "text", "text": ""}
        yield server_event("response.content_part.added", **place, content_index=0, part=part)

    @_translate.register
    def _(self, event: events.OutputAudio) -> Iterator[JsonObject]:
        audio = self._session().output_format.from_pcm(event.pcm)
        yield self._delta("output_audio", event, base64.b64encode(audio).decode())

    def reply_started(self, event: events.OutputAudio) -> list[JsonObject]:
        """What tells which reply the binary frames of a generation belong to; before the first of them."""
        place = self._place(event.response_id, event.item_id, event.output_index)
        return list(self._own("reply.started", **place, generation=event.generation))

    @_translate.register
    def _(self, event: events.OutputTranscript) -> Iterator[JsonObject]:
        yield self._delta("output_audio_transcript", event, event.delta)

    @_translate.register
    def _(self, event: events.OutputText) -> Iterator[JsonObject]:
        yield self._delta("output_text", event, event.delta)

    @_translate.register
    def _(self, event: events.OutputMessageDone) -> Iterator[JsonObject]:
        place = {**self._place(event.response_id, event.item.id, event.output_index), "content_index": 0}
        text = event.item.text
        if event.item.spoken:
            yield server_event("response.output_audio.done", **place)
            yield server_event("response.output_audio_transcript.done", **place, transcript=text)
            part = {"type": "audio", "transcript": text}
        else:
            yield server_event("response.output_text.done", **place, text=text)
            part = {"type": "text", "text": text}
        yield server_event("response.content_part.done", **place, part=part)
        yield from self._output_item_done(event)

    @_translate.register
    def _(self, event: events.FunctionCallStarted) -> Iterator[JsonObject]:
        yield from self._output_item_added(event)

    @_translate.register
    def _(self, event: events.FunctionCallArguments) -> Iterator[JsonObject]:
        place = self._place(event.response_id, event.item_id, event.output_index)
        yield server_event("response.function_call_arguments.delta", **place, call_id=event.call_id, delta=event.delta)

    @_translate.register
    def _(self, event: events.FunctionCallDone) -> Iterator[JsonObject]:
        call = event.item
        if call.status == "completed":
            yield server_event(
                "response.function_call_arguments.done",
                **self._place(event.response_id, call.id, event.output_index),
                call_id=call.call_id,
                name=call.name,
                arguments=call.arguments,
            )
        yield from self._output_item_done(event)

    @_translate.register
    def _(self, event: events.ResponseDone) -> Iterator[JsonObject]:
        response = {
            **self._response,
            "metadata": event.metadata,
            "status": event.status,
            "status_details": _status_details(event),
            "output": [self._item(item) for item in event.output],
            "usage": _usage(event.usage),
        }
        yield server_event("response.done", response=response)

    @_translate.register
    def _(self, event: events.ReplyDucked) -> Iterator[JsonObject]:
        yield from self._own("reply.ducked", response_id=event.response_id, audio_start_ms=event.audio_start_ms)

    @_translate.register
    def _(self, event: events.ReplyPaused) -> Iterator[JsonObject]:
        yield from self._own("reply.paused", response_id=event.response_id, position_samples=event.position_samples)

    @_translate.register
    def _(self, event: events.ReplyResumed) -> Iterator[JsonObject]:
        yield from self._own(
            "reply.resumed",
            response_id=event.response_id,
            position_samples=event.position_samples,
            cause=event.cause,
        )

    def _output_item_added(
        self, event: events.OutputMessageStarted | events.FunctionCallStarted
    ) -> Iterator[JsonObject]:
        item = self._item(event.item)
        yield server_event(
            "response.output_item.added", response_id=event.response_id, output_index=event.output_index, item=item
        )
        yield server_event("conversation.item.added", item=item, previous_item_id=event.previous_item_id)

    def _output_item_done(self, event: events.OutputMessageDone | events.FunctionCallDone) -> Iterator[JsonObject]:
        item = self._item(event.item)
        yield server_event("conversation.item.done", item=item, previous_item_id=event.previous_item_id)
        yield server_event(
            "response.output_item.done", response_id=event.response_id, output_index=event.output_index, item=item
        )

    @staticmethod
    def _place(response_id: str, item_id: str, output_index: int) -> JsonObject:
        return {"response_id": response_id, "item_id": item_id, "output_index": output_index}

    def _delta(
        self, what: str, event: events.OutputAudio | events.OutputTranscript | events.OutputText, delta: str
    ) -> JsonObject:
        place = self._place(event.response_id, event.item_id, event.output_index)
        return server_event(f"response.{what}.delta", **place, content_index=0, delta=delta)

    # --- the session --------------------------------------------------------------------------------------------------

    @_translate.register
    def _(self, event: events.StateChanged) -> Iterator[JsonObject]:
        yield from self._own("state", old=event.old.value, new=event.new.value)

    @_translate.register
    def _(self, event: events.TurnCompleted) -> Iterator[JsonObject]:
        yield from self._own("turn", timeline=event.timeline.as_dict())

    @_translate.register
    def _(self, event: events.LimitNear) -> Iterator[JsonObject]:
        yield from self._own("limit", limit=event.limit, in_s=event.in_s)

    @_translate.register
    def _(self, event: events.Problem) -> Iterator[JsonObject]:
        yield from self._own("problem", source=event.source, error=error_fields(event.error))

    @_translate.register
    def _(self, event: events.Loading) -> Iterator[JsonObject]:
        yield from self._own(
            "model.loading", task=event.task, model=event.model, progress=event.progress, fallback=event.fallback
        )

    @_translate.register
    def _(self, event: events.ConversationEnded) -> Iterator[JsonObject]:
        if event.reason != "closed":
            what = "nobody spoke for too long" if event.reason == "idle" else "it reached its longest time"
            yield error_event(ClientError("session_expired", f"The session is over: {what}."))


def _status_details(event: events.ResponseDone) -> JsonObject | None:
    """Why a response is not simply complete."""
    if event.status == "completed":
        return None
    details: JsonObject = {"type": event.status}
    if event.reason in ("turn_detected", "client_cancelled", "max_output_tokens"):
        details["reason"] = event.reason
    if event.error is not None:
        error = error_fields(event.error)
        details["error"] = {key: error[key] for key in ("type", "code", "message")}
    return details


def _usage(usage: Usage) -> JsonObject:
    """Tokens, as far as the responder counts them: text only, since no model of ours takes audio for tokens."""
    return {
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "input_token_details": {"text_tokens": usage.input_tokens, "audio_tokens": 0, "cached_tokens": 0},
        "output_token_details": {"text_tokens": usage.output_tokens, "audio_tokens": 0},
    }
