"""What the bench says of sound and events that are known exactly."""

import numpy as np
import pytest

from antiphon.cli.bench.figures import Figure, Goal, share, statistic
from antiphon.cli.bench.measures import (
    Span,
    deviations_ms,
    first,
    last,
    longest_pause_ms,
    lowered_s,
    since_ms,
    sounding,
    trimmed,
)
from antiphon.cli.playout import Played
from antiphon.cli.realtime import Received

pytestmark = pytest.mark.unit

RATE_HZ = 24_000


def tone(seconds: float, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def quiet(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE_HZ), dtype=np.float32)


def test_sound_is_found_from_its_first_to_its_last_audible_window() -> None:
    samples = np.concatenate((quiet(0.3), tone(0.2), quiet(0.4), tone(0.1), quiet(0.5)))
    assert sounding(samples, RATE_HZ) == Span(pytest.approx(0.3), pytest.approx(1.0))
    assert longest_pause_ms(samples, RATE_HZ) == 400
    assert len(trimmed(samples, RATE_HZ)) == round(0.7 * RATE_HZ)


@pytest.mark.parametrize(("level_db", "heard"), [(-36.0, True), (-38.0, False)])
def test_audible_begins_at_minus_40_dbfs_rms(level_db: float, heard: bool) -> None:
    # A sine's RMS is 3 dB below its peak: a peak of -37 dBFS is the border.
    assert (sounding(tone(0.1, 10 ** (level_db / 20)), RATE_HZ) is not None) is heard


def test_silence_has_no_span() -> None:
    assert sounding(quiet(0.5), RATE_HZ) is None
    assert longest_pause_ms(quiet(0.5), RATE_HZ) == 0
    assert len(trimmed(quiet(0.5), RATE_HZ)) == 0


def test_events_are_found_by_type_and_time() -> None:
    events = [Received(1.0, "a", {}), Received(2.0, "b", {}), Received(3.0, "a", {})]
    assert first(events, "a", after_s=1.5) is events[2]
    assert last(events, "b") is events[1]
    assert first(events, "c") is None
    assert since_ms(0.5, events[0]) == pytest.approx(500)
    assert since_ms(0.5, None) is None


def test_a_lowered_tone_is_noticed_when_it_is_heard_not_when_it_comes() -> None:
    full = [Played("x", number * 0.02, tone(0.02)) for number in range(50)]
    low = [Played("x", (50 + number) * 0.02, tone(0.02, 0.125)) for number in range(5)]
    assert lowered_s([*full, *low], after_s=0.9) == pytest.approx(1.0)
    assert lowered_s(full, after_s=0.9) is None
    assert lowered_s([], after_s=0.0) is None


def test_a_constant_delay_is_no_jitter_and_a_late_frame_is() -> None:
    positions = [number * 0.02 for number in range(100)]
    arrivals = [0.7 + position for position in positions]
    assert deviations_ms(arrivals, positions) == pytest.approx([0.0] * 100, abs=1e-6)
    arrivals[40] += 0.005
    assert max(deviations_ms(arrivals, positions)) == pytest.approx(5.0)
    assert deviations_ms([], []) == []


def test_a_clock_that_drifts_is_jitter() -> None:
    positions = [number * 0.02 for number in range(500)]
    drifting = [position * 1.02 for position in positions]
    assert statistic(deviations_ms(drifting, positions), "p95") > 90


def test_statistics_of_a_known_list() -> None:
    values = [float(number) for number in range(1, 101)]
    assert statistic(values, "p50") == pytest.approx(50.5)
    assert statistic(values, "p95") == pytest.approx(95.05)
    assert statistic(values, "mean") == pytest.approx(50.5)
    assert statistic(values, "max") == 100


@pytest.mark.parametrize(("value", "verdict"), [(120, "aim"), (121, "at least"), (200, "at least"), (201, "missed")])
def test_a_goal_is_reached_missed_or_reached_in_part(value: float, verdict: str) -> None:
    figure = Figure("first audio", (value,) * 3, goal=Goal("p50", 120, 200))
    assert figure.verdict == verdict


def test_nothing_measured_is_no_verdict() -> None:
    assert Figure("first audio", (), goal=Goal("p50", 120, 200)).verdict == ""


def test_a_ratio_is_taken_of_the_judged_statistic() -> None:
    bare = Figure("bare", (50.0, 50.0, 100.0))
    figure = Figure("server", (100.0, 100.0, 900.0), goal=Goal("p50", 1, 2), beside="bare")
    assert figure.ratio([figure, bare]) == pytest.approx(2.0)
    assert figure.ratio([figure]) is None
    assert bare.ratio([figure, bare]) is None


def test_a_share_is_the_mean_of_its_outcomes() -> None:
    figure = share("stopped", [True, False, False, False], Goal("mean", 5, 5))
    assert statistic(figure.values, "mean") == pytest.approx(25.0)
    assert figure.verdict == "missed"
