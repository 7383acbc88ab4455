"""A client's microphone and speaker on the session's clock."""

import numpy as np
import pytest

from antiphon.cli.playout import Microphone, Speaker, audible, stereo

pytestmark = pytest.mark.unit

RATE_HZ = 24_000


def tone(seconds: float, level: float = 0.5) -> np.ndarray:
    return np.full(round(seconds * RATE_HZ), level, dtype=np.float32)


def silence(seconds: float) -> np.ndarray:
    return tone(seconds, 0.0)


def test_the_microphone_streams_silence_until_something_is_said() -> None:
    microphone = Microphone(RATE_HZ)
    assert not microphone.frame().any()
    line = microphone.say(np.concatenate((silence(0.1), tone(0.3), silence(0.2))))
    frames = [microphone.frame() for _ in range(40)]
    assert (line.start_s, line.end_s) == pytest.approx((0.12, 0.42))
    assert all(len(frame) == 480 for frame in frames)
    assert audible(microphone.recording(), RATE_HZ) == pytest.approx((0.12, 0.42))
    assert not microphone.speaking


def test_lines_follow_each_other() -> None:
    microphone = Microphone(RATE_HZ)
    first, second = microphone.say(tone(0.05)), microphone.say(tone(0.05))
    assert (first.end_s, second.start_s) == pytest.approx((0.05, 0.05))


def test_the_tape_begins_with_the_session() -> None:
    microphone = Microphone(RATE_HZ)
    microphone.start_s = 0.5
    line = microphone.say(tone(0.02))
    microphone.frame()
    assert line.start_s == pytest.approx(0.5)
    assert audible(microphone.recording(), RATE_HZ) == pytest.approx((0.5, 0.52))


def test_a_reply_sounds_piece_after_piece_and_waits_for_late_ones() -> None:
    speaker = Speaker(RATE_HZ)
    speaker.play("a", tone(0.1), now_s=1.0)
    speaker.play("a", tone(0.1), now_s=1.02)
    speaker.play("a", tone(0.1), now_s=2.0)
    assert [piece.start_s for piece in speaker.pieces("a")] == pytest.approx([1.0, 1.1, 2.0])
    assert speaker.end_s == pytest.approx(2.1)
    assert speaker.heard_ms("a") == 300
    assert len(speaker.recording()) == pytest.approx(2.1 * RATE_HZ, abs=2)


def test_a_speaker_that_keeps_nothing_remembers_the_last_two_items() -> None:
    speaker = Speaker(RATE_HZ, keeps=False)
    for number, item in enumerate("abc"):
        speaker.play(item, tone(0.1), now_s=float(number))
        speaker.play(item, tone(0.1), now_s=float(number))
    assert [speaker.heard_ms(item) for item in "abc"] == [0, 200, 200]
    assert speaker.drop(now_s=2.15) == ("c", 150)


def test_what_has_not_sounded_is_dropped() -> None:
    speaker = Speaker(RATE_HZ)
    speaker.play("a", tone(0.1), now_s=1.0)
    speaker.play("b", tone(0.5), now_s=1.0)
    assert speaker.drop(now_s=1.25) == ("b", 150)
    assert speaker.end_s == pytest.approx(1.25)
    assert speaker.drop(now_s=1.3) is None


def test_a_piece_that_has_not_begun_leaves_nothing() -> None:
    speaker = Speaker(RATE_HZ)
    speaker.play("a", tone(0.1), now_s=1.0)
    speaker.play("b", tone(0.1), now_s=1.0)
    assert speaker.drop(now_s=1.05) == ("a", 50)
    assert speaker.pieces("b") == []


def test_silence_is_not_audible() -> None:
    assert audible(silence(0.3), RATE_HZ) == (0.0, 0.0)
    assert audible(np.zeros(0, dtype=np.float32), RATE_HZ) == (0.0, 0.0)


def test_two_tapes_stand_side_by_side() -> None:
    both = stereo(tone(0.1, 0.1), tone(0.2, 0.2))
    assert both.shape == (4800, 2)
    assert both[-1].tolist() == pytest.approx([0.0, 0.2])
