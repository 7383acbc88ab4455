"""One reply: what a responder thinks of, spoken as it comes, paced, and stopped at any word.

A reply may begin before the turn is decided. Until `commit` it thinks and synthesises but shows nothing.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation import events
from antiphon.conversation.items import History, new_id
from antiphon.conversation.output import Output
from antiphon.conversation.playout import Playout
from antiphon.conversation.ports import (
    ClauseBegins,
    ClauseWords,
    FunctionCallDelta,
    ModelLoading,
    Ports,
    ReplyRequest,
    SpeechAudio,
    SpeechPart,
    SynthesisRequest,
    SynthesisStream,
    TextDelta,
    Usage,
)
from antiphon.conversation.spoken import SpokenText
from antiphon.conversation.timeline import Timeline

logger = logging.getLogger(__name__)

_PLAYED_EVERY_SAMPLES = 4_800
"""How often the worker is told the playout position: 100 to 200 ms, small beside its lead of 2 s."""

_CLOSE_S = 1.0
"""How long a stream may take to be stopped before it is left to its own cancellation."""


@dataclass(frozen=True, slots=True)
class ReplyPlan:
    """What one reply is to be."""

    request: ReplyRequest
    synthesis: SynthesisRequest | None
    """None: text alone."""
    generation: int
    start_timeout_s: float
    apology: str
    lead_ms: int
    metadata: dict[str, str] | None = None


class Reply:
    """One reply in the making.

    `run` ends when the last frame was sent, or when it is cancelled; `stop` shows the world how it ended, at once, and
    the caller then cancels `run`.
    """

    def __init__(
        self,
        plan: ReplyPlan,
        ports: Ports,
        history: History,
        timeline: Timeline,
        emit: Callable[[events.Event], None],
        on_audible: Callable[[], None],
    ) -> None:
        self.id = new_id("resp")
        self.timeline = timeline
        self.done = False
        self._plan = plan
        self._ports = ports
        self._on_audible = on_audible
        self._decided = asyncio.Event()
        self._committed = asyncio.Event()
        self._output = Output(self.id, history, emit, audio=plan.synthesis is not None, metadata=plan.metadata)
        self._spoken = SpokenText()
        self._shown = 0
        self._reported_samples = 0
        self._usage = Usage()
        self._error: AntiphonError | None = None
        self._stream: SynthesisStream | None = None
        self._voice_opened = asyncio.Event()
        self._voice_failed = False
        self._paused = False
        rate_hz = plan.synthesis.sample_rate_hz if plan.synthesis else 24_000
        self._playout = Playout(ports.clock, ports.ownership, rate_hz, plan.lead_ms, self._send_frame)
        self._rate_hz = rate_hz

    # --- driven by the conversation ---------------------------------------------------------------------------------

    @property
    def message_id(self) -> str | None:
        """The item that holds what is said, once there is one."""
        return None if self._output.message is None else self._output.message.id

    @property
    def position_samples(self) -> int:
        """The next sample that would leave."""
        return self._playout.sent_samples

    def commit(self) -> None:
        """The turn is decided for this reply: show what waited, and let it sound, once that is ours to do."""
        self._decided.set()
        if self._ports.ownership.confirmed:
            self._appear()

    @property
    def begun(self) -> bool:
        """Whether anything in it was heard, or is known otherwise."""
        return self._playout.sent_samples > 0 or self._output.is_begun

    def set_gain_db(self, gain_db: float) -> None:
        """Lower or restore the voice, without a click."""
        self._playout.set_gain(10 ** (gain_db / 20))

    def pause(self) -> None:
        """Hold the voice after the frame that just left."""
        self._paused = True
        self._playout.pause()
        if self._stream is not None:
            self._stream.pause()

    def resume(self) -> None:
        """Full voice again, from the next sample."""
        self._playout.set_gain(1.0)
        if self._paused:
            self._paused = False
            self._playout.resume()
            if self._stream is not None:
                self._stream.resume()

    def stop(self, reason: events.DoneReason, client_end_ms: int | None = None) -> None:
        """End it here: the history keeps what was heard. Silent for a reply that was never committed."""
        if self.done:
            return
        self.done = True
        self._playout.pause()
        if not self._output.is_shown:
            return
        if self._output.message is not None and self._plan.synthesis is not None:
            self.truncate(client_end_ms)
        elif self._output.message is not None:
            self._output.amend(self._spoken.text, "incomplete")
        self._show_done("cancelled", reason)

    def truncate(self, client_end_ms: int | None = None) -> None:
        """Make the history hold what was heard: at most what was played, and at most what the client says."""
        if self._output.message is None:
            return
        heard_samples = self._playout.heard_samples
        if client_end_ms is not None:
            heard_samples = min(heard_samples, client_end_ms * self._rate_hz // 1000)
        self._output.truncate(self._spoken.heard(heard_samples), heard_samples * 1000 // self._rate_hz)

    async def run(self) -> None:
        """Think, speak and play until the last frame was sent. Faults of its ports end it as a failed reply."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._think(), name="think")
                if self._plan.synthesis is not None:
                    tasks.create_task(self._speak(), name="speak")
                    tasks.create_task(self._play(), name="play")
                tasks.create_task(self._commit(), name="commit")
            await self._ports.ownership.wait_confirmed()
            if not self.done:
                self._end()
        finally:
            await self._close_stream()

    async def _commit(self) -> None:
        await self._decided.wait()
        await self._ports.ownership.wait_confirmed()
        if not self.done:
            self._appear()

    def _appear(self) -> None:
        if not self._output.is_shown:
            self._output.commit()
            self._committed.set()

    # --- thinking ---------------------------------------------------------------------------------------------------

    async def _think(self) -> None:
        parts = self._ports.responder.respond(self._plan.request)
        try:
            async with asyncio.timeout(self._plan.start_timeout_s) as start:
                async for part in parts:
                    if self.timeline.first_token is None:
                        self.timeline.first_token = self._ports.clock.now()
                        start.reschedule(None)
                    if self._output.is_shown:
                        await self._ports.ownership.wait_confirmed()
                    self._take(part)
        except TimeoutError:
            self._apologise(AntiphonError(Reason.TIMEOUT, "The responder did not begin to answer in time."))
        except AntiphonError as error:
            self._apologise(error)
        finally:
            aclose = getattr(parts, "aclose", None)
            if aclose is not None:
                await aclose()
        if self._output.is_shown:
            await self._ports.ownership.wait_confirmed()
        if self._error is None:
            self._output.finish_calls()
        if self._stream is not None:
            self._stream.end()
        self._voice_opened.set()

    def _take(self, part: TextDelta | FunctionCallDelta | Usage) -> None:
        match part:
            case TextDelta(text):
                self._say(text)
            case FunctionCallDelta():
                self._output.call(part)
            case Usage():
                self._usage = part

    def _say(self, text: str) -> None:
        if not text:
            return
        self._output.begin_message()
        self._spoken.push(text)
        if self._plan.synthesis is None:
            self._output.add_text(text)
            return
        if self._stream is None:
            self._stream = self._ports.synthesiser.open(self._plan.synthesis)
            self._voice_opened.set()
        self._stream.push_text(text)

    def _apologise(self, error: AntiphonError) -> None:
        self._error = error
        self._output.show(events.Problem(error, "responder"))
        if not self._spoken.text and self._plan.apology:
            self._say(self._plan.apology)

    # --- speaking ---------------------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        await self._voice_opened.wait()
        if self._stream is not None:
            try:
                async for part in self._stream.parts():
                    self._queue(part)
            except AntiphonError as error:
                self._fail_voice(error)
        self._playout.finish()

    def _queue(self, part: SpeechPart) -> None:
        match part:
            case SpeechAudio(pcm):
                if self.timeline.first_audio_ready is None:
                    self.timeline.first_audio_ready = self._ports.clock.now()
                self._playout.append(pcm)
            case ClauseBegins():
                again = self._spoken.clause_start(part.index)
                if again is not None:  # its worker was replaced: what was not sent of it is void
                    self._playout.drop_after(again)
                self._spoken.begin_clause(part, self._playout.queued_end_samples)
            case ClauseWords():
                self._spoken.add_words(part)
            case ModelLoading(model, progress, fallback):
                loading = events.Loading("tts", model, progress, fallback)
                self._output.show(loading)

    def _fail_voice(self, error: AntiphonError) -> None:
        self._error = error
        self._voice_failed = True
        self._output.show(events.Problem(error, "synthesiser"))

    async def _play(self) -> None:
        await self._committed.wait()
        await self._playout.run()

    def _send_frame(self, pcm: bytes, position: int) -> None:
        if position == 0:
            self.timeline.first_audio = self._ports.clock.now()
            self._on_audible()
        self._output.add_frame(pcm, position, self._plan.generation)
        sent = self._playout.sent_samples
        self._show(self._spoken.begun(sent))
        if self._stream is not None and sent - self._reported_samples >= _PLAYED_EVERY_SAMPLES:
            self._reported_samples = sent
            self._stream.played(sent + self._playout.dropped_samples)

    def _show(self, offset: int) -> None:
        if offset > self._shown:
            words, self._shown = self._spoken.text[self._shown : offset], offset
            self._output.add_words(words)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        self.done = True
        if self._voice_failed:
            self._output.amend(self._spoken.heard(self._playout.sent_samples), "incomplete")
        elif self._output.message is not None:
            text = self._spoken.text.rstrip()
            self._show(len(text))
            self._output.amend(text, "completed")
        if self._error is not None:
            self._show_done("failed", "error")
        elif self._usage.truncated:
            self._show_done("incomplete", "max_output_tokens")
        else:
            self._show_done("completed", "")

    def _show_done(self, status: events.DoneStatus, reason: events.DoneReason) -> None:
        self.timeline.reply_end = self._ports.clock.now()
        self._output.done(status, reason, self._usage, self._error)

    async def _close_stream(self) -> None:
        if self._stream is not None:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await self._stream.aclose()
            except TimeoutError:
                logger.warning("voice did not let go", extra={"session_id": self._plan.request.session_id})
