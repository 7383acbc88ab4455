"""What a client may send, decoded and validated; what is wrong is a `ClientError` that names the place."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from antiphon.conversation.engine import ClientError
from antiphon.orchestrator.transports.websocket.item_json import NewItem, Text
from antiphon.orchestrator.transports.websocket.session_update import (
    FormatUpdate,
    Modalities,
    SessionUpdate,
    TokenLimit,
    ToolChoice,
    ToolUpdate,
    VoiceName,
)


class ClientEvent(BaseModel):
    """What every client event has."""

    model_config = ConfigDict(frozen=True)

    event_id: str | None = Field(default=None, max_length=512)


class UpdateSession(ClientEvent):
    """`session.update`."""

    session: SessionUpdate


class AppendAudio(ClientEvent):
    """`input_audio_buffer.append`: base64, in the session's input format."""

    audio: str


class CommitAudio(ClientEvent):
    """`input_audio_buffer.commit`."""


class ClearAudio(ClientEvent):
    """`input_audio_buffer.clear`."""


class CreateItem(ClientEvent):
    """`conversation.item.create`."""

    item: NewItem
    previous_item_id: str | None = None


class RetrieveItem(ClientEvent):
    """`conversation.item.retrieve`."""

    item_id: str


class DeleteItem(ClientEvent):
    """`conversation.item.delete`."""

    item_id: str


class TruncateItem(ClientEvent):
    """`conversation.item.truncate`."""

    item_id: str
    content_index: Literal[0] = 0
    audio_end_ms: int = Field(ge=0)


class ResponseOutput(BaseModel):
    """How one reply sounds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    voice: VoiceName | None = None
    format: FormatUpdate | None = None
    """Only the session's own: a client reads all replies alike."""


class ResponseAudio(BaseModel):
    """How one reply sounds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: ResponseOutput | None = None


class ResponseUpdate(BaseModel):
    """What one `response.create` asks to be different. Other fields are refused by name: nothing would show them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    conversation: Literal["auto"] | None = None
    instructions: Text | None = None
    tools: list[ToolUpdate] | None = Field(default=None, max_length=256)
    tool_choice: ToolChoice | None = None
    max_output_tokens: TokenLimit | None = None
    output_modalities: Modalities | None = None
    audio: ResponseAudio | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=16)


class CreateResponse(ClientEvent):
    """`response.create`."""

    response: ResponseUpdate | None = None


class CancelResponse(ClientEvent):
    """`response.cancel`."""

    response_id: str | None = None


CLIENT_EVENTS: dict[str, type[ClientEvent]] = {
    "session.update": UpdateSession,
    "input_audio_buffer.append": AppendAudio,
    "input_audio_buffer.commit": CommitAudio,
    "input_audio_buffer.clear": ClearAudio,
    "conversation.item.create": CreateItem,
    "conversation.item.retrieve": RetrieveItem,
    "conversation.item.delete": DeleteItem,
    "conversation.item.truncate": TruncateItem,
    "response.create": CreateResponse,
    "response.cancel": CancelResponse,
}

_CODES = {"missing": "missing_required_parameter"}


class InvalidEvent(ClientError):
    """A client event that cannot be taken, with the event's own id where it has one."""

    def __init__(self, code: str, message: str, *, param: str | None = None, event_id: str | None = None) -> None:
        super().__init__(code, message, param=param)
        self.event_id = event_id


def decode(message: str) -> ClientEvent:
    """The event in a text message. Raises `InvalidEvent`."""
    try:
        raw = from_json(message)  # refuses halves of characters, which could not be written anywhere
    except ValueError:
        raise InvalidEvent("invalid_json", "A text message is one JSON object; this one is not JSON.") from None
    if not isinstance(raw, dict):
        raise InvalidEvent("invalid_json", "A text message is one JSON object.")
    event_id = raw.get("event_id")
    event_id = event_id if isinstance(event_id, str) else None
    type_ = raw.get("type")
    kind = CLIENT_EVENTS.get(type_) if isinstance(type_, str) else None
    if kind is None:
        raise InvalidEvent(
            "missing_required_parameter" if type_ is None else "invalid_value",
            f"Every event has a 'type' out of: {', '.join(CLIENT_EVENTS)}.",
            param="type",
            event_id=event_id,
        )
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise _invalid(error, event_id) from None


def _invalid(error: ValidationError, event_id: str | None) -> InvalidEvent:
    fault: Any = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    code = _CODES.get(fault["type"], "invalid_type" if fault["type"].endswith("_type") else "invalid_value")
    return InvalidEvent(code, f"Invalid '{place}': {fault['msg']}.", param=place, event_id=event_id)
