"""A worker on loopback and its callers, for tests."""

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from antiphon.contracts.adapters import Capabilities, SpeechChunk, SpeechRequest
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec
from antiphon.contracts.status import from_call
from antiphon.contracts.v1 import recognition_pb2 as asr
from antiphon.contracts.v1 import recognition_pb2_grpc, synthesis_pb2_grpc
from antiphon.contracts.v1 import synthesis_pb2 as tts
from antiphon.worker.config import WorkerConfig
from antiphon.worker.loading import LoadedModel, PreparedModel
from antiphon.worker.server import Worker

BOUND_S = 20
RATE_HZ = 24_000
Action = tts.ControlRequest.Action
END = grpc.aio.EOF


def voice(name: str = "tones", residency: Any = None, **settings: Any) -> ModelSpec:
    return ModelSpec(name=name, task="tts", engine="mock", residency=residency or {}, engine_config=settings)


def ears(name: str = "script", **settings: Any) -> ModelSpec:
    return ModelSpec(name=name, task="asr", engine="mock", engine_config=settings)


@contextlib.asynccontextmanager
async def running(
    *models: ModelSpec, loader: Any = None, **changes: Any
) -> AsyncIterator[tuple[Worker, grpc.aio.Channel]]:
    settings: dict[str, Any] = {"worker_id": "w", "port": 0, "metrics_port": None, "loudness_lufs": None}
    config = WorkerConfig(models=models or (voice(), ears()), **(settings | changes))
    async with asyncio.timeout(BOUND_S), Worker(config, loader=loader) as worker:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.port}") as channel:
            yield worker, channel


class Speaking:
    """A caller of Synthesize."""

    def __init__(self, channel: grpc.aio.Channel, **config: Any) -> None:
        self.stub = synthesis_pb2_grpc.SpeechSynthesisStub(channel)
        self.id = config.pop("stream_id", str(uuid.uuid4()))
        self.config = tts.SynthesisConfig(stream_id=self.id, model="tones", sample_rate_hz=RATE_HZ)
        self.config.MergeFrom(tts.SynthesisConfig(**config))
        self.call = self.stub.Synthesize()
        self.audio: list[tts.Audio] = []
        self.words: list[tts.WordTimes] = []
        self.summary: tts.SynthesisSummary | None = None

    async def begin(self, *texts: str, end: bool = True) -> "Speaking":
        await self.call.write(tts.SynthesizeRequest(config=self.config))
        await self.call.initial_metadata()
        for text in texts:
            await self.push(text)
        if end:
            await self.end()
        return self

    async def push(self, text: str) -> None:
        await self.call.write(tts.SynthesizeRequest(text=tts.TextInput(text=text)))

    async def flush(self) -> None:
        await self.call.write(tts.SynthesizeRequest(flush=tts.Flush()))

    async def end(self) -> None:
        await self.call.write(tts.SynthesizeRequest(end=tts.EndOfText()))

    async def played(self, samples: int) -> None:
        await self.call.write(tts.SynthesizeRequest(played=tts.Played(position_samples=samples)))

    async def control(self, action: Any) -> tts.ControlResponse:
        response: tts.ControlResponse = await self.stub.Control(tts.ControlRequest(stream_id=self.id, action=action))
        return response

    async def read(self) -> Any:
        """The next response, kept; `END` at the end."""
        response = await self.call.read()
        if response is not END:
            kind = response.WhichOneof("kind")
            if kind == "audio":
                self.audio.append(response.audio)
            elif kind == "words":
                self.words.append(response.words)
            else:
                self.summary = response.summary
                await self.call.done_writing()
        return response

    async def read_until(self, samples: int) -> None:
        while self.end_samples < samples:
            assert await self.read() is not END

    async def read_all(self, *, play: bool = True) -> "Speaking":
        while (response := await self.read()) is not END:
            if play and response.WhichOneof("kind") == "audio":
                await self.played(self.end_samples)
        return self

    @property
    def end_samples(self) -> int:
        return self.audio[-1].position_samples + len(self.audio[-1].pcm) // 2 if self.audio else 0

    @property
    def pcm(self) -> bytes:
        return b"".join(audio.pcm for audio in self.audio)


class Listening:
    """A caller of Recognize."""

    def __init__(self, channel: grpc.aio.Channel, **config: Any) -> None:
        self.config = asr.RecognitionConfig(stream_id=str(uuid.uuid4()), model="script", sample_rate_hz=RATE_HZ)
        self.config.MergeFrom(asr.RecognitionConfig(**config))
        self.call = recognition_pb2_grpc.SpeechRecognitionStub(channel).Recognize()

    async def begin(self) -> "Listening":
        await self.call.write(asr.RecognizeRequest(config=self.config))
        return self

    async def push(self, ms: int, level: float = 0.0) -> None:
        pcm = np.full(self.config.sample_rate_hz * ms // 1000, level * 32767, "<i2").tobytes()
        await self.call.write(asr.RecognizeRequest(audio=asr.AudioInput(pcm=pcm)))

    async def pause(self, pause_id: int, silence_ms: int = 200) -> None:
        await self.call.write(asr.RecognizeRequest(pause=asr.Pause(pause_id=pause_id, silence_ms=silence_ms)))

    async def end(self) -> None:
        await self.call.write(asr.RecognizeRequest(end=asr.EndOfAudio()))

    async def read(self) -> Any:
        return await self.call.read()


@contextlib.contextmanager
def told(reason: Reason) -> Iterator[list[AntiphonError]]:
    """The block's call fails with this reason; the error is put into the list."""
    errors: list[AntiphonError] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield errors
    errors.append(from_call(caught.value))
    assert errors[0].reason is reason, errors[0]


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, at most five seconds."""
    try:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"it never came about that {what}")


async def is_idle(worker: Worker) -> None:
    """No stream and no model reference is left."""
    await until(
        lambda: not len(worker.streams) and not any(view.streams for view in worker.models.views()),
        "every stream and model reference was let go",
    )


class GatedVoice:
    """An engine whose chunks, of 100 ms, come only when the test lets them."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.given = 0
        self.open_streams = 0
        self.closed = False

    def open(self, request: SpeechRequest) -> "GatedStream":
        self.open_streams += 1
        return GatedStream(self)

    @classmethod
    def describe(cls, files: Any, settings: Any) -> Capabilities:
        return Capabilities(task="tts", sample_rate_hz=RATE_HZ, streaming_output=True)

    def load(self, files: Any, settings: Any) -> None: ...

    def close(self) -> None:
        self.closed = True


class GatedStream:
    CHUNKS = 50

    def __init__(self, engine: GatedVoice) -> None:
        self._engine = engine
        self._cancelled = False
        self._closed = False

    def synthesize(self, clause: str) -> Iterator[SpeechChunk]:
        for _ in range(self.CHUNKS):
            while not self._engine.gate.acquire(timeout=0.01):
                if self._cancelled:
                    return
            if self._cancelled:
                return
            self._engine.given += 1
            yield SpeechChunk(np.full(RATE_HZ // 10, 0.1, np.float32))

    def cancel(self) -> None:
        self._cancelled = True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._engine.open_streams -= 1


class GatedLoader:
    """Gives the one gated voice, whatever is asked for."""

    def __init__(self) -> None:
        self.engine = GatedVoice()

    async def prepare(self, spec: ModelSpec, progress: Any) -> PreparedModel:
        return PreparedModel(spec, "sha256:gated", GatedVoice.describe(None, {}))

    async def load(self, prepared: PreparedModel) -> LoadedModel:
        return LoadedModel(prepared, self.engine)

    async def close(self, model: LoadedModel) -> None:
        assert not self.engine.open_streams, "an engine was let go in use"
        self.engine.close()
