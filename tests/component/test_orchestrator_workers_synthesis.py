"""A voice that outlives its worker: against real workers, a real registry, and real signals."""

import asyncio
import signal

import numpy as np
import pytest
from registry_cluster import PATIENT, RATE_HZ, Cluster, Player, cluster, ears, voice

from antiphon.audio.pcm import pcm_to_float
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.ports import SynthesisRequest
from antiphon.orchestrator.workers.fleet import Deadlines
from antiphon.testing.tones import decode_words

pytestmark = pytest.mark.component

CLAUSE_WORDS = 10
LONG_TEXT = " ".join(f"w{number}" + ("." if number % CLAUSE_WORDS == 9 else "") for number in range(120))
TEXT = LONG_TEXT[: LONG_TEXT.index(" w40")]


def request(model: str = "default", **changes: object) -> SynthesisRequest:
    return SynthesisRequest(session_id="s", model=model, sample_rate_hz=RATE_HZ, **changes)  # type: ignore[arg-type]


def speak(made: Cluster, text: str = TEXT, speed: float = 1.0, **changes: object) -> Player:
    stream = made.synthesiser.open(request(**changes))  # type: ignore[arg-type]
    stream.push_text(text)
    stream.end()
    return Player(stream, speed)


def heard(player: Player) -> list[int]:
    return decode_words(pcm_to_float(bytes(player.pcm)), RATE_HZ)


def covered(player: Player, text: str) -> bool:
    """Whether the clauses, the later ones taking the place of the earlier, are all of the text."""
    last = {clause.index: text[clause.text_start : clause.text_end] for clause in player.clauses}
    return "".join(last[index] for index in sorted(last)).split() == text.split()


def is_whole(words: list[int]) -> bool:
    """Every word in order; at most one clause is heard from its start again."""
    jumps = [(a, b) for a, b in zip(words, words[1:], strict=False) if b != a + 1]
    return set(words) == set(range(40)) and words[0] == 0 and len(jumps) <= 1 and all(0 <= a - b < 10 for a, b in jumps)


async def outcome(player: Player) -> AntiphonError:
    with pytest.raises(AntiphonError) as raised:
        await player.run()
    await player.stream.aclose()
    return raised.value


async def test_a_reply_is_spoken_with_its_clauses_and_words() -> None:
    async with cluster() as made:
        await made.add("a")
        player = speak(made, speed=10, model="tts-1")
        await player.run()
        await player.stream.aclose()
        assert heard(player) == list(range(40))
        assert covered(player, TEXT) and not player.restarted
        for (start, end), samples in player.words.items():
            number = int(TEXT[start:end].strip("w."))
            assert abs(samples / RATE_HZ - number * 0.1) < 0.05
        assert len(player.words) == 40


async def test_text_that_cannot_be_sent_is_an_error_and_no_workers_fault() -> None:
    async with cluster() as made:
        await made.add("a")
        broken = speak(made, "w0 w1 \ud83d w2.", speed=10)
        async with asyncio.timeout(10):
            assert (await outcome(broken)).reason is Reason.INTERNAL
        player = speak(made, speed=10)
        await player.run()
        await player.stream.aclose()
        assert heard(player) == list(range(40))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_is_lost_in_mid_reply(how: signal.Signals) -> None:
    async with cluster(deadlines=Deadlines(stall_s=1.0)) as made:
        await made.spawn("a", "b")
        player = speak(made)
        running = asyncio.create_task(player.run())
        first = await made.until_busy()
        await player.until(lambda: player.played_samples > RATE_HZ // 2 and len(player.clauses) >= 2)
        made.processes[first].send_signal(how)
        await running
        await player.stream.aclose()
        assert player.restarted, "the worker was lost too late for the test to mean anything"
        assert is_whole(heard(player)), heard(player)
        assert covered(player, TEXT)
        assert player.longest_wait_s < 2.0


async def test_what_was_lost_before_it_was_heard_is_not_heard_twice() -> None:
    async with cluster() as made:
        await made.spawn("a", "b")
        player = speak(made)
        running = asyncio.create_task(player.run())
        await player.until(lambda: len(player.clauses) >= 2)  # a second before it is played
        await made.end(await made.until_busy())
        await running
        await player.stream.aclose()
        assert player.restarted and heard(player) == list(range(40))


async def test_a_worker_that_leaves_is_followed_from_the_next_clause() -> None:
    async with cluster(deadlines=PATIENT) as made:
        await made.add("a", "b")
        player = speak(made)
        running = asyncio.create_task(player.run())
        first = await made.until_busy()
        await player.until(lambda: len(player.clauses) >= 1)
        made.workers[first].streams.drain()
        made.workers[first].streams.leave()
        await running
        await player.stream.aclose()
        assert heard(player) == list(range(40)) and not player.restarted
        assert [clause.index for clause in player.clauses] == [0, 1, 2, 3] and covered(player, TEXT)


async def test_text_and_flushes_that_come_later_reach_the_worker_that_took_over() -> None:
    async with cluster() as made:
        await made.spawn("a", "b")
        stream = made.synthesiser.open(request())
        player = Player(stream)
        running = asyncio.create_task(player.run())
        stream.push_text("w0 w1 w2. w3 w4")
        stream.flush()
        await player.until(lambda: len(player.clauses) == 2)
        await made.end(await made.until_busy())
        stream.push_text(" w5 w6 w7")
        stream.flush()
        await player.until(lambda: player.clauses[-1].text_end >= len("w0 w1 w2. w3 w4 w5 w6 w7"))
        stream.push_text(" w8.")
        stream.end()
        await running
        await stream.aclose()
        words = heard(player)
        assert sorted(set(words)) == list(range(9)) and covered(player, "w0 w1 w2. w3 w4 w5 w6 w7 w8.")


async def test_a_full_worker_sends_the_caller_to_the_next() -> None:
    async with cluster() as made:
        await made.add("a", "b", max_streams=1)
        players = [speak(made, speed=10) for _ in range(2)]
        await asyncio.gather(*(player.run() for player in players))
        for player in players:
            await player.stream.aclose()
            assert heard(player) == list(range(40))


async def test_all_full_waits_then_says_so() -> None:
    async with cluster(deadlines=Deadlines(no_worker_s=0.5)) as made:
        await made.add("a", max_streams=1)
        held = made.synthesiser.open(request())
        await made.until_busy()
        error = await outcome(speak(made))
        assert error.reason is Reason.WORKER_FULL and "1 streams" in error.message and error.retry_after_ms
        late = speak(made, speed=20)
        waiting = asyncio.create_task(late.run())
        await asyncio.sleep(0)
        await held.aclose()
        await waiting
        await late.stream.aclose()
        assert heard(late) == list(range(40))


async def test_an_unknown_model_is_refused_at_once() -> None:
    async with cluster() as made:
        began = asyncio.get_running_loop().time()
        error = await outcome(speak(made, model="nobody"))
        assert error.reason is Reason.MODEL_UNKNOWN and "tones" in error.message
        assert asyncio.get_running_loop().time() - began < 1


async def test_no_worker_is_said_with_what_is_known_and_one_that_returns_is_used() -> None:
    async with cluster(deadlines=Deadlines(no_worker_s=0.3)) as made:
        error = await outcome(speak(made))
        assert error.reason is Reason.NO_WORKER and "tones" in error.message
        await made.spawn("a")
        player = speak(made)
        running = asyncio.create_task(player.run())
        await player.until(lambda: bool(player.clauses))
        await made.end("a")
        with pytest.raises(AntiphonError, match="No worker can serve"):
            await running
        await player.stream.aclose()
        await made.add("b")
        again = speak(made, speed=20)
        await again.run()
        await again.stream.aclose()
        assert heard(again) == list(range(40))


async def test_what_no_worker_would_do_is_refused_by_the_first() -> None:
    async with cluster() as made:
        await made.add("a", "b")
        error = await outcome(speak(made, voice="nobody"))
        assert error.reason is Reason.INVALID_REQUEST


async def test_an_engine_that_fails_again_and_again_is_given_up() -> None:
    async with cluster(voice(fail_after_chunks=20), ears(), deadlines=Deadlines(no_worker_s=1.0)) as made:
        await made.add("a", "b")
        error = await outcome(speak(made, " ".join(f"w{number}" for number in range(35))))
        assert error.reason is Reason.NO_WORKER and "mock voice fails" in error.message


async def test_pause_holds_the_worker_and_close_frees_it() -> None:
    async with cluster() as made:
        worker = await made.add("a")
        player = speak(made)
        running = asyncio.create_task(player.run())
        await player.until(lambda: bool(player.clauses))
        player.stream.pause()
        await asyncio.sleep(0.3)
        received = len(player.pcm)
        await asyncio.sleep(0.5)
        assert len(player.pcm) == received and len(worker.streams) == 1
        player.stream.resume()
        await player.until(lambda: len(player.pcm) > received)
        await player.stream.aclose()
        await player.stream.aclose()
        await running
        async with asyncio.timeout(1):
            await worker.streams.ended()


async def test_a_worker_is_lost_while_the_reply_is_held() -> None:
    async with cluster() as made:
        await made.spawn("a", "b")
        player = speak(made, LONG_TEXT, speed=3)
        running = asyncio.create_task(player.run())
        await player.until(lambda: player.played_samples > RATE_HZ // 4)
        first = await made.until_busy()
        player.stream.pause()
        await made.end(first)
        await made.until(lambda snapshot: first not in snapshot.workers or snapshot.workers[first].lease is None)
        second = await made.until_busy()
        assert second != first
        received = len(player.pcm)
        await asyncio.sleep(0.5)
        assert len(player.pcm) == received  # the new worker is held as the old one was
        player.stream.resume()
        await running
        await player.stream.aclose()
        assert set(heard(player)) == set(range(120)) and covered(player, LONG_TEXT)


async def test_a_slow_worker_that_is_the_only_one_is_given_time() -> None:
    async with cluster(voice(latency_ms=600), ears(), deadlines=Deadlines(first_s=0.4, stall_s=0.4)) as made:
        await made.add("a")
        player = speak(made, speed=10)
        await player.run()
        await player.stream.aclose()
        assert heard(player) == list(range(40)) and not player.restarted


async def test_the_registry_dies_and_calls_go_on() -> None:
    async with cluster() as made:
        await made.add("a", "b")
        player = speak(made)
        running = asyncio.create_task(player.run())
        await player.until(lambda: bool(player.clauses))
        await made.valkey.stop()
        await made.until(lambda snapshot: snapshot.stale)
        await asyncio.sleep(3.5)  # longer than a lease
        new = speak(made, speed=20)
        await asyncio.gather(running, new.run())
        for spoken in (player, new):
            await spoken.stream.aclose()
            assert heard(spoken) == list(range(40))


async def test_positions_are_those_of_the_worker_that_speaks() -> None:
    """A reply far longer than the lead: a worker that took over must be told where playing stands, or it stops."""
    async with cluster() as made:
        await made.spawn("a", "b")
        player = speak(made, LONG_TEXT, speed=3)
        running = asyncio.create_task(player.run())
        await player.until(lambda: len(player.clauses) >= 5)
        await made.end(await made.until_busy())
        await running
        await player.stream.aclose()
        assert set(heard(player)) == set(range(120)) and covered(player, LONG_TEXT)
        assert np.abs(pcm_to_float(bytes(player.pcm[-2 * 2400 : -2 * 1200]))).max() > 0.01
