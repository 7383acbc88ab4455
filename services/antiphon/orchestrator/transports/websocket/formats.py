"""Audio formats of a session: linear PCM and G.711, to and from mono s16le.

Source of the G.711 laws: ITU-T G.711 (1988), tables 1 and 2, in the 16-bit form of the ITU's software tools (G.191).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FormatType = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]

_Integers = NDArray[Any]

_ULAW_BIAS = 132
_ULAW_CLIP = 32_635


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How one direction's audio is written on the wire."""

    type: FormatType = "audio/pcm"
    rate_hz: int = 24_000

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample on the wire."""
        return 2 if self.type == "audio/pcm" else 1

    def to_pcm(self, audio: bytes) -> bytes:
        """What the wire carried, as s16le at `rate_hz`."""
        if self.type == "audio/pcm":
            return audio
        return _expansion(self.type)[np.frombuffer(audio, np.uint8)].astype("<i2").tobytes()

    def from_pcm(self, pcm: bytes) -> bytes:
        """S16le at `rate_hz`, as the wire carries it."""
        if self.type == "audio/pcm":
            return pcm
        return bytes(_compression(self.type)[np.frombuffer(pcm, "<u2")])

    def as_json(self) -> dict[str, Any]:
        """The format as the Realtime API writes it."""
        return {"type": self.type, "rate": self.rate_hz} if self.type == "audio/pcm" else {"type": self.type}


@cache
def _expansion(law: FormatType) -> NDArray[np.int16]:
    """The linear value of each of the 256 codes."""
    code = np.arange(256, dtype=np.int32)
    return (_ulaw_to_linear(code) if law == "audio/pcmu" else _alaw_to_linear(code)).astype(np.int16)


@cache
def _compression(law: FormatType) -> NDArray[np.uint8]:
    """The code of each 16-bit value, by the value's bits read as unsigned."""
    linear = np.arange(65_536, dtype=np.uint16).view(np.int16).astype(np.int32)
    return (_linear_to_ulaw(linear) if law == "audio/pcmu" else _linear_to_alaw(linear)).astype(np.uint8)


def _ulaw_to_linear(code: _Integers) -> _Integers:
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + _ULAW_BIAS << ((code & 0x70) >> 4)) - _ULAW_BIAS
    linear: _Integers = np.where(code & 0x80, -magnitude, magnitude)
    return linear


def _linear_to_ulaw(linear: _Integers) -> _Integers:
    magnitude = np.minimum(np.abs(linear), _ULAW_CLIP) + _ULAW_BIAS
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    code: _Integers = ~(np.where(linear < 0, 0x80, 0) | exponent << 4 | mantissa) & 0xFF
    return code


def _alaw_to_linear(code: _Integers) -> _Integers:
    code = code ^ 0x55
    exponent = (code & 0x70) >> 4
    step = ((code & 0x0F) << 4) + 8
    magnitude = np.where(exponent == 0, step, step + 0x100 << np.maximum(exponent - 1, 0))
    linear: _Integers = np.where(code & 0x80, magnitude, -magnitude)
    return linear


def _linear_to_alaw(linear: _Integers) -> _Integers:
    magnitude = np.where(linear >= 0, linear, ~linear) >> 4  # 12 bits: the law's own resolution
    exponent = np.where(magnitude < 16, 0, np.floor(np.log2(np.maximum(magnitude, 1))).astype(np.int32) - 3)
    mantissa = (magnitude >> np.maximum(exponent - 1, 0)) & 0x0F
    code: _Integers = exponent << 4 | mantissa
    code = np.where(linear >= 0, code | 0x80, code)
    return np.bitwise_xor(code, 0x55)
