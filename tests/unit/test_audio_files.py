"""Recordings in and out of files."""

from pathlib import Path

import numpy as np
import pytest

from antiphon.audio.encoding import CONTENT_TYPES, FORMATS, Encoder, Format, wav_header
from antiphon.audio.files import read_audio, stream_audio, write_wav
from antiphon.audio.pcm import Samples, float_to_pcm
from antiphon.contracts.errors import AntiphonError, Reason

pytestmark = pytest.mark.unit


def sine(hz: float, rate_hz: int, seconds: float, level: float = 0.5) -> Samples:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def loudest_hz(samples: Samples, rate_hz: int) -> float:
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * rate_hz / len(samples))


def test_a_wav_file_comes_back(tmp_path: Path) -> None:
    tone = sine(440, 16000, 0.5)
    write_wav(tmp_path / "tone.wav", tone, 16000)
    np.testing.assert_allclose(read_audio(tmp_path / "tone.wav", 16000), tone, atol=1 / 32768)


def test_stereo_is_mixed_to_mono(tmp_path: Path) -> None:
    left, right = sine(440, 16000, 0.5), np.zeros(8000, dtype=np.float32)
    write_wav(tmp_path / "tone.wav", np.stack([left, right], axis=1), 16000, channels=2)
    mono = read_audio(tmp_path / "tone.wav", 16000)
    np.testing.assert_allclose(mono, left / 2, atol=1e-3)


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "pcm"])
@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000, 48000])
def test_every_format_is_read_back_as_it_sounded(format: Format, rate_hz: int) -> None:
    pcm = float_to_pcm(sine(440, rate_hz, 1.0))
    encoder = Encoder(format, rate_hz)
    step = rate_hz // 25
    pieces = [encoder.push(pcm[start : start + step]) for start in range(0, len(pcm), step)]
    encoded = b"".join([*pieces, encoder.finish()])
    heard = read_audio(encoded, 16000)
    assert len(heard) / 16000 == pytest.approx(1.0, abs=0.2)  # MP3 and AAC fill up whole blocks
    assert loudest_hz(heard[1600:14400], 16000) == pytest.approx(440, abs=3)
    assert encoder.content_type == CONTENT_TYPES[format]
    assert any(pieces), "nothing came out before the end"


def test_pcm_is_left_alone() -> None:
    encoder = Encoder("pcm", 24000)
    assert encoder.push(b"\1\2\3\4") + encoder.finish() == b"\1\2\3\4"


def test_a_silent_wav_still_has_a_header() -> None:
    assert Encoder("wav", 24000).finish() == wav_header(24000)


def test_an_unknown_format_is_refused_with_those_there_are() -> None:
    with pytest.raises(AntiphonError, match="mp3") as error:
        Encoder("midi", 24000)  # type: ignore[arg-type]
    assert error.value.reason is Reason.INVALID_REQUEST


@pytest.mark.parametrize("data", [b"", b"no sound at all" * 50, wav_header(16000)[:20]])
def test_what_is_no_recording_is_refused(data: bytes) -> None:
    with pytest.raises(AntiphonError) as error:
        read_audio(data, 16000)
    assert error.value.reason is Reason.AUDIO_FORMAT


def test_a_playlist_opens_nothing(tmp_path: Path) -> None:
    write_wav(tmp_path / "secret.wav", sine(440, 16000, 0.5), 16000)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"
    with pytest.raises(AntiphonError) as error:
        read_audio(playlist.encode(), 16000)
    assert error.value.reason is Reason.AUDIO_FORMAT


def test_a_recording_beyond_the_limit_is_refused_while_it_is_read() -> None:
    pcm = float_to_pcm(sine(440, 16000, 3.0))
    stream = stream_audio(wav_header(16000, len(pcm)) + pcm, 16000, limit_s=1.0)
    with pytest.raises(AntiphonError) as error:
        for _ in stream:
            pass
    assert error.value.reason is Reason.STREAM_TOO_LONG


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AntiphonError, match="absent.wav"):
        read_audio(tmp_path / "absent.wav", 16000)
