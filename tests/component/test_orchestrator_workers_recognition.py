"""Ears that outlive their worker: against real workers and a real registry."""

import asyncio
import signal
from collections.abc import Callable

import pytest
from registry_cluster import Cluster, cluster, ears, voice

from antiphon.adapters.asr.mock import MockAsrStream
from antiphon.contracts.adapters import Hypothesis
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.ports import (
    FinalTranscript,
    PartialTranscript,
    RecognitionRequest,
    RecognitionResult,
    SpeculativeTranscript,
)
from antiphon.orchestrator.workers.fleet import Deadlines
from antiphon.orchestrator.workers.recogniser import RoutedRecognitionStream

pytestmark = pytest.mark.component

RATE_HZ = 16_000
FRAME = bytes(640)
WORDS = "one two three four five six seven eight nine ten"
# What is heard depends on how much audio reached the worker that gave the transcript: all of it, or less.
SCRIPT = {"by_duration": [{"at_least_ms": 0, "text": "too little"}, {"at_least_ms": 2900, "text": WORDS}]}


class Caller:
    """Speaks in real time or at once, and keeps what comes back."""

    def __init__(self, made: Cluster, **changes: object) -> None:
        settings = {"session_id": "s", "model": "default", "sample_rate_hz": RATE_HZ, "word_times": True} | changes
        self.stream: RoutedRecognitionStream = made.recogniser.open(RecognitionRequest(**settings))  # type: ignore[arg-type]
        self.results: list[RecognitionResult] = []
        self._came = asyncio.Event()
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for result in self.stream.results():
            self.results.append(result)
            self._came.set()

    async def speak(self, seconds: float, *, paced: bool = False) -> None:
        for _ in range(round(seconds * 50)):
            self.stream.push(FRAME)
            if paced:
                await asyncio.sleep(0.02)

    async def until(self, condition: Callable[[RecognitionResult], bool]) -> RecognitionResult:
        while not (found := [result for result in self.results if condition(result)]):
            self._came.clear()
            await self._came.wait()
        return found[0]

    async def final(self) -> str:
        await self.listening
        await self.stream.aclose()
        last = self.results[-1]
        assert isinstance(last, FinalTranscript)
        return last.transcript.text


async def test_an_utterance_is_heard_with_partials_a_pause_and_words() -> None:
    async with cluster(voice(), ears(**SCRIPT)) as made:
        await made.add("a")
        caller = Caller(made, model="script")
        await caller.speak(1.5)
        await caller.until(lambda result: isinstance(result, PartialTranscript))
        await caller.speak(1.5)
        caller.stream.pause(7, 200)
        speculative = await caller.until(lambda result: isinstance(result, SpeculativeTranscript))
        assert isinstance(speculative, SpeculativeTranscript)
        assert speculative.pause_id == 7 and speculative.transcript.text == WORDS
        caller.stream.end()
        assert await caller.final() == WORDS
        last = caller.results[-1]
        assert isinstance(last, FinalTranscript)
        assert [word.text for word in last.transcript.words] == WORDS.split()
        assert 0 < last.transcript.words[-1].end_s <= 3.0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_is_lost_in_mid_utterance(how: signal.Signals) -> None:
    async with cluster(voice(), ears(**SCRIPT), deadlines=Deadlines(answer_s=0.5)) as made:
        await made.spawn("a", "b")
        caller = Caller(made)
        await caller.speak(1.0, paced=True)
        first = await made.until_busy()
        made.processes[first].send_signal(how)
        await caller.speak(2.0, paced=True)
        lost_at = len(caller.results)
        caller.stream.pause(1, 200)
        began = asyncio.get_running_loop().time()
        speculative = await caller.until(lambda result: isinstance(result, SpeculativeTranscript))
        assert isinstance(speculative, SpeculativeTranscript) and speculative.transcript.text == WORDS
        caller.stream.end()
        assert await caller.final() == WORDS
        assert asyncio.get_running_loop().time() - began < 5
        assert len(caller.results) > lost_at


async def test_a_pause_that_was_not_answered_is_asked_of_the_next_worker() -> None:
    async with cluster(voice(), ears(latency_ms=600, **SCRIPT)) as made:
        await made.spawn("a", "b")
        caller = Caller(made)
        await caller.speak(3.0)
        caller.stream.pause(3, 200)
        await made.end(await made.until_busy())
        result = await caller.until(lambda result: isinstance(result, SpeculativeTranscript))
        assert isinstance(result, SpeculativeTranscript) and result.transcript.text == WORDS
        caller.stream.end()
        assert await caller.final() == WORDS


async def test_a_full_worker_sends_the_caller_to_the_next() -> None:
    async with cluster(voice(), ears(**SCRIPT)) as made:
        await made.add("a", "b", max_streams=1)
        callers = [Caller(made) for _ in range(2)]
        for caller in callers:
            await caller.speak(3.0)
            caller.stream.end()
        assert [await caller.final() for caller in callers] == [WORDS, WORDS]


async def test_an_engine_that_always_fails_is_given_up_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: MockAsrStream) -> Hypothesis:
        raise AntiphonError(Reason.ENGINE_FAULT, "The ears are full of wax.")

    async with cluster(deadlines=Deadlines(no_worker_s=1.0)) as made:
        await made.add("a", "b")
        monkeypatch.setattr(MockAsrStream, "final", fail)
        caller = Caller(made)
        await caller.speak(1.0)
        caller.stream.end()
        with pytest.raises(AntiphonError) as raised:
            await caller.listening
        await caller.stream.aclose()
        assert raised.value.reason is Reason.NO_WORKER
        assert "script" in raised.value.message and "wax" in raised.value.message


async def test_closing_frees_the_worker_and_ends_the_results() -> None:
    async with cluster(voice(), ears(**SCRIPT)) as made:
        worker = await made.add("a")
        caller = Caller(made)
        await caller.speak(1.0)
        await caller.until(lambda result: isinstance(result, PartialTranscript))
        await caller.stream.aclose()
        await caller.stream.aclose()
        await caller.listening
        async with asyncio.timeout(2):
            await worker.streams.ended()


async def test_an_unknown_recogniser_is_refused_at_once() -> None:
    async with cluster() as made:
        caller = Caller(made, model="nobody")
        with pytest.raises(AntiphonError) as raised:
            await caller.listening
        await caller.stream.aclose()
        assert raised.value.reason is Reason.MODEL_UNKNOWN and "script" in raised.value.message
