"""The ears: utterances heard by whatever worker there is, and again by another one when that one fails."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import grpc

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.frames import SAMPLE_BYTES
from antiphon.contracts.status import from_call
from antiphon.contracts.v1 import recognition_pb2 as pb
from antiphon.contracts.v1.recognition_pb2_grpc import SpeechRecognitionStub
from antiphon.conversation.ports import (
    FinalTranscript,
    PartialTranscript,
    RecognitionRequest,
    RecognitionResult,
    SpeculativeTranscript,
    Transcript,
    TranscriptWord,
)
from antiphon.orchestrator.workers.fleet import Choice, Fleet, Tries, Wanted

MESSAGE_BYTES = 65_536
"""The most audio in one message."""
LENGTH_SHARE = 0.25
"""Of the utterance's length, what a worker may take for a transcript besides its deadline."""
RESULTS = 256
"""Results that wait for the consumer; then the worker waits."""
CLOSE_S = 1.0

logger = logging.getLogger(__name__)


class RoutedRecogniser:
    """Hears by the workers of a fleet. A `conversation.ports.Recogniser`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def open(self, request: RecognitionRequest) -> "RoutedRecognitionStream":
        """Begin an utterance; connects in the background. Needs a running loop; `aclose` it in the end."""
        return RoutedRecognitionStream(self._fleet, request)


@dataclass(frozen=True, slots=True)
class _Pause:
    pause_id: int
    silence_ms: int
    at_byte: int


@dataclass(eq=False, slots=True)
class _Listener:
    """One worker's stream within an utterance: what it was told."""

    choice: Choice
    sent_bytes: int = 0
    sent_pauses: int = 0
    sent_end: bool = False
    is_over: bool = False
    deadline: asyncio.Timeout | None = None
    overdue_is_set: bool = False


class RoutedRecognitionStream:
    """One utterance. A `conversation.ports.RecognitionStream`.

    All its audio is kept until the final, so that a worker that fails is replaced by one that hears it all again,
    with the pause that was not answered and the end.
    """

    def __init__(self, fleet: Fleet, request: RecognitionRequest) -> None:
        self._fleet = fleet
        self._request = request
        self._pcm = bytearray()  # bounded by the worker: UTTERANCE_TOO_LONG
        self._pauses: list[_Pause] = []
        self._answered = 0  # how many of them need no answer any more
        self._ended = self._closed = False
        self._listener: _Listener | None = None
        self._changed = asyncio.Event()
        self._results: asyncio.Queue[RecognitionResult | AntiphonError | None] = asyncio.Queue(RESULTS)
        self._task = asyncio.create_task(self._run(), name="recognition")

    # --- what the conversation says -----------------------------------------------------------------------------------

    def push(self, pcm: bytes) -> None:
        """More audio: mono s16le at the request's rate. Never blocks."""
        self._pcm += pcm
        self._note_change()

    def pause(self, pause_id: int, silence_ms: int) -> None:
        """Say that the speaker fell silent; a `SpeculativeTranscript` of this id follows."""
        self._pauses.append(_Pause(pause_id, silence_ms, len(self._pcm)))
        self._note_change()

    def end(self) -> None:
        """Say that the utterance is over; a `FinalTranscript` follows."""
        self._ended = True
        self._note_change()

    async def results(self) -> AsyncIterator[RecognitionResult]:
        """Results as they come; ends after the final, and after `aclose`.

        Raises:
            AntiphonError: when no worker could hear it to the end.
        """
        while (result := await self._results.get()) is not None:
            if isinstance(result, AntiphonError):
                raise result
            yield result

    async def aclose(self) -> None:
        """Give it up, whatever its state. Idempotent, bounded."""
        if self._closed:
            return
        self._closed = True
        self._task.cancel()
        await asyncio.wait((self._task,), timeout=CLOSE_S)
        while not self._results.empty():
            self._results.get_nowait()
        self._results.put_nowait(None)

    # --- the utterance's own task -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        wanted = Wanted("asr", self._request.model, self._request.session_id, self._request.fallback)
        try:
            await self._fleet.serve(wanted, self._listen, self._results.put)
            await self._results.put(None)
        except AntiphonError as error:
            await self._results.put(error)
        except Exception:
            logger.exception("recognition stream failed", extra={"session_id": self._request.session_id})
            await self._results.put(AntiphonError(Reason.INTERNAL, "The utterance could not be heard: see the log."))
        finally:
            self._pcm.clear()

    async def _listen(self, choice: Choice, _: Tries) -> None:
        """Let one worker hear it all."""
        # Of several pauses only the last still wants an answer.
        listener = _Listener(choice, sent_pauses=max(self._answered, len(self._pauses) - 1))
        with self._fleet.channels.use(choice.candidate.address) as channel:
            stub = SpeechRecognitionStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Recognize(self._requests(listener), metadata=self._fleet.channels.metadata)
            try:
                await self._register(listener, call)
                self._listener = listener
                await self._receive(listener, call)
            except grpc.RpcError as error:
                raise from_call(error) from error
            finally:
                self._listener = None
                call.cancel()
                listener.is_over = True  # gRPC leaves the requests of a call that has failed waiting for ever
                self._changed.set()

    async def _register(self, listener: _Listener, call: grpc.aio.StreamStreamCall) -> None:
        try:
            async with asyncio.timeout(self._fleet.deadlines.register_s * listener.choice.patience):
                await call.initial_metadata()
        except TimeoutError:
            raise AntiphonError(Reason.TIMEOUT, "The worker did not take the stream in time.") from None

    async def _receive(self, listener: _Listener, call: grpc.aio.StreamStreamCall) -> None:
        try:
            async with asyncio.timeout(None) as listener.deadline:
                self._reconsider()
                async for response in call:
                    result = self._taken(response)
                    await self._results.put(result)
                    if isinstance(result, FinalTranscript):
                        return
                    listener.overdue_is_set = False
                    self._reconsider()
        except TimeoutError:
            raise AntiphonError(Reason.TIMEOUT, "The worker owed a transcript and gave none in time.") from None
        finally:
            listener.deadline = None
        raise AntiphonError(Reason.WORKER_LOST, "The worker ended the stream without a final transcript.")

    def _taken(self, response: pb.RecognizeResponse) -> RecognitionResult:
        kind = response.WhichOneof("kind")
        if kind == "partial":
            return PartialTranscript(response.partial.text, response.partial.stable_chars)
        if kind == "final":
            return FinalTranscript(self._transcript(response.final.transcript))
        speculative = response.speculative
        for index, pause in enumerate(self._pauses):
            if pause.pause_id == speculative.pause_id:
                self._answered = max(self._answered, index + 1)
        transcript = self._transcript(speculative.transcript)
        return SpeculativeTranscript(speculative.pause_id, transcript, speculative.end_of_turn_probability)

    def _transcript(self, heard: pb.Transcript) -> Transcript:
        rate_hz = self._request.sample_rate_hz
        return Transcript(
            text=heard.text,
            language=heard.language,
            words=tuple(
                TranscriptWord(word.text, word.start_samples / rate_hz, word.end_samples / rate_hz, word.probability)
                for word in heard.words
            ),
            mean_log_probability=heard.mean_log_probability,
            no_speech_probability=heard.no_speech_probability,
        )

    # --- what the worker is told --------------------------------------------------------------------------------------

    async def _requests(self, listener: _Listener) -> AsyncIterator[pb.RecognizeRequest]:
        request = self._request
        yield pb.RecognizeRequest(
            config=pb.RecognitionConfig(
                stream_id=str(uuid.uuid4()),
                session_id=request.session_id,
                model=listener.choice.model,
                digest=listener.choice.candidate.digest,
                language=request.language,
                sample_rate_hz=request.sample_rate_hz,
                partials=True,
                word_times=request.word_times,
            )
        )
        while not listener.is_over:
            self._changed.clear()
            for message in self._due(listener):
                yield message
            await self._changed.wait()

    def _due(self, listener: _Listener) -> Iterator[pb.RecognizeRequest]:
        """What this worker was not told yet."""
        while listener.sent_pauses < len(self._pauses):
            pause = self._pauses[listener.sent_pauses]
            yield from self._audio_until(listener, pause.at_byte)
            listener.sent_pauses += 1
            yield pb.RecognizeRequest(pause=pb.Pause(pause_id=pause.pause_id, silence_ms=pause.silence_ms))
        yield from self._audio_until(listener, len(self._pcm))
        if self._ended and not listener.sent_end:
            listener.sent_end = True
            yield pb.RecognizeRequest(end=pb.EndOfAudio())

    def _audio_until(self, listener: _Listener, end_byte: int) -> Iterator[pb.RecognizeRequest]:
        while listener.sent_bytes < end_byte:
            pcm = bytes(self._pcm[listener.sent_bytes : min(end_byte, listener.sent_bytes + MESSAGE_BYTES)])
            listener.sent_bytes += len(pcm)
            yield pb.RecognizeRequest(audio=pb.AudioInput(pcm=pcm))

    # --- deadlines ----------------------------------------------------------------------------------------------------

    def _note_change(self) -> None:
        self._changed.set()
        self._reconsider()

    def _reconsider(self) -> None:
        """Set the clock on the worker when it owes a transcript, and stop the clock when it does not."""
        listener = self._listener
        if listener is None or listener.deadline is None or listener.deadline.expired():
            return
        if not self._ended and self._answered == len(self._pauses):
            listener.overdue_is_set = False
            listener.deadline.reschedule(None)
        elif not listener.overdue_is_set:
            listener.overdue_is_set = True
            listener.deadline.reschedule(asyncio.get_running_loop().time() + self._patience_s(listener))

    def _patience_s(self, listener: _Listener) -> float:
        deadlines = self._fleet.deadlines
        length_s = len(self._pcm) / SAMPLE_BYTES / self._request.sample_rate_hz
        return listener.choice.patience * (deadlines.answer_s + length_s * LENGTH_SHARE)
