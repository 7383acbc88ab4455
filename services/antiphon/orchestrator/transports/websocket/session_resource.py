"""The Realtime API's `session` object: what is in force, and how a `session.update` changes it.

What a client asks for and cannot have is left as it was: the session that `session.updated` shows is the truth.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from antiphon.contracts.adapters import Task
from antiphon.contracts.frames import WIRE_RATES_HZ
from antiphon.conversation.engine import ClientError
from antiphon.conversation.ports import Tool
from antiphon.conversation.settings import ConversationSettings, TurnSettings
from antiphon.orchestrator.transports.websocket.formats import AudioFormat
from antiphon.orchestrator.transports.websocket.session_update import (
    FormatUpdate,
    InputUpdate,
    OutputUpdate,
    SessionUpdate,
    ToolUpdate,
    TranscriptionUpdate,
    TurnDetectionUpdate,
)

REALTIME_RATE_HZ = 24_000
"""The one rate of linear PCM that stock clients know."""
G711_RATE_HZ = 8_000
LEAST_SILENCE_MS = 100
"""A turn cannot end on less."""
MOST_PADDING_MS = 2_000
"""Audio kept from before an onset."""

_EAGERNESS = {"low": (800, 2500), "medium": (500, 1500), "auto": (500, 1500), "high": (300, 800)}
"""Silence that ends a turn, and patience, in ms. Turns end by silence here: shown as the `server_vad` that it is."""


class Names(Protocol):
    """Looks up what a client's names stand for; None: nothing here."""

    def model(self, task: Task, name: str) -> str | None:
        """A model's own name."""
        ...

    def voice(self, name: str, model: str) -> tuple[str, str] | None:
        """A model and a voice of it."""
        ...


@dataclass(frozen=True, slots=True)
class SessionResource:
    """What is in force. Immutable: `updated` gives another."""

    kind: Literal["realtime", "transcription"]
    assistant: str
    settings: ConversationSettings
    names: Names
    extended: bool = False
    """The client negotiated `antiphon.v1`: rates other than 24 kHz, and the list of what is not in force."""
    input_format: AudioFormat = AudioFormat()
    output_format: AudioFormat = AudioFormat()

    @property
    def voice(self) -> str:
        """The name of the voice in force: the model's where it has no voices of its own."""
        settings = self.settings
        return settings.voice or self.names.model("tts", settings.voice_model) or settings.voice_model

    def updated(self, update: SessionUpdate) -> "SessionResource":
        """The session after an update. Raises `ClientError` for what is invalid."""
        if update.type != self.kind:
            raise ClientError("invalid_value", f"This session is of type '{self.kind}'.", param="session.type")
        session = replace(self, settings=self._with_reply(update))
        if update.audio is not None and update.audio.input is not None:
            session = session._with_input(update.audio.input)
        if update.audio is not None and update.audio.output is not None:
            session = session._with_output(update.audio.output)
        return session

    def _with_reply(self, update: SessionUpdate) -> ConversationSettings:
        """What the reply is made from; none of it concerns a session that only transcribes."""
        settings = self.settings
        if self.kind == "transcription":
            return settings
        if update.instructions is not None:
            settings = replace(settings, instructions=update.instructions)
        if update.tools is not None:
            settings = replace(settings, tools=functions(update.tools))
        if update.tool_choice is not None:
            settings = replace(settings, tool_choice=update.tool_choice)
        if "max_output_tokens" in update.model_fields_set:
            settings = replace(settings, max_output_tokens=token_limit(update.max_output_tokens))
        if update.output_modalities is not None:
            settings = replace(settings, audio_output=update.output_modalities == ["audio"])
        return settings

    def _with_input(self, update: InputUpdate) -> "SessionResource":
        settings, audio = self.settings, self._format(update.format, self.input_format)
        settings = replace(settings, input_rate_hz=audio.rate_hz)
        if "turn_detection" in update.model_fields_set:
            settings = replace(settings, turns=self._turns(update.turn_detection))
        if "transcription" in update.model_fields_set:
            settings = self._with_transcription(settings, update.transcription)
        return replace(self, settings=settings, input_format=audio)

    def _with_output(self, update: OutputUpdate) -> "SessionResource":
        audio = self._format(update.format, self.output_format)
        settings = replace(self.settings, output_rate_hz=audio.rate_hz)
        found = self.names.voice(update.voice, settings.voice_model) if update.voice is not None else None
        if found is not None:
            settings = replace(settings, voice_model=found[0], voice=found[1])
        if update.speed is not None:
            settings = replace(settings, speed=update.speed)
        return replace(self, settings=settings, output_format=audio)

    def _format(self, update: FormatUpdate | None, old: AudioFormat) -> AudioFormat:
        if update is None:
            return old
        if update.type != "audio/pcm":
            return AudioFormat(update.type, G711_RATE_HZ)
        rate_hz = update.rate or REALTIME_RATE_HZ
        possible = WIRE_RATES_HZ if self.extended else (REALTIME_RATE_HZ,)
        return AudioFormat("audio/pcm", rate_hz) if rate_hz in possible else old

    def _turns(self, update: TurnDetectionUpdate | None) -> TurnSettings:
        turns = self.settings.turns
        if update is None:
            return replace(turns, detect=False)
        wanted = {
            name: value
            for name in ("threshold", "prefix_padding_ms", "create_response", "interrupt_response")
            if (value := getattr(update, name)) is not None
        }
        if "prefix_padding_ms" in wanted:
            wanted["prefix_padding_ms"] = min(wanted["prefix_padding_ms"], MOST_PADDING_MS)
        if self.kind == "transcription":
            wanted["create_response"] = False
        silence_ms, patience_ms = turns.silence_duration_ms, turns.patience_ms
        if update.type == "semantic_vad":
            silence_ms, patience_ms = _EAGERNESS[update.eagerness or "auto"]
        elif update.silence_duration_ms is not None:
            silence_ms = max(LEAST_SILENCE_MS, update.silence_duration_ms)
        return replace(
            turns,
            detect=True,
            silence_duration_ms=silence_ms,
            patience_ms=max(patience_ms, silence_ms),
            **wanted,
        )

    def _with_transcription(
        self, settings: ConversationSettings, update: TranscriptionUpdate | None
    ) -> ConversationSettings:
        if update is None:
            return replace(settings, transcription=False)
        model = self.names.model("asr", update.model) if update.model is not None else None
        return replace(
            settings,
            transcription=True,
            recogniser=model or settings.recogniser,
            language=update.language if update.language is not None else settings.language,
        )

    # --- as it is shown -----------------------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """The session as the Realtime API writes it."""
        settings = self.settings
        common = {"id": settings.session_id, "type": self.kind, "include": None}
        if self.kind == "transcription":
            return {**common, "object": "realtime.transcription_session", "audio": {"input": self._input_json()}}
        output = {"format": self.output_format.as_json(), "voice": self.voice, "speed": settings.speed}
        return {
            **common,
            "object": "realtime.session",
            "model": self.assistant,
            "instructions": settings.instructions,
            "output_modalities": ["audio"] if settings.audio_output else ["text"],
            "tools": [_tool_json(tool) for tool in settings.tools],
            "tool_choice": settings.tool_choice,
            "max_output_tokens": settings.max_output_tokens or "inf",
            "audio": {"input": self._input_json(), "output": output},
            "tracing": None,
            "truncation": "disabled",
            "prompt": None,
        }

    def _input_json(self) -> dict[str, Any]:
        settings = self.settings
        model = self.names.model("asr", settings.recogniser) or settings.recogniser
        heard = {"model": model, **({"language": settings.language} if settings.language else {})}
        return {
            "format": self.input_format.as_json(),
            "noise_reduction": None,
            "transcription": heard if settings.transcription else None,
            "turn_detection": _turn_detection_json(settings.turns),
        }


def functions(tools: list[ToolUpdate]) -> tuple[Tool, ...]:
    """The functions among a client's tools; other kinds are not called from here.

    Raises `ClientError` for a function without a name.
    """
    found = [tool for tool in tools if tool.type == "function"]
    if any(not tool.name for tool in found):
        raise ClientError("missing_required_parameter", "A function needs a name.", param="tools.name")
    empty = {"type": "object", "properties": {}}
    return tuple(Tool(tool.name, tool.description or "", tool.parameters or empty) for tool in found)


def token_limit(value: int | Literal["inf"] | None) -> int | None:
    """A reply's bound in tokens; None: none."""
    return value if isinstance(value, int) else None


def not_in_force(asked: Mapping[str, Any], session: Mapping[str, Any], place: str = "") -> list[str]:
    """The places in a client's update, such as `audio.input.noise_reduction`, where the session says otherwise."""
    places = []
    for name, value in asked.items():
        here, shown = f"{place}{name}", session.get(name)
        if isinstance(value, Mapping) and isinstance(shown, Mapping):
            places += not_in_force(value, shown, f"{here}.")
        elif value != shown:
            places.append(here)
    return places


def _tool_json(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters}


def _turn_detection_json(turns: TurnSettings) -> dict[str, Any] | None:
    if not turns.detect:
        return None
    return {
        "type": "server_vad",
        "threshold": turns.threshold,
        "prefix_padding_ms": turns.prefix_padding_ms,
        "silence_duration_ms": turns.silence_duration_ms,
        "create_response": turns.create_response,
        "interrupt_response": turns.interrupt_response,
        "idle_timeout_ms": None,
    }
