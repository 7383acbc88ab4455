"""A turn whose model is still being loaded: its client is told, if it is ours, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from test_conversation_engine import REPLY, stage, texts
from test_orchestrator_realtime_parts import updated

from antiphon.conversation import events
from antiphon.conversation.ports import (
    ModelLoading,
    RecognitionRequest,
    RecognitionResult,
    SpeechPart,
    SynthesisRequest,
)
from antiphon.orchestrator.transports.websocket.server_events import ServerEvents
from antiphon.testing.fakes import FakeRecogniser, FakeSynthesiser

pytestmark = pytest.mark.unit


class After:
    """A stream that tells of a load first."""

    def __init__(self, stream: Any, *loading: ModelLoading, wait_s: float = 0.0) -> None:
        self._stream, self._loading, self._wait_s = stream, loading, wait_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def parts(self) -> AsyncIterator[SpeechPart]:
        return self._then(self._stream.parts())

    def results(self) -> AsyncIterator[RecognitionResult]:
        return self._then(self._stream.results())

    async def _then(self, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        for loading in self._loading:
            yield loading
            await asyncio.sleep(self._wait_s)
        async for item in items:
            yield item


class LateVoice(FakeSynthesiser):
    """Speaks after a load of two seconds."""

    def open(self, request: SynthesisRequest) -> Any:
        return After(super().open(request), ModelLoading("large", 0.0), ModelLoading("large", 0.5), wait_s=1.0)


class OtherEars(FakeRecogniser):
    """Hears by a fallback."""

    def open(self, request: RecognitionRequest) -> Any:
        return After(super().open(request), ModelLoading("big", 0.25, request.fallback))


@pytest.mark.looptime
async def test_a_turn_waits_for_its_voice_and_is_heard_by_the_fallback() -> None:
    ears = OtherEars(["what time is it"])
    async with stage(ears, synthesiser=LateVoice(), recogniser_fallback="small", voice_fallback="plain") as on:
        await on.speak(1.0)
        await on.until(events.ResponseDone)
        assert texts(on.conversation) == [("user", "what time is it"), ("assistant", REPLY)]
        assert on.all(events.Loading) == [
            events.Loading("asr", "big", 0.25, "small"),
            events.Loading("tts", "large", 0.0, ""),
            events.Loading("tts", "large", 0.5, ""),
        ]


@pytest.mark.parametrize("extended", [True, False])
def test_only_clients_of_our_extension_are_told(extended: bool) -> None:
    translated = ServerEvents(lambda: updated({}), "conv", extended=extended).translate(
        events.Loading("tts", "large", 0.5, "plain")
    )
    said = [{key: value for key, value in event.items() if key != "event_id"} for event in translated]
    expected = {"type": "antiphon.model.loading", "task": "tts", "model": "large", "progress": 0.5, "fallback": "plain"}
    assert said == ([expected] if extended else [])
