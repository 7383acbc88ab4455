"""The one audio unit on the wire: 20 ms of mono, signed 16-bit little-endian PCM."""

FRAME_MS = 20
SAMPLE_BYTES = 2
DEFAULT_RATE_HZ = 48_000
WIRE_RATES_HZ = (8_000, 16_000, 24_000, 48_000)


def frame_samples(rate_hz: int) -> int:
    """Samples in one frame at `rate_hz`."""
    return rate_hz * FRAME_MS // 1000


def frame_bytes(rate_hz: int) -> int:
    """Bytes in one frame at `rate_hz`."""
    return frame_samples(rate_hz) * SAMPLE_BYTES


def duration_ms(pcm: bytes, rate_hz: int) -> float:
    """How long `pcm` sounds at `rate_hz`, in milliseconds."""
    return len(pcm) / SAMPLE_BYTES * 1000 / rate_hz
