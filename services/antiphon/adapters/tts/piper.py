"""Piper voices (VITS), decoded window by window: the first sound does not wait for the end of the sentence.

A clause is encoded once, sentence by sentence, and decoded in windows that grow: `antiphon.adapters.tts.piper_graph`
says why that gives the very same samples. A voice whose network cannot be cut speaks a sentence at a time, and says so.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from antiphon.adapters.settings import EngineSettings, check_language, choose_voice
from antiphon.adapters.tts.piper_files import VoiceFiles
from antiphon.adapters.tts.piper_graph import SplitGraph, split
from antiphon.adapters.tts.piper_text import PiperText, Reading, WordSpan
from antiphon.contracts.adapters import Capabilities, Samples, SpeechChunk, SpeechRequest, WordTime
from antiphon.contracts.errors import AntiphonError, Reason

_log = logging.getLogger(__name__)

# Latent frames of each window (11.6 ms each at 22.05 kHz): small first, so that sound starts at once; then larger,
# since the frames around a window that it needs for context are decoded twice.
_WINDOWS = (12, 24, 48)
# A reply begins with 40 to 250 ms in which the voice is not yet heard; what is cut of it is latency won.
_TRIM_LEVEL = 0.002
_TRIM_KEEP_S = 0.005
_TRIM_MOST_S = 0.3
_RUNTIME_MIB = 40  # sessions and scratch memory beside the weights, measured with a medium voice


class PiperSettings(EngineSettings):
    """What can be set of a Piper voice; what is not set is as the voice's JSON file says."""

    file: str = ""
    """Which `.onnx` file, where there are several."""
    length_scale: float | None = Field(default=None, gt=0, le=10)
    noise_scale: float | None = Field(default=None, ge=0, le=2)
    noise_w_scale: float | None = Field(default=None, ge=0, le=2)
    threads: int = Field(default=1, ge=1, le=64)
    """Of each call. One, since many callers share the machine; more shortens a single caller's wait."""


class PiperTts:
    """A Piper voice."""

    REQUIRES: ClassVar[tuple[str, ...]] = ("piper-tts", "onnx", "onnxruntime")
    EXTRA: ClassVar[str] = "piper"

    def __init__(self) -> None:
        self._voice: VoiceFiles | None = None
        self._network: _Network | None = None

    @classmethod
    def describe(cls, files: Path | None, settings: Mapping[str, Any]) -> Capabilities:
        """What the voice's JSON file says, and whether its network can be cut."""
        voice = VoiceFiles.find(files, PiperSettings.parse(settings).file)
        streams = voice.mentions(b"/dec/")
        by_letter = voice.config.get("phoneme_type", "espeak") in ("espeak", "text")
        return Capabilities(
            task="tts",
            sample_rate_hz=voice.rate_hz,
            languages=(voice.language,),
            voices=voice.voices,
            streaming_output=streams,
            word_times=streams and by_letter and voice.mentions(b"/Ceil_output_0"),
            licence=voice.licence,
            memory_mib=voice.size_mib + _RUNTIME_MIB,
        )

    def load(self, files: Path | None, settings: Mapping[str, Any]) -> None:
        """Load the network in two halves."""
        chosen = PiperSettings.parse(settings)
        voice = VoiceFiles.find(files, chosen.file)
        try:
            self._network = _Network(voice, chosen)
        except Exception as error:  # whatever onnx, onnxruntime and piper raise on a broken or strange file
            raise AntiphonError(Reason.LOAD_FAILED, f"{voice.path.name} is not a Piper voice: {error}.") from error
        self._voice = voice

    def open(self, request: SpeechRequest) -> "PiperStream":
        """A stream for one caller, speaking as one of the voice's speakers."""
        if self._voice is None or self._network is None:
            raise AntiphonError(Reason.ENGINE_FAULT, "The voice is not loaded.")
        check_language((self._voice.language,), request.language)
        speaker = choose_voice(self._voice.voices, request.voice)
        return PiperStream(self._network, self._voice.speakers.get(speaker, 0), request.speed)

    def close(self) -> None:
        """Free the network."""
        self._network = None


class PiperStream:
    """One caller's voice. Cancelling ends the running call of the network too."""

    def __init__(self, network: "_Network", speaker: int, speed: float) -> None:
        self._network = network
        self._speaker = speaker
        self._speed = speed
        self._run = _Run()
        self._begun = False

    def synthesize(self, clause: str) -> Iterator[SpeechChunk]:
        """The clause in windows. A sentence's words come with its second window, or its only one."""
        reading = self._network.text.read(clause)
        spans: list[WordSpan] | None = None
        position = 0
        for index, phonemes in enumerate(reading.sentences):
            encoded = self._network.encode(self._network.text.ids(phonemes), self._speaker, self._speed, self._run)
            if encoded is None:
                return
            origin, trimmed = position, 0
            for number, last, samples in self._network.decode(encoded, self._run):
                if not self._begun:
                    cut, self._begun = _silence_before(samples, self._network.rate_hz, trimmed)
                    trimmed, samples = trimmed + cut, samples[cut:]
                words: tuple[WordTime, ...] = ()
                if encoded.durations and (number == 1 or (number == 0 and last)):
                    spans = self._network.text.words(reading) if spans is None else spans
                    words = self._network.word_times(reading, index, encoded, spans, origin - trimmed)
                position += len(samples)
                if len(samples) or words:
                    yield SpeechChunk(samples, words)
                if self._run.cancelled:
                    return

    def cancel(self) -> None:
        """Stop the network within milliseconds; the stream speaks no more."""
        self._run.cancel()

    def close(self) -> None:
        """The same as `cancel`."""
        self._run.cancel()


class _Run:
    """The permission of a stream's calls to go on."""

    def __init__(self) -> None:
        import onnxruntime

        self.options = onnxruntime.RunOptions()
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()
        self.options.terminate = True


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A sentence ready to be decoded."""

    latent: Any
    """(1, channels, frames); with an uncut network, samples."""
    conditions: list[Any]
    durations: list[int]


class _Network:
    """A voice's network and text side; stateless, for any number of threads."""

    def __init__(self, voice: VoiceFiles, settings: PiperSettings) -> None:
        self.text = PiperText(voice.config)
        self.rate_hz = voice.rate_hz
        self._scales = _scales(voice.config, settings)
        self._graph: SplitGraph | None = split(voice.path)
        if self._graph is None:
            _log.warning("voice cannot be decoded in windows", extra={"voice": voice.path.stem})
        self._encoder = _session(self._graph.encoder if self._graph else str(voice.path), settings.threads)
        self._decoder = _session(self._graph.decoder, settings.threads) if self._graph else None
        self._inputs = {value.name for value in self._encoder.get_inputs()}

    def encode(self, ids: list[int], speaker: int, speed: float, run: _Run) -> _Encoded | None:
        """The sentence's latent frames; None when cancelled."""
        noise, length, noise_w = self._scales
        inputs = {
            "input": np.array([ids], dtype=np.int64),
            "input_lengths": np.array([len(ids)], dtype=np.int64),
            "scales": np.array([noise, length / speed, noise_w], dtype=np.float32),
        }
        if "sid" in self._inputs:
            inputs["sid"] = np.array([speaker], dtype=np.int64)
        outputs = _call(self._encoder, inputs, run)
        if outputs is None:
            return None
        if self._graph is None:
            return _Encoded(outputs[0], [], [])
        durations = outputs[-1].reshape(-1).astype(int).tolist() if self._graph.durations else []
        return _Encoded(outputs[0], outputs[1 : 1 + len(self._graph.conditions)], durations)

    def decode(self, encoded: _Encoded, run: _Run) -> Iterator[tuple[int, bool, Samples]]:
        """The sentence's samples: windows in order, each with its number and whether it is the last."""
        if self._graph is None:
            yield 0, True, _flat(encoded.latent)
            return
        frames = encoded.latent.shape[2]
        hop, context = self._graph.hop_samples, self._graph.context_frames
        for number, (start, end) in enumerate(_windows(frames)):
            low, high = max(0, start - context), min(frames, end + context)
            latent = np.ascontiguousarray(encoded.latent[:, :, low:high])
            inputs = dict(
                zip((self._graph.latent, *self._graph.conditions), (latent, *encoded.conditions), strict=True)
            )
            outputs = _call(self._decoder, inputs, run)
            if outputs is None:
                return
            yield number, end == frames, _flat(outputs[0])[(start - low) * hop : (end - low) * hop]

    def word_times(
        self, reading: Reading, sentence: int, encoded: _Encoded, spans: list[WordSpan], origin: int
    ) -> tuple[WordTime, ...]:
        """When a sentence's words sound, by the network's own durations; `origin`: the sentence's first sample."""
        frames = self.text.phoneme_frames(reading.sentences[sentence], encoded.durations)
        if frames is None or self._graph is None:
            return ()
        hop, times = self._graph.hop_samples, []
        for span in spans:
            if span.sentence != sentence:
                continue
            first = frames[span.first][0] if span.first < len(frames) else frames[-1][1]
            end = frames[span.end - 1][1] if span.end > span.first else first
            samples = max(0, origin + first * hop), max(0, origin + end * hop)
            times.append(WordTime(span.text_start, span.text_end, *samples, 1.0))
        return tuple(times)


def _windows(frames: int) -> Iterator[tuple[int, int]]:
    """From and to of each window; no last one is smaller than the first."""
    start, step = 0, 0
    while start < frames:
        end = start + _WINDOWS[min(step, len(_WINDOWS) - 1)]
        end = frames if frames - end < _WINDOWS[0] else end
        yield start, end
        start, step = end, step + 1


def _session(model: str | bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # every call has another shape
    options.log_severity_level = 4  # a terminated run is no error of ours to print
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _call(session: Any, inputs: Mapping[str, Any], run: _Run) -> list[Any] | None:
    """What the session computes; None when cancelled."""
    if run.cancelled:
        return None
    try:
        outputs: list[Any] = session.run(None, inputs, run.options)
    except Exception as error:  # onnxruntime has a dozen exceptions and no common base
        if run.cancelled:
            return None
        raise AntiphonError(Reason.ENGINE_FAULT, "The voice's network failed on this clause.") from error
    return outputs


def _flat(output: Any) -> Samples:
    samples: Samples = output.reshape(-1).astype(np.float32, copy=False)
    return samples


def _silence_before(samples: Samples, rate_hz: int, trimmed: int) -> tuple[int, bool]:
    """How many samples can go before the voice is first heard, and whether it was; `trimmed` went before them."""
    loud = np.abs(samples) > _TRIM_LEVEL
    most = max(0, int(_TRIM_MOST_S * rate_hz) - trimmed)
    if not loud.any():
        return min(len(samples), most), len(samples) >= most
    return min(max(0, int(loud.argmax()) - int(_TRIM_KEEP_S * rate_hz)), most), True


def _scales(config: Mapping[str, Any], settings: PiperSettings) -> tuple[float, float, float]:
    """Noise, length and duration noise; the last defaults are VITS's own."""
    own = config.get("inference", {})
    wanted = ((settings.noise_scale, "noise_scale", 0.667), (settings.length_scale, "length_scale", 1.0))
    noise, length = (float(own.get(key, default)) if value is None else value for value, key, default in wanted)
    noise_w = float(own.get("noise_w", 0.8)) if settings.noise_w_scale is None else settings.noise_w_scale
    return noise, length, noise_w
