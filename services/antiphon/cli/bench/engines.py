"""The bare engines, in the bench's own process: what a perfect server around them could not beat."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.adapters.discovery import find_engine, find_vad
from antiphon.adapters.weights import resolve
from antiphon.audio.pcm import Samples
from antiphon.audio.resample import resample
from antiphon.cli.realtime import RATE_HZ
from antiphon.contracts.adapters import AsrEngine, HearingRequest, SpeechRequest, TtsEngine
from antiphon.contracts.models import ModelSpec

_VAD_HZ = 16_000
_LEAD_IN_S = 0.512
_PHASES_S = (0.0, 0.008, 0.016, 0.024)


class BareEngines:
    """Loads each engine at its first use; every figure is taken in a thread, so the client's loop stays free.

    Args:
        cache: Where fetched weights are.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._loaded: dict[tuple[str, str], Any] = {}

    async def first_audio_ms(self, spec: ModelSpec, text: str) -> float:
        """From the text to the engine's first piece of sound, called directly."""
        engine: TtsEngine = await self._engine(spec)

        def speak() -> float:
            begun = time.perf_counter()
            stream = engine.open(SpeechRequest())
            next(stream.synthesize(text))
            spent = time.perf_counter() - begun
            stream.close()
            return spent * 1000

        return await asyncio.to_thread(speak)

    async def stock_first_audio_ms(self, spec: ModelSpec, text: str) -> float:
        """The same with Piper's own package as it comes, which gives whole sentences."""
        voice = await self._stock(spec, _stock_piper)

        def speak() -> float:
            begun = time.perf_counter()
            next(iter(voice.synthesize(text)))
            return (time.perf_counter() - begun) * 1000

        return await asyncio.to_thread(speak)

    async def transcript_ms(self, spec: ModelSpec, samples: Samples) -> float:
        """A whole utterance (24 kHz) to its final transcript, by the engine called directly."""
        engine: AsrEngine = await self._engine(spec)
        heard = resample(samples, RATE_HZ, _VAD_HZ)

        def listen() -> float:
            begun = time.perf_counter()
            stream = engine.open(HearingRequest())
            stream.push(heard)
            stream.final()
            stream.close()
            return (time.perf_counter() - begun) * 1000

        return await asyncio.to_thread(listen)

    async def stock_transcript_ms(self, spec: ModelSpec, samples: Samples) -> float:
        """The same with faster-whisper's own `transcribe`, which pays for a window of 30 s."""
        model = await self._stock(spec, _stock_whisper)
        heard = resample(samples, RATE_HZ, _VAD_HZ)

        def listen() -> float:
            begun = time.perf_counter()
            segments, _ = model.transcribe(heard, language="en", beam_size=1)
            list(segments)
            return (time.perf_counter() - begun) * 1000

        return await asyncio.to_thread(listen)

    async def _engine(self, spec: ModelSpec) -> Any:
        key = (spec.name, "engine")
        if key not in self._loaded:
            engine = find_engine(spec.task, spec.engine)()
            await asyncio.to_thread(engine.load, await self._files(spec), spec.engine_config)
            self._loaded[key] = engine
            if spec.task == "tts":
                await self.first_audio_ms(spec, "Ready.")
        return self._loaded[key]

    async def _stock(self, spec: ModelSpec, load: Callable[[Path], Any]) -> Any:
        key = (spec.name, "stock")
        if key not in self._loaded:
            files = await self._files(spec)
            assert files is not None
            self._loaded[key] = await asyncio.to_thread(load, files)
        return self._loaded[key]

    async def _files(self, spec: ModelSpec) -> Path | None:
        return await resolve(spec.artifact, self._cache, lambda _: None)


def vad_onset_ms(samples: Samples, onset_s: float, threshold: float = 0.5) -> float | None:
    """From a recording's onset to the end of the first window that Silero alone calls voiced; None: never.

    The mean over where in a window of 32 ms the recording may begin.
    """
    found = [_vad_onset_ms(samples, onset_s, _LEAD_IN_S + phase_s, threshold) for phase_s in _PHASES_S]
    heard = [onset_ms for onset_ms in found if onset_ms is not None]
    return sum(heard) / len(heard) if heard else None


def _vad_onset_ms(samples: Samples, onset_s: float, lead_in_s: float, threshold: float) -> float | None:
    vad = find_vad()().open()
    lead_in = np.zeros(round(lead_in_s * _VAD_HZ), dtype=np.float32)
    heard = np.concatenate((lead_in, resample(samples, RATE_HZ, _VAD_HZ)))
    for end in range(vad.window_samples, len(heard) + 1, vad.window_samples):
        if vad.probability(np.ascontiguousarray(heard[end - vad.window_samples : end])) >= threshold:
            return (end / _VAD_HZ - lead_in_s - onset_s) * 1000
    return None


def vad_voiced_ms(samples: Samples, threshold: float = 0.5) -> float:
    """How much of a recording Silero alone calls voiced."""
    vad = find_vad()().open()
    heard = resample(samples, RATE_HZ, _VAD_HZ)
    window = vad.window_samples
    starts = range(0, len(heard) - window + 1, window)
    voiced = sum(vad.probability(np.ascontiguousarray(heard[start : start + window])) >= threshold for start in starts)
    return voiced * window * 1000 / _VAD_HZ


def vad_window_ms(windows: int = 500) -> float:
    """What one window costs."""
    vad = find_vad()().open()
    silence = np.zeros(vad.window_samples, dtype=np.float32)
    begun = time.process_time()
    for _ in range(windows):
        vad.probability(silence)
    return (time.process_time() - begun) * 1000 / windows


def _stock_piper(files: Path) -> Any:
    from piper import PiperVoice

    path = files if files.is_file() else next(iter(sorted(files.glob("*.onnx"))))
    voice = PiperVoice.load(path)
    next(iter(voice.synthesize("Ready.")))
    return voice


def _stock_whisper(files: Path) -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(str(files), device="cpu", compute_type="int8")
