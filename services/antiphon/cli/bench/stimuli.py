"""Sounds that are no interruption: noises of a room, a hummed "mm-hm". Made from a seed, so always the same."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from antiphon.audio.pcm import Samples

_RATE_HZ = 24_000

Wave = NDArray[np.float64]
"""A sound in the making."""


def noise(kind: str, seed: int) -> Samples:
    """One noise: float32, mono, 24 kHz, 0.3 to 2 s. Another seed gives another of the same kind."""
    return NOISES[kind](np.random.default_rng((sorted(NOISES).index(kind), seed))).astype(np.float32)


def hummed(seed: int) -> Samples:
    """A "mm-hm" with closed lips: two syllables, the second higher, 0.5 to 0.7 s."""
    generator = np.random.default_rng((99, seed))
    pitch_hz = generator.uniform(95, 220)
    first = _hum(pitch_hz, pitch_hz * 0.9, generator.uniform(0.16, 0.22))
    second = _hum(pitch_hz * 1.1, pitch_hz * 1.35, generator.uniform(0.24, 0.34))
    return _levelled(np.concatenate((first, _silence(generator.uniform(0.05, 0.09)), second)), -24).astype(np.float32)


def joined(first: Samples, gap_ms: float, second: Samples) -> Samples:
    """Two recordings with a silence between them, at 24 kHz."""
    return np.concatenate((first, _silence(gap_ms / 1000), second)).astype(np.float32)


def _hiss(generator: np.random.Generator) -> Wave:
    seconds = generator.uniform(0.8, 1.6)
    return _levelled(_faded(generator.standard_normal(_count(seconds)), 0.05), generator.uniform(-38, -26))


def _slam(generator: np.random.Generator) -> Wave:
    """A door: a burst below some 400 Hz that dies away within 0.2 s."""
    time_s = _times(0.5)
    body = _lowpassed(generator.standard_normal(len(time_s)), generator.uniform(150, 400))
    return _peaked(body * np.exp(-time_s / generator.uniform(0.05, 0.12)), -6)


def _keyboard(generator: np.random.Generator) -> Wave:
    """Eight to twelve key strokes: a click going down, a softer one coming up."""
    sound = np.zeros(_count(1.8))
    at = 0.02
    for _ in range(int(generator.integers(8, 13))):
        for delay_s, level in ((0.0, 1.0), (generator.uniform(0.05, 0.09), 0.4)):
            _add(sound, at + delay_s, level * _click(generator))
        at += generator.uniform(0.09, 0.2)
    return _peaked(sound, generator.uniform(-18, -10))


def _cough(generator: np.random.Generator) -> Wave:
    """One or two bursts of breath, shaped by a throat: sharp onset, two broad resonances, decay."""
    bursts = []
    for _ in range(int(generator.integers(1, 3))):
        time_s = _times(generator.uniform(0.18, 0.3))
        breath = generator.standard_normal(len(time_s))
        throat = _resonated(breath, generator.uniform(500, 800), 250.0)
        throat += _resonated(breath, generator.uniform(1200, 1900), 250.0)
        bursts += [throat * np.exp(-time_s / 0.07) * np.minimum(1.0, time_s / 0.004), _silence(0.12)]
    return _peaked(np.concatenate(bursts), generator.uniform(-14, -8))


def _mains(generator: np.random.Generator) -> Wave:
    """A machine's hum: 50 or 60 Hz and its harmonics."""
    base_hz = float(generator.choice((50.0, 60.0)))
    time_s = _times(generator.uniform(1.0, 2.0))
    tones = sum(np.sin(2 * np.pi * base_hz * k * time_s + k) / k for k in range(1, 8))
    return _levelled(_faded(np.asarray(tones), 0.05), generator.uniform(-34, -24))


NOISES: dict[str, Callable[[np.random.Generator], Wave]] = {
    "cough": _cough,
    "door": _slam,
    "hiss": _hiss,
    "keyboard": _keyboard,
    "mains": _mains,
}


def _hum(from_hz: float, to_hz: float, seconds: float) -> Wave:
    time_s = _times(seconds)
    phase = 2 * np.pi * np.cumsum(np.linspace(from_hz, to_hz, len(time_s))) / _RATE_HZ
    voice = sum(np.sin(k * phase) / k**2.2 for k in range(1, 9))
    return _faded(np.asarray(voice), 0.04)


def _click(generator: np.random.Generator) -> Wave:
    time_s = _times(0.012)
    return _resonated(generator.standard_normal(len(time_s)), generator.uniform(1500, 4000), 900.0) * np.exp(
        -time_s / 0.002
    )


def _resonated(sound: Wave, centre_hz: float, width_hz: float) -> Wave:
    """Through a resonance, as a bell over the spectrum."""
    frequencies = np.fft.rfftfreq(len(sound), 1 / _RATE_HZ)
    resonated: Wave = np.fft.irfft(
        np.fft.rfft(sound) * np.exp(-(((frequencies - centre_hz) / width_hz) ** 2)), len(sound)
    )
    return resonated


def _lowpassed(sound: Wave, edge_hz: float) -> Wave:
    return _resonated(sound, 0.0, edge_hz)


def _faded(sound: Wave, seconds: float) -> Wave:
    time_s = np.arange(len(sound)) / _RATE_HZ
    faded: Wave = sound * np.clip(np.minimum(time_s, time_s[::-1]) / seconds, 0.0, 1.0)
    return faded


def _levelled(sound: Wave, rms_dbfs: float) -> Wave:
    return _scaled(sound, rms_dbfs, float(np.sqrt(np.mean(sound**2))))


def _peaked(sound: Wave, peak_dbfs: float) -> Wave:
    return _scaled(sound, peak_dbfs, float(np.abs(sound).max()))


def _scaled(sound: Wave, dbfs: float, level: float) -> Wave:
    scaled: Wave = np.clip(sound * (10 ** (dbfs / 20) / level), -1.0, 1.0)
    return scaled


def _add(sound: Wave, at_s: float, piece: Wave) -> None:
    start = _count(at_s)
    end = min(len(sound), start + len(piece))
    sound[start:end] += piece[: max(0, end - start)]


def _silence(seconds: float) -> Wave:
    return np.zeros(_count(seconds))


def _times(seconds: float) -> Wave:
    return np.arange(_count(seconds)) / _RATE_HZ


def _count(seconds: float) -> int:
    return round(seconds * _RATE_HZ)
