"""How a conversation is judged."""

from typing import Any

import numpy as np
import pytest

from antiphon.cli.judgement import Judgement, Overlap, Turn, judge, overlap_of, plain, turns_of, word_error_rate
from antiphon.cli.playout import Line, Speaker
from antiphon.cli.realtime import RATE_HZ, Received

pytestmark = pytest.mark.unit


class Session:
    """The parts of a session that a judge looks at."""

    def __init__(self, events: list[Received], speaker: Speaker) -> None:
        self.events = events
        self.speaker = speaker


def done(at_s: float, item: str, status: str = "completed", reason: str = "") -> Received:
    response = {"status": status, "status_details": {"reason": reason}, "output": [{"type": "message", "id": item}]}
    return Received(at_s, "response.done", {"response": response})


def event(at_s: float, type: str, **body: Any) -> Received:
    return Received(at_s, type, body)


def good() -> Judgement:
    turns = [
        Turn("Good morning.", Line(0, 1), "good morning", 1.2, "Good morning.", "Good morning", "a", "completed"),
        Turn("Good day.", Line(5, 6), "Good day!", 6.2, "Good", "Good", "b", "cancelled", "turn_detected"),
        Turn("Good night.", Line(7, 8), "Good night.", 8.2, "Good night.", "good night", "c", "completed"),
    ]
    return Judgement(turns, Overlap(Line(7, 8)), Overlap(Line(2, 3)))


def test_a_good_conversation_has_no_fault() -> None:
    judgement = good()
    judge(judgement)
    assert (judgement.faults, judgement.word_error_rate, judgement.reply_word_error_rate) == ([], 0, 0)


@pytest.mark.parametrize(
    ("turn", "field", "value", "fault"),
    [
        (0, "heard", "could mourning", "transcripts"),
        (2, "reply_heard_back", "", "cannot be understood"),
        (0, "reply_status", "cancelled", "mm-hm"),
        (1, "reply_reason", "", "did not stop"),
        (2, "reply_status", "failed", "not answered"),
        (2, "reply", "", "not answered"),
    ],
)
def test_each_fault_is_named(turn: int, field: str, value: str, fault: str) -> None:
    judgement = good()
    setattr(judgement.turns[turn], field, value)
    judge(judgement)
    assert any(fault in named for named in judgement.faults)


def test_turns_are_read_from_the_events() -> None:
    speaker = Speaker(RATE_HZ)
    speaker.play("a", np.ones(RATE_HZ, dtype=np.float32), now_s=2.5)
    completed = "conversation.item.input_audio_transcription.completed"
    events = [
        event(2.2, completed, transcript=" Hello. "),
        event(2.6, "response.output_audio_transcript.delta", item_id="a", delta="Hel"),
        event(2.7, "response.output_audio_transcript.delta", item_id="a", delta="lo."),
        done(3.6, "a"),
    ]
    (turn,) = turns_of(Session(events, speaker), [("Hello.", Line(1.0, 2.0))])  # type: ignore[arg-type]
    assert (turn.heard, turn.reply, turn.reply_status) == ("Hello.", "Hello.", "completed")
    assert turn.voice_to_voice_ms == pytest.approx(500)
    assert turn.transcript_ms == pytest.approx(200)
    assert turn.reply_end_s == pytest.approx(3.5)


def test_an_overlap_is_timed_from_its_onset() -> None:
    events = [
        event(0.5, "antiphon.reply.ducked"),
        event(2.07, "antiphon.reply.ducked"),
        event(2.4, "antiphon.reply.resumed"),
    ]
    session = Session(events, Speaker(RATE_HZ))
    reply = Turn("", Line(0, 1), reply_status="completed", reply_end_s=4.0)
    overlap = overlap_of(session, Line(2.0, 2.3), reply)  # type: ignore[arg-type]
    assert (overlap.ducked_ms, overlap.resumed_ms) == pytest.approx((70, 400))
    assert overlap.silent_ms is None
    reply.reply_status, reply.reply_end_s = "cancelled", 2.25
    assert overlap_of(session, Line(2.0, 2.3), reply).silent_ms == pytest.approx(250)  # type: ignore[arg-type]


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert plain("Mm-hmm: It's  GOOD!") == "mm hmm it's good"
    assert word_error_rate(["Good day, sir."], ["good day sir"]) == 0
    assert word_error_rate(["one two three four"], ["one too three"]) == pytest.approx(0.5)
    assert word_error_rate(["..."], [""]) == 1.0
