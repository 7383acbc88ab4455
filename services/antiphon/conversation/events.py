"""What a conversation tells its transport. One dataclass an event, in the order in which they happen.

Times in `*_ms` of the user's audio count its samples from the session's start, not the wall clock.
"""

from dataclasses import dataclass, field
from typing import Literal

from antiphon.contracts.errors import AntiphonError
from antiphon.conversation.items import FunctionCall, Item, Message
from antiphon.conversation.ports import Usage
from antiphon.conversation.states import State
from antiphon.conversation.timeline import Timeline

DoneStatus = Literal["completed", "cancelled", "failed", "incomplete"]
DoneReason = Literal["", "turn_detected", "client_cancelled", "error", "max_output_tokens"]


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The conversation went from one state to another."""

    old: State
    new: State


# --- the user -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The user speaks. While a reply is live this comes only when the reply is stopped, back-dated to the onset."""

    item_id: str
    audio_start_ms: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The user's turn ended by silence."""

    item_id: str
    audio_end_ms: int


@dataclass(frozen=True, slots=True)
class SpeechDismissed:
    """What was announced as speech proved to be none: nothing was said. No turn follows."""

    item_id: str


@dataclass(frozen=True, slots=True)
class UtteranceCommitted:
    """The user's audio became an item; its transcript follows, or came before."""

    item_id: str
    previous_item_id: str | None


@dataclass(frozen=True, slots=True)
class UtteranceCleared:
    """The audio that was not committed is forgotten."""


@dataclass(frozen=True, slots=True)
class TranscriptPartial:
    """What the user has said up to now, as far as it is understood: all of it may still be taken back."""

    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class TranscriptDelta:
    """More of what the user said: only text that will not be taken back."""

    item_id: str
    delta: str


@dataclass(frozen=True, slots=True)
class TranscriptDone:
    """All of what the user said."""

    item_id: str
    text: str
    audio_s: float


@dataclass(frozen=True, slots=True)
class TranscriptFailed:
    """No recogniser could be had for this utterance."""

    item_id: str
    error: AntiphonError


# --- items ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ItemAdded:
    """An item is in the conversation."""

    item: Item
    previous_item_id: str | None


@dataclass(frozen=True, slots=True)
class ItemDone:
    """An item has reached its last form."""

    item: Item
    previous_item_id: str | None


@dataclass(frozen=True, slots=True)
class ItemDeleted:
    """An item is gone."""

    item_id: str


@dataclass(frozen=True, slots=True)
class ItemTruncated:
    """A reply's item now holds what was heard of it."""

    item_id: str
    audio_end_ms: int
    text: str


# --- the reply ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResponseCreated:
    """A reply begins."""

    response_id: str
    metadata: dict[str, str] | None
    audio: bool
    """False: a reply in text alone."""


@dataclass(frozen=True, slots=True)
class OutputMessageStarted:
    """The reply's message begins; its content part, too."""

    response_id: str
    output_index: int
    item: Message
    previous_item_id: str | None


@dataclass(frozen=True, slots=True)
class OutputAudio:
    """One 20 ms frame, sent when its time has come (at most the configured lead early)."""

    response_id: str
    item_id: str
    output_index: int
    pcm: bytes
    position_samples: int
    """Of its first sample, from the message's start."""
    generation: int
    """Rises with every reply: a transport drops frames of an older one."""


@dataclass(frozen=True, slots=True)
class OutputTranscript:
    """Words whose audio has been sent."""

    response_id: str
    item_id: str
    output_index: int
    delta: str


@dataclass(frozen=True, slots=True)
class OutputText:
    """More of a reply in text alone."""

    response_id: str
    item_id: str
    output_index: int
    delta: str


@dataclass(frozen=True, slots=True)
class OutputMessageDone:
    """The message has reached its last form; for audio, the last frame was sent."""

    response_id: str
    output_index: int
    item: Message
    previous_item_id: str | None


@dataclass(frozen=True, slots=True)
class FunctionCallStarted:
    """The reply calls a tool."""

    response_id: str
    output_index: int
    item: FunctionCall
    previous_item_id: str | None


@dataclass(frozen=True, slots=True)
class FunctionCallArguments:
    """More of a call's arguments."""

    response_id: str
    item_id: str
    output_index: int
    call_id: str
    delta: str


@dataclass(frozen=True, slots=True)
class FunctionCallDone:
    """The call has reached its last form: one that is `completed` is the client's to carry out."""

    response_id: str
    output_index: int
    item: FunctionCall
    previous_item_id: str | None


@dataclass(frozen=True, slots=True)
class ResponseDone:
    """The reply is over."""

    response_id: str
    status: DoneStatus
    reason: DoneReason
    output: tuple[Item, ...]
    metadata: dict[str, str] | None
    audio: bool
    usage: Usage = field(default_factory=Usage)
    error: AntiphonError | None = None


@dataclass(frozen=True, slots=True)
class ReplyDucked:
    """The voice was lowered, reversibly: perhaps the user speaks."""

    response_id: str
    audio_start_ms: int


@dataclass(frozen=True, slots=True)
class ReplyPaused:
    """The voice holds, resumably: the user speaks, and it is not known yet whether to interrupt."""

    response_id: str
    position_samples: int


@dataclass(frozen=True, slots=True)
class ReplyResumed:
    """It was no interruption: the voice is back, and no word was lost."""

    response_id: str
    position_samples: int
    cause: Literal["noise", "backchannel"]


# --- the session ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """A turn is over; here is what took how long."""

    timeline: Timeline


@dataclass(frozen=True, slots=True)
class LimitNear:
    """A limit will act in so many seconds."""

    limit: Literal["idle", "session", "utterance"]
    in_s: float


@dataclass(frozen=True, slots=True)
class ConversationEnded:
    """The last event."""

    reason: Literal["closed", "idle", "session"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something failed that is nobody's answer; the session lives on."""

    error: AntiphonError
    source: Literal["recogniser", "synthesiser", "responder"]


@dataclass(frozen=True, slots=True)
class ReplyOwed:
    """A reply was asked for that is for somebody else to give: this conversation is being left."""


@dataclass(frozen=True, slots=True)
class Loading:
    """No worker held the model that this turn asked for; it is being loaded."""

    task: Literal["asr", "tts"]
    model: str
    progress: float
    """0 to 1."""
    fallback: str
    """The model that serves meanwhile; empty: the turn waits."""


Event = (
    StateChanged
    | SpeechStarted
    | SpeechStopped
    | SpeechDismissed
    | UtteranceCommitted
    | UtteranceCleared
    | TranscriptPartial
    | TranscriptDelta
    | TranscriptDone
    | TranscriptFailed
    | ItemAdded
    | ItemDone
    | ItemDeleted
    | ItemTruncated
    | ResponseCreated
    | OutputMessageStarted
    | OutputAudio
    | OutputTranscript
    | OutputText
    | OutputMessageDone
    | FunctionCallStarted
    | FunctionCallArguments
    | FunctionCallDone
    | ResponseDone
    | ReplyDucked
    | ReplyPaused
    | ReplyResumed
    | TurnCompleted
    | LimitNear
    | ConversationEnded
    | Problem
    | ReplyOwed
    | Loading
)
