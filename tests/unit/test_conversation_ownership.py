"""A conversation that another process may go on with: nothing of a reply leaves while it is not known whose it is."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from test_conversation_engine import REPLY, Stage, stage, texts

from antiphon.conversation import events
from antiphon.conversation.ports import FunctionCallDelta, ReplyPart, ReplyRequest, TextDelta
from antiphon.conversation.settings import ResponseOptions
from antiphon.testing.fakes import FakeResponder

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

OUTPUT = (
    events.ResponseCreated,
    events.OutputMessageStarted,
    events.OutputAudio,
    events.OutputTranscript,
    events.OutputText,
    events.FunctionCallStarted,
    events.FunctionCallArguments,
    events.FunctionCallDone,
    events.ResponseDone,
)
BRIEF = ResponseOptions(instructions="Be brief.")


class Owned:
    """Ours while it is set."""

    def __init__(self, *, confirmed: bool) -> None:
        self._event = asyncio.Event()
        self.set(confirmed)

    @property
    def confirmed(self) -> bool:
        return self._event.is_set()

    async def wait_confirmed(self) -> None:
        await self._event.wait()

    def set(self, confirmed: bool) -> None:
        """Whose it is has become known, or doubtful."""
        if confirmed:
            self._event.set()
        else:
            self._event.clear()


class Slow(FakeResponder):
    """Writes a word, a call, and another word, each after a second."""

    async def respond(self, request: ReplyRequest) -> AsyncIterator[ReplyPart]:
        for part in (TextDelta("one "), FunctionCallDelta("call", "clock", "{}"), TextDelta("two")):
            yield part
            await asyncio.sleep(1.0)


def output(on: Stage) -> list[events.Event]:
    return [event for _, event in on.said if isinstance(event, OUTPUT)]


async def test_a_reply_is_thought_of_but_not_heard_before_the_conversation_is_ours() -> None:
    owned = Owned(confirmed=False)
    async with stage(ownership=owned, owed=BRIEF) as on:
        await asyncio.sleep(3.0)
        assert not output(on)
        assert on.conversation.owed == BRIEF
        owned.set(True)
        await on.until(events.ResponseDone)
        assert on.words_played() == list(range(15))
        assert on.conversation.owed is None


async def test_a_reply_is_held_while_it_is_doubtful_and_goes_on_without_a_word_lost() -> None:
    owned = Owned(confirmed=True)
    async with stage(ownership=owned) as on:
        on.conversation.respond(ResponseOptions())
        await on.until(events.OutputTranscript)
        owned.set(False)
        heard = len(output(on))
        await asyncio.sleep(5.0)
        assert len(output(on)) == heard
        owned.set(True)
        await on.until(events.ResponseDone)
        assert on.words_played() == list(range(15))
        assert texts(on.conversation) == [("assistant", REPLY)]


async def test_text_and_calls_are_held_too() -> None:
    owned = Owned(confirmed=True)
    async with stage(ownership=owned, responder=Slow(REPLY), audio_output=False) as on:
        on.conversation.respond(ResponseOptions())
        await on.until(events.OutputText)
        owned.set(False)
        told = len(output(on))
        await asyncio.sleep(5.0)
        assert len(output(on)) == told
        owned.set(True)
        await on.until(events.ResponseDone)
        assert texts(on.conversation) == [("assistant", "one two")]
        assert on.one(events.FunctionCallDone).item.arguments == "{}"


async def test_a_conversation_of_another_ends_without_a_word() -> None:
    async with stage(ownership=Owned(confirmed=False), owed=BRIEF) as on:
        await asyncio.sleep(3.0)
    assert not output(on)
    assert on.conversation.owed == BRIEF


async def test_who_leaves_begins_no_reply_and_owes_it() -> None:
    async with stage() as on:
        on.conversation.leave()
        await on.hush(0.5)
        await on.speak(1.0)
        await on.until(events.ReplyOwed)
        assert on.conversation.owed == ResponseOptions()
    assert not output(on)
    assert texts(on.conversation) == [("user", "what time is it")]


async def test_a_reply_that_is_heard_is_finished_and_the_next_one_owed() -> None:
    async with stage() as on:
        on.conversation.respond(ResponseOptions())
        await on.until(events.OutputAudio)
        on.conversation.leave()
        await on.until(events.ResponseDone)
        assert on.conversation.owed is None
        on.conversation.respond(BRIEF)
        assert on.all(events.ReplyOwed) == [events.ReplyOwed()]
    assert on.conversation.owed == BRIEF
    assert len(on.all(events.ResponseCreated)) == 1
