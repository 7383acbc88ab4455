"""What a client may ask of its session, as it is written on the wire.

Fields that this server does not know are kept, not refused: they are told to be not in force. A value that is invalid
for its field is refused.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from antiphon.orchestrator.transports.websocket.formats import FormatType
from antiphon.orchestrator.transports.websocket.item_json import Text


class Part(BaseModel):
    """A part of the session; `model_fields_set` tells what the client spoke of."""

    model_config = ConfigDict(extra="allow", frozen=True)


class FormatUpdate(Part):
    """An audio format."""

    type: FormatType = "audio/pcm"
    rate: int | None = None


class TurnDetectionUpdate(Part):
    """Server or semantic voice activity detection."""

    type: Literal["server_vad", "semantic_vad"]
    threshold: float | None = Field(default=None, ge=0, le=1)
    prefix_padding_ms: int | None = Field(default=None, ge=0)
    silence_duration_ms: int | None = Field(default=None, ge=0)
    create_response: bool | None = None
    interrupt_response: bool | None = None
    eagerness: Literal["low", "medium", "high", "auto"] | None = None


class TranscriptionUpdate(Part):
    """Who hears, and in which language."""

    model: str | None = None
    language: str | None = None


class InputUpdate(Part):
    """The user's audio. None is a value of its own: turn detection or transcription off."""

    format: FormatUpdate | None = None
    turn_detection: TurnDetectionUpdate | None = None
    transcription: TranscriptionUpdate | None = None


def _voice_name(value: Any) -> Any:
    return value.get("id") if isinstance(value, dict) else value


VoiceName = Annotated[str, BeforeValidator(_voice_name)]
"""A voice by its name, or as `{"id": ...}`."""


class OutputUpdate(Part):
    """The reply's audio."""

    format: FormatUpdate | None = None
    voice: VoiceName | None = None
    speed: float | None = Field(default=None, ge=0.25, le=4.0)


class AudioUpdate(Part):
    """Both directions."""

    input: InputUpdate | None = None
    output: OutputUpdate | None = None


class ToolUpdate(Part):
    """A tool; only functions are called."""

    type: str = "function"
    name: str = Field(default="", max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None


ToolChoice = Literal["auto", "none", "required"] | dict[str, Any]
TokenLimit = Literal["inf"] | Annotated[int, Field(ge=1)]
Modalities = Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=1)]
"""`["audio"]` (with its transcript) or `["text"]`; both at once is not a thing."""


class SessionUpdate(Part):
    """The `session` of a `session.update`."""

    type: Literal["realtime", "transcription"]
    instructions: Text | None = None
    tools: list[ToolUpdate] | None = Field(default=None, max_length=256)
    tool_choice: ToolChoice | None = None
    max_output_tokens: TokenLimit | None = None
    output_modalities: Modalities | None = None
    audio: AudioUpdate | None = None
