"""What can be set about a conversation. Frozen: `Conversation.update` takes a whole new one."""

from dataclasses import dataclass, field
from typing import Any

from antiphon.conversation.ports import Tool

BACKCHANNELS = {
    "en": ("mm", "mhm", "hm", "hmm", "mmhmm", "uhhuh", "uh", "um", "huh", "ah", "oh", "yeah", "yes", "yep", "yup")
    + ("right", "okay", "ok", "sure", "i see", "got it", "alright", "cool", "really", "wow", "go on"),
}
"""Short answers that encourage the speaker to go on, by language, in `normalise`d form."""


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """When a turn begins, ends, and interrupts."""

    detect: bool = True
    """False: turns are committed by the client alone."""
    create_response: bool = True
    """False: the client asks for each reply."""
    interrupt_response: bool = True
    """False: the voice is not lowered or stopped by the user's."""
    threshold: float = 0.5
    """VAD probability above which a window is voiced, 0 to 1."""
    prefix_padding_ms: int = 300
    """Audio kept from before the onset, so that no first syllable is lost."""
    silence_duration_ms: int = 500
    """Silence that ends a turn."""
    patience_ms: int = 1500
    """Silence that ends a turn even when the end-of-turn detector is sure that the user goes on."""
    pause_after_ms: int = 160
    """Silence after which the recogniser is asked for a speculative final."""
    confirm_ms: int = 64
    """Voiced audio that confirms speech and pauses a live reply: two windows of 32 ms."""
    stop_after_ms: int = 700
    """Voiced audio that is more than a backchannel, whatever its words."""
    duck_db: float = -12.0
    backchannels: tuple[str, ...] = BACKCHANNELS["en"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one session; each is announced before it acts. 0: none."""

    idle_s: float = 300.0
    """Without speech of either side."""
    session_s: float = 3600.0
    utterance_s: float = 60.0
    """An utterance this long is committed as it stands."""
    warning_s: float = 10.0
    """How long before a limit acts it is announced."""
    reply_start_s: float = 10.0
    """A responder that has not begun to answer by then has failed."""


@dataclass(frozen=True, slots=True)
class ConversationSettings:
    """All that a conversation is told about itself."""

    session_id: str
    recogniser: str = "default"
    voice_model: str = "default"
    voice: str = ""
    voice_fallback: str = ""
    """The model that speaks while no worker holds `voice_model`; empty: the reply waits."""
    recogniser_fallback: str = ""
    """The model that hears while no worker holds `recogniser`; empty: the utterance waits."""
    language: str = ""
    instructions: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    max_output_tokens: int | None = None
    audio_output: bool = True
    transcription: bool = True
    """Whether the client is told what the user said; the engine needs to know it either way."""
    input_rate_hz: int = 24_000
    output_rate_hz: int = 24_000
    speed: float = 1.0
    lead_ms: int = 60
    """How early a frame may leave: what is sent cannot be taken back. At most 100."""
    apology: str = "I am sorry, I cannot answer right now."
    """Spoken when the responder fails."""
    turns: TurnSettings = field(default_factory=TurnSettings)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class ResponseOptions:
    """What one `response.create` asks to be different; None: as the session has it."""

    instructions: str | None = None
    tools: tuple[Tool, ...] | None = None
    tool_choice: str | dict[str, Any] | None = None
    max_output_tokens: int | None = None
    audio_output: bool | None = None
    voice: str | None = None
    metadata: dict[str, str] | None = None
