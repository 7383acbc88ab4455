"""The three gRPC services of a worker: thin, each call in one screen."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from antiphon.contracts.adapters import Capabilities
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.v1 import (
    models_pb2,
    models_pb2_grpc,
    recognition_pb2,
    recognition_pb2_grpc,
    synthesis_pb2,
    synthesis_pb2_grpc,
)
from antiphon.telemetry.metrics import WorkerMetrics
from antiphon.worker.config import WorkerConfig
from antiphon.worker.executor import Executor
from antiphon.worker.models import ModelManager
from antiphon.worker.recognition import Recognition, RecognitionOrder
from antiphon.worker.slots import ModelView
from antiphon.worker.streams import Streams, checked_id
from antiphon.worker.synthesis import Synthesis, SynthesisOrder

Action = synthesis_pb2.ControlRequest.Action


class _Speech:
    """What speaking and hearing are served with."""

    def __init__(
        self, config: WorkerConfig, models: ModelManager, streams: Streams, hops: Executor, metrics: WorkerMetrics
    ) -> None:
        self._config = config
        self._models = models
        self._streams = streams
        self._hops = hops
        self._metrics = metrics


class SpeechSynthesis(_Speech, synthesis_pb2_grpc.SpeechSynthesisServicer):
    """`antiphon.v1.SpeechSynthesis`."""

    async def Synthesize(  # noqa: N802
        self, requests: AsyncIterator[synthesis_pb2.SynthesizeRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """Speak one reply."""
        order = SynthesisOrder.of(await first_config(requests))
        synthesis = Synthesis(
            order,
            self._models,
            self._hops,
            self._metrics,
            max_text_chars=self._config.max_text_chars,
            max_stream_s=self._config.max_stream_s,
        )
        with self._streams.open("tts", order.stream_id, synthesis):
            if self._streams.take_stop(order.stream_id):
                synthesis.stop()
            await context.send_initial_metadata(())
            await synthesis.run(requests, context.write)

    async def Control(  # noqa: N802
        self, request: synthesis_pb2.ControlRequest, context: grpc.aio.ServicerContext
    ) -> synthesis_pb2.ControlResponse:
        """Pause, resume or stop one reply. A STOP is kept for a stream that is still to come, and answered OK."""
        stream_id = checked_id(request.stream_id)
        synthesis = self._streams.find(stream_id)
        if request.action not in (Action.PAUSE, Action.RESUME, Action.STOP):
            raise AntiphonError(Reason.INVALID_REQUEST, "action must be PAUSE, RESUME or STOP.")
        if not isinstance(synthesis, Synthesis):
            if request.action != Action.STOP:
                raise AntiphonError(Reason.STREAM_UNKNOWN, "No stream of this id is open: it has ended, or not begun.")
            self._streams.remember_stop(stream_id)
            return synthesis_pb2.ControlResponse()
        if request.action == Action.PAUSE:
            synthesis.pause()
        elif request.action == Action.RESUME:
            synthesis.resume()
        else:
            synthesis.stop()
        return synthesis_pb2.ControlResponse(position_samples=synthesis.position_samples)


class SpeechRecognition(_Speech, recognition_pb2_grpc.SpeechRecognitionServicer):
    """`antiphon.v1.SpeechRecognition`."""

    async def Recognize(  # noqa: N802
        self, requests: AsyncIterator[recognition_pb2.RecognizeRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """Hear one utterance."""
        order = RecognitionOrder.of(await first_config(requests))
        recognition = Recognition(
            order,
            self._models,
            self._hops,
            self._metrics,
            max_utterance_s=self._config.max_utterance_s,
            max_stream_s=self._config.max_stream_s,
        )
        with self._streams.open("asr", order.stream_id, recognition):
            await context.send_initial_metadata(())
            await recognition.run(requests, context.write)


class Models(models_pb2_grpc.ModelsServicer):
    """`antiphon.v1.Models`."""

    def __init__(self, models: ModelManager, streams: Streams) -> None:
        self._models = models
        self._streams = streams

    async def ListModels(  # noqa: N802
        self, request: models_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.ListModelsResponse:
        """Every model of the catalogue as it stands."""
        return models_pb2.ListModelsResponse(models=[status_of(view) for view in self._models.views()])

    async def DescribeModel(  # noqa: N802
        self, request: models_pb2.DescribeModelRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.ModelStatus:
        """One model as it stands."""
        return status_of(self._models.view(request.name))

    async def LoadModel(  # noqa: N802
        self, request: models_pb2.LoadModelRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.ModelStatus:
        """Load a model; returns when it is warm."""
        if self._streams.draining:
            raise AntiphonError(Reason.DRAINING, "This worker takes nothing new any more: ask another one.")
        return status_of(await self._models.load(request.name, request.digest))

    async def UnloadModel(  # noqa: N802
        self, request: models_pb2.UnloadModelRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.ModelStatus:
        """Let a model go; returns when it is gone."""
        view = self._models.view(request.name, request.digest)
        if request.digest not in ("", view.digest, view.revision):
            raise AntiphonError(Reason.MODEL_UNKNOWN, f"Model {request.name!r} is not held here under that digest.")
        return status_of(await self._models.unload(request.name, request.digest))

    async def WatchModels(  # noqa: N802
        self, request: models_pb2.WatchModelsRequest, context: grpc.aio.ServicerContext
    ) -> None:
        """Every model as it stands, then each change."""
        async for view in self._models.watch():
            await context.write(status_of(view))


async def first_config(requests: AsyncIterator[Any]) -> Any:
    """The config that opens a stream. Raises `AntiphonError(INVALID_REQUEST)` when something else comes first."""
    async for request in requests:
        if request.WhichOneof("kind") != "config":
            break
        return request.config
    raise AntiphonError(Reason.INVALID_REQUEST, "The first message of a stream must be its config.")


def status_of(view: ModelView) -> models_pb2.ModelStatus:
    """A model's view, as the wire has it."""
    return models_pb2.ModelStatus(
        name=view.spec.name,
        aliases=view.spec.aliases,
        engine=view.spec.engine,
        digest=view.digest,
        state=view.state.name,
        streams=view.streams,
        memory_mib=view.memory_mib,
        progress=view.progress,
        message=view.message,
        capabilities=_capabilities_of(view.capabilities) if view.capabilities else None,
    )


def _capabilities_of(capabilities: Capabilities) -> models_pb2.Capabilities:
    return models_pb2.Capabilities(
        task=capabilities.task,
        languages=capabilities.languages,
        voices=capabilities.voices,
        sample_rate_hz=capabilities.sample_rate_hz,
        streaming_input=capabilities.streaming_input,
        streaming_output=capabilities.streaming_output,
        word_times=capabilities.word_times,
        cloning=capabilities.cloning,
        emotion=capabilities.emotion,
        licence=capabilities.licence,
    )
