"""From a spec to a warm model: fetch, describe, load, and let it say or hear a sentence before anybody else does."""

import asyncio
import functools
import time
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from antiphon.adapters import discovery, weights
from antiphon.adapters.download import Progress
from antiphon.audio.loudness import gain_to, measure_lufs
from antiphon.audio.pcm import pcm_to_float
from antiphon.audio.resample import Resampler
from antiphon.contracts.adapters import AsrEngine, Capabilities, HearingRequest, Samples, SpeechRequest, TtsEngine
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import Artifact, ModelSpec, model_digest, revision_digest
from antiphon.telemetry.logs import where
from antiphon.worker.config import Rewrite
from antiphon.worker.executor import Executor
from antiphon.worker.tally import Tally

WARM_UP_TEXT = "Good morning. The voice that you are hearing now is ready, and it will be with you in a moment."
SENTENCE = Path(__file__).with_name("test_sentence.wav")
"""What a recogniser hears first: "Good morning, can you hear me?", spoken by the Piper voice `joe`."""
WARM_UP_S = 5.0
"""No more of it is computed: enough to measure loudness by, and a slow engine is not kept from its callers."""
AUDIBLE = 0.001
"""A voice whose loudest sample stays below, of a full scale of 1, is silent: -60 dB."""
_GAIN = (0.1, 8.0)  # -20 to +18 dB: beyond that the measurement is wrong, not the voice


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model whose files are here, before its weights are loaded."""

    spec: ModelSpec
    digest: str
    capabilities: Capabilities
    files: Path | None = None
    revision: str = field(init=False)
    """The name of its revision."""

    def __post_init__(self) -> None:
        """Name the revision."""
        object.__setattr__(self, "revision", revision_digest(self.spec))


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A warm model."""

    prepared: PreparedModel
    engine: TtsEngine | AsrEngine
    gain: float = 1.0
    """What every sample of a voice is multiplied by, to be as loud as wanted."""
    first_audio_ms: float = 0.0
    """Of the warm-up sentence; 0 for a recogniser."""
    real_time_factor: float = 0.0
    tally: Tally = field(default_factory=Tally, compare=False)
    """How it has done since."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.prepared.spec.name

    @property
    def digest(self) -> str:
        """The digest of its content."""
        return self.prepared.digest

    @property
    def revision(self) -> str:
        """The name of its revision."""
        return self.prepared.revision

    @property
    def labels(self) -> tuple[str, str]:
        """Its name and, short, its revision: what metrics are labelled with."""
        return self.name, short(self.revision)

    @property
    def rate_hz(self) -> int:
        """The rate it speaks or hears at."""
        return self.prepared.capabilities.sample_rate_hz


def short(revision: str) -> str:
    """The first twelve digits of a revision's name: enough to tell it from the others, for metrics and logs."""
    return revision.removeprefix("sha256:")[:12]


class Loader(Protocol):
    """Brings models into memory and out of it."""

    async def prepare(self, spec: ModelSpec, progress: Callable[[Progress], None]) -> PreparedModel:
        """Fetch the files, telling how far that is, and describe the model. Raises `AntiphonError`."""
        ...

    async def load(self, prepared: PreparedModel) -> LoadedModel:
        """Load the weights and warm them up. Raises `AntiphonError(LOAD_FAILED)`."""
        ...

    async def close(self, model: LoadedModel) -> None:
        """Free the weights."""
        ...


class EngineLoader:
    """Loads by the engines that are installed, in threads apart from inference.

    Args:
        loads: Where weights are read and warmed.
        closes: Where they are freed: never behind a load, for streams may wait for the room.
        cache: Where fetched weights are kept.
        loudness_lufs: How loud every voice is made; None: as it comes.
        rewrites: Other places for weights; the longest prefix that fits is taken.
    """

    def __init__(
        self,
        loads: Executor,
        closes: Executor,
        cache: Path,
        loudness_lufs: float | None,
        rewrites: Sequence[Rewrite] = (),
    ) -> None:
        self._loads = loads
        self._closes = closes
        self._cache = cache
        self._loudness_lufs = loudness_lufs
        self._rewrites = rewrites

    async def prepare(self, spec: ModelSpec, progress: Callable[[Progress], None]) -> PreparedModel:
        """Fetch the files (on the loop, resumable), then describe them and compute the digest (in a thread)."""
        factory = discovery.find_engine(spec.task, spec.engine)
        files = await weights.resolve(self._reachable(spec.artifact), self._cache, progress)
        return await self._loads.run(_describe, spec, factory, files)

    async def load(self, prepared: PreparedModel) -> LoadedModel:
        """Load and warm up in a thread; a cancelled load still ends there, and is let go."""
        loaded: list[LoadedModel] = []
        try:
            await self._loads.run(lambda: loaded.append(self._load(prepared)))
        except asyncio.CancelledError:
            for model in loaded:
                await self.close(model)
            raise
        return loaded[0]

    async def close(self, model: LoadedModel) -> None:
        """Free the weights in a thread."""
        await self._closes.run_to_end(model.engine.close)

    def _reachable(self, artifact: Artifact | None) -> Artifact | None:
        """The artifact where this worker finds it."""
        if artifact is None:
            return None
        longest_first = sorted(self._rewrites, key=lambda rewrite: len(rewrite.prefix), reverse=True)
        elsewhere = (rewrite.applied(artifact) for rewrite in longest_first)
        return next((found for found in elsewhere if found is not None), artifact)

    def _load(self, prepared: PreparedModel) -> LoadedModel:
        spec = prepared.spec
        engine = discovery.find_engine(spec.task, spec.engine)()
        engine.load(prepared.files, spec.engine_config)
        try:
            if isinstance(engine, TtsEngine) and spec.task == "tts":
                return self._warm_voice(prepared, engine)
            return _warm_recogniser(prepared, engine)
        except BaseException as error:
            engine.close()
            cause = error.message if isinstance(error, AntiphonError) else where(error)
            did = "speak" if spec.task == "tts" else "hear"
            message = f"Model {spec.name!r} was loaded but could not {did} its test sentence: {cause}"
            raise AntiphonError(Reason.LOAD_FAILED, message) from error

    def _warm_voice(self, prepared: PreparedModel, engine: TtsEngine) -> LoadedModel:
        rate_hz = prepared.capabilities.sample_rate_hz
        begun, first_audio_ms = time.perf_counter(), 0.0
        chunks: list[Samples] = []
        stream = engine.open(SpeechRequest())
        try:
            for chunk in stream.synthesize(WARM_UP_TEXT):
                first_audio_ms = first_audio_ms or (time.perf_counter() - begun) * 1000
                chunks.append(chunk.samples)
                if sum(map(len, chunks)) >= WARM_UP_S * rate_hz:
                    break
        finally:
            stream.close()
        took_s = time.perf_counter() - begun
        samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
        _check_sound(samples)
        factor = took_s / (len(samples) / rate_hz)
        return LoadedModel(prepared, engine, self._gain(samples, rate_hz), first_audio_ms, factor)

    def _gain(self, samples: Samples, rate_hz: int) -> float:
        wanted = self._loudness_lufs
        lufs = None if wanted is None else measure_lufs(samples, rate_hz)
        return 1.0 if wanted is None or lufs is None else min(max(gain_to(wanted, lufs), _GAIN[0]), _GAIN[1])


def _describe(spec: ModelSpec, factory: type[TtsEngine] | type[AsrEngine], files: Path | None) -> PreparedModel:
    capabilities = factory.describe(files, spec.engine_config)
    return PreparedModel(spec, model_digest(spec.engine, spec.engine_config, files), capabilities, files)


def _check_sound(samples: Samples) -> None:
    """Raise `AntiphonError(LOAD_FAILED)` for what nobody would hear, as broken weights give it."""
    if not len(samples):
        raise AntiphonError(Reason.LOAD_FAILED, "It gave no audio.")
    if not np.isfinite(samples).all():
        raise AntiphonError(Reason.LOAD_FAILED, "It gave what is no sound.")
    if np.abs(samples).max() < AUDIBLE:
        raise AntiphonError(Reason.LOAD_FAILED, "It gave silence.")


def _warm_recogniser(prepared: PreparedModel, engine: TtsEngine | AsrEngine) -> LoadedModel:
    """Let it hear a sentence. It must hear something in it, if English is among its languages."""
    assert isinstance(engine, AsrEngine)
    can = prepared.capabilities
    sentence = _sentence(can.sample_rate_hz)
    begun = time.perf_counter()
    stream = engine.open(HearingRequest())
    try:
        stream.push(sentence)
        heard = stream.final()
    finally:
        stream.close()
    factor = (time.perf_counter() - begun) / (len(sentence) / can.sample_rate_hz)
    knows_english = not can.languages or any(tag.lower().split("-")[0] == "en" for tag in can.languages)
    if knows_english and not heard.text.strip():
        raise AntiphonError(Reason.LOAD_FAILED, "It heard nothing in it.")
    return LoadedModel(prepared, engine, real_time_factor=factor)


@functools.cache
def _sentence(rate_hz: int) -> Samples:
    with wave.open(str(SENTENCE), "rb") as file:
        resampler = Resampler(file.getframerate(), rate_hz)
        samples = resampler.push(pcm_to_float(file.readframes(file.getnframes())))
    return np.concatenate([samples, resampler.flush()])
