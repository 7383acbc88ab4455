"""All workers as one: finds one that can take a call, and another when that one fails."""

import asyncio
import contextlib
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from antiphon.contracts.adapters import Task
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.ports import ModelLoading
from antiphon.orchestrator.names import Names
from antiphon.orchestrator.workers.breaker import Breakers
from antiphon.orchestrator.workers.channels import WorkerChannels
from antiphon.orchestrator.workers.loads import Loads
from antiphon.registry.routing import Candidate, Excluded, Refusal, RouteRequest, Verdict, explain, route
from antiphon.registry.snapshot import RegistryReader, Snapshot

ATTEMPTS = 6
"""In a row without any result; then the trouble lies in what is asked, not in who is asked."""
AGAIN_S = 0.5
"""A worker that refused, without a hint of its own, is asked again after so long."""
ALONE = 3.0
"""How much more patience a worker is given when there is no other: to give up on it would help nobody."""
PROGRESS_S = 0.2
"""How often those who wait for a load are told how far it is."""
SESSIONS = 10_000
"""How many sessions' last workers and revisions are remembered."""
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
    """For a model that no worker holds to be loaded; then the load goes on without the stream. And for the next worker
    of a pool that has lost, or is replacing, its last one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who wants what."""

    task: Task
    model: str
    """A name, an alias, or `default`."""
    session_id: str
    fallback: str = ""
    """The model that serves when no worker holds the first; empty: the stream waits for a load."""


@dataclass(slots=True)
class Tries:
    """What one stream has lived through."""

    failures: int = 0
    """Since the last result; workers that only had no room are not counted."""
    since_s: float | None = None
    """When the first of these failures happened."""
    last: AntiphonError | None = None
    lacked: bool = False
    """No worker held the model when it was asked for."""
    awaits: bool = False
    """It was told that it waits for the next worker."""
    avoided: tuple[str, ...] = ()
    """Revisions that have failed, while there are others."""
    _until: dict[Excluded, float] = field(default_factory=dict)

    def progress(self) -> None:
        """Note that something came of it that no failure takes back."""
        self.failures = 0
        self.since_s = None

    def failed(self, candidate: Candidate, error: AntiphonError, now: float, patience_s: float) -> None:
        """Note that this worker failed; it is left alone for as long as it asked, or half a second.

        Where it has only not the revision, it may be asked for another one. That one after the other has no room says
        nothing of what is asked: it counts when a worker says so again, or after so many seconds of it.
        """
        lacks = error.reason in (Reason.MODEL_LOADING, Reason.MODEL_UNKNOWN, Reason.LOAD_FAILED)
        excluded = (candidate.worker, candidate.digest) if lacks else candidate.worker
        is_patient = self.since_s is None or now - self.since_s < patience_s
        passed_on = is_patient and error.reason in _NO_ROOM and excluded not in self._until
        self._note(error, now, counts=not passed_on)
        after_s = AGAIN_S if error.retry_after_ms is None else error.retry_after_ms / 1000
        self._until[excluded] = now + after_s

    def failed_by(self, revision: str, error: AntiphonError, now: float) -> None:
        """Note that this revision failed, whoever holds it: the others come first now."""
        self._note(error, now)
        self.avoided += (revision,)

    def excluded(self, now: float) -> set[Excluded]:
        """Whom this stream does not ask now."""
        return {excluded for excluded, until in self._until.items() if until > now}

    def _note(self, error: AntiphonError, now: float, *, counts: bool = True) -> None:
        self.failures += counts
        self.since_s = now if self.since_s is None else self.since_s
        self.last = error


@dataclass(frozen=True, slots=True)
class Choice:
    """The worker to ask, and how."""

    candidate: Candidate
    model: str
    """The catalogue's own name."""
    patience: float
    """By which deadlines are multiplied."""
    is_fallback: bool = False
    """It is not the model that was asked for: what was said of its voice is not meant for it."""


Attempt = Callable[[Choice, Tries], Awaitable[None]]
"""One try, and whom to tell of progress. Raises `AntiphonError` when it failed."""
Tell = Callable[[ModelLoading], Awaitable[None]]
"""Told of a load that the stream waits for, or would."""
NoteDemand = Callable[[Task, str, str], None]
"""Told of each stream whose model no worker held: task, model, reason."""


class StillLoading(AntiphonError):
    """A load takes longer than its caller waits; it goes on, and nobody else is to begin another."""

    def __init__(self, model: str) -> None:
        message = f"The model {model!r} is being loaded, which takes a while: ask again in a moment."
        super().__init__(Reason.MODEL_LOADING, message, retry_after_ms=RETRY_AFTER_MS)


class Fleet:
    """Where streams find their workers.

    Args:
        reader: What is known; somebody else runs it.
        channels: How workers are reached.
        names: What model names stand for.
        deadlines: How patient to be.
        rng: For routing; give a seeded one to repeat a run.
        note_demand: Told of each stream whose model no worker held.
        loads: By which models are loaded; None: by asking the workers.
    """

    def __init__(
        self,
        reader: RegistryReader,
        channels: WorkerChannels,
        names: Names,
        deadlines: Deadlines | None = None,
        rng: random.Random | None = None,
        note_demand: NoteDemand = lambda task, model, reason: None,
        loads: Loads | None = None,
    ) -> None:
        self.channels = channels
        self.deadlines = deadlines or Deadlines()
        self._reader = reader
        self._names = names
        self._rng = rng or random.Random()
        self._note_demand = note_demand
        self._breakers = Breakers(lambda: asyncio.get_running_loop().time())
        self._loads = loads or Loads(channels)
        self._last: OrderedDict[tuple[str, Task], Candidate] = OrderedDict()
        self._pools: dict[str, str] = {}
        """By model: the pool of the worker that served it last."""

    async def aclose(self) -> None:
        """Wait for no load any more. Call it when no stream is left. Bounded."""
        await self._loads.aclose()

    async def serve(self, wanted: Wanted, attempt: Attempt, tell: Tell) -> None:
        """Try until one attempt succeeds, each on a worker that holds the model by then.

        Raises:
            AntiphonError: `MODEL_UNKNOWN` at once when the catalogue, freshly read, has no such model; `MODEL_LOADING`
                when its load takes too long; `WORKER_FULL` or `NO_WORKER` when no worker could be asked for a while,
                with what is known of them; `INTERNAL` for what cannot be sent; whatever a worker said that no other
                worker would say differently.
        """
        tries = Tries()
        while True:
            choice = await self._choose(wanted, tries, tell)
            worker = choice.candidate.worker
            self._breakers.ask(worker)
            try:
                if not choice.candidate.resident:
                    choice = await self._loaded(choice, tell)
                await attempt(choice, tries)
            except AntiphonError as error:
                if not _another_may(error):
                    raise
                self._note_failure(wanted, choice, error, tries)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # gRPC cancels a call that it cannot write to: nobody else may end the stream without a word.
                raise AntiphonError(Reason.INTERNAL, "What was asked for cannot be sent to a worker.") from None
            else:
                self._breakers.answered(worker)
                self._remember(wanted, choice, tries)
                return
            finally:
                self._breakers.undecided(worker)

    # --- choosing -----------------------------------------------------------------------------------------------------

    async def _choose(self, wanted: Wanted, tries: Tries, tell: Tell) -> Choice:
        """The next worker to ask. Waits a while for one, from the first failure on."""
        loop = asyncio.get_running_loop()
        since_s = loop.time() if tries.since_s is None else tries.since_s
        await self.channels.close_idle()
        while True:
            now, snapshot = loop.time(), self._reader.snapshot
            model = self._model(wanted, snapshot)
            if model is not None and tries.failures < ATTEMPTS:
                choice = await self._pick(wanted, model, snapshot, tries, tell)
                if choice is not None:
                    return choice
            deadline = since_s + await self._patience_s(model, snapshot, tries, tell)
            if now >= deadline or tries.failures >= ATTEMPTS:
                raise self._no_worker(wanted, model, snapshot, tries)
            # Who is left alone may be asked soon, though nothing changes in the registry.
            until = min(deadline, now + AGAIN_S / 2)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._reader.changed(snapshot.version)

    async def _patience_s(self, model: str | None, snapshot: Snapshot, tries: Tries, tell: Tell) -> float:
        """How long a stream that nobody can take waits: longer, and told so, where the next worker is on its way."""
        if model is None or not snapshot.is_awaited(self._pools.get(model, "")):
            return self.deadlines.no_worker_s
        if not tries.awaits:
            tries.awaits = True
            await tell(ModelLoading(model, 0.0))
        return self.deadlines.load_s

    async def _pick(self, wanted: Wanted, model: str, snapshot: Snapshot, tries: Tries, tell: Tell) -> Choice | None:
        """Who holds the model; else who holds the fallback, while the model is loaded; else who can load it."""
        choice = self._best(wanted, model, snapshot, tries)
        if choice is not None and choice.candidate.resident:
            return choice
        if not tries.lacked:
            tries.lacked = True
            lack = Reason.MODEL_LOADING if choice else _lack(self._verdicts(wanted, model, snapshot, tries), tries)
            self._note_demand(wanted.task, model, lack)
        fallback = self._fallback(wanted, model, snapshot, tries)
        if fallback is None:
            return choice
        if choice is not None:
            self._loads.begin(choice.candidate, model)
        await tell(ModelLoading(model, 0.0 if choice is None else _progress(snapshot, choice), fallback.model))
        return fallback

    def _fallback(self, wanted: Wanted, model: str, snapshot: Snapshot, tries: Tries) -> Choice | None:
        if not wanted.fallback:
            return None
        name = self._names.model(wanted.task, wanted.fallback)
        if name in (None, model):
            logger.warning("the fallback is no other model of the catalogue", extra={"fallback": wanted.fallback})
            return None
        assert name is not None
        choice = self._best(wanted, name, snapshot, tries)
        return replace(choice, is_fallback=True) if choice is not None and choice.candidate.resident else None

    def _best(self, wanted: Wanted, model: str, snapshot: Snapshot, tries: Tries) -> Choice | None:
        """The best worker that can be asked for this model; one behind an open breaker only if there is no other."""

        def incarnation(worker: str) -> str | None:
            known = snapshot.workers.get(worker)
            return known.lease.incarnation if known is not None and known.lease is not None else None

        now, last = asyncio.get_running_loop().time(), self._last.get((wanted.session_id, wanted.task), _NOBODY)
        request = RouteRequest(
            wanted.task, model, session_id=wanted.session_id, digest=last.digest, avoid=tries.avoided
        )
        exclude = tries.excluded(now) | self._loads.refused(model, snapshot)
        for last_resort in (False, True):
            left_alone = self._breakers.left_alone(incarnation, last_resort=last_resort)
            found = route(request, snapshot, exclude=exclude | left_alone, affinity=last.worker, rng=self._rng)
            if found:
                return Choice(found[0], model, patience=1.0 if len(found) > 1 else ALONE)
            if not left_alone:
                break
        return None

    async def _loaded(self, choice: Choice, tell: Tell) -> Choice:
        """The same choice once its worker holds the model. Raises `AntiphonError` when it does not come to that."""
        loop = asyncio.get_running_loop()
        load, told = self._loads.begin(choice.candidate, choice.model), -1.0
        deadline = loop.time() + self.deadlines.load_s
        while not load.done():
            progress = _progress(self._reader.snapshot, choice)
            if progress != told:
                await tell(ModelLoading(choice.model, progress))
                told = progress
            if loop.time() >= deadline:
                raise StillLoading(choice.model)
            await asyncio.wait((load,), timeout=PROGRESS_S)
        error = load.result()
        if error is not None:  # a fresh one for each who waited: exceptions carry tracebacks
            raise AntiphonError(error.reason, error.message, retry_after_ms=error.retry_after_ms)
        return replace(choice, candidate=replace(choice.candidate, resident=True))

    # --- what is known ------------------------------------------------------------------------------------------------

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
        name = model or wanted.model
        verdicts = self._verdicts(wanted, name, snapshot, tries)
        known = [f"{verdict.worker}: {verdict.refusal or 'it failed'}" for verdict in verdicts[:5]]
        if tries.last is not None:
            known.append(f"the last one said: {tries.last.message}")
        if snapshot.stale:
            known.append("the registry is out of reach")
        message = f"No worker can serve the model {name!r} now ({'; '.join(known) or 'none is there'})."
        return AntiphonError(_lack(verdicts, tries), message, retry_after_ms=RETRY_AFTER_MS)

    def _verdicts(self, wanted: Wanted, model: str, snapshot: Snapshot, tries: Tries) -> list[Verdict]:
        request = RouteRequest(wanted.task, model, session_id=wanted.session_id)
        return explain(request, snapshot, exclude=tries.excluded(asyncio.get_running_loop().time()))

    def _note_failure(self, wanted: Wanted, choice: Choice, error: AntiphonError, tries: Tries) -> None:
        worker, revision, now = choice.candidate.worker, choice.candidate.digest, asyncio.get_running_loop().time()
        if error.reason is Reason.ENGINE_FAULT and self._has_another(choice, tries):
            tries.failed_by(revision, error, now)
        else:
            tries.failed(choice.candidate, error, now, self.deadlines.no_worker_s)
        known = self._reader.snapshot.workers.get(worker)
        if error.reason not in (Reason.WORKER_LOST, Reason.TIMEOUT):
            self._breakers.answered(worker)
        elif known is not None and known.lease is not None:
            self._breakers.failed(worker, known.lease.incarnation)
        logger.warning(
            "worker failed a stream: trying another",
            extra={
                "session_id": wanted.session_id,
                "task": wanted.task,
                "worker": worker,
                "reason": error.reason.value,
                "failures": tries.failures,
            },
        )

    def _has_another(self, choice: Choice, tries: Tries) -> bool:
        """Whether the model has a revision that has not failed in this stream."""
        model = self._reader.snapshot.models.get(choice.model)
        known = {each.digest for each in model.revisions if each.weight} if model is not None else set()
        return bool(known - {choice.candidate.digest, *tries.avoided})

    def _remember(self, wanted: Wanted, choice: Choice, tries: Tries) -> None:
        """The session keeps this worker, and the revision if it was not only in place of one that failed."""
        if choice.is_fallback:
            return
        key, candidate = (wanted.session_id, wanted.task), choice.candidate
        member = self._reader.snapshot.workers.get(candidate.worker)
        if member is not None:
            self._pools[choice.model] = member.record.pool
        if tries.avoided:
            candidate = replace(candidate, digest=self._last.get(key, _NOBODY).digest)
        self._last[key] = candidate
        self._last.move_to_end(key)
        while len(self._last) > SESSIONS:
            self._last.popitem(last=False)


def _lack(verdicts: list[Verdict], tries: Tries) -> Reason:
    """What is lacking: room, where it is only for want of room that nobody can be asked; else a worker."""
    is_full = tries.last is not None and tries.last.reason is Reason.WORKER_FULL
    if is_full or any(verdict.reason in (Refusal.FULL, Refusal.NO_MEMORY) for verdict in verdicts):
        return Reason.WORKER_FULL
    return Reason.NO_WORKER


_NO_ROOM = (Reason.WORKER_FULL, Reason.DRAINING)
_NOBODY = Candidate(worker="", address="", resident=False)


def _progress(snapshot: Snapshot, choice: Choice) -> float:
    """How far the load is, as the worker says."""
    worker = snapshot.workers.get(choice.candidate.worker)
    lease = worker.lease if worker is not None else None
    resident = lease.resident(choice.model, choice.candidate.digest) if lease is not None else None
    return resident.progress if resident is not None else 0.0


def _another_may(error: AntiphonError) -> bool:
    """Whether another worker may do better. A worker may not know yet what the catalogue knows."""
    if isinstance(error, StillLoading):
        return False
    return error.retryable or error.reason is Reason.MODEL_UNKNOWN
