"""What may leave, and when."""

import asyncio

import pytest

from antiphon.contracts.v1 import synthesis_pb2 as pb
from antiphon.worker.outbox import MESSAGE_FRAMES, Outbox

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

RATE_HZ = 8_000
FRAME = 160


def frames(count: int) -> bytes:
    return bytes(2 * FRAME * count)


async def sizes(outbox: Outbox) -> list[int]:
    """Frames in each message that may leave now."""
    found = []
    try:
        while True:
            async with asyncio.timeout(0.001):
                response = await outbox.get()
            if response is None:
                break
            found.append(len(response.audio.pcm) // (2 * FRAME))
    except TimeoutError:
        pass
    return found


async def test_one_frame_first_then_messages_of_at_most_200_ms() -> None:
    outbox = Outbox(RATE_HZ, 60_000)
    outbox.put_audio(frames(30))
    outbox.finish()
    assert await sizes(outbox) == [1, MESSAGE_FRAMES, MESSAGE_FRAMES, 9]
    assert outbox.position_samples == 30 * FRAME


async def test_nothing_leaves_beyond_the_lead() -> None:
    outbox = Outbox(RATE_HZ, 100)
    outbox.put_audio(frames(30))
    assert await sizes(outbox) == [1, 4]
    outbox.played(2 * FRAME)
    assert await sizes(outbox) == [2]
    outbox.played(FRAME)  # never back
    outbox.played(1_000_000)  # never beyond what was sent
    assert await sizes(outbox) == [5]
    assert outbox.position_samples == 12 * FRAME


async def test_a_pause_holds_audio_until_it_is_resumed() -> None:
    outbox = Outbox(RATE_HZ, 60_000)
    outbox.put_audio(frames(3))
    outbox.pause()
    waiting = asyncio.create_task(outbox.get())
    await asyncio.sleep(10)
    assert not waiting.done()
    outbox.resume()
    response = await waiting
    assert response is not None and response.audio.position_samples == 0


async def test_the_clause_comes_with_its_first_audio_and_words_after_it() -> None:
    outbox = Outbox(RATE_HZ, 60_000, generation=3)
    outbox.put_audio(frames(2), pb.ClauseStart(index=4))
    outbox.put_words(pb.WordTimes(clause_index=4))
    outbox.finish()
    first, second, words, end = [await outbox.get() for _ in range(4)]
    assert first is not None and first.audio.clause.index == 4 and first.audio.generation == 3
    assert second is not None and not second.audio.HasField("clause")
    assert words is not None and words.words.clause_index == 4
    assert end is None


async def test_who_computes_waits_until_little_is_held() -> None:
    outbox = Outbox(RATE_HZ, 60_000)
    outbox.put_audio(frames(30))
    waiting = asyncio.create_task(outbox.room())
    await asyncio.sleep(1)
    assert not waiting.done()
    assert await outbox.get() and await outbox.get()
    await waiting


async def test_a_cleared_outbox_ends_at_once_and_lets_everyone_go() -> None:
    outbox = Outbox(RATE_HZ, 20)
    outbox.put_audio(frames(30))
    outbox.pause()
    room, got = asyncio.create_task(outbox.room()), asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    outbox.clear()
    await room
    assert await got is None
