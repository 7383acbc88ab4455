"""The voice: replies spoken by whatever worker there is, and by another one when that one fails."""

import asyncio
import logging
import uuid
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import grpc

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.frames import SAMPLE_BYTES
from antiphon.contracts.status import from_call
from antiphon.contracts.v1 import synthesis_pb2 as pb
from antiphon.contracts.v1.synthesis_pb2_grpc import SpeechSynthesisStub
from antiphon.conversation.ports import (
    ClauseBegins,
    ClauseWords,
    ModelLoading,
    SpeechAudio,
    SpeechPart,
    SpokenWord,
    SynthesisRequest,
)
from antiphon.orchestrator.workers.fleet import Choice, Fleet, Tries, Wanted

LEAD_MS = 2000
"""How far a worker may run ahead of what was played."""
LEAD_MARGIN_MS = 500
"""A worker that is nearer than this to its lead's end owes nothing."""
SURE_CHARS = 320
"""So much text holds a whole clause, whatever is in it: the worker cuts at 300 at the latest."""
TEXT_CHARS = 65_536
"""The most text in one message."""
PARTS = 64
"""Parts that wait for the consumer; then the worker waits."""
CONTROL_S = 0.5
CONTROL_AGAIN_S = 0.1
CLOSE_S = 1.0

Action = pb.ControlRequest.Action
logger = logging.getLogger(__name__)


class RoutedSynthesiser:
    """Speaks by the workers of a fleet. A `conversation.ports.Synthesiser`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def open(self, request: SynthesisRequest) -> "RoutedSynthesisStream":
        """Begin a reply; connects in the background. Needs a running loop; `aclose` it in the end."""
        return RoutedSynthesisStream(self._fleet, request)


@dataclass(eq=False, slots=True)
class _Speaker:
    """One worker's stream within a reply: what it was given, and what came of it."""

    stub: SpeechSynthesisStub
    choice: Choice
    text_offset: int
    """Where its text begins in the reply's."""
    first_index: int
    """The index of its first clause in the reply."""
    sent_chars: int
    sent_flushes: int
    stream_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    sent_end: bool = False
    sent_played: int = 0
    is_over: bool = False
    paused: bool = False
    received_samples: int = 0
    clause: ClauseBegins | None = None
    clause_position: int = 0
    deadline: asyncio.Timeout | None = None
    overdue_is_set: bool = False


class RoutedSynthesisStream:
    """One reply. A `conversation.ports.SynthesisStream`.

    All the text is kept until the end, so that a worker that fails is replaced by one that is given the text from the
    start of the clause that was incomplete. Its clauses and offsets are told as those of the reply.
    """

    def __init__(self, fleet: Fleet, request: SynthesisRequest) -> None:
        self._fleet = fleet
        self._request = request
        self._text = ""
        self._flushes: list[int] = []
        self._ended = self._paused = self._closed = False
        self._resume_offset = self._resume_index = 0
        self._furthest_index = -1
        self._played_samples = 0
        self._handed_out_samples = 0
        self._audible: _Speaker | None = None  # whose audio the consumer takes
        self._audible_from_samples = 0  # where it begins in all that was handed out
        self._speaker: _Speaker | None = None  # who is registered now
        self._changed = asyncio.Event()
        self._steered = asyncio.Event()
        self._parts: asyncio.Queue[tuple[_Speaker, SpeechPart] | ModelLoading | AntiphonError | None] = asyncio.Queue(
            PARTS
        )
        self._task = asyncio.create_task(self._run(), name="synthesis")

    # --- what the conversation says -----------------------------------------------------------------------------------

    def push_text(self, text: str) -> None:
        """More text, in any pieces. Never blocks."""
        self._text += text
        self._note_change()

    def flush(self) -> None:
        """Speak what is pending now, complete clause or not."""
        self._flushes.append(len(self._text))
        self._note_change()

    def end(self) -> None:
        """No more text."""
        self._ended = True
        self._note_change()

    def played(self, samples: int) -> None:
        """The playout position, from the reply's start; what became void counts as played."""
        self._played_samples = max(self._played_samples, samples)
        self._note_change()

    def pause(self) -> None:
        """Tell the worker to hold. Never blocks; idempotent."""
        self._paused = True
        self._steered.set()
        self._reconsider()

    def resume(self) -> None:
        """Tell the worker to go on. Never blocks; idempotent."""
        self._paused = False
        self._steered.set()
        self._reconsider()

    async def parts(self) -> AsyncIterator[SpeechPart]:
        """Audio and what belongs to it; ends after the last frame, and after `aclose`.

        Raises:
            AntiphonError: when no worker could speak it to the end.
        """
        while (item := await self._parts.get()) is not None:
            if isinstance(item, AntiphonError):
                raise item
            if isinstance(item, ModelLoading):
                yield item
                continue
            speaker, part = item
            if speaker is not self._audible:
                self._audible, self._audible_from_samples = speaker, self._handed_out_samples
            if isinstance(part, SpeechAudio):
                self._handed_out_samples += len(part.pcm) // SAMPLE_BYTES
            yield part

    async def aclose(self) -> None:
        """Stop it, at the worker too, and let go. Idempotent, bounded."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._speaker is not None:
                await self._control(self._speaker, Action.STOP)
        finally:
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=CLOSE_S)
            while not self._parts.empty():
                self._parts.get_nowait()
            self._parts.put_nowait(None)

    # --- the reply's own task -----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        wanted = Wanted("tts", self._request.model, self._request.session_id, self._request.fallback)
        steering = asyncio.create_task(self._steer(), name="synthesis-steer")
        try:
            await self._fleet.serve(wanted, self._speak, self._parts.put)
            await self._parts.put(None)
        except AntiphonError as error:
            await self._parts.put(error)
        except Exception:
            logger.exception("synthesis stream failed", extra={"session_id": self._request.session_id})
            await self._parts.put(AntiphonError(Reason.INTERNAL, "The reply could not be spoken: see the log."))
        finally:
            steering.cancel()
            await asyncio.wait((steering,), timeout=CLOSE_S)

    async def _speak(self, choice: Choice, tries: Tries) -> None:
        """Let one worker speak what is not spoken yet."""
        with self._fleet.channels.use(choice.candidate.address) as channel:
            speaker = _Speaker(
                stub=SpeechSynthesisStub(channel),  # type: ignore[no-untyped-call]
                choice=choice,
                text_offset=self._resume_offset,
                first_index=self._resume_index,
                sent_chars=self._resume_offset,
                sent_flushes=bisect_right(self._flushes, self._resume_offset),
            )
            call = speaker.stub.Synthesize(self._requests(speaker), metadata=self._fleet.channels.metadata)
            try:
                await self._register(speaker, call)
                await self._receive(speaker, call, tries)
            except grpc.RpcError as error:
                self._leave(speaker, translated := from_call(error))
                if not self._is_spoken:
                    raise translated from error
            finally:
                self._speaker = None
                call.cancel()
                speaker.is_over = True  # gRPC leaves the requests of a call that has failed waiting for ever
                self._changed.set()

    async def _register(self, speaker: _Speaker, call: grpc.aio.StreamStreamCall) -> None:
        try:
            async with asyncio.timeout(self._fleet.deadlines.register_s * speaker.choice.patience):
                await call.initial_metadata()
        except TimeoutError:
            raise AntiphonError(Reason.TIMEOUT, "The worker did not take the stream in time.") from None
        self._speaker = speaker
        self._steered.set()

    async def _receive(self, speaker: _Speaker, call: grpc.aio.StreamStreamCall, tries: Tries) -> None:
        try:
            async with asyncio.timeout(None) as speaker.deadline:
                self._reconsider()
                async for response in call:
                    if response.WhichOneof("kind") == "summary":
                        break
                    for part in self._taken(speaker, response, tries):
                        await self._parts.put((speaker, part))
                    speaker.overdue_is_set = False
                    self._reconsider()
                else:
                    raise AntiphonError(Reason.WORKER_LOST, "The worker ended the stream before the reply's end.")
        except TimeoutError:
            raise AntiphonError(Reason.TIMEOUT, "The worker owed audio and gave none in time.") from None
        finally:
            speaker.deadline = None
        if response.summary.stopped and not self._closed:
            raise AntiphonError(Reason.WORKER_LOST, "The worker stopped the reply without being told to.")

    def _taken(self, speaker: _Speaker, response: pb.SynthesizeResponse, tries: Tries) -> Iterator[SpeechPart]:
        """What a worker's message means for the reply."""
        if response.WhichOneof("kind") == "words":
            yield _spoken_words(speaker, response.words)
            return
        audio = response.audio
        if audio.HasField("clause"):
            speaker.clause = ClauseBegins(
                speaker.first_index + audio.clause.index,
                speaker.text_offset + audio.clause.text_start,
                speaker.text_offset + audio.clause.text_end,
            )
            speaker.clause_position = audio.position_samples
            if speaker.clause.index > self._furthest_index:  # the same clause again is no progress
                self._furthest_index = speaker.clause.index
                tries.progress()
            self._resume_offset, self._resume_index = speaker.clause.text_start, speaker.clause.index
            yield speaker.clause
        speaker.received_samples += len(audio.pcm) // SAMPLE_BYTES
        yield SpeechAudio(audio.pcm)

    def _leave(self, speaker: _Speaker, error: AntiphonError) -> None:
        """A worker that drains leaves between two clauses: what it began is whole."""
        if error.reason is Reason.DRAINING and speaker.clause is not None:
            self._resume_offset, self._resume_index = speaker.clause.text_end, speaker.clause.index + 1

    @property
    def _is_spoken(self) -> bool:
        return self._ended and not self._text[self._resume_offset :].strip()

    # --- what the worker is told --------------------------------------------------------------------------------------

    async def _requests(self, speaker: _Speaker) -> AsyncIterator[pb.SynthesizeRequest]:
        request = self._request
        yield pb.SynthesizeRequest(
            config=pb.SynthesisConfig(
                stream_id=speaker.stream_id,
                session_id=request.session_id,
                model=speaker.choice.model,
                digest=speaker.choice.candidate.digest,
                voice="" if speaker.choice.is_fallback else request.voice,
                language=request.language,
                sample_rate_hz=request.sample_rate_hz,
                speed=request.speed,
                style=request.style,
                max_lead_ms=LEAD_MS,
            )
        )
        while not speaker.is_over:
            self._changed.clear()
            for message in self._due(speaker):
                yield message
            await self._changed.wait()

    def _due(self, speaker: _Speaker) -> Iterator[pb.SynthesizeRequest]:
        """What this worker was not told yet."""
        while speaker.sent_flushes < len(self._flushes) or speaker.sent_chars < len(self._text):
            flush = self._flushes[speaker.sent_flushes] if speaker.sent_flushes < len(self._flushes) else None
            end = min(len(self._text) if flush is None else flush, speaker.sent_chars + TEXT_CHARS)
            if end > speaker.sent_chars:
                text, speaker.sent_chars = self._text[speaker.sent_chars : end], end
                yield pb.SynthesizeRequest(text=pb.TextInput(text=text))
            if end == flush:
                speaker.sent_flushes += 1
                yield pb.SynthesizeRequest(flush=pb.Flush())
        if self._ended and not speaker.sent_end:
            speaker.sent_end = True
            yield pb.SynthesizeRequest(end=pb.EndOfText())
        position = self._played_of(speaker)
        if position > speaker.sent_played:
            speaker.sent_played = position
            yield pb.SynthesizeRequest(played=pb.Played(position_samples=position))

    def _played_of(self, speaker: _Speaker) -> int:
        """The playout position in this worker's own stream."""
        return max(0, self._played_samples - self._audible_from_samples) if speaker is self._audible else 0

    async def _steer(self) -> None:
        """Make the registered worker hold or go on, as the conversation wants it."""
        while True:
            self._steered.clear()
            speaker, wanted = self._speaker, self._paused
            if speaker is None or speaker.paused == wanted:
                await self._steered.wait()
            elif await self._control(speaker, Action.PAUSE if wanted else Action.RESUME):
                speaker.paused = wanted
            else:
                await asyncio.sleep(CONTROL_AGAIN_S)

    async def _control(self, speaker: _Speaker, action: "pb.ControlRequest.Action") -> bool:
        """Whether the worker took it; a stream that has ended took all there is to take."""
        request = pb.ControlRequest(stream_id=speaker.stream_id, action=action)
        try:
            await speaker.stub.Control(request, timeout=CONTROL_S, metadata=self._fleet.channels.metadata)
        except grpc.RpcError as error:
            reason = from_call(error).reason
            if reason is not Reason.STREAM_UNKNOWN:
                logger.info("control did not reach the worker", extra={"action": action, "reason": reason.value})
                return False
        return True

    # --- deadlines ----------------------------------------------------------------------------------------------------

    def _note_change(self) -> None:
        self._changed.set()
        self._reconsider()

    def _reconsider(self) -> None:
        """Set the clock on the worker when it owes audio, and stop the clock when it does not."""
        speaker = self._speaker
        if speaker is None or speaker.deadline is None or speaker.deadline.expired():
            return
        if not self._owes(speaker):
            speaker.overdue_is_set = False
            speaker.deadline.reschedule(None)
        elif not speaker.overdue_is_set:
            speaker.overdue_is_set = True
            speaker.deadline.reschedule(asyncio.get_running_loop().time() + self._patience_s(speaker))

    def _owes(self, speaker: _Speaker) -> bool:
        if self._paused or self._parts.full():
            return False
        ahead_samples = speaker.received_samples - self._played_of(speaker)
        if ahead_samples * 1000 > (LEAD_MS - LEAD_MARGIN_MS) * self._request.sample_rate_hz:
            return False
        begun = speaker.clause.text_end if speaker.clause is not None else speaker.text_offset
        flushed = bool(self._flushes) and bool(self._text[begun : self._flushes[-1]].strip())
        return self._ended or flushed or len(self._text) - begun > SURE_CHARS

    def _patience_s(self, speaker: _Speaker) -> float:
        deadlines = self._fleet.deadlines
        return speaker.choice.patience * (deadlines.stall_s if speaker.received_samples else deadlines.first_s)


def _spoken_words(speaker: _Speaker, words: pb.WordTimes) -> ClauseWords:
    """Word times of a worker's stream as those of the reply."""
    offset, position = speaker.text_offset, speaker.clause_position
    return ClauseWords(
        speaker.first_index + words.clause_index,
        tuple(
            SpokenWord(
                offset + word.text_start,
                offset + word.text_end,
                word.start_samples - position,
                word.end_samples - position,
                word.estimated,
            )
            for word in words.words
        ),
    )
