"""Speech encoded while it is spoken: PCM in, pieces of a file out."""

import io
import struct
from typing import Literal, cast, get_args

import av
import numpy as np
from av.audio.stream import AudioStream

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.frames import SAMPLE_BYTES

Format = Literal["wav", "pcm", "mp3", "opus", "flac", "aac"]
FORMATS: tuple[Format, ...] = get_args(Format)
CONTENT_TYPES: dict[Format, str] = {
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "aac": "audio/aac",
}
"""The media type of each format."""

# Container, codec and muxer options of what a library encodes. A stream cannot be seeked back in: no Xing header in
# MP3; Ogg pages of 100 ms instead of a second, so that sound can start.
_MUXERS: dict[Format, tuple[str, str, dict[str, str]]] = {
    "mp3": ("mp3", "libmp3lame", {"write_xing": "0", "id3v2_version": "0"}),
    "opus": ("ogg", "libopus", {"page_duration": "100000"}),
    "flac": ("flac", "flac", {}),
    "aac": ("adts", "aac", {}),
}
_UNKNOWN_LENGTH = 0xFFFFFFFF


class Encoder:
    """Encodes one mono stream. Blocking, though quick: an hour of speech would hold up an event loop.

    Args:
        format: One of `FORMATS`.
        rate_hz: The rate of the PCM; 8, 16, 24 or 48 kHz fit every format.

    Raises:
        AntiphonError: INVALID_REQUEST for another format.
    """

    def __init__(self, format: Format, rate_hz: int) -> None:
        if format not in FORMATS:
            raise AntiphonError(Reason.INVALID_REQUEST, f"There is no format {format!r}: take {', '.join(FORMATS)}.")
        self.content_type = CONTENT_TYPES[format]
        self._rate_hz = rate_hz
        self._muxer = _Muxer(format, rate_hz) if format in _MUXERS else None
        self._header = wav_header(rate_hz) if format == "wav" else b""

    def push(self, pcm: bytes) -> bytes:
        """What is encoded by now, of all the mono s16le PCM pushed; perhaps nothing."""
        header, self._header = self._header, b""
        return header + (self._muxer.push(pcm) if self._muxer else pcm)

    def finish(self) -> bytes:
        """The rest of the file. Push nothing after it."""
        header, self._header = self._header, b""
        return header + (self._muxer.finish() if self._muxer else b"")


def wav_header(rate_hz: int, data_bytes: int | None = None) -> bytes:
    """The 44 bytes before mono s16le PCM.

    Args:
        rate_hz: The PCM's rate.
        data_bytes: The PCM's length; None where it is not known yet: players then read to the end.

    Source: Multimedia Programming Interface and Data Specifications 1.0, "Waveform Audio File Format".
    """
    data = _UNKNOWN_LENGTH if data_bytes is None else data_bytes
    riff = min(_UNKNOWN_LENGTH, data + 36)
    layout = struct.pack("<HHIIHH", 1, 1, rate_hz, rate_hz * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES)
    return (
        b"RIFF"
        + struct.pack("<I", riff)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + layout
        + b"data"
        + struct.pack("<I", data)
    )


class _Sink:
    """A file that can only be appended to, and is emptied as it fills."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()

    def write(self, data: bytes) -> int:
        return self._buffer.write(data)

    def take(self) -> bytes:
        data = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return data


class _Muxer:
    """A codec and a container of FFmpeg's."""

    def __init__(self, format: Format, rate_hz: int) -> None:
        container, codec, options = _MUXERS[format]
        self._rate_hz = rate_hz
        self._sink = _Sink()
        self._container = av.open(self._sink, mode="w", format=container, options={**options, "flush_packets": "1"})
        self._stream = cast(AudioStream, self._container.add_stream(codec, rate=rate_hz, layout="mono"))
        self._position = 0

    def push(self, pcm: bytes) -> bytes:
        samples = np.frombuffer(pcm, dtype="<i2")
        if samples.size:
            frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate = self._rate_hz
            frame.pts = self._position
            self._position += samples.size
            self._container.mux(self._stream.encode(frame))
        return self._sink.take()

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()
