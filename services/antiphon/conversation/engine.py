"""One conversation: what the user's voice does to the reply, and what a reply does to the floor.

The user's audio drives everything, window by window, as plain calls on the event loop; tasks exist only for what is
waited for: a recogniser's results, a reply in the making, the limits, and a user whose audio has stopped coming.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Literal

from antiphon.contracts.adapters import VadStream
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation import events
from antiphon.conversation.activity import HEARING_RATE_HZ, Ear, Window
from antiphon.conversation.floor import Floor
from antiphon.conversation.hearing import Hearing
from antiphon.conversation.items import History, Item, Message, new_id
from antiphon.conversation.limits import LimitWatch
from antiphon.conversation.ports import (
    FinalTranscript,
    ModelLoading,
    PartialTranscript,
    Ports,
    RecognitionRequest,
    RecognitionResult,
    SpeculativeTranscript,
    Transcript,
)
from antiphon.conversation.settings import ConversationSettings, ResponseOptions
from antiphon.conversation.states import State, check_transition
from antiphon.conversation.timeline import Timeline
from antiphon.conversation.turns import Verdict, judge, required_silence_ms
from antiphon.conversation.utterance import Utterance

logger = logging.getLogger(__name__)

_GIVE_UP_MS = 96
"""Silence after which an unconfirmed sound is forgotten: three VAD windows."""

_ASK_AGAIN_MS = 400
"""While the user talks over a paused reply without any word being understood, how often to look again."""

_WATCH_S = 0.032
"""How often a user who sends no audio at all is looked at: one VAD window."""


class ClientError(AntiphonError):
    """A request that cannot be granted, with the `code` that Realtime clients look for."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(Reason.INVALID_REQUEST, message)
        self.code = code
        self.param = param


class Conversation:
    """Hears, takes turns, yields and speaks.

    Every call below but `run` returns at once: what follows from it comes as events, in order, through `emit`, which
    must not block either. All calls are made on the loop that runs `run`, once it has begun.
    """

    def __init__(
        self,
        settings: ConversationSettings,
        ports: Ports,
        vad: VadStream,
        emit: Callable[[events.Event], None],
        history: Iterable[Item] = (),
        owed: ResponseOptions | None = None,
    ) -> None:
        """`history` and `owed`: of a conversation that began elsewhere, what was said, and what is to be answered."""
        turns = settings.turns
        self._settings = settings
        self._ports = ports
        self._emit = emit
        self._ear = Ear(vad, settings.input_rate_hz, threshold=turns.threshold, preroll_ms=turns.prefix_padding_ms)
        self._history = History(history)
        self._state = State.IDLE
        self._floor = Floor(
            ports,
            self._history,
            emit,
            self._spawn,
            on_audible=lambda: self._go(State.SPEAKING),
            on_finished=self._respond_or_rest,
        )
        self._hearing = Hearing(
            ports.recogniser, self._spawn, on_result=self._on_heard, on_failure=self._fail_utterance
        )
        self._limits = LimitWatch(ports.clock, lambda: self._settings.limits, emit)
        self._utterance: Utterance | None = None
        self._awaited: list[Utterance] = []
        """Utterances whose turn is over and whose transcript is still to come."""
        self._respond_next: ResponseOptions | None = None
        """Asked for while it could not begin yet."""
        self._asked = ResponseOptions()
        """What the live reply was asked to be."""
        self._owed = owed or self._unanswered()
        self._leaving = False
        self._asked_at_ms = 0.0
        self._tasks: asyncio.TaskGroup | None = None
        self._closing = asyncio.Event()
        self._end_reason: Literal["closed", "idle", "session"] = "closed"
        self._last_audio_at = ports.clock.now()

    @property
    def history(self) -> History:
        """What was said, as both sides know it."""
        return self._history

    @property
    def settings(self) -> ConversationSettings:
        """The settings in force."""
        return self._settings

    @property
    def state(self) -> State:
        """What the conversation is doing."""
        return self._state

    # --- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Converse until `close` or a limit; ends after every task and stream of it has, also when cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                background = [
                    tasks.create_task(self._watch_silence(), name="watch-silence"),
                    tasks.create_task(self._watch_limits(), name="watch-limits"),
                ]
                owed, self._owed = self._owed, None
                if owed is not None:
                    self.respond(owed)
                await self._closing.wait()
                self._owed = self.owed
                self._drop_utterance()
                self._floor.stop("client_cancelled")
                for utterance in self._awaited:
                    self._hearing.stop(utterance)
                for task in background:
                    task.cancel()
        finally:
            self._tasks = None
            self._go(State.TERMINATED)
            self._emit(events.ConversationEnded(self._end_reason))

    def close(self) -> None:
        """End the conversation. Idempotent; may be called before `run`."""
        self._closing.set()

    def leave(self) -> None:
        """Begin no reply from now on: the next one that is asked for becomes `owed`, and `ReplyOwed` says so."""
        self._leaving = True
        self._floor.discard_speculation()

    @property
    def owed(self) -> ResponseOptions | None:
        """The reply that was asked for and of which nothing was heard: for whoever goes on with the conversation."""
        live = self._floor.live
        if live is not None:
            return None if live.begun else self._asked
        return self._owed

    def _unanswered(self) -> ResponseOptions | None:
        """What is owed when the user spoke last in the history that this began with: the reply was lost on the way."""
        turns, last = self._settings.turns, next(reversed(self._history.snapshot()), None)
        spoke = isinstance(last, Message) and last.role == "user" and last.spoken and bool(last.text)
        return ResponseOptions() if spoke and turns.detect and turns.create_response else None

    def update(self, settings: ConversationSettings) -> None:
        """Take new settings: the next utterance and the next reply use them.

        Raises `ClientError` (`cannot_update_rate`) for a new output rate while a reply is live.
        """
        old, turns = self._settings, settings.turns
        if self._floor.live is not None and settings.output_rate_hz != old.output_rate_hz:
            raise ClientError("cannot_update_rate", "The output rate can be changed only while no reply is live.")
        self._settings = settings
        if not (turns.detect and turns.interrupt_response):
            self._floor.restore("noise")  # nobody decides any more whether the user interrupts
        ear = (settings.input_rate_hz, turns.threshold, turns.prefix_padding_ms)
        if ear != (old.input_rate_hz, old.turns.threshold, old.turns.prefix_padding_ms):
            self._ear.configure(ear[0], threshold=ear[1], preroll_ms=ear[2])

    # --- the user's audio -------------------------------------------------------------------------------------------

    def hear(self, pcm: bytes) -> None:
        """More of the user's audio: mono s16le at `input_rate_hz`, any length, at any pace."""
        self._last_audio_at = self._ports.clock.now()
        for window in self._ear.push(pcm):
            if self._settings.turns.detect:
                self._on_window(window)
            else:
                self._on_undetected(window)

    def commit_audio(self) -> None:
        """End the utterance here (`input_audio_buffer_commit_empty` when there is none). Does not create a response."""
        utterance = self._utterance
        if utterance is None and not self._ear.preroll():
            raise ClientError("input_audio_buffer_commit_empty", "There is no audio to commit: append some first.")
        if utterance is None or utterance.stream is None:
            utterance = utterance or self._new_utterance(self._ear.position_ms * HEARING_RATE_HZ // 1000)
            self._begin_hearing(utterance)
        if self._floor.held:
            self._interrupt(utterance)
        self._floor.restore("noise")
        utterance.announced = True
        self._commit(utterance)

    def clear_audio(self) -> None:
        """Forget audio that is not committed."""
        self._drop_utterance()
        self._ear.forget()
        self._floor.restore("noise")
        if self._state is State.LISTENING:
            self._go(State.IDLE)
        self._emit(events.UtteranceCleared())

    def _on_undetected(self, window: Window) -> None:
        utterance = self._utterance or self._new_utterance(window.start_samples)
        if utterance.stream is None:
            self._begin_hearing(utterance)
        else:
            utterance.hear(window.pcm)
        utterance.end_samples = window.end_samples
        self._bound(utterance)

    def _on_window(self, window: Window) -> None:
        utterance = self._utterance
        if utterance is not None:
            utterance.hear(window.pcm)
        if window.voiced:
            self._on_voice(window)
        elif utterance is not None:
            utterance.hush(window.duration_ms)
            self._on_silence(utterance, utterance.silence_ms)
        if self._utterance is not None and self._utterance.stream is not None:
            self._bound(self._utterance)

    def _on_voice(self, window: Window) -> None:
        turns = self._settings.turns
        self._limits.touch()
        if self._utterance is None:
            self._utterance = self._new_utterance(window.start_samples)
            if turns.interrupt_response:
                self._floor.duck(turns.duck_db, self._utterance.start_ms)
        utterance = self._utterance
        utterance.timeline.speech_end = self._ports.clock.now()
        if utterance.voice(window, turns.confirm_ms):
            self._floor.discard_speculation()
        if utterance.stream is None and utterance.voiced_ms >= turns.confirm_ms:
            self._begin_hearing(utterance)
            if self._floor.live is None:
                self._announce(utterance)
            elif turns.interrupt_response:
                self._asked_at_ms = 0.0
                self._floor.hold()
        if self._floor.held and utterance.voiced_ms >= turns.stop_after_ms:
            self._look_for_words(utterance)

    def _on_silence(self, utterance: Utterance, silence_ms: float) -> None:
        """Act on a silence that has lasted so long by now."""
        turns = self._settings.turns
        if utterance.stream is None:
            if silence_ms >= _GIVE_UP_MS:
                self._utterance = None
                self._floor.restore("noise")
            return
        if silence_ms >= turns.pause_after_ms and not utterance.asked:
            utterance.timeline.pause_asked = self._ports.clock.now()
            utterance.ask()
        answer = utterance.answer
        probability = None if answer is None else answer.end_of_turn_probability
        if not self._floor.held and silence_ms >= required_silence_ms(turns, probability):
            self._end_turn(utterance)

    async def _watch_silence(self) -> None:
        """A user who sends no audio is silent, too: some clients stop sending when they have nothing to say."""
        while True:
            due = self._ports.clock.now() + _WATCH_S
            await self._ports.clock.sleep_until(due)
            if self._ports.clock.now() - due > _WATCH_S:
                continue  # we were held up, not the user: what was said meanwhile is yet to be taken in
            utterance = self._utterance
            absent_ms = (self._ports.clock.now() - self._last_audio_at) * 1000
            if utterance is not None and self._settings.turns.detect and absent_ms > 2 * _WATCH_S * 1000:
                utterance.silence_ms = max(utterance.silence_ms, absent_ms)
                self._on_silence(utterance, absent_ms)

    def _bound(self, utterance: Utterance) -> None:
        limits = self._settings.limits
        left_s = limits.utterance_s - utterance.audio_s
        if limits.utterance_s and left_s <= limits.warning_s and not utterance.warned:
            utterance.warned = True
            self._emit(events.LimitNear("utterance", left_s))
        if limits.utterance_s and left_s <= 0:
            if self._floor.held:
                self._interrupt(utterance)
            self._announce(utterance)
            self._commit(utterance)

    # --- utterances -------------------------------------------------------------------------------------------------

    def _new_utterance(self, start_samples: int) -> Utterance:
        timeline = Timeline(new_id("turn"), speech_start=self._ports.clock.now())
        return Utterance(start_samples, timeline, end_samples=start_samples)

    def _begin_hearing(self, utterance: Utterance) -> None:
        settings = self._settings
        request = RecognitionRequest(
            settings.session_id,
            settings.recogniser,
            settings.language,
            HEARING_RATE_HZ,
            fallback=settings.recogniser_fallback,
        )
        self._utterance = utterance
        self._hearing.begin(utterance, request, self._ear.preroll())

    def _announce(self, utterance: Utterance) -> None:
        """Tell the client, once, that the user speaks; back-dated to the pre-roll's beginning."""
        if utterance.announced:
            return
        utterance.announced = True
        start_ms = max(0, utterance.start_ms - self._settings.turns.prefix_padding_ms)
        self._emit(events.SpeechStarted(utterance.item_id, start_ms))
        if self._floor.live is None:
            self._go(State.LISTENING)

    def _on_heard(self, utterance: Utterance, result: RecognitionResult) -> bool:
        """Take in what a recogniser says of an utterance; whether more of it is waited for."""
        match result:
            case PartialTranscript():
                self._on_partial(utterance, result)
            case SpeculativeTranscript():
                self._on_answer(utterance, result)
            case FinalTranscript(transcript):
                self._complete(utterance, transcript)
            case ModelLoading():
                self._emit(events.Loading("asr", result.model, result.progress, result.fallback))
        return self._waited_for(utterance)

    def _waited_for(self, utterance: Utterance) -> bool:
        return utterance is self._utterance or utterance in self._awaited

    def _on_partial(self, utterance: Utterance, partial: PartialTranscript) -> None:
        utterance.partial = partial.text
        if utterance.announced:
            self._emit(events.TranscriptPartial(utterance.item_id, partial.text))

    def _on_answer(self, utterance: Utterance, answer: SpeculativeTranscript) -> None:
        if not utterance.answered(answer):
            return
        utterance.timeline.transcript = self._ports.clock.now()
        if utterance.over:
            self._complete(utterance, answer.transcript)
        elif self._floor.held:
            self._decide(utterance, answer.transcript)
        elif self._floor.live is None:
            self._speculate(utterance, answer.transcript)

    def _end_turn(self, utterance: Utterance) -> None:
        """The user has finished: the client may be answered as soon as the transcript is there."""
        self._announce(utterance)
        self._emit(events.SpeechStopped(utterance.item_id, utterance.end_ms))
        self._commit(utterance)

    def _commit(self, utterance: Utterance) -> None:
        utterance.timeline.turn_decided = self._ports.clock.now()
        utterance.over = True
        self._utterance = None
        previous = self._history.add(Message(utterance.item_id, "user", spoken=True, status="in_progress"))
        item = self._history.get(utterance.item_id)
        assert item is not None
        self._emit(events.UtteranceCommitted(utterance.item_id, previous))
        self._emit(events.ItemAdded(item, previous))
        self._awaited.append(utterance)
        if self._floor.live is None and self._state is State.LISTENING:
            self._go(State.THINKING)
        if utterance.answer is not None:
            self._complete(utterance, utterance.answer.transcript)
        elif not (utterance.asked and utterance.pending) and utterance.stream is not None:
            utterance.stream.end()

    def _complete(self, utterance: Utterance, transcript: Transcript) -> None:
        """The transcript of a turn that is over."""
        if utterance not in self._awaited:
            return
        self._awaited.remove(utterance)
        self._hearing.stop(utterance)
        text = transcript.text.strip()
        if utterance.timeline.transcript is None:
            utterance.timeline.transcript = self._ports.clock.now()
        self._amend_user(utterance, text)
        if text:
            self._emit(events.TranscriptDelta(utterance.item_id, text))
        self._emit(events.TranscriptDone(utterance.item_id, text, utterance.audio_s))
        self._emit_item_done(utterance.item_id)
        if not text:
            self._emit(events.SpeechDismissed(utterance.item_id))
        turns = self._settings.turns
        speaks_on = self._utterance is not None and self._utterance.announced
        if text and turns.detect and turns.create_response and not speaks_on:
            self._answer(utterance)
        else:
            self._floor.discard_speculation()
            self._respond_or_rest(utterance.timeline)

    def _fail_utterance(self, utterance: Utterance, error: AntiphonError) -> None:
        if not self._waited_for(utterance):
            return
        logger.warning("utterance lost", extra={"session_id": self._settings.session_id, "reason": error.reason})
        self._emit(events.Problem(error, "recogniser"))
        self._floor.discard_speculation()
        if utterance in self._awaited:
            self._awaited.remove(utterance)
            self._amend_user(utterance, "")
            self._emit(events.TranscriptFailed(utterance.item_id, error))
            self._respond_or_rest(utterance.timeline)
            return
        self._utterance = None
        self._floor.restore("noise")
        if utterance.announced:
            self._emit(events.SpeechDismissed(utterance.item_id))
            if self._state is State.LISTENING:
                self._go(State.IDLE)

    def _amend_user(self, utterance: Utterance, text: str) -> None:
        if self._history.get(utterance.item_id) is not None:  # the client may have deleted it
            self._history.amend(utterance.item_id, text=text, status="completed")

    def _drop_utterance(self) -> None:
        utterance, self._utterance = self._utterance, None
        self._floor.discard_speculation()
        if utterance is not None:
            self._hearing.stop(utterance)

    # --- the floor --------------------------------------------------------------------------------------------------

    def _look_for_words(self, utterance: Utterance) -> None:
        """The user talks on over a paused reply: long enough to be more than a backchannel, if there are words."""
        if not utterance.pending and utterance.voiced_ms - self._asked_at_ms >= _ASK_AGAIN_MS:
            self._asked_at_ms = utterance.voiced_ms
            utterance.ask()

    def _decide(self, utterance: Utterance, transcript: Transcript) -> None:
        """What was said over the paused reply is known: give the floor, or take it back."""
        verdict = judge(self._settings.turns, utterance.voiced_ms, transcript)
        if verdict is Verdict.WORDS:
            self._interrupt(utterance)
            if utterance.silence_ms > 0 and utterance.answer is not None:
                self._speculate(utterance, transcript)
            return
        if utterance.silence_ms == 0:
            return  # still voiced, still no words: it is looked at again
        self._utterance = None
        self._floor.restore("noise" if verdict is Verdict.NOISE else "backchannel")

    def _interrupt(self, utterance: Utterance) -> None:
        """Give the user the floor: no frame leaves any more, then the client is told, then how the reply ended."""
        reply = self._floor.live
        if reply is None:
            return
        reply.timeline.stopped = self._ports.clock.now()
        self._announce(utterance)
        if self._state is State.SPEAKING:
            self._go(State.BARGED_IN)
        self._floor.stop("turn_detected")
        self._go(State.LISTENING)

    def _speculate(self, utterance: Utterance, transcript: Transcript) -> None:
        """Begin the reply while it is not decided that the user has finished."""
        text = transcript.text.strip()
        self._floor.discard_speculation()
        if text and self._settings.turns.create_response and not self._awaited and not self._leaving:
            said = Message(utterance.item_id, "user", text, spoken=True)
            self._floor.speculate(self._settings, (*self._history.snapshot(), said), utterance.timeline)

    def _answer(self, utterance: Utterance) -> None:
        asked, self._respond_next = self._respond_next, None
        if self._floor.live is not None:
            self._respond_next = asked or ResponseOptions()
            return
        if self._leaving:
            return self._owe(asked or ResponseOptions())
        self._go(State.THINKING)
        self._asked = asked or ResponseOptions()
        if asked is not None or not self._floor.commit_speculation():
            self._floor.reply(self._settings, self._asked, utterance.timeline)

    def _owe(self, options: ResponseOptions) -> None:
        self._owed = options
        self._emit(events.ReplyOwed())

    def _respond_or_rest(self, timeline: Timeline) -> None:
        """A turn is over: answer what came meanwhile, or wait."""
        self._emit(events.TurnCompleted(timeline))
        if self._floor.live is not None:
            return
        options, self._respond_next = self._respond_next, None
        if options is not None:
            self.respond(options)
        elif self._utterance is None or not self._utterance.announced:
            self._go(State.THINKING if self._awaited else State.IDLE)

    # --- what a client asks for -------------------------------------------------------------------------------------

    def add_item(self, item: Item, after: str | None = None) -> None:
        """Put an item into the history (`item_create_duplicate_item_id`, `item_create_invalid_previous_item_id`)."""
        try:
            previous = self._history.add(item, after)
        except ValueError:
            raise ClientError("item_create_duplicate_item_id", f"There is an item {item.id!r} already.") from None
        except KeyError:
            raise ClientError("item_create_invalid_previous_item_id", f"There is no item {after!r}.") from None
        self._limits.touch()
        self._emit(events.ItemAdded(item, previous))
        self._emit(events.ItemDone(item, previous))

    def delete_item(self, item_id: str) -> None:
        """Remove an item (`item_delete_invalid_item_id`)."""
        try:
            self._history.remove(item_id)
        except KeyError:
            raise ClientError("item_delete_invalid_item_id", f"There is no item {item_id!r}.") from None
        self._emit(events.ItemDeleted(item_id))

    def truncate_item(self, item_id: str, audio_end_ms: int) -> None:
        """Say what was heard of a reply (`item_truncate_invalid_item_id`); clamped to what was played.

        A live reply is stopped by it.
        """
        reply = self._floor.spoken(item_id)
        if reply is None:
            raise ClientError("item_truncate_invalid_item_id", f"There is no spoken item {item_id!r} to truncate.")
        if reply is self._floor.live:
            self._floor.stop("client_cancelled", audio_end_ms)
            self._rest()
        else:
            reply.truncate(audio_end_ms)

    def respond(self, options: ResponseOptions) -> None:
        """Reply now (`conversation_already_has_active_response`)."""
        if self._floor.live is not None:
            raise ClientError(
                "conversation_already_has_active_response",
                "A reply is live: cancel it first (response.cancel), or wait for response.done.",
            )
        self._limits.touch()
        if self._awaited:  # what the user just said belongs to what is answered
            self._respond_next = options
            return
        if self._leaving:
            return self._owe(options)
        self._go(State.THINKING)
        self._asked = options
        self._floor.reply(self._settings, options, Timeline(new_id("turn")))

    def cancel_response(self, response_id: str | None = None) -> None:
        """Stop the live reply (`response_cancel_not_active` when there is none, or not this one)."""
        live = self._floor.live
        if live is None or response_id not in (None, live.id):
            raise ClientError("response_cancel_not_active", "Cancellation failed: no such reply is live.")
        self._floor.stop("client_cancelled")
        self._rest()

    def _rest(self) -> None:
        """After a reply was stopped by the client: the floor is the user's if the user speaks or has spoken."""
        asked, self._respond_next = self._respond_next, None
        if self._utterance is not None and self._utterance.stream is not None:
            if self._state is State.SPEAKING:
                self._go(State.BARGED_IN)
            self._announce(self._utterance)
        elif asked is not None:
            self.respond(asked)
        else:
            self._go(State.IDLE)

    # --- housekeeping ------------------------------------------------------------------------------------

    async def _watch_limits(self) -> None:
        self._end_reason = await self._limits.run(lambda: self._floor.live is not None or self._utterance is not None)
        self._closing.set()

    def _emit_item_done(self, item_id: str) -> None:
        item = self._history.get(item_id)
        if item is not None:
            self._emit(events.ItemDone(item, self._history.before(item_id)))

    def _go(self, new: State) -> None:
        if new is not self._state:
            check_transition(self._state, new)
            old, self._state = self._state, new
            self._emit(events.StateChanged(old, new))

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self._tasks is None:
            work.close()
            raise RuntimeError("the conversation does not run")
        return self._tasks.create_task(work, name=name)
