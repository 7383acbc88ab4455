"""What a conversation needs from outside, as Protocols: ears, a voice, a mind and a clock.

The orchestrator implements them over gRPC and HTTP; `antiphon.testing` implements them as fakes with scripted delays.
A stream is opened without waiting; whatever goes wrong later is raised by its iterator as `AntiphonError`.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from antiphon.conversation.items import Item


class Clock(Protocol):
    """Monotonic time, in seconds."""

    def now(self) -> float:
        """The present moment."""
        ...

    async def sleep_until(self, deadline: float) -> None:
        """Wait for a moment; returns at once when it has passed."""
        ...


class LoopClock:
    """The running event loop's own time: real in production, virtual under a virtual-time loop."""

    def now(self) -> float:
        """The loop's time."""
        return asyncio.get_running_loop().time()

    async def sleep_until(self, deadline: float) -> None:
        """Sleep, or only yield to other tasks when the deadline has passed."""
        await asyncio.sleep(max(0.0, deadline - self.now()))


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """No worker holds the model that was asked for; one was asked to load it."""

    model: str
    progress: float
    """0 to 1."""
    fallback: str = ""
    """The model that serves this stream meanwhile; empty: the stream waits."""


# --- ears -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecognitionRequest:
    """One utterance to be heard."""

    session_id: str
    model: str
    """A name or alias; `default` is the assistant's or the cluster's."""
    language: str = ""
    sample_rate_hz: int = 16_000
    word_times: bool = False
    fallback: str = ""
    """The model that hears it when no worker holds the first; empty: it waits."""


@dataclass(frozen=True, slots=True)
class TranscriptWord:
    """One word and when it was said, in seconds from the utterance's start."""

    text: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard."""

    text: str
    language: str = ""
    words: tuple[TranscriptWord, ...] = ()
    mean_log_probability: float = 0.0
    no_speech_probability: float = 0.0


@dataclass(frozen=True, slots=True)
class PartialTranscript:
    """What was heard up to now; its first `stable_chars` code points agree with the partial before."""

    text: str
    stable_chars: int


@dataclass(frozen=True, slots=True)
class SpeculativeTranscript:
    """The answer to a `pause`: the transcript if the speaker has finished, and how likely that is (0 to 1)."""

    pause_id: int
    transcript: Transcript
    end_of_turn_probability: float


@dataclass(frozen=True, slots=True)
class FinalTranscript:
    """The last result of an utterance."""

    transcript: Transcript


RecognitionResult = PartialTranscript | SpeculativeTranscript | FinalTranscript | ModelLoading


class RecognitionStream(Protocol):
    """One utterance being heard. The implementation keeps its audio until the final, to replay it elsewhere."""

    def push(self, pcm: bytes) -> None:
        """More audio: mono s16le at the request's rate. Never blocks."""
        ...

    def pause(self, pause_id: int, silence_ms: int) -> None:
        """Say that the speaker fell silent; a `SpeculativeTranscript` of this id follows."""
        ...

    def end(self) -> None:
        """Say that the utterance is over; a `FinalTranscript` follows."""
        ...

    def results(self) -> AsyncIterator[RecognitionResult]:
        """Results as they come; ends after the final. Raises `AntiphonError` when no recogniser can be had."""
        ...

    async def aclose(self) -> None:
        """Give it up, whatever its state. Idempotent."""
        ...


class Recogniser(Protocol):
    """Opens recognition streams."""

    def open(self, request: RecognitionRequest) -> RecognitionStream:
        """Begin an utterance; connects in the background."""
        ...


# --- voice ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SynthesisRequest:
    """One reply to be spoken."""

    session_id: str
    model: str
    """A name or alias; `default` is the assistant's or the cluster's."""
    voice: str = ""
    language: str = ""
    sample_rate_hz: int = 24_000
    speed: float = 1.0
    style: str = ""
    fallback: str = ""
    """The model that speaks, with its own first voice, when no worker holds the first; empty: the reply waits."""


@dataclass(frozen=True, slots=True)
class ClauseBegins:
    """Audio of a new clause follows; offsets are code points of all the text pushed.

    After a worker was replaced, a clause may begin a second time: audio of it that was not played yet is void, and so
    is all that came after it.
    """

    index: int
    text_start: int
    text_end: int


@dataclass(frozen=True, slots=True)
class SpeechAudio:
    """Whole 20 ms frames, mono s16le at the request's rate, in the order in which they are to be played."""

    pcm: bytes


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """One word and when it sounds: offsets in all the text pushed, samples from the start of its clause's audio."""

    text_start: int
    text_end: int
    start_samples: int
    end_samples: int
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class ClauseWords:
    """Word times of a clause, or of a part of it. They come after the clause began, perhaps after some of its audio."""

    clause_index: int
    words: tuple[SpokenWord, ...]


SpeechPart = ClauseBegins | SpeechAudio | ClauseWords | ModelLoading


class SynthesisStream(Protocol):
    """One reply being spoken. The implementation moves it to another worker when its own dies."""

    def push_text(self, text: str) -> None:
        """More text, in any pieces. Never blocks."""
        ...

    def flush(self) -> None:
        """Speak what is pending now, complete clause or not."""
        ...

    def end(self) -> None:
        """No more text."""
        ...

    def played(self, samples: int) -> None:
        """The playout position, from the reply's start: lets the worker run on. Cheap; call it every few frames.

        It counts all audio that came: what became void because its clause began a second time counts as played.
        """
        ...

    def parts(self) -> AsyncIterator[SpeechPart]:
        """Audio and what belongs to it; ends after the last frame. Raises `AntiphonError` when no voice can be had."""
        ...

    def pause(self) -> None:
        """Tell the worker to hold. Never blocks; idempotent."""
        ...

    def resume(self) -> None:
        """Tell the worker to go on. Never blocks; idempotent."""
        ...

    async def aclose(self) -> None:
        """Stop it (STOP to the worker, if it still runs) and let go. Idempotent."""
        ...


class Synthesiser(Protocol):
    """Opens synthesis streams."""

    def open(self, request: SynthesisRequest) -> SynthesisStream:
        """Begin a reply; connects in the background."""
        ...


# --- mind -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the client offers; its call is passed through to the client."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """What a responder is asked."""

    session_id: str
    history: Sequence[Item]
    instructions: str = ""
    tools: Sequence[Tool] = ()
    tool_choice: str | dict[str, Any] = "auto"
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the reply's text."""

    text: str


@dataclass(frozen=True, slots=True)
class FunctionCallDelta:
    """A piece of a function call; the first of a `call_id` carries the name."""

    call_id: str
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """How the reply ended: what it cost, where the responder says so; the last part."""

    input_tokens: int = 0
    output_tokens: int = 0
    truncated: bool = False
    """The reply was cut at the limit of output tokens."""


ReplyPart = TextDelta | FunctionCallDelta | Usage


class Responder(Protocol):
    """Thinks of what to say."""

    def respond(self, request: ReplyRequest) -> AsyncIterator[ReplyPart]:
        """The reply, as it is thought of. Cancelling the consumer cancels the request at its server.

        Raises `AntiphonError` (`RESPONDER_FAILED` or `TIMEOUT`) when it cannot.
        """
        ...


class Ownership(Protocol):
    """Whether the conversation is ours to answer in: another process may go on with it, and never do both answer."""

    @property
    def confirmed(self) -> bool:
        """Whether it may be answered in now."""
        ...

    async def wait_confirmed(self) -> None:
        """Wait until it may be; for ever when it is another's."""
        ...


class Alone:
    """A conversation that nobody else could go on with."""

    confirmed = True

    async def wait_confirmed(self) -> None:
        """Return at once."""


@dataclass(frozen=True, slots=True)
class Ports:
    """All that a conversation needs."""

    recogniser: Recogniser
    synthesiser: Synthesiser
    responder: Responder
    clock: Clock = field(default_factory=LoopClock)
    ownership: Ownership = field(default_factory=Alone)
