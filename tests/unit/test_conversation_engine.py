"""The conversation engine in virtual time, with scripted ears, voice and mind."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation import events
from antiphon.conversation.engine import ClientError, Conversation
from antiphon.conversation.items import FunctionCall, FunctionCallOutput, Message
from antiphon.conversation.ports import (
    Alone,
    Clock,
    FunctionCallDelta,
    LoopClock,
    Ownership,
    Ports,
    TextDelta,
    Tool,
    Transcript,
    Usage,
)
from antiphon.conversation.settings import ConversationSettings, Limits, ResponseOptions, TurnSettings
from antiphon.conversation.states import State
from antiphon.testing.fakes import FakeRecogniser, FakeResponder, FakeSynthesiser, FakeSynthesisStream, FakeVad

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

T = TypeVar("T")
RATE = 24_000
REPLY = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


class Stage:
    """A conversation, what it said and when, and a user who speaks or is silent in real (virtual) time."""

    def __init__(self, conversation: Conversation, said: list[tuple[float, events.Event]]) -> None:
        self.conversation = conversation
        self.said = said

    async def speak(self, seconds: float) -> None:
        await self._send(0.3, seconds)

    async def hush(self, seconds: float) -> None:
        await self._send(0.0, seconds)

    async def _send(self, level: float, seconds: float) -> None:
        rate = self.conversation.settings.input_rate_hz
        rng = np.random.default_rng(1)
        loop = asyncio.get_running_loop()
        start = loop.time()
        for index in range(1, round(seconds / 0.02) + 1):
            await asyncio.sleep(max(0.0, start + index * 0.02 - loop.time()))
            noise = rng.uniform(-level, level, rate // 50)
            self.conversation.hear((noise * 32767).astype("<i2").tobytes())

    async def until(self, kind: type[T], within_s: float = 30.0) -> T:
        async with asyncio.timeout(within_s):
            while not (found := self.all(kind)):
                await self.hush(0.1)
        return found[-1]

    def all(self, kind: type[T]) -> list[T]:
        return [event for _, event in self.said if isinstance(event, kind)]

    def one(self, kind: type[T]) -> T:
        (event,) = self.all(kind)
        return event

    def at(self, kind: type, nth: int = 0) -> float:
        return [moment for moment, event in self.said if isinstance(event, kind)][nth]

    def frames(self, reply: int = 0) -> list[events.OutputAudio]:
        response_id = self.all(events.ResponseCreated)[reply].response_id
        return [event for event in self.all(events.OutputAudio) if event.response_id == response_id]

    def words_played(self) -> list[int]:
        """The words in the first reply's audio, in order: each frame of the fake voice tells its word."""
        heard: list[int] = []
        for event in self.frames():
            value = int(np.frombuffer(event.pcm, "<i2").max()) - FakeSynthesisStream.LEVEL
            if value >= 0 and (not heard or heard[-1] != value):
                heard.append(value)
        return heard


def settings(**changes: object) -> ConversationSettings:
    turns = TurnSettings(silence_duration_ms=300)
    return replace(ConversationSettings("s1", turns=turns, input_rate_hz=RATE), **changes)


Opened = Callable[..., "asynccontextmanager[Stage]"]


@asynccontextmanager
async def stage(
    recogniser: FakeRecogniser | None = None,
    responder: FakeResponder | None = None,
    synthesiser: FakeSynthesiser | None = None,
    *,
    clock: Clock | None = None,
    ownership: Ownership | None = None,
    owed: ResponseOptions | None = None,
    **changes: object,
) -> AsyncIterator[Stage]:
    said: list[tuple[float, events.Event]] = []
    ports = Ports(
        recogniser or FakeRecogniser(["what time is it"]),
        synthesiser or FakeSynthesiser(),
        responder or FakeResponder(REPLY),
        clock=clock or LoopClock(),
        ownership=ownership or Alone(),
    )
    loop = asyncio.get_running_loop()
    conversation = Conversation(
        settings(**changes), ports, FakeVad(), lambda event: said.append((loop.time(), event)), owed=owed
    )
    task = asyncio.create_task(conversation.run())
    await asyncio.sleep(0)
    try:
        yield Stage(conversation, said)
    finally:
        conversation.close()
        await task
        assert isinstance(said[-1][1], events.ConversationEnded)
        assert conversation.state is State.TERMINATED


def texts(conversation: Conversation) -> list[tuple[str, str]]:
    return [(item.role, item.text) for item in conversation.history if isinstance(item, Message)]


# --- turns ----------------------------------------------------------------------------------------------------------


async def test_a_turn_is_heard_answered_and_remembered() -> None:
    async with stage() as on:
        await on.hush(0.5)
        await on.speak(1.0)
        await on.until(events.ResponseDone)
        assert on.one(events.ResponseDone).status == "completed"
        assert texts(on.conversation) == [("user", "what time is it"), ("assistant", REPLY)]
        assert on.words_played() == list(range(15))
        assert "".join(event.delta for event in on.all(events.OutputTranscript)).split() == REPLY.split()
        kinds = [type(event) for _, event in on.said]
        order = [
            events.SpeechStarted,
            events.SpeechStopped,
            events.UtteranceCommitted,
            events.ItemAdded,
            events.TranscriptDone,
            events.ResponseCreated,
            events.OutputMessageStarted,
            events.OutputAudio,
            events.OutputMessageDone,
            events.ResponseDone,
            events.TurnCompleted,
        ]
        assert [kinds.index(kind) for kind in order] == sorted(kinds.index(kind) for kind in order)


async def test_the_reply_is_ready_when_the_turn_is_decided() -> None:
    """Transcript, thought and voice run while the silence is still being waited for."""
    async with stage() as on:
        await on.speak(1.0)
        await on.until(events.ResponseDone)
        timeline = on.one(events.TurnCompleted).timeline
        assert timeline.speculative
        assert timeline.span_ms("speech_end", "turn_decided") == pytest.approx(300, abs=50)
        assert timeline.span_ms("turn_decided", "first_audio") < 15


async def test_speech_that_goes_on_discards_the_speculation_and_ends_as_one_turn() -> None:
    recogniser = FakeRecogniser(["tell me a story"], delay_s=0.02)
    responder = FakeResponder(REPLY)
    async with stage(recogniser, responder) as on:
        await on.speak(0.6)
        await on.hush(0.25)
        assert len(responder.requests) == 1 and not on.all(events.ResponseCreated)
        await on.speak(0.6)
        await on.until(events.ResponseDone)
        assert len(recogniser.streams) == 1
        assert len(responder.requests) == 2
        assert len(on.all(events.ResponseCreated)) == 1
        assert [role for role, _ in texts(on.conversation)] == ["user", "assistant"]


async def test_an_unlikely_end_waits_for_the_patience_limit() -> None:
    turns = TurnSettings(silence_duration_ms=300, patience_ms=1200)
    async with stage(FakeRecogniser(["so I was"], probability=0.1), turns=turns) as on:
        await on.speak(0.8)
        await on.until(events.SpeechStopped)
        timeline_end = on.at(events.SpeechStopped)
        assert timeline_end - 0.8 == pytest.approx(1.2, abs=0.1)


async def test_the_recogniser_hears_what_came_before_the_onset() -> None:
    recogniser = FakeRecogniser(["hi"])
    async with stage(recogniser) as on:
        await on.hush(1.0)
        await on.speak(0.5)
        await on.until(events.SpeechStopped)
        samples = np.frombuffer(bytes(recogniser.streams[0].pcm), "<i2")
        onset = int(np.argmax(np.abs(samples) > 1000))
        assert 0.25 <= onset / 16_000 <= 0.40
        assert len(samples) / 16_000 == pytest.approx(0.3 + 0.5 + 0.3, abs=0.07), "and nothing in between is missing"
        assert on.one(events.SpeechStarted).audio_start_ms == pytest.approx(700, abs=50)


async def test_noise_too_short_to_be_speech_is_nothing() -> None:
    recogniser = FakeRecogniser(["x"])
    async with stage(recogniser) as on:
        await on.speak(0.02)
        await on.hush(1.0)
        assert not on.all(events.SpeechStarted) and not recogniser.streams


async def test_speech_without_words_is_dismissed_and_not_answered() -> None:
    async with stage(FakeRecogniser([""])) as on:
        await on.speak(0.5)
        await on.until(events.SpeechDismissed)
        await on.hush(1.0)
        assert not on.all(events.ResponseCreated)
        assert on.conversation.state is State.IDLE


async def test_a_user_who_stops_sending_audio_has_finished() -> None:
    async with stage() as on:
        await on.speak(0.6)
        await asyncio.sleep(0.6)
        assert on.all(events.SpeechStopped)


class HeldUp(LoopClock):
    """The clock of a process that stands still now and then."""

    late_s = 0.0

    def now(self) -> float:
        return super().now() + self.late_s


async def test_a_process_that_was_held_up_does_not_take_it_for_the_users_silence() -> None:
    clock = HeldUp()
    async with stage(clock=clock) as on:
        for _ in range(3):
            await on.speak(0.6)
            clock.late_s += 1.0
        await on.until(events.ResponseDone)
        assert on.one(events.SpeechStopped).audio_end_ms == pytest.approx(1800, abs=50)


async def test_audio_faster_than_real_time_is_the_same_turn() -> None:
    async with stage() as on:
        loud = (np.random.default_rng(1).uniform(-0.3, 0.3, RATE) * 32767).astype("<i2").tobytes()
        on.conversation.hear(loud + bytes(RATE * 2))
        await on.until(events.ResponseDone)
        stopped = on.one(events.SpeechStopped)
        assert stopped.audio_end_ms == pytest.approx(1000, abs=50)


# --- the floor ------------------------------------------------------------------------------------------------------


async def speaking(on: Stage, seconds: float) -> None:
    await on.speak(0.6)
    await on.until(events.OutputAudio)
    await on.hush(seconds)


async def test_words_over_a_reply_duck_pause_and_stop_it() -> None:
    recogniser = FakeRecogniser(["question", "no wait stop"])
    async with stage(recogniser) as on:
        await speaking(on, 1.0)
        onset = asyncio.get_running_loop().time()
        await on.speak(0.5)
        assert on.at(events.ReplyDucked) - onset < 0.05
        assert on.at(events.ReplyPaused) - onset < 0.10
        frames = len(on.frames())
        assert len(on.all(events.SpeechStarted)) == 1, "the client is not told before the reply is stopped"
        await on.until(events.ItemTruncated)
        assert len(on.frames()) == frames, "no frame leaves after the pause"
        started = on.all(events.SpeechStarted)[1]
        assert started.audio_start_ms < on.conversation._ear.position_ms - 500, "back-dated to the onset"
        done = on.all(events.ResponseDone)[0]
        assert (done.status, done.reason) == ("cancelled", "turn_detected")
        await on.until(events.ResponseCreated)
        await on.hush(0.5)
        assert [role for role, _ in texts(on.conversation)][:3] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("heard", "cause"),
    [
        (Transcript("Mm-hmm."), "backchannel"),
        (Transcript("Math", mean_log_probability=-1.1), "backchannel"),
        (Transcript("You", no_speech_probability=0.9), "backchannel"),
        (Transcript(""), "noise"),
    ],
)
async def test_what_is_no_interruption_loses_no_word(heard: Transcript, cause: str) -> None:
    async with stage(FakeRecogniser(["question", heard])) as on:
        await speaking(on, 1.0)
        await on.speak(0.3)
        assert on.all(events.ReplyPaused)
        await on.until(events.ResponseDone)
        assert on.one(events.ReplyResumed).cause == cause
        assert on.one(events.ResponseDone).status == "completed"
        assert on.words_played() == list(range(15))
        assert len(on.all(events.SpeechStarted)) == 1
        positions = [event.position_samples for event in on.all(events.OutputAudio)]
        assert positions == list(range(0, len(positions) * 480, 480))


async def test_a_click_only_ducks() -> None:
    turns = TurnSettings(silence_duration_ms=300, confirm_ms=96)
    async with stage(turns=turns) as on:
        await speaking(on, 1.0)
        await on.speak(0.02)
        await on.until(events.ResponseDone)
        assert on.all(events.ReplyDucked) and not on.all(events.ReplyPaused)
        assert on.one(events.ReplyResumed).cause == "noise"
        assert on.words_played() == list(range(15))


async def test_long_speech_stops_the_reply_before_it_ends() -> None:
    recogniser = FakeRecogniser(["question", "okay"])
    async with stage(recogniser) as on:
        await speaking(on, 0.5)
        onset = asyncio.get_running_loop().time()
        await on.speak(2.0)
        assert on.all(events.ItemTruncated)
        assert on.at(events.ItemTruncated) - onset < 1.1
        answers = len(recogniser.streams[1].pauses)
        await on.hush(0.5)
        assert len(recogniser.streams[1].pauses) > answers, "the whole utterance is transcribed, not its first part"


@pytest.mark.parametrize("seed", range(20))
async def test_the_history_holds_what_was_heard(seed: int) -> None:
    rng = np.random.default_rng(seed)
    async with stage(FakeRecogniser(["question", "stop that please"])) as on:
        await speaking(on, float(rng.uniform(0.02, 2.4)))
        await on.speak(0.4)
        truncated = await on.until(events.ItemTruncated)
        played = on.words_played()
        heard = truncated.text.split()
        assert heard == REPLY.split()[: len(heard)]
        assert abs(len(heard) - len(played)) <= 1
        item = on.conversation.history.get(truncated.item_id)
        assert isinstance(item, Message) and item.text == truncated.text and item.status == "incomplete"


async def test_a_reply_that_may_not_be_interrupted_goes_on_and_the_user_is_answered_after() -> None:
    turns = TurnSettings(silence_duration_ms=300, interrupt_response=False)
    async with stage(FakeRecogniser(["first", "second"]), turns=turns) as on:
        await speaking(on, 0.3)
        await on.speak(0.5)
        async with asyncio.timeout(30):
            while len(on.all(events.ResponseDone)) < 2:
                await on.hush(0.1)
        assert [event.status for event in on.all(events.ResponseDone)] == ["completed", "completed"]
        assert not on.all(events.ReplyDucked)
        assert sorted(role for role, _ in texts(on.conversation)) == ["assistant", "assistant", "user", "user"]


# --- pacing ---------------------------------------------------------------------------------------------------------


async def test_frames_leave_on_absolute_deadlines_with_bounded_lead() -> None:
    async with stage() as on:
        await speaking(on, 0.0)
        await on.until(events.ResponseDone)
        moments = [moment for moment, event in on.said if isinstance(event, events.OutputAudio)]
        for index, moment in enumerate(moments):
            sounds_at = moments[0] + index * 0.02
            assert moment <= sounds_at + 1e-6
            assert sounds_at - moment <= 0.060 + 1e-6


async def test_transcript_deltas_never_run_ahead_of_their_audio() -> None:
    async with stage() as on:
        await speaking(on, 0.0)
        await on.until(events.ResponseDone)
        shown, sent = "", 0
        for _, event in on.said:
            if isinstance(event, events.OutputAudio):
                sent = event.position_samples + 480
            if isinstance(event, events.OutputTranscript):
                shown += event.delta
                words = len(shown.split())
                assert (words - 1) * 0.2 * RATE < sent


# --- what a client asks for -----------------------------------------------------------------------------------------


async def test_typed_text_is_answered() -> None:
    responder = FakeResponder(lambda request: request.history[-1].text.upper())
    async with stage(responder=responder) as on:
        on.conversation.add_item(Message("item_1", "user", "hello there"))
        on.conversation.respond(ResponseOptions(metadata={"k": "v"}))
        await on.until(events.ResponseDone)
        assert on.one(events.ResponseDone).metadata == {"k": "v"}
        assert texts(on.conversation)[-1] == ("assistant", "HELLO THERE")


async def test_a_reply_in_text_alone_opens_no_voice() -> None:
    synthesiser = FakeSynthesiser()
    async with stage(synthesiser=synthesiser) as on:
        on.conversation.respond(ResponseOptions(audio_output=False))
        await on.until(events.ResponseDone)
        assert "".join(event.delta for event in on.all(events.OutputText)).split() == REPLY.split()
        assert not on.all(events.OutputAudio) and not synthesiser.streams


async def test_tool_calls_pass_through_and_their_answers_come_back() -> None:
    parts = [FunctionCallDelta("c1", "clock", '{"zone":'), FunctionCallDelta("c1", arguments='"utc"}')]
    responder = FakeResponder(parts)
    tool = Tool("clock", "Tells the time", {"type": "object"})
    async with stage(responder=responder, tools=(tool,)) as on:
        await on.speak(0.5)
        await on.until(events.ResponseDone)
        call = on.one(events.FunctionCallDone).item
        assert (call.name, call.arguments, call.status) == ("clock", '{"zone":"utc"}', "completed")
        assert on.conversation.state is State.IDLE
        on.conversation.add_item(FunctionCallOutput("item_out", "c1", "12:00"))
        responder.reply = "It is noon."
        on.conversation.respond(ResponseOptions())
        await on.hush(2.0)
        history = responder.requests[-1].history
        assert any(isinstance(item, FunctionCall) and item.arguments == '{"zone":"utc"}' for item in history)
        assert texts(on.conversation)[-1] == ("assistant", "It is noon.")


async def test_a_reply_that_was_cut_short_is_incomplete() -> None:
    parts = [TextDelta("one two three"), Usage(10, 3, truncated=True)]
    async with stage(responder=FakeResponder(parts)) as on:
        on.conversation.respond(ResponseOptions(max_output_tokens=3))
        done = await on.until(events.ResponseDone)
        assert (done.status, done.reason) == ("incomplete", "max_output_tokens")
        assert on.words_played() == [0, 1, 2]


async def test_cancel_truncate_and_their_refusals() -> None:
    async with stage() as on:
        with pytest.raises(ClientError) as refused:
            on.conversation.cancel_response()
        assert refused.value.code == "response_cancel_not_active"
        with pytest.raises(ClientError) as refused:
            on.conversation.truncate_item("item_none", 0)
        assert refused.value.code == "item_truncate_invalid_item_id"
        await speaking(on, 1.0)
        with pytest.raises(ClientError) as refused:
            on.conversation.respond(ResponseOptions())
        assert refused.value.code == "conversation_already_has_active_response"
        message = on.one(events.OutputMessageStarted).item
        on.conversation.truncate_item(message.id, 410)
        assert on.one(events.ResponseDone).reason == "client_cancelled"
        assert on.one(events.ItemTruncated).text == "one two"
        on.conversation.truncate_item(message.id, 60_000)
        assert len(on.all(events.ItemTruncated)[1].text.split()) in (5, 6), "clamped to what was played"
        with pytest.raises(ClientError) as refused:
            on.conversation.add_item(message)
        assert refused.value.code == "item_create_duplicate_item_id"


async def test_without_detection_the_client_commits() -> None:
    turns = TurnSettings(detect=False)
    async with stage(turns=turns) as on:
        with pytest.raises(ClientError) as refused:
            on.conversation.commit_audio()
        assert refused.value.code == "input_audio_buffer_commit_empty"
        await on.speak(0.5)
        await on.hush(1.0)
        assert not on.all(events.SpeechStarted)
        on.conversation.commit_audio()
        on.conversation.respond(ResponseOptions())
        await on.until(events.ResponseDone)
        assert [role for role, _ in texts(on.conversation)] == ["user", "assistant"]


async def test_a_reply_that_is_asked_for_before_the_transcript_is_given_once_and_as_asked() -> None:
    responder = FakeResponder("yes")
    async with stage(FakeRecogniser(["what time is it"], delay_s=1.0), responder) as on:
        await on.speak(0.5)
        await on.until(events.UtteranceCommitted)
        on.conversation.respond(ResponseOptions(instructions="Be brief."))
        await on.hush(4.0)
        assert len(on.all(events.ResponseDone)) == 1
        assert responder.requests[-1].instructions == "Be brief."


async def test_what_was_said_over_a_reply_that_yields_to_nobody_is_answered_when_it_is_cancelled() -> None:
    turns = TurnSettings(silence_duration_ms=300, interrupt_response=False)
    async with stage(FakeRecogniser(["first", "second"]), turns=turns) as on:
        await speaking(on, 0.5)
        await on.speak(0.5)
        await on.hush(1.0)
        assert len(on.all(events.TranscriptDone)) == 2 and len(on.all(events.ResponseCreated)) == 1
        on.conversation.cancel_response()
        await on.hush(5.0)
        assert [done.status for done in on.all(events.ResponseDone)] == ["cancelled", "completed"]


async def test_a_commit_over_a_held_reply_takes_the_floor() -> None:
    async with stage(FakeRecogniser(["what time is it", "wait"], delay_s=0.3)) as on:
        await speaking(on, 0.5)
        await on.speak(0.2)
        assert on.all(events.ReplyPaused) and not on.all(events.ResponseDone)
        on.conversation.commit_audio()
        await on.hush(6.0)
        assert [done.status for done in on.all(events.ResponseDone)] == ["cancelled", "completed"]


async def test_a_held_reply_goes_on_when_the_client_turns_interruptions_off() -> None:
    async with stage(FakeRecogniser(["what time is it", "wait"], delay_s=0.3)) as on:
        await speaking(on, 0.5)
        await on.speak(0.2)
        assert on.all(events.ReplyPaused)
        on.conversation.update(settings(turns=TurnSettings(detect=False)))
        await on.hush(5.0)
        assert on.one(events.ResponseDone).status == "completed"
        assert on.words_played() == list(range(15))


async def test_a_call_that_is_broken_off_is_not_to_be_carried_out() -> None:
    parts = [TextDelta(REPLY), FunctionCallDelta("call_1", "clock", '{"zo')] + [TextDelta(" more")] * 100
    async with stage(responder=FakeResponder(parts, delay_s=0.5)) as on:
        on.conversation.respond(ResponseOptions())
        await on.until(events.FunctionCallStarted)
        on.conversation.cancel_response()
        call = on.conversation.history.get(on.one(events.FunctionCallStarted).item.id)
        assert isinstance(call, FunctionCall) and (call.status, call.arguments) == ("incomplete", '{"zo')
        assert call in on.one(events.ResponseDone).output
        assert on.one(events.FunctionCallDone).item is call


async def test_an_item_that_the_client_deletes_while_it_comes_stays_deleted() -> None:
    parts = [FunctionCallDelta("call_1", "clock", "{}"), TextDelta("one")]
    async with stage(responder=FakeResponder(parts, delay_s=0.5)) as on:
        on.conversation.respond(ResponseOptions())
        started = await on.until(events.FunctionCallStarted)
        on.conversation.delete_item(started.item.id)
        done = await on.until(events.ResponseDone)
        assert done.status == "completed"
        assert on.conversation.history.get(started.item.id) is None


async def test_clearing_forgets_the_utterance() -> None:
    recogniser = FakeRecogniser(["x"])
    async with stage(recogniser) as on:
        await on.speak(0.5)
        on.conversation.clear_audio()
        await on.hush(1.0)
        assert on.all(events.UtteranceCleared) and not on.all(events.UtteranceCommitted)
        assert recogniser.streams[0].closed
        assert on.conversation.state is State.IDLE


# --- faults and limits ----------------------------------------------------------------------------------------------


async def test_a_responder_that_fails_is_apologised_for() -> None:
    error = AntiphonError(Reason.RESPONDER_FAILED, "the server said 500")
    responder = FakeResponder(error)
    async with stage(responder=responder, apology="sorry about that") as on:
        await on.speak(0.5)
        await on.until(events.ResponseDone)
        assert on.one(events.Problem).error is error
        assert on.words_played() == [0, 1, 2]
        assert on.one(events.ResponseDone).status == "failed"
        responder.reply = "back again"
        await on.speak(0.5)
        await on.hush(2.0)
        assert on.all(events.ResponseDone)[-1].status == "completed"


async def test_a_responder_that_hangs_is_apologised_for_in_time() -> None:
    responder = FakeResponder("late", first_delay_s=1000)
    async with stage(responder=responder, limits=Limits(reply_start_s=2.0)) as on:
        await on.speak(0.5)
        await on.until(events.ResponseDone)
        assert on.one(events.Problem).error.reason is Reason.TIMEOUT
        assert responder.cancelled == 1


async def test_a_voice_that_is_lost_fails_the_reply_and_not_the_session() -> None:
    error = AntiphonError(Reason.NO_WORKER, "no worker")
    synthesiser = FakeSynthesiser(error=error, error_after=3)
    async with stage(synthesiser=synthesiser) as on:
        await on.speak(0.5)
        done = await on.until(events.ResponseDone)
        assert done.status == "failed" and done.error is error
        assert texts(on.conversation)[-1] == ("assistant", "one two three")
        synthesiser.error = synthesiser.error_after = None
        await on.speak(0.5)
        await on.hush(4.0)
        assert on.all(events.ResponseDone)[-1].status == "completed"


async def test_a_recogniser_that_is_lost_is_told_and_the_session_lives_on() -> None:
    recogniser = FakeRecogniser([AntiphonError(Reason.NO_WORKER, "no worker"), "hello again"])
    async with stage(recogniser) as on:
        await on.speak(0.8)
        await on.until(events.Problem)
        assert on.conversation.state is State.IDLE
        await on.hush(1.0)
        await on.speak(0.8)
        await on.until(events.ResponseDone)
        assert texts(on.conversation)[0] == ("user", "hello again")


async def test_a_reply_stopped_in_thought_cancels_its_responder() -> None:
    responder = FakeResponder(REPLY, first_delay_s=5)
    async with stage(FakeRecogniser(["first", "no, another thing"]), responder) as on:
        await on.speak(0.5)
        await on.hush(1.0)
        assert on.conversation.state is State.THINKING
        await on.speak(0.5)
        await on.hush(1.0)
        assert responder.cancelled >= 1
        assert on.all(events.ResponseDone)[0].reason == "turn_detected"


async def test_limits_are_announced_before_they_act() -> None:
    async with stage(limits=Limits(idle_s=20, warning_s=5)) as on:
        await asyncio.sleep(18)
        assert on.one(events.LimitNear).limit == "idle"
        await asyncio.sleep(5)
        assert on.one(events.ConversationEnded).reason == "idle"


async def test_an_utterance_at_its_limit_is_committed_as_it_stands() -> None:
    async with stage(limits=Limits(utterance_s=3, warning_s=1)) as on:
        await on.speak(3.5)
        assert on.one(events.LimitNear).limit == "utterance"
        assert on.all(events.UtteranceCommitted)


async def test_cancelling_the_conversation_leaves_nothing_behind() -> None:
    said: list[events.Event] = []
    synthesiser, recogniser = FakeSynthesiser(), FakeRecogniser(["question"])
    ports = Ports(recogniser, synthesiser, FakeResponder(REPLY))
    conversation = Conversation(settings(), ports, FakeVad(), said.append)
    task = asyncio.create_task(conversation.run())
    await asyncio.sleep(0)
    on = Stage(conversation, [])
    await on.speak(0.6)
    await on.hush(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(stream.closed for stream in (*synthesiser.streams, *recogniser.streams))
