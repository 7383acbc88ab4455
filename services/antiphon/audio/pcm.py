"""Samples to and from signed 16-bit little-endian PCM."""

import numpy as np
from numpy.typing import NDArray

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.frames import SAMPLE_BYTES

Samples = NDArray[np.float32]
"""float32, shape (samples,), mono, -1 to 1."""

# Both ways by 2**15, so that PCM comes back bit by bit.
_SCALE = 32768.0
SILENCE: Samples = np.zeros(0, dtype=np.float32)
"""No samples at all."""
SILENCE.flags.writeable = False


def pcm_to_float(pcm: bytes) -> Samples:
    """The samples of mono s16le PCM: float32, shape (samples,), -1 to 1.

    Raises:
        AntiphonError: AUDIO_FORMAT when `pcm` ends within a sample.
    """
    if len(pcm) % SAMPLE_BYTES:
        raise AntiphonError(Reason.AUDIO_FORMAT, f"{len(pcm)} bytes are not whole 16-bit samples: send an even number.")
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(_SCALE)


def float_to_pcm(samples: Samples) -> bytes:
    """Mono s16le PCM of float32 samples; what lies beyond -1 to 1 is clipped, what lies between is rounded."""
    scaled = np.clip(np.rint(samples * np.float32(_SCALE)), -_SCALE, _SCALE - 1)
    return bytes(scaled.astype("<i2").data)
