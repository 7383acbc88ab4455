"""Sound in files: any container in, WAV out."""

import io
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import av
import av.error
import numpy as np

from antiphon.audio.pcm import SILENCE, Samples, float_to_pcm
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.frames import SAMPLE_BYTES

# Only containers that hold their sound themselves: a playlist could name other files or addresses for us to open.
_CONTAINERS = "aac,ac3,aiff,amr,asf,au,avi,caf,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav"
_OPEN_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}


def read_audio(source: Path | bytes, rate_hz: int, *, limit_s: float | None = None) -> Samples:
    """A whole recording, from any common container, mixed to mono: float32, shape (samples,), at `rate_hz`.

    Raises:
        AntiphonError: see `stream_audio`.
    """
    pieces = list(stream_audio(source, rate_hz, limit_s=limit_s))
    return np.concatenate(pieces) if pieces else SILENCE


def stream_audio(source: Path | bytes, rate_hz: int, *, limit_s: float | None = None) -> Iterator[Samples]:
    """A recording, piece by piece as it is decoded (blocking), mixed to mono, at `rate_hz`.

    Args:
        source: A file, or a file's bytes.
        rate_hz: The rate wanted.
        limit_s: More than this many seconds are refused, as soon as they are decoded.

    Raises:
        AntiphonError: INVALID_REQUEST when there is no such file, AUDIO_FORMAT when it holds no sound that can be
            decoded, STREAM_TOO_LONG beyond `limit_s`.
    """
    with _opened(source) as file:
        decoded = 0
        for samples in _decode(file, rate_hz):
            decoded += len(samples)
            if limit_s is not None and decoded > limit_s * rate_hz:
                raise AntiphonError(Reason.STREAM_TOO_LONG, f"The recording is longer than {limit_s:g} s: split it.")
            yield samples


def write_wav(path: Path, sound: bytes | Samples, rate_hz: int, channels: int = 1) -> None:
    """Write s16le PCM, or float32 samples of shape (samples,) or (samples, channels), as a WAV file."""
    pcm = sound if isinstance(sound, bytes) else float_to_pcm(sound)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(SAMPLE_BYTES)
        file.setframerate(rate_hz)
        file.writeframes(pcm)


def _opened(source: Path | bytes) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return source.open("rb")
    except OSError as error:
        raise AntiphonError(Reason.INVALID_REQUEST, f"Cannot read {source}: {error.strerror}.") from error


def _decode(file: IO[bytes], rate_hz: int) -> Iterator[Samples]:
    resampler = av.AudioResampler(format="fltp", rate=rate_hz)
    try:
        with av.open(file, mode="r", options=_OPEN_OPTIONS, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AntiphonError(
                    Reason.AUDIO_FORMAT, "The file holds no sound: send a recording with an audio track."
                )
            for frame in container.decode(container.streams.audio[0]):
                yield from _samples(resampler.resample(frame))
            yield from _samples(resampler.resample(None))
    except (av.error.FFmpegError, ValueError) as error:
        message = "The file cannot be decoded: send WAV, MP3, FLAC, Ogg, M4A or WebM."
        raise AntiphonError(Reason.AUDIO_FORMAT, message) from error


def _samples(frames: "list[av.AudioFrame]") -> Iterator[Samples]:
    for frame in frames:
        if frame.samples:
            yield frame.to_ndarray().mean(axis=0, dtype=np.float32)  # (channels, samples) to mono
