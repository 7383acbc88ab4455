"""Scripted doubles of what a conversation needs: ears, a voice and a mind with exact delays.

Time is the event loop's, so that they run in virtual time as well as in real time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from antiphon.contracts.adapters import Samples
from antiphon.contracts.errors import AntiphonError
from antiphon.contracts.frames import FRAME_MS, frame_samples
from antiphon.conversation.ports import (
    ClauseBegins,
    ClauseWords,
    FinalTranscript,
    RecognitionRequest,
    RecognitionResult,
    ReplyPart,
    ReplyRequest,
    SpeculativeTranscript,
    SpeechAudio,
    SpeechPart,
    SpokenWord,
    SynthesisRequest,
    TextDelta,
    Transcript,
)


class FakeVad:
    """Loud is speech: a window is voiced when its root mean square is above 0.05."""

    rate_hz = 16_000
    window_samples = 512

    def probability(self, window: Samples) -> float:
        """0.95 or 0.02."""
        return 0.95 if float(np.sqrt(np.mean(window**2))) > 0.05 else 0.02

    def reset(self) -> None:
        """Nothing is remembered."""


@dataclass(slots=True)
class FakeRecognitionStream:
    """Answers every pause, and the end, with its one transcript."""

    transcript: Transcript
    delay_s: float
    probability: float
    error: AntiphonError | None = None
    pcm: bytearray = field(default_factory=bytearray)
    pauses: list[int] = field(default_factory=list)
    closed: bool = False
    _due: asyncio.Queue[tuple[float, RecognitionResult]] = field(default_factory=asyncio.Queue)

    def push(self, pcm: bytes) -> None:
        """Keep it."""
        self.pcm += pcm

    def pause(self, pause_id: int, silence_ms: int) -> None:
        """Answer after the delay."""
        self.pauses.append(silence_ms)
        self._answer(SpeculativeTranscript(pause_id, self.transcript, self.probability))

    def end(self) -> None:
        """Answer after the delay."""
        self._answer(FinalTranscript(self.transcript))

    def _answer(self, result: RecognitionResult) -> None:
        self._due.put_nowait((asyncio.get_running_loop().time() + self.delay_s, result))

    async def results(self) -> AsyncIterator[RecognitionResult]:
        """Every answer when it is due, in order."""
        while True:
            due, result = await self._due.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            if self.error is not None:
                raise self.error
            yield result
            if isinstance(result, FinalTranscript):
                return

    async def aclose(self) -> None:
        """Remember that it was closed."""
        self.closed = True


class FakeRecogniser:
    """Hears what its script says: one entry an utterance, the last one again and again."""

    def __init__(
        self,
        script: Sequence[str | Transcript | AntiphonError],
        *,
        delay_s: float = 0.1,
        probability: float = 0.6,
    ) -> None:
        self.script = list(script)
        self.delay_s = delay_s
        self.probability = probability
        self.streams: list[FakeRecognitionStream] = []

    def open(self, request: RecognitionRequest) -> FakeRecognitionStream:
        """The next utterance of the script."""
        entry = self.script[min(len(self.streams), len(self.script) - 1)]
        transcript = (
            entry if isinstance(entry, Transcript) else Transcript("" if isinstance(entry, Exception) else entry)
        )
        stream = FakeRecognitionStream(transcript, self.delay_s, self.probability)
        stream.error = entry if isinstance(entry, AntiphonError) else None
        self.streams.append(stream)
        return stream


class FakeSynthesisStream:
    """Speaks every word for the same time, as a constant level that tells which word it is.

    Word number n (from 0) of the reply is a run of samples of value `LEVEL + n`.
    """

    LEVEL = 1000

    def __init__(self, request: SynthesisRequest, word_ms: int, latency_s: float, error_after: int | None) -> None:
        self.request = request
        self.text = ""
        self.closed = False
        self.controls: list[str] = []
        self.played_samples = 0
        self._word_ms = word_ms
        self._latency_s = latency_s
        self._error_after = error_after
        self._changed = asyncio.Event()
        self._ended = False
        self.error: AntiphonError | None = None

    def push_text(self, text: str) -> None:
        """More to say."""
        self.text += text
        self._changed.set()

    def flush(self) -> None:
        """Words are spoken as they come."""

    def end(self) -> None:
        """Nothing more."""
        self._ended = True
        self._changed.set()

    def played(self, samples: int) -> None:
        """Remember it."""
        self.played_samples = samples

    def pause(self) -> None:
        """Remember it."""
        self.controls.append("pause")

    def resume(self) -> None:
        """Remember it."""
        self.controls.append("resume")

    async def aclose(self) -> None:
        """Remember it."""
        self.closed = True

    async def parts(self) -> AsyncIterator[SpeechPart]:
        """One clause with its words, as fast as it is read, after the latency."""
        while not self._ended:
            self._changed.clear()
            await self._changed.wait()
        await asyncio.sleep(self._latency_s)
        words = self._words()
        yield ClauseBegins(0, 0, len(self.text))
        yield ClauseWords(0, tuple(words))
        for index, _ in enumerate(words):
            if self._error_after is not None and index >= self._error_after:
                assert self.error is not None
                raise self.error
            samples = self._word_samples
            yield SpeechAudio(np.full(samples, self.LEVEL + index, "<i2").tobytes())

    @property
    def _word_samples(self) -> int:
        return frame_samples(self.request.sample_rate_hz) * (self._word_ms // FRAME_MS)

    def _words(self) -> list[SpokenWord]:
        words, at = [], 0
        for index, word in enumerate(self.text.split()):
            start = self.text.index(word, at)
            at = start + len(word)
            words.append(SpokenWord(start, at, index * self._word_samples, (index + 1) * self._word_samples))
        return words


class FakeSynthesiser:
    """Opens `FakeSynthesisStream`s and keeps them for inspection."""

    def __init__(
        self,
        *,
        word_ms: int = 200,
        latency_s: float = 0.05,
        error: AntiphonError | None = None,
        error_after: int | None = None,
    ) -> None:
        self.word_ms = word_ms
        self.latency_s = latency_s
        self.error = error
        self.error_after = 0 if error is not None and error_after is None else error_after
        self.streams: list[FakeSynthesisStream] = []

    def open(self, request: SynthesisRequest) -> FakeSynthesisStream:
        """A fresh stream."""
        stream = FakeSynthesisStream(request, self.word_ms, self.latency_s, self.error_after)
        stream.error = self.error
        self.streams.append(stream)
        return stream


class FakeResponder:
    """Answers with a script: a text, parts, or what a function makes of the request."""

    def __init__(
        self,
        reply: str | Sequence[ReplyPart] | AntiphonError | Callable[[ReplyRequest], str],
        *,
        first_delay_s: float = 0.0,
        delay_s: float = 0.0,
    ) -> None:
        self.reply = reply
        self.first_delay_s = first_delay_s
        self.delay_s = delay_s
        self.requests: list[ReplyRequest] = []
        self.finished = 0
        self.cancelled = 0

    async def respond(self, request: ReplyRequest) -> AsyncIterator[ReplyPart]:
        """The script, word by word."""
        self.requests.append(request)
        try:
            await asyncio.sleep(self.first_delay_s)
            for part in self._parts(request):
                yield part
                await asyncio.sleep(self.delay_s)
            self.finished += 1
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise

    def _parts(self, request: ReplyRequest) -> Sequence[ReplyPart]:
        reply = self.reply(request) if callable(self.reply) else self.reply
        if isinstance(reply, AntiphonError):
            raise reply
        if isinstance(reply, str):
            return [TextDelta(word + " ") for word in reply.split()]
        return reply
