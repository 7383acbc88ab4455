"""All workers as one: finds one that can take a call, and another when that one fails."""

import asyncio
import contextlib
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from antiphon.contracts.adapters import Task
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.names import Names
from antiphon.orchestrator.workers.channels import WorkerChannels
from antiphon.registry.routing import Candidate, RouteRequest, explain, route
from antiphon.registry.snapshot import RegistryReader, Snapshot

ATTEMPTS = 6
"""In a row without any result; then the trouble lies in what is asked, not in who is asked."""
AGAIN_S = 0.5
"""A worker that refused, without a hint of its own, is asked again after so long."""
ALONE = 3.0
"""How much more patience a worker is given when there is no other: to give up on it would help nobody."""
SESSIONS = 10_000
"""How many sessions' last workers are remembered."""
RETRY_AFTER_MS = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How patient the orchestrator is with workers, in seconds."""

    no_worker_s: float = 2.0
    """How long a stream waits for a worker when none can be asked, or when those that were asked have failed."""
    register_s: float = 1.0
    """From the call to the worker's word that it took it."""
    first_s: float = 3.0
    """To the first audio of a reply whose text is there, from a worker that holds the model."""
    stall_s: float = 2.0
    """Between two pieces of audio, when more is due."""
    answer_s: float = 4.0
    """To a transcript, besides a quarter of the utterance's length."""
    load_s: float = 25.0
    """In place of the above, from a worker that has to load the model first."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who wants what."""

    task: Task
    model: str
    """A name, an alias, or `default`."""
    session_id: str


@dataclass(slots=True)
class Tries:
    """What one stream has lived through."""

    failures: int = 0
    """Since the last result."""
    since_s: float | None = None
    """When the first of these failures happened."""
    last: AntiphonError | None = None
    _until: dict[str, float] = field(default_factory=dict)

    def progress(self) -> None:
        """Note that something came of it that no failure takes back."""
        self.failures = 0
        self.since_s = None

    def failed(self, worker: str, error: AntiphonError, now: float) -> None:
        """Note that this worker failed; it is left alone for as long as it asked, or half a second."""
        self.failures += 1
        self.since_s = now if self.since_s is None else self.since_s
        self.last = error
        after_s = AGAIN_S if error.retry_after_ms is None else error.retry_after_ms / 1000
        self._until[worker] = now + after_s

    def excluded(self, now: float) -> set[str]:
        """The workers that this stream does not ask now."""
        return {worker for worker, until in self._until.items() if until > now}


@dataclass(frozen=True, slots=True)
class Choice:
    """The worker to ask, and how."""

    candidate: Candidate
    model: str
    """The catalogue's own name."""
    patience: float
    """By which deadlines are multiplied."""


Attempt = Callable[[Choice, Tries], Awaitable[None]]
"""One try, and whom to tell of progress. Raises `AntiphonError` when it failed."""


class Fleet:
    """Where streams find their workers.

    Args:
        reader: What is known; somebody else runs it.
        channels: How workers are reached.
        names: What model names stand for.
        deadlines: How patient to be.
        rng: For routing; give a seeded one to repeat a run.
    """

    def __init__(
        self,
        reader: RegistryReader,
        channels: WorkerChannels,
        names: Names,
        deadlines: Deadlines | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.channels = channels
        self.deadlines = deadlines or Deadlines()
        self._reader = reader
        self._names = names
        self._rng = rng or random.Random()
        self._last: OrderedDict[tuple[str, Task], str] = OrderedDict()

    async def serve(self, wanted: Wanted, attempt: Attempt) -> None:
        """Try until one attempt succeeds.

        Raises:
            AntiphonError: `MODEL_UNKNOWN` at once when the catalogue, freshly read, has no such model; `NO_WORKER` when
                no worker could be asked for a while, with what is known of them; whatever a worker said that no other
                worker would say differently.
        """
        tries = Tries()
        while True:
            choice = await self._choose(wanted, tries)
            try:
                await attempt(choice, tries)
            except AntiphonError as error:
                if not _another_may(error):
                    raise
                self._note_failure(wanted, choice.candidate, error, tries)
            else:
                self._remember(wanted, choice.candidate.worker)
                return

    async def _choose(self, wanted: Wanted, tries: Tries) -> Choice:
        """The next worker to ask. Waits a while for one, from the first failure on."""
        loop = asyncio.get_running_loop()
        deadline = (loop.time() if tries.since_s is None else tries.since_s) + self.deadlines.no_worker_s
        await self.channels.close_idle()
        while True:
            now, snapshot = loop.time(), self._reader.snapshot
            model = self._model(wanted, snapshot)
            exclude = tries.excluded(now) | self.channels.resting()
            if model is not None and tries.failures < ATTEMPTS:
                affinity = self._last.get((wanted.session_id, wanted.task))
                request = RouteRequest(wanted.task, model)
                candidates = route(request, snapshot, exclude=exclude, affinity=affinity, rng=self._rng)
                if candidates:
                    return Choice(candidates[0], model, patience=1.0 if len(candidates) > 1 else ALONE)
            if now >= deadline or tries.failures >= ATTEMPTS:
                raise self._no_worker(wanted, model, snapshot, tries)
            # Who rests now may be asked soon, though nothing changes in the registry.
            until = min(deadline, now + AGAIN_S / 2) if exclude else deadline
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._reader.changed(snapshot.version)

    def _model(self, wanted: Wanted, snapshot: Snapshot) -> str | None:
        """The model's own name; None while the catalogue cannot be read. Raises `AntiphonError(MODEL_UNKNOWN)`."""
        model = self._names.model(wanted.task, wanted.model)
        if model is None and not snapshot.stale:
            known = ", ".join(record.name for record in snapshot.models_of(wanted.task)) or "none at all"
            kind = "voice model" if wanted.task == "tts" else "recogniser"
            raise AntiphonError(
                Reason.MODEL_UNKNOWN, f"There is no {kind} {wanted.model!r} in the catalogue; it has: {known}."
            )
        return model

    def _no_worker(self, wanted: Wanted, model: str | None, snapshot: Snapshot, tries: Tries) -> AntiphonError:
        request = RouteRequest(wanted.task, model or wanted.model)
        verdicts = explain(request, snapshot, exclude=tries.excluded(asyncio.get_running_loop().time()))
        known = [f"{verdict.worker}: {verdict.refusal or 'it failed'}" for verdict in verdicts[:5]]
        if tries.last is not None:
            known.append(f"the last one said: {tries.last.message}")
        if snapshot.stale:
            known.append("the registry is out of reach")
        message = f"No worker can serve the model {request.model!r} now ({'; '.join(known) or 'none is there'})."
        return AntiphonError(Reason.NO_WORKER, message, retry_after_ms=RETRY_AFTER_MS)

    def _note_failure(self, wanted: Wanted, candidate: Candidate, error: AntiphonError, tries: Tries) -> None:
        tries.failed(candidate.worker, error, asyncio.get_running_loop().time())
        if error.reason in (Reason.WORKER_LOST, Reason.TIMEOUT):
            self.channels.rest(candidate.worker)
        logger.warning(
            "worker failed a stream: trying another",
            extra={
                "session_id": wanted.session_id,
                "task": wanted.task,
                "worker": candidate.worker,
                "reason": error.reason.value,
                "failures": tries.failures,
            },
        )

    def _remember(self, wanted: Wanted, worker: str) -> None:
        key = (wanted.session_id, wanted.task)
        self._last[key] = worker
        self._last.move_to_end(key)
        while len(self._last) > SESSIONS:
            self._last.popitem(last=False)


def _another_may(error: AntiphonError) -> bool:
    """Whether another worker may do better. A worker may not know yet what the catalogue knows."""
    return error.retryable or error.reason is Reason.MODEL_UNKNOWN
