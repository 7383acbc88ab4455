"""One utterance being heard: audio in, partials while it lasts, a transcript at every pause and at the end."""

import asyncio
import math
import os.path
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from antiphon.audio.pcm import pcm_to_float
from antiphon.audio.resample import Resampler
from antiphon.contracts.adapters import AsrEngine, AsrStream, HearingRequest, Hypothesis
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.frames import SAMPLE_BYTES, WIRE_RATES_HZ
from antiphon.contracts.v1 import recognition_pb2 as pb
from antiphon.contracts.v1 import synthesis_pb2
from antiphon.telemetry.metrics import WorkerMetrics
from antiphon.worker.executor import Executor
from antiphon.worker.faults import engine_fault
from antiphon.worker.loading import LoadedModel
from antiphon.worker.models import ModelManager
from antiphon.worker.quiet import Quiet
from antiphon.worker.streams import checked_id

PARTIAL_MS = 400
"""New audio before another partial: a word or two."""
_EVEN_SILENCE_MS, _SPREAD_MS = 200.0, 150.0

Write = Callable[[pb.RecognizeResponse], Awaitable[None]]


def end_of_turn_probability(silence_ms: int) -> float:
    """How likely a speaker who fell silent has finished, by the silence alone: 0 to 1.

    A logistic curve through one half at 200 ms, the typical gap between speakers who yield (Stivers et al. 2009, over
    ten languages): 0.21 at 0 ms, 0.88 at 500. Silence alone is never sure that a speaker goes on, so this never asks a
    listener to be more patient than it is set to be.
    """
    return 1 / (1 + math.exp((_EVEN_SILENCE_MS - silence_ms) / _SPREAD_MS))


@dataclass(frozen=True, slots=True)
class RecognitionOrder:
    """What a caller asked for, checked."""

    stream_id: str
    session_id: str
    model: str
    digest: str
    hearing: HearingRequest
    rate_hz: int
    partials: bool

    @classmethod
    def of(cls, config: pb.RecognitionConfig) -> "RecognitionOrder":
        """The order that a config stands for. Raises `AntiphonError` (INVALID_REQUEST or AUDIO_FORMAT)."""
        if config.sample_rate_hz not in WIRE_RATES_HZ:
            raise AntiphonError(
                Reason.AUDIO_FORMAT, f"{config.sample_rate_hz} Hz is not heard: send one of {WIRE_RATES_HZ}."
            )
        return cls(
            stream_id=checked_id(config.stream_id),
            session_id=config.session_id,
            model=config.model,
            digest=config.digest,
            hearing=HearingRequest(config.language, config.word_times),
            rate_hz=config.sample_rate_hz,
            partials=config.partials,
        )


class Recognition:
    """One stream. `run` serves it.

    Args:
        order: What was asked for.
        models: Where its model comes from.
        hops: The threads in which engines compute.
        metrics: Where it is counted.
        max_utterance_s: How much audio one utterance may have.
        max_stream_s: After this it ends with STREAM_TOO_LONG.
    """

    def __init__(
        self,
        order: RecognitionOrder,
        models: ModelManager,
        hops: Executor,
        metrics: WorkerMetrics,
        *,
        max_utterance_s: float,
        max_stream_s: float,
    ) -> None:
        self.order = order
        self._models = models
        self._hops = hops
        self._metrics = metrics
        self._max_utterance_s = max_utterance_s
        self._max_stream_s = max_stream_s
        self._changed = asyncio.Event()
        self._pending = bytearray()  # bounded by max_utterance_s
        self._received_samples = 0
        self._quiet = Quiet(order.rate_hz)
        self._pause: pb.Pause | None = None
        self._ended_at: float | None = None
        self._ear: AsrStream | None = None
        self._resampler: Resampler | None = None
        self._partial_samples = 0
        self._partial_text = ""
        self._heard = Hypothesis("")
        self._heard_samples = 0
        self._compute_s = 0.0

    def leave(self) -> None:
        """An utterance lasts seconds and cannot be handed on half heard: it finishes within the grace."""

    async def run(self, requests: AsyncIterator[pb.RecognizeRequest], write: Write) -> None:
        """Hear what `requests` brings, until its end; the final is written last.

        Cancelling it cancels the engine's call, waits for it, and lets go of the model.

        Raises:
            AntiphonError: what the caller is to be told.
        """
        try:
            async with asyncio.timeout(self._max_stream_s), asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(self._listen(requests), name="listen")
                await self._hear(write)
                listening.cancel()
        except TimeoutError:
            raise AntiphonError(
                Reason.STREAM_TOO_LONG, f"The stream did not end within {self._max_stream_s:g} s: open another one."
            ) from None

    # --- what comes in --------------------------------------------------------------------------------------------

    async def _listen(self, requests: AsyncIterator[pb.RecognizeRequest]) -> None:
        async for request in requests:
            self._take(request)
        self._end()  # a caller that closes its side has nothing more to say

    def _take(self, request: pb.RecognizeRequest) -> None:
        kind = request.WhichOneof("kind")
        if kind == "end":
            self._end()
        elif kind in ("audio", "pause") and self._ended_at is not None:
            raise AntiphonError(Reason.INVALID_REQUEST, "The utterance was ended: open another stream for more.")
        elif kind == "audio":
            self._take_audio(request.audio.pcm)
        elif kind == "pause":
            self._pause = request.pause
            self._changed.set()
        else:
            raise AntiphonError(
                Reason.INVALID_REQUEST, f"{kind or 'A request of no known kind'} cannot come here: config comes first."
            )

    def _take_audio(self, pcm: bytes) -> None:
        if len(pcm) % SAMPLE_BYTES:
            raise AntiphonError(Reason.AUDIO_FORMAT, f"{len(pcm)} bytes are not whole 16-bit samples.")
        self._received_samples += len(pcm) // SAMPLE_BYTES
        if self._received_samples > self._max_utterance_s * self.order.rate_hz:
            raise AntiphonError(
                Reason.UTTERANCE_TOO_LONG,
                f"One utterance has at most {self._max_utterance_s:g} s: end it at a pause, and open another stream.",
            )
        self._pending += pcm
        self._quiet.hear(pcm)
        self._changed.set()

    def _end(self) -> None:
        if self._ended_at is None:
            self._ended_at = time.perf_counter()
            self._changed.set()

    # --- hearing --------------------------------------------------------------------------------------------------

    async def _hear(self, write: Write) -> None:
        async with self._models.use("asr", self.order.model, self.order.digest) as model:
            try:
                await self._hops.run(self._open_ear, model)
                await self._answer(model, write)
            except (AntiphonError, asyncio.CancelledError):
                raise
            except Exception as error:
                raise engine_fault(error, model.name) from error
            finally:
                await self._close_ear()
            self._metrics.received_audio.labels(*model.labels).inc(self._received_s)

    def _open_ear(self, model: LoadedModel) -> None:
        assert isinstance(model.engine, AsrEngine)
        self._resampler = Resampler(self.order.rate_hz, model.rate_hz)
        self._ear = model.engine.open(self.order.hearing)

    async def _close_ear(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.cancel()
            await self._hops.run_to_end(ear.close)

    async def _answer(self, model: LoadedModel, write: Write) -> None:
        """Do what is most urgent, one at a time: the end, the latest pause, a partial."""
        while True:
            self._changed.clear()
            if self._ended_at is not None:
                await write(pb.RecognizeResponse(final=await self._final(model, self._ended_at)))
                return
            if self._pause is not None:
                pause, self._pause = self._pause, None
                await write(pb.RecognizeResponse(speculative=await self._speculate(model, pause)))
            elif self._wants_partial():
                await write(pb.RecognizeResponse(partial=await self._partial()))
            else:
                await self._changed.wait()

    def _wants_partial(self) -> bool:
        """Partials never queue: they wait for a free thread, so that they delay nobody's final.

        Nor do they begin when the speaker seems to fall silent: a pause is then about to come, and an engine that hears
        a partial cannot answer it.
        """
        if not self.order.partials or not self._hops.has_free_thread or self._quiet.now:
            return False
        new_samples = self._received_samples - self._partial_samples
        return new_samples * 1000 >= PARTIAL_MS * self.order.rate_hz

    async def _final(self, model: LoadedModel, ended_at: float) -> pb.Final:
        heard = await self._whole(last=True)
        final_s = time.perf_counter() - ended_at
        self._metrics.final.labels(*model.labels).observe(final_s)
        if self._received_s:
            self._metrics.real_time_factor.labels(*model.labels).observe(self._compute_s / self._received_s)
        return pb.Final(
            transcript=self._transcript(heard, model),
            model=model.name,
            digest=model.revision,
            audio_ms=round(self._received_s * 1000),
            final_ms=round(final_s * 1000),
        )

    async def _speculate(self, model: LoadedModel, pause: pb.Pause) -> pb.SpeculativeFinal:
        heard = await self._whole(last=False)
        return pb.SpeculativeFinal(
            pause_id=pause.pause_id,
            transcript=self._transcript(heard, model),
            end_of_turn_probability=end_of_turn_probability(pause.silence_ms),
        )

    async def _partial(self) -> pb.Partial:
        self._partial_samples = self._received_samples
        audio_ms = round(self._received_s * 1000)
        heard = await self._ask(self._ear_of().partial)
        stable = len(os.path.commonprefix((self._partial_text, heard.text)))
        self._partial_text = heard.text
        return pb.Partial(
            text=heard.text,
            stable_chars=stable,
            stability=stable / len(heard.text) if heard.text else 0.0,
            audio_ms=audio_ms,
        )

    async def _whole(self, *, last: bool) -> Hypothesis:
        """The transcript of all that was received; the one before when nothing was received since."""
        if self._heard_samples != self._received_samples:
            samples = self._received_samples
            self._heard = await self._ask(self._ear_of().final, last=last)
            self._heard_samples = samples
        return self._heard

    async def _ask(self, call: Callable[[], Hypothesis], *, last: bool = False) -> Hypothesis:
        """What the engine hears in all that was received."""
        pcm = bytes(self._pending)
        self._pending.clear()
        return await self._hops.run(self._push_and, call, pcm, last, cancel=self._ear_of().cancel)

    def _push_and(self, call: Callable[[], Hypothesis], pcm: bytes, last: bool) -> Hypothesis:
        """In a thread: give the engine what came since, then ask it."""
        begun = time.perf_counter()
        assert self._resampler is not None and self._ear is not None
        self._ear.push(self._resampler.push(pcm_to_float(pcm)))
        if last:
            self._ear.push(self._resampler.flush())
        heard = call()
        self._compute_s += time.perf_counter() - begun
        return heard

    def _ear_of(self) -> AsrStream:
        assert self._ear is not None
        return self._ear

    @property
    def _received_s(self) -> float:
        return self._received_samples / self.order.rate_hz

    def _transcript(self, heard: Hypothesis, model: LoadedModel) -> pb.Transcript:
        def position(samples: int) -> int:
            return samples * self.order.rate_hz // model.rate_hz

        words = [
            synthesis_pb2.Word(
                text=heard.text[word.text_start : word.text_end],
                text_start=word.text_start,
                text_end=word.text_end,
                start_samples=position(word.start_samples),
                end_samples=position(word.end_samples),
                probability=word.probability,
            )
            for word in heard.words
        ]
        return pb.Transcript(
            text=heard.text,
            language=heard.language,
            words=words,
            mean_log_probability=heard.mean_log_probability,
            no_speech_probability=heard.no_speech_probability,
        )
