"""How loud speech is, and making it as loud as wanted.

Source: ITU-R BS.1770-4 (K-weighted, gated in blocks of 400 ms), as implemented by pyloudnorm.
"""

import math

import numpy as np

from antiphon.audio.pcm import Samples

_BLOCK_S = 0.4
_SILENT_LUFS = -70.0  # BS.1770's absolute gate: what lies below counts as silence
_KNEE = 0.8


def measure_lufs(samples: Samples, rate_hz: int) -> float | None:
    """The integrated loudness in LUFS; None when there is too little of it (under 400 ms) or only silence."""
    if len(samples) < _BLOCK_S * rate_hz or not np.any(samples):
        return None
    import pyloudnorm  # takes a second: not for who measures nothing

    with np.errstate(all="ignore"):
        lufs = float(pyloudnorm.Meter(rate_hz).integrated_loudness(samples.astype(np.float64)))
    return lufs if math.isfinite(lufs) and lufs > _SILENT_LUFS else None


def gain_to(target_lufs: float, lufs: float) -> float:
    """The factor that brings speech of `lufs` to `target_lufs`."""
    return float(10 ** ((target_lufs - lufs) / 20))


def limit(samples: Samples) -> Samples:
    """The samples, with peaks above 0.8 bent below 1 instead of clipped.

    Sample by sample and smooth at the knee, so that pieces limited apart fit together.
    """
    level = np.abs(samples)
    if level.size == 0 or level.max() <= _KNEE:
        return samples
    room = 1.0 - _KNEE
    bent = _KNEE + room * np.tanh((level - _KNEE) / room)
    limited: Samples = np.where(level > _KNEE, np.copysign(bent, samples), samples).astype(np.float32)
    return limited
