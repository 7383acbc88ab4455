"""The sounds of the bench: as loud, as long and as repeatable as they say."""

import numpy as np
import pytest

from antiphon.cli.bench.measures import longest_pause_ms, sounding
from antiphon.cli.bench.stimuli import NOISES, hummed, joined, noise

pytestmark = pytest.mark.unit

RATE_HZ = 24_000


@pytest.mark.parametrize("kind", sorted(NOISES))
@pytest.mark.parametrize("seed", range(4))
def test_a_noise_is_audible_short_and_does_not_clip(kind: str, seed: int) -> None:
    samples = noise(kind, seed)
    span = sounding(samples, RATE_HZ)
    assert samples.dtype == np.float32
    assert span is not None
    assert 0.1 <= len(samples) / RATE_HZ <= 2.1
    assert np.abs(samples).max() <= 1.0


@pytest.mark.parametrize("kind", sorted(NOISES))
def test_a_seed_gives_the_same_noise_and_another_seed_another(kind: str) -> None:
    assert np.array_equal(noise(kind, 1), noise(kind, 1))
    assert not np.array_equal(noise(kind, 1), noise(kind, 2))


def test_a_hum_has_two_syllables_and_a_voice() -> None:
    samples = hummed(0)
    assert 0.45 <= len(samples) / RATE_HZ <= 0.7
    assert longest_pause_ms(samples, RATE_HZ) >= 40
    spectrum = np.abs(np.fft.rfft(samples))
    assert 80 <= np.fft.rfftfreq(len(samples), 1 / RATE_HZ)[spectrum.argmax()] <= 320


def test_a_door_is_low_and_dies_away() -> None:
    samples = noise("door", 3)
    half = len(samples) // 2
    assert np.abs(samples[half:]).max() < 0.2 * np.abs(samples[:half]).max()
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    assert spectrum[frequencies < 800].sum() > 0.9 * spectrum.sum()


def test_two_recordings_are_joined_by_a_silence_of_exactly_that_length() -> None:
    speech = np.full(RATE_HZ // 2, 0.3, dtype=np.float32)
    whole = joined(speech, 350, speech)
    assert len(whole) == round(1.35 * RATE_HZ)
    assert longest_pause_ms(whole, RATE_HZ) == 350
