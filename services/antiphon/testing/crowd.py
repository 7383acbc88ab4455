"""A crowd in conversation: each asks for the same numbered words again and again, and listens whether each came.

For a voice of the mock engine, whose word `7` sounds as tone 7: what is lost or heard twice is heard, not inferred.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from antiphon.cli.playout import Played
from antiphon.cli.realtime import RESUMED, RealtimeSession, Received, connect
from antiphon.testing.tones import decode_words

RATE = 24_000
CLAUSE_WORDS, WORDS = 8, 24
TEXT = " ".join(f"{word}." if word % CLAUSE_WORDS == CLAUSE_WORDS - 1 else str(word) for word in range(WORDS))
"""Numbered words in clauses."""
TURN_S = 30.0
"""How long a reply may take to be over."""


@dataclass
class Report:
    """What the listeners have heard."""

    turns: int = 0
    lost: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    """Of each reply, how many of its words were heard twice."""
    resumed: int = 0
    """Connections that were opened again, by the client itself, to go on with a session."""
    ended: Counter[str] = field(default_factory=Counter)
    """How replies ended: `completed`, or what else the server said of them."""
    refused: Counter[str] = field(default_factory=Counter)
    """What the server refused, by the error's code."""
    told: Counter[str] = field(default_factory=Counter)
    """The server's events of our own extension, by type."""
    longest_gap_s: float = 0.0
    """The longest silence within a reply."""
    longest_wait_s: float = 0.0
    """The longest time from a question to the first sound of its reply."""

    def hear(self, words: list[int]) -> None:
        """Note a whole reply."""
        self.turns += 1
        self.lost += sorted(set(range(WORDS)) - set(words))
        self.repeated.append(len(words) - len(set(words)))

    def __str__(self) -> str:
        """All of it in a sentence."""
        repeated = [count for count in self.repeated if count]
        return (
            f"{self.turns} turns ended {dict(self.ended)}, {len(self.lost)} words lost; "
            f"{len(repeated)} replies with {max(repeated, default=0)} words or fewer heard twice; "
            f"longest silence within one {self.longest_gap_s:.2f} s, before one {self.longest_wait_s:.2f} s; "
            f"{self.resumed} sessions resumed; refused {dict(self.refused)}"
        )


@asynccontextmanager
async def crowd(
    url: str, size: int, *, key: str = "", assistant: str = "default", before_s: float = 1.0, after_s: float = 3.0
) -> AsyncIterator[Report]:
    """So many conversations in the midst of their turns; each is ended, after one more turn, when the block ends.

    Args:
        url: The orchestrators' address.
        size: How many people talk.
        key: The API key, where one is wanted.
        assistant: Whom they talk to: one that says back what it is told.
        before_s: How long they go on before the block.
        after_s: And after it.
    """
    report, enough = Report(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for number in range(size):
            tasks.create_task(_converse(url, key, assistant, enough, report), name=f"conversation-{number}")
            await asyncio.sleep(0.05)
        await asyncio.sleep(before_s)
        yield report
        await asyncio.sleep(after_s)
        enough.set()


async def _converse(url: str, key: str, assistant: str, enough: asyncio.Event, report: Report) -> None:
    async with connect(url, assistant=assistant, key=key, extension=True) as session:
        done = False
        while not done:
            done = enough.is_set()
            await _turn(session, report)
        report.resumed += sum(event.type == RESUMED for event in session.events)
        report.told.update(event.type for event in session.events if event.type.startswith("antiphon."))
        report.refused.update(event.body["error"]["code"] for event in session.events if event.type == "error")


async def _turn(session: RealtimeSession, report: Report) -> None:
    """Ask, and listen to the reply; ask again at once when that is over: nobody rests."""
    since, asked_s = len(session.events), session.now_s
    await session.say_text(TEXT)
    event = await _answered(session, since)
    if event is None:
        return await _turn(session, report)
    response = event.body["response"]
    report.ended[response["status"]] += 1
    if response["status"] == "completed":
        pieces = session.speaker.pieces(response["output"][0]["id"])
        # In a thread: the listeners' loop must not be late while it reckons.
        report.hear(await asyncio.to_thread(decode_words, np.concatenate([piece.samples for piece in pieces]), RATE))
        report.longest_gap_s = max(report.longest_gap_s, _longest_gap_s(pieces))
        report.longest_wait_s = max(report.longest_wait_s, pieces[0].start_s - asked_s)


async def _answered(session: RealtimeSession, since: int) -> Received | None:
    """The end of the reply; None when its orchestrator is gone, and nobody owes it."""
    event = await session.expect("response.done", RESUMED, since=since, within_s=TURN_S)
    if event.type != RESUMED:
        return event
    since = session.events.index(event, since)
    resumed = await session.expect("antiphon.session.resumed", since=since, within_s=TURN_S)
    return await _answered(session, since + 1) if resumed.body["reply_owed"] else None


def _longest_gap_s(pieces: list[Played]) -> float:
    ends = [piece.start_s + len(piece.samples) / RATE for piece in pieces]
    return max((later.start_s - end for end, later in zip(ends, pieces[1:], strict=False)), default=0.0)
