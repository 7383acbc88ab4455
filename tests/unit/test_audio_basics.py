"""Samples, frames, rates and loudness."""

import numpy as np
import pyloudnorm  # noqa: F401  # a second's import, before the tests' two seconds begin
import pytest

from antiphon.audio.framing import Framer
from antiphon.audio.loudness import gain_to, limit, measure_lufs
from antiphon.audio.pcm import SILENCE, Samples, float_to_pcm, pcm_to_float
from antiphon.audio.resample import Resampler, resample
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.frames import frame_bytes

pytestmark = pytest.mark.unit


def sine(hz: float, rate_hz: int, seconds: float, level: float = 0.5) -> Samples:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def test_pcm_comes_back_bit_by_bit() -> None:
    pcm = np.arange(-32768, 32768, dtype="<i2").tobytes()
    assert float_to_pcm(pcm_to_float(pcm)) == pcm


def test_samples_beyond_full_scale_are_clipped_not_wrapped() -> None:
    loud = np.array([-2, -1, 1, 2], dtype=np.float32)
    assert np.frombuffer(float_to_pcm(loud), dtype="<i2").tolist() == [-32768, -32768, 32767, 32767]


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(AntiphonError) as error:
        pcm_to_float(b"\0\0\0")
    assert error.value.reason is Reason.AUDIO_FORMAT


@pytest.mark.parametrize(("from_hz", "to_hz"), [(22050, 48000), (24000, 16000), (48000, 16000), (8000, 16000)])
def test_pieces_resample_to_the_same_as_the_whole(from_hz: int, to_hz: int) -> None:
    tone = sine(440, from_hz, 1.0)
    resampler = Resampler(from_hz, to_hz)
    pieces = [resampler.push(tone[start : start + 441]) for start in range(0, len(tone), 441)]
    streamed = np.concatenate([*pieces, resampler.flush()])
    assert abs(len(streamed) - to_hz) <= 2
    np.testing.assert_allclose(streamed, resample(tone, from_hz, to_hz)[: len(streamed)], atol=1e-5)
    middle = slice(to_hz // 10, to_hz * 9 // 10)
    np.testing.assert_allclose(streamed[middle], sine(440, to_hz, 1.0)[middle], atol=5e-3)


def test_a_resampler_starts_afresh_after_a_flush() -> None:
    resampler = Resampler(22050, 48000)
    first = [resampler.push(sine(440, 22050, 0.5)), resampler.flush()]
    second = [resampler.push(sine(440, 22050, 0.5)), resampler.flush()]
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(second))


def test_equal_rates_pass_through() -> None:
    tone = sine(440, 16000, 0.1)
    resampler = Resampler(16000, 16000)
    assert resampler.push(tone) is tone
    assert resampler.flush().size == 0


def test_frames_are_whole_and_the_last_is_filled_with_silence() -> None:
    framer = Framer(16000)
    tone = sine(440, 16000, 0.05)
    frames = b"".join(framer.push(tone[start : start + 77]) for start in range(0, len(tone), 77))
    assert len(frames) == 2 * frame_bytes(16000)
    last = framer.flush()
    assert len(last) == frame_bytes(16000)
    assert (frames + last).rstrip(b"\0") == float_to_pcm(tone).rstrip(b"\0")
    assert framer.flush() == b""


def test_loudness_follows_the_standard() -> None:
    # BS.1770-4: a 997 Hz sine at 0 dB full scale in one channel measures -3.01 LUFS.
    lufs = measure_lufs(sine(997, 48000, 2.0, level=1.0), 48000)
    assert lufs is not None
    assert lufs == pytest.approx(-3.01, abs=0.05)
    raised = measure_lufs(sine(997, 48000, 2.0) * np.float32(gain_to(-20.0, lufs - 6.02)), 48000)
    assert raised == pytest.approx(-20.0, abs=0.1)


def test_silence_and_snippets_have_no_loudness() -> None:
    assert measure_lufs(np.zeros(48000, dtype=np.float32), 48000) is None
    assert measure_lufs(sine(440, 48000, 0.3), 48000) is None
    assert measure_lufs(sine(440, 48000, 1.0, level=1e-5), 48000) is None
    assert measure_lufs(SILENCE, 48000) is None


def test_limiting_bends_peaks_and_leaves_the_rest() -> None:
    tone = sine(440, 48000, 0.1, level=2.0)
    limited = limit(tone)
    assert float(np.abs(limited).max()) <= 1.0
    quiet = np.abs(tone) <= 0.8
    np.testing.assert_array_equal(limited[quiet], tone[quiet])
    assert np.all(np.sign(limited) == np.sign(tone))
    assert limit(SILENCE).size == 0
