"""Models that workers were asked to load: once for each worker and model, however many wait for it."""

import asyncio
import logging

import grpc

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.status import from_call
from antiphon.contracts.v1.models_pb2 import LoadModelRequest
from antiphon.contracts.v1.models_pb2_grpc import ModelsStub
from antiphon.orchestrator.workers.channels import WorkerChannels
from antiphon.registry.routing import Candidate, Excluded
from antiphon.registry.snapshot import Snapshot

LONGEST_S = 1800.0
"""A load that takes longer is not waited for: somebody may ask for it again."""
AGAIN_S = 1.0
"""A worker that has not loaded a model, and gave no hint of its own, is asked for it again after so long."""
CLOSE_S = 1.0

Load = asyncio.Task[AntiphonError | None]
"""A load under way; its result is why it failed. Awaiting it through `asyncio.wait` leaves it to the others."""

logger = logging.getLogger(__name__)


class Loads:
    """The loads that one orchestrator has asked for. Made and used on one event loop.

    That several orchestrators ask for one load at most is the routing's part (they choose the same worker) and the
    worker's (it loads a model once).

    Args:
        channels: How workers are reached.
    """

    def __init__(self, channels: WorkerChannels) -> None:
        self._channels = channels
        self._running: dict[tuple[str, str, str], Load] = {}
        self._refused: dict[tuple[str, str, str], float] = {}
        """By worker, model and revision: until when it is not asked again."""

    def begin(self, candidate: Candidate, model: str) -> Load:
        """The load of that model on that worker: the one that runs, or a new one. Never blocks."""
        key = (candidate.worker, model, candidate.digest)
        load = self._running.get(key)
        if load is None:
            load = asyncio.create_task(self._load(candidate, model), name=f"load-{model}")
            self._running[key] = load
            load.add_done_callback(lambda _: self._running.pop(key, None))
        return load

    def refused(self, model: str, snapshot: Snapshot) -> set[Excluded]:
        """The workers that would not load this model just now, each with the revision, and do not hold it."""
        now = asyncio.get_running_loop().time()
        self._refused = {key: until for key, until in self._refused.items() if until > now}
        return {
            (worker, digest)
            for worker, name, digest in self._refused
            if name == model and not _holds(snapshot, worker, model, digest)
        }

    async def aclose(self) -> None:
        """Wait for none of them any more; the workers go on loading. Bounded."""
        loads = list(self._running.values())
        for load in loads:
            load.cancel()
        if loads:
            await asyncio.wait(loads, timeout=CLOSE_S)

    async def _load(self, candidate: Candidate, model: str) -> AntiphonError | None:
        """Ask until it is there, or was refused."""
        loop = asyncio.get_running_loop()
        begun_s, fields = loop.time(), {"worker": candidate.worker, "model": model}
        logger.info("asking for a load", extra=fields)
        while (error := await self._ask(candidate, model)) is not None:
            if error.reason is not Reason.MODEL_LOADING or loop.time() - begun_s > LONGEST_S:
                break
            await asyncio.sleep(_again_s(error))  # the worker does not let a call wait as long as we do
        took_ms = round((loop.time() - begun_s) * 1000)
        if error is None:
            logger.info("loaded", extra={**fields, "took_ms": took_ms})
            return None
        self._refused[candidate.worker, model, candidate.digest] = loop.time() + _again_s(error)
        logger.warning("not loaded", extra={**fields, "took_ms": took_ms, "reason": error.reason.value})
        return error

    async def _ask(self, candidate: Candidate, model: str) -> AntiphonError | None:
        with self._channels.use(candidate.address) as channel:
            stub = ModelsStub(channel)  # type: ignore[no-untyped-call]
            request = LoadModelRequest(name=model, digest=candidate.digest)
            try:
                await stub.LoadModel(request, metadata=self._channels.metadata, timeout=LONGEST_S)
            except grpc.RpcError as error:
                return from_call(error)
        return None


def _again_s(error: AntiphonError) -> float:
    """When to ask this worker again."""
    return error.retry_after_ms / 1000 if error.retry_after_ms else AGAIN_S


def _holds(snapshot: Snapshot, worker: str, model: str, digest: str) -> bool:
    """Whether the worker says that it holds that revision of the model."""
    member = snapshot.workers.get(worker)
    held = member.lease.resident(model, digest) if member is not None and member.lease is not None else None
    return held is not None and held.state in ("warm", "in_use")
