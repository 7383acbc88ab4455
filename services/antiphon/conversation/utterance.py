"""One stretch of the user's speech, from its first voiced window to its transcript."""

import asyncio
from dataclasses import dataclass, field

from antiphon.conversation.activity import HEARING_RATE_HZ, Window
from antiphon.conversation.items import new_id
from antiphon.conversation.ports import RecognitionStream, SpeculativeTranscript
from antiphon.conversation.timeline import Timeline


@dataclass(slots=True)
class Utterance:
    """What is known of it; the conversation decides what follows from that."""

    start_samples: int
    """Of its first voiced window, at `HEARING_RATE_HZ`."""
    timeline: Timeline
    item_id: str = field(default_factory=lambda: new_id("item"))
    stream: RecognitionStream | None = None
    """Open from the moment in which speech is confirmed."""
    listener: asyncio.Task[None] | None = None
    """Takes in the stream's results."""
    announced: bool = False
    """The client knows of it. While a reply is live it does not, until the reply is stopped."""
    over: bool = False
    """The turn is decided; only the transcript is missing."""
    warned: bool = False
    voiced_ms: float = 0.0
    silence_ms: float = 0.0
    end_samples: int = 0
    """Of its last voiced window."""
    audio_bytes: int = 0
    partial: str = ""
    _resumed_ms: float = 0.0
    _pause_id: int = 0
    _pending: int | None = None
    _asked_in_silence: bool = False
    _answer: SpeculativeTranscript | None = None

    def voice(self, window: Window, resume_ms: float) -> bool:
        """Take in a voiced window; True when the user spoke on after a silence.

        One voiced window in a silence may be a click: speech has resumed after `resume_ms` of voice.
        """
        self.voiced_ms += window.duration_ms
        self.end_samples = window.end_samples
        self._resumed_ms += window.duration_ms
        if self._resumed_ms < resume_ms:
            return False
        resumed = self.silence_ms > 0
        self.silence_ms = 0.0
        if resumed:
            self._answer = self._pending = None
            self._asked_in_silence = False
        return resumed

    def hush(self, silence_ms: float) -> None:
        """Take in silence."""
        self.silence_ms += silence_ms
        self._resumed_ms = 0.0

    def hear(self, pcm: bytes) -> None:
        """Pass audio on to the recogniser, if it listens already."""
        self.audio_bytes += len(pcm)
        if self.stream is not None:
            self.stream.push(pcm)

    @property
    def asked(self) -> bool:
        """A transcript of all that was said up to the present silence was asked for, and perhaps given."""
        return self._asked_in_silence

    @property
    def pending(self) -> bool:
        """A transcript was asked for and has not come yet."""
        return self._pending is not None

    def ask(self) -> None:
        """Ask the recogniser for a transcript as if the user had finished; an earlier question is void."""
        if self.stream is not None:
            self._pause_id += 1
            self._pending = self._pause_id
            self._answer = None
            self._asked_in_silence = self.silence_ms > 0
            self.stream.pause(self._pause_id, round(self.silence_ms))

    def answered(self, answer: SpeculativeTranscript) -> bool:
        """Take in a recogniser's answer; False when it is not the one that is waited for."""
        if answer.pause_id != self._pending:
            return False
        self._pending = None
        if self._asked_in_silence:
            self._answer = answer
        return True

    @property
    def answer(self) -> SpeculativeTranscript | None:
        """The transcript of all that was said up to the present silence, if the recogniser has given it."""
        return self._answer

    @property
    def start_ms(self) -> int:
        """When it began, in the session's audio."""
        return self.start_samples * 1000 // HEARING_RATE_HZ

    @property
    def end_ms(self) -> int:
        """When it was last voiced, in the session's audio."""
        return self.end_samples * 1000 // HEARING_RATE_HZ

    @property
    def audio_s(self) -> float:
        """How much audio of it the recogniser has, in seconds."""
        return self.audio_bytes / 2 / HEARING_RATE_HZ
