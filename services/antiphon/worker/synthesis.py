"""One reply being spoken: text in, clauses, hops of an engine, frames out."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from antiphon.contracts.adapters import SpeechRequest, TtsEngine, TtsStream
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.frames import DEFAULT_RATE_HZ, SAMPLE_BYTES, WIRE_RATES_HZ
from antiphon.contracts.v1 import synthesis_pb2 as pb
from antiphon.telemetry.metrics import WorkerMetrics
from antiphon.worker.clauses import Clause, ClauseCutter
from antiphon.worker.executor import Executor
from antiphon.worker.faults import engine_fault
from antiphon.worker.loading import LoadedModel
from antiphon.worker.models import ModelManager
from antiphon.worker.outbox import Outbox
from antiphon.worker.speech import ClauseSpeech, estimated_words, wire_words
from antiphon.worker.streams import checked_id

DEFAULT_LEAD_MS = 2000
LEAD_MS = (20, 60_000)
"""What a caller may ask for: one frame to a minute."""
SPEED = (0.25, 4.0)
LAST_WORD_S = 2.0
"""How long a stopped stream waits for its caller to take the summary."""

logger = logging.getLogger(__name__)

Write = Callable[[pb.SynthesizeResponse], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SynthesisOrder:
    """What a caller asked for, checked."""

    stream_id: str
    session_id: str
    model: str
    digest: str
    speech: SpeechRequest
    rate_hz: int
    generation: int
    max_lead_ms: int

    @classmethod
    def of(cls, config: pb.SynthesisConfig) -> "SynthesisOrder":
        """The order that a config stands for.

        Raises:
            AntiphonError: INVALID_REQUEST or AUDIO_FORMAT, for a field that cannot be honoured.
        """
        rate_hz = config.sample_rate_hz or DEFAULT_RATE_HZ
        if rate_hz not in WIRE_RATES_HZ:
            raise AntiphonError(Reason.AUDIO_FORMAT, f"{rate_hz} Hz is not offered: ask for one of {WIRE_RATES_HZ}.")
        speed = config.speed or 1.0
        if not SPEED[0] <= speed <= SPEED[1]:
            raise AntiphonError(Reason.INVALID_REQUEST, f"speed must be between {SPEED[0]} and {SPEED[1]}.")
        max_lead_ms = config.max_lead_ms or DEFAULT_LEAD_MS
        if not LEAD_MS[0] <= max_lead_ms <= LEAD_MS[1]:
            raise AntiphonError(Reason.INVALID_REQUEST, f"max_lead_ms must be between {LEAD_MS[0]} and {LEAD_MS[1]}.")
        return cls(
            stream_id=checked_id(config.stream_id),
            session_id=config.session_id,
            model=config.model,
            digest=config.digest,
            speech=SpeechRequest(config.voice, config.language, speed, config.style),
            rate_hz=rate_hz,
            generation=config.generation,
            max_lead_ms=max_lead_ms,
        )


class Synthesis:
    """One stream. `run` serves it; the rest may be called from any task of the loop while it does.

    Args:
        order: What was asked for.
        models: Where its model comes from.
        hops: The threads in which engines compute.
        metrics: Where it is counted.
        max_text_chars: Code points that may be pushed in all.
        max_stream_s: After this it ends with STREAM_TOO_LONG.
    """

    def __init__(
        self,
        order: SynthesisOrder,
        models: ModelManager,
        hops: Executor,
        metrics: WorkerMetrics,
        *,
        max_text_chars: int,
        max_stream_s: float,
    ) -> None:
        self.order = order
        self._models = models
        self._hops = hops
        self._metrics = metrics
        self._max_text_chars = max_text_chars
        self._max_stream_s = max_stream_s
        self._outbox = Outbox(order.rate_hz, order.max_lead_ms, order.generation)
        self._cutter = ClauseCutter()
        self._clauses: asyncio.Queue[Clause | None] = asyncio.Queue()  # bounded by max_text_chars
        self._voice: TtsStream | None = None
        self._speaking: asyncio.Task[None] | None = None
        self._deadline: asyncio.Timeout | None = None
        self._model: LoadedModel | None = None
        self._text_ended = self._stopped = self._leaving = self._left = False
        self._held_back = False
        self._put_clauses = 0
        self._put_samples = 0
        self._compute_s = 0.0
        self._first_clause_at: float | None = None
        self._owed_since: float | None = None
        self._first_audio_ms: float | None = None

    # --- control --------------------------------------------------------------------------------------------------

    @property
    def position_samples(self) -> int:
        """The next sample that would leave."""
        return self._outbox.position_samples

    def pause(self) -> None:
        """Let no frame leave from now on. Idempotent."""
        self._held_back = self._held_back or not self._outbox.position_samples
        self._outbox.pause()

    def resume(self) -> None:
        """Go on at the next sample. Idempotent."""
        self._outbox.resume()

    def stop(self) -> None:
        """End with a summary; the engine ends within one chunk. Idempotent; holds before `run`, too."""
        self._stopped = True
        self._outbox.clear()
        if self._speaking is not None:
            self._speaking.cancel()
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time() + LAST_WORD_S)

    def leave(self) -> None:
        """End with DRAINING before the next clause."""
        self._leaving = True
        self._clauses.put_nowait(None)

    # --- the stream -----------------------------------------------------------------------------------------------

    async def run(self, requests: AsyncIterator[pb.SynthesizeRequest], write: Write) -> None:
        """Speak what `requests` brings, until the end of the text or a STOP; the summary is written last.

        Cancelling it cancels the engine, waits for its hop, and lets go of the model.

        Raises:
            AntiphonError: what the caller is to be told.
        """
        try:
            async with asyncio.timeout(self._max_stream_s) as self._deadline:
                await self._serve(requests, write)
        except TimeoutError:
            limit_s = LAST_WORD_S if self._stopped else self._max_stream_s
            raise AntiphonError(
                Reason.STREAM_TOO_LONG, f"The stream did not end within {limit_s:g} s: open another one."
            ) from None
        finally:
            self._deadline = None

    async def _serve(self, requests: AsyncIterator[pb.SynthesizeRequest], write: Write) -> None:
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(self._listen(requests), name="listen")
            self._speaking = tasks.create_task(self._speak(), name="speak")
            if self._stopped:
                self._speaking.cancel()
            while (response := await self._outbox.get()) is not None:
                await write(response)
                self._note_first_audio()
            await asyncio.wait((self._speaking,))
            if self._left:
                raise AntiphonError(
                    Reason.DRAINING, "This worker is leaving: go on from the next clause on another one."
                )
            await write(pb.SynthesizeResponse(summary=self._summary()))
            listening.cancel()

    async def _listen(self, requests: AsyncIterator[pb.SynthesizeRequest]) -> None:
        async for request in requests:
            self._take(request)
        self._end_text()  # a caller that closes its side has nothing more to say

    def _take(self, request: pb.SynthesizeRequest) -> None:
        kind = request.WhichOneof("kind")
        if kind == "played":
            self._outbox.played(request.played.position_samples)
        elif kind == "end":
            self._end_text()
        elif kind in ("text", "flush") and self._text_ended:
            raise AntiphonError(Reason.INVALID_REQUEST, "The text was ended: open another stream for more.")
        elif kind == "text":
            self._take_text(request.text.text)
        elif kind == "flush":
            self._queue(self._cutter.flush())
        else:
            raise AntiphonError(
                Reason.INVALID_REQUEST, f"{kind or 'A request of no known kind'} cannot come here: config comes first."
            )

    def _take_text(self, text: str) -> None:
        if self._cutter.pushed_chars + len(text) > self._max_text_chars:
            raise AntiphonError(
                Reason.TEXT_TOO_LONG,
                f"One stream speaks at most {self._max_text_chars} characters: spread the text over several.",
            )
        self._queue(self._cutter.push(text))

    def _end_text(self) -> None:
        if not self._text_ended:
            self._text_ended = True
            self._queue(self._cutter.flush())
            self._clauses.put_nowait(None)

    def _queue(self, clauses: list[Clause]) -> None:
        for clause in clauses:
            self._first_clause_at = self._first_clause_at or time.perf_counter()
            self._clauses.put_nowait(clause)

    # --- speaking -------------------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        async with self._models.use("tts", self.order.model, self.order.digest) as model:
            self._model = model
            try:
                await self._hops.run(self._open_voice, model)
                while (clause := await self._clauses.get()) is not None and not self._leaving:
                    self._put_clauses += 1
                    self._owed_since = self._owed_since or time.perf_counter()
                    await self._speak_clause(model, clause)
            except asyncio.CancelledError:
                if self._owed_since is not None and not self._put_samples:
                    model.tally.note_giving_up(time.perf_counter() - self._owed_since)
                raise
            except AntiphonError:
                raise
            except Exception as error:
                raise engine_fault(error, model.name) from error
            finally:
                await self._close_voice()
            if self._put_clauses and not self._put_samples:
                raise AntiphonError(Reason.ENGINE_FAULT, f"Model {model.name!r} gave no audio for this text.")
        self._left = self._leaving and not (self._text_ended and self._put_clauses == self._cutter.clauses)
        self._outbox.finish()

    def _open_voice(self, model: LoadedModel) -> None:
        assert isinstance(model.engine, TtsEngine)
        self._voice = model.engine.open(self.order.speech)

    async def _close_voice(self) -> None:
        voice, self._voice = self._voice, None
        if voice is not None:
            voice.cancel()
            await self._hops.run_to_end(voice.close)

    async def _speak_clause(self, model: LoadedModel, clause: Clause) -> None:
        assert self._voice is not None
        speech = ClauseSpeech(self._voice, clause.text, model.rate_hz, self.order.rate_hz, model.gain)
        start: pb.ClauseStart | None = pb.ClauseStart(index=clause.index, text_start=clause.start, text_end=clause.end)
        position_samples = self._put_samples
        waiting: list[pb.WordTimes] = []
        timed, last = False, False
        while not last:
            step = await self._hops.run(speech.step, cancel=self._voice.cancel)
            last = step.last
            timed = timed or bool(step.words)
            times = estimated_words(clause.text, speech.engine_samples) if last and not timed else step.words
            if times:
                rates = model.rate_hz, self.order.rate_hz
                waiting.append(wire_words(clause, times, position_samples, *rates, estimated=not timed))
            if step.frames:
                self._outbox.put_audio(step.frames, start)
                self._put_samples += len(step.frames) // SAMPLE_BYTES
                start = None
            if start is None:  # word times follow the frame that begins their clause
                for words in waiting:
                    self._outbox.put_words(words)
                waiting.clear()
            await self._outbox.room()
        self._compute_s += speech.compute_s
        if start is not None:
            self._metrics.silent_clauses.labels(*model.labels).inc()
            logger.warning("the engine gave no audio for a clause", extra={"model": model.name, "clause": clause.index})

    # --- the end --------------------------------------------------------------------------------------------------

    def _note_first_audio(self) -> None:
        """Count it, unless the caller held the first frame back: that wait is none of the model's."""
        if self._first_audio_ms is None and self._outbox.position_samples and self._first_clause_at is not None:
            self._first_audio_ms = (time.perf_counter() - self._first_clause_at) * 1000
            if self._model is not None and not self._held_back:
                self._metrics.first_audio.labels(*self._model.labels).observe(self._first_audio_ms / 1000)
                self._model.tally.note_first_audio(self._first_audio_ms)

    def _summary(self) -> pb.SynthesisSummary:
        audio_s = self._outbox.position_samples / self.order.rate_hz
        put_s = self._put_samples / self.order.rate_hz
        factor = self._compute_s / put_s if put_s else 0.0
        if self._model is not None and put_s:
            self._metrics.real_time_factor.labels(*self._model.labels).observe(factor)
            self._metrics.sent_audio.labels(*self._model.labels).inc(audio_s)
        return pb.SynthesisSummary(
            model=self._model.name if self._model else self.order.model,
            digest=self._model.revision if self._model else "",
            first_audio_ms=round(self._first_audio_ms or 0),
            audio_ms=round(audio_s * 1000),
            real_time_factor=factor,
            stopped=self._stopped,
        )
