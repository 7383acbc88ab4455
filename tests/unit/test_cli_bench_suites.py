"""What the suites plan, and what their reports say of samples that are known."""

from pathlib import Path

import numpy as np
import pytest

from antiphon.audio.files import write_wav
from antiphon.cli.bench import recordings
from antiphon.cli.bench.command import NAMES, chosen
from antiphon.cli.bench.figures import statistic
from antiphon.cli.bench.stage import Sample, values
from antiphon.cli.bench.suites import (
    SUITES,
    barge_in,
    concurrency,
    early_turns,
    false_stops,
    first_audio,
    idle,
    jitter,
    leases,
    pause,
    routing,
    transcript,
    voice_to_voice,
)
from antiphon.contracts.errors import AntiphonError, Reason

pytestmark = pytest.mark.unit


@pytest.fixture
def human_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recordings of every length that suites ask for, one of them with a long pause."""
    generator = np.random.default_rng(0)
    for tenths in range(8, 40, 2):
        noise = generator.uniform(-0.3, 0.3, 8_000 * tenths // 10).astype(np.float32)
        write_wav(tmp_path / f"line-{tenths}.wav", noise, 8_000)
    noise[8_000:16_000] = 0
    write_wav(tmp_path / "pausing.wav", noise, 8_000)
    write_wav(tmp_path / "dial-tone.wav", noise, 8_000)
    monkeypatch.setenv("ANTIPHON_SPEECH", str(tmp_path))
    recordings._scan.cache_clear()
    yield tmp_path
    recordings._scan.cache_clear()


def figure(figures, name: str):  # type: ignore[no-untyped-def]
    return next(each for each in figures if each.name == name)


def test_the_help_names_every_suite() -> None:
    assert tuple(SUITES) == NAMES


def test_suites_are_chosen_by_name_and_an_unknown_one_is_refused() -> None:
    assert [suite.name for suite in chosen(["idle", "pause"])] == ["pause", "idle"]
    assert len(chosen(None)) == len(SUITES)
    with pytest.raises(AntiphonError, match="no suite nonsense") as refused:
        chosen(["nonsense"])
    assert refused.value.reason is Reason.INVALID_REQUEST


def test_every_suite_plans_something_even_for_one_run(human_speech: Path) -> None:
    for suite in SUITES.values():
        assert suite.plan(1), suite.name


def test_every_suite_reports_nothing_measured_without_failing() -> None:
    for suite in SUITES.values():
        assert all(not each.verdict for each in suite.report([])), suite.name


def test_a_full_run_has_as_many_trials_as_its_goals_ask_for(human_speech: Path) -> None:
    assert len(false_stops.plan(20)) >= 40
    assert sum(trial["assistant"] == "default" for trial in barge_in.plan(20)) >= 20
    assert {trial["gap_ms"] for trial in early_turns.plan(20)} == {300, 400, 500, 600, 700, 800}
    assert {trial["sessions"] for trial in jitter.plan(20)} == {0, 1, 10, 50}


def test_recordings_are_chosen_by_length_and_pause(human_speech: Path) -> None:
    found = recordings.lasting(2.0, 3.9, count=30)
    assert len(found) == 30
    assert all(2.0 <= each.length_s <= 3.9 for each in found)
    assert "pausing" not in {each.name for each in found}
    assert "dial-tone" not in {each.name for each in found}


def test_recordings_that_are_not_there_are_asked_for(human_speech: Path) -> None:
    with pytest.raises(AntiphonError, match="make speech"):
        recordings.lasting(50, 60, count=1)


@pytest.mark.parametrize("words", first_audio.WORDS)
@pytest.mark.parametrize("passage", range(5))
def test_texts_have_as_many_words_as_they_say(words: int, passage: int) -> None:
    assert len(first_audio.text_of(words, passage).split()) == words


def test_values_are_taken_of_samples_that_have_them() -> None:
    samples: list[Sample] = [{"by": "x", "ms": 1.0}, {"by": "x", "ms": None}, {"by": "y", "ms": 2.0}, {"by": "x"}]
    assert values(samples, "ms", by="x") == (1.0,)


def test_first_audio_stands_beside_the_bare_engine() -> None:
    samples = [{"words": 6, "by": "server", "ms": 110.0}, {"words": 6, "by": "engine", "ms": 55.0}]
    figures = first_audio.report(samples)
    assert figure(figures, "6 words").verdict == "aim"
    assert figure(figures, "6 words").ratio(figures) == pytest.approx(2.0)


def test_an_interruption_that_did_not_stop_the_reply_counts_against_it() -> None:
    whole = {"assistant": "default", "stopped": True, "vad_ms": 50.0, "ducked_ms": 60.0, "paused_ms": 90.0}
    stopped = {**whole, "lowered_ms": None, "last_frame_ms": 120.0, "silent_ms": 170.0}
    missed = {**stopped, "stopped": False, "last_frame_ms": None, "silent_ms": None}
    figures = barge_in.report([stopped, missed])
    assert figure(figures, "onset to silence, as heard").values == (170.0,)
    assert statistic(figure(figures, "interruptions that did not stop it").values, "mean") == 50


def test_false_stops_stand_beside_a_vad_alone() -> None:
    sound = {"kind": "noise", "ducked": True, "paused": True, "resumed_ms": 400.0, "voiced_ms": 200.0}
    figures = false_stops.report([{**sound, "stopped": number == 0} for number in range(10)])
    assert figure(figures, "replies stopped").ratio(figures) == pytest.approx(0.1)
    assert figure(figures, "replies stopped").verdict == "missed"


def test_early_turns_stand_beside_a_perfect_rule() -> None:
    samples = [
        {"silence_ms": 500, "gap_ms": gap_ms, "early": gap_ms >= 600, "answered": False} for gap_ms in (400, 500, 600)
    ]
    figures = early_turns.report(samples)
    assert figure(figures, "turns ended early, 500 ms").ratio(figures) == pytest.approx(0.5)


def test_transcripts_are_reported_for_each_length() -> None:
    samples = [{"seconds": 7, "by": "server", "ms": 100.0, "from_end_ms": 400.0}]
    assert figure(transcript.report(samples), "7 s, turn decided to transcript").verdict == "aim"


def test_a_timeline_becomes_spans_from_the_end_of_speech() -> None:
    timeline = {"turn_id": "t", "speech_end": 10.0, "transcript": 10.25, "turn_decided": 10.3, "first_token": None}
    spans = voice_to_voice.spans_ms(timeline)
    assert spans == {"at_transcript": pytest.approx(250), "at_turn_decided": pytest.approx(300)}
    assert voice_to_voice.spans_ms({"speech_end": None}) == {}


def test_three_conversations_are_held_against_the_median_of_one() -> None:
    samples = [{"conversations": 1, "ms": [400.0]}, {"conversations": 3, "ms": [400.0, 500.0, 600.0]}]
    figures = concurrency.report(samples)
    assert figure(figures, "three over one").values == (1.0, 1.25, 1.5)
    assert figure(figures, "three over one").verdict == "aim"


def test_jitter_is_judged_at_the_most_sessions() -> None:
    sample = {"deviations_ms": [1.0], "timer_ms": [0.5], "client_busy": 7.0}
    figures = jitter.report([{**sample, "sessions": count} for count in (0, 1, 10, 50)])
    assert figure(figures, "50 sessions").verdict == "aim"
    assert figure(figures, "1 sessions").goal is None
    assert figure(figures, "50 sessions").ratio(figures) == pytest.approx(2.0)


def test_an_idle_session_costs_what_it_adds() -> None:
    none = {"sessions": 0, "streaming": False, "busy": {"up": 1.0, "worker": 1.0}, "rss_mib": 300.0, "vad": 0.4}
    ten = {**none, "sessions": 10, "streaming": True, "busy": {"up": 1.0, "worker": 9.0}, "rss_mib": 320.0}
    figures = idle.report([none, ten])
    assert figure(figures, "core for a session, streaming a quiet room").values == (pytest.approx(0.8),)
    assert figure(figures, "memory for a session, streaming a quiet room").values == (pytest.approx(2.0),)


def test_a_pause_that_loses_its_place_counts_against_it() -> None:
    sample = {"last_frame_ms": 4.0, "answered_ms": 1.0, "unary_ms": 0.5}
    figures = pause.report([{**sample, "position_kept": True}, {**sample, "position_kept": False}])
    assert statistic(figure(figures, "went on at another sample").values, "mean") == 50
    assert figure(figures, "PAUSE to the last frame").verdict == "aim"


async def test_a_decision_and_an_update_are_measured_and_judged() -> None:
    trials = [{"kind": kind, "round": 0} for kind in ("held", "update")]
    figures = routing.report([await routing.measure(None, trial) for trial in trials])  # type: ignore[arg-type]
    for name in ("decision, the model is held by fifty", "a lease heard, to the next snapshot"):
        assert len(figure(figures, name).values) == 100
        assert figure(figures, name).verdict in ("aim", "at least", "missed")
    assert not figure(figures, "decision, nobody holds the model").values


def test_leases_are_reported_for_each_number_of_workers() -> None:
    sample = {"registry": 5.0, "reader": 20.0, "snapshots": 400.0, "in": 2048.0, "out": 1024.0}
    figures = leases.report([{**sample, "workers": workers} for workers in (100, 1000)])
    assert figure(figures, "registry, 1000 workers").values == (5.0,)
    assert figure(figures, "into the registry, 100 workers").values == (2.0,)
