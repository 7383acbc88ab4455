"""Which words are in a recording of the mock voice, by the pitch of their tones."""

from dataclasses import dataclass

import numpy as np

from antiphon.adapters.tts.mock import TONES, tone_hz
from antiphon.audio.pcm import Samples

_WINDOW_S = 0.02
_HOP_S = 0.01
_SILENT_RMS = 0.004  # 30 dB below the mock voice: a ducked voice (12 dB) is still heard
_TRANSFORM_S = 0.25  # zero-padded to this: bins of 4 Hz, a quarter of the tones' distance
_LEAST_HOPS = 3


@dataclass(frozen=True, slots=True)
class HeardTone:
    """A tone that sounded for 30 ms or more."""

    tone: int
    """The word's own number, or its place in the stream, modulo `antiphon.adapters.tts.mock.TONES`."""
    start_s: float
    end_s: float


def decode_tones(samples: Samples, rate_hz: int) -> list[HeardTone]:
    """The tones in a recording, in order. Times are good to 20 ms; one tone twice in a row counts once."""
    hop = round(_HOP_S * rate_hz)
    heard: list[HeardTone] = []
    start, current = 0, -1
    readings = [*_readings(samples, rate_hz), -1]
    for index, tone in enumerate(readings):
        if tone == current:
            continue
        if current >= 0 and index - start >= _LEAST_HOPS:
            _append(heard, HeardTone(current, start * hop / rate_hz, index * hop / rate_hz))
        start, current = index, tone
    return heard


def decode_words(samples: Samples, rate_hz: int) -> list[int]:
    """The numbers of the words heard, in order."""
    return [heard.tone for heard in decode_tones(samples, rate_hz)]


def _append(heard: list[HeardTone], found: HeardTone) -> None:
    """Joins a tone that a click or a gap has cut in two."""
    if heard and heard[-1].tone == found.tone:
        found = HeardTone(found.tone, heard.pop().start_s, found.end_s)
    heard.append(found)


def _readings(samples: Samples, rate_hz: int) -> list[int]:
    """The tone at each hop; -1 where there is none."""
    window, hop = round(_WINDOW_S * rate_hz), round(_HOP_S * rate_hz)
    if len(samples) < window:
        return []
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    spectra = np.abs(np.fft.rfft(frames * np.hanning(window), n=round(_TRANSFORM_S * rate_hz)))
    hz = spectra.argmax(axis=1) / _TRANSFORM_S
    tones = np.rint((hz - tone_hz(0)) / (tone_hz(1) - tone_hz(0))).astype(int)
    level = np.sqrt(np.mean(np.square(frames), axis=1))
    real = (level > _SILENT_RMS) & (tones >= 0) & (tones < TONES)
    return [int(tone) for tone in np.where(real, tones, -1)]
