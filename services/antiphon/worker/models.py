"""The model manager: who is loaded, who waits, who must go.

Each model of the catalogue has one slot, so it is never there twice. A stream holds a reference from before its
model is loaded until it has ended: what is referenced is never let go. Memory is reserved before a load and given back
after the weights are freed, so that the budget holds at every moment in between.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Self

from antiphon.adapters.download import Progress
from antiphon.contracts.adapters import Task
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec
from antiphon.telemetry.logs import where
from antiphon.telemetry.metrics import WorkerMetrics
from antiphon.worker.catalogue import Catalogue, own_entries
from antiphon.worker.loading import LoadedModel, Loader, short
from antiphon.worker.slots import NOTHING_FETCHED, CatalogueEntry, ModelState, ModelView, Slot

UPKEEP_S = 1.0
BACKOFF_S = (1.0, 60.0)
"""Before a failed load is tried again: doubled from the first to the second."""
PROGRESS_S = 0.25
"""How often it is said how far a fetch is."""

logger = logging.getLogger(__name__)


class ModelManager:
    """Holds the models of one worker; an async context manager, open while models may be used.

    Args:
        specs: The catalogue, until `place` gives another: nothing else is ever loaded.
        loader: Brings models in and out.
        metrics: Where loads and evictions are counted.
        memory_budget_mib: What models may take together; 0: no limit.
        resident_cap: How many may be held; 0: no limit.
        load_wait_s: How long `use` waits for a load.
        clock: Monotonic seconds.
        on_change: Called after any model's state has changed.
    """

    def __init__(
        self,
        specs: Iterable[ModelSpec],
        loader: Loader,
        metrics: WorkerMetrics,
        *,
        memory_budget_mib: int = 0,
        resident_cap: int = 0,
        load_wait_s: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._slots = Catalogue(own_entries(specs))
        self._loader = loader
        self._metrics = metrics
        self._budget_mib = memory_budget_mib
        self._cap = resident_cap
        self._load_wait_s = load_wait_s
        self._clock = clock
        self._on_change = on_change
        self._room = asyncio.Lock()
        self._changed = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Open for use; pinned and preloaded models begin to load at the first `sweep`."""
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up what is fetched, wait for what loads, let every model go. Call it when no stream is left."""
        for slot in self._slots:
            self._release(slot, "shutdown")
        await self._tasks.__aexit__(None, None, None)  # an error of the body is no reason to leave a model half closed

    async def run(self) -> None:
        """Keep house until cancelled: preload, try failed loads again, let idle models go."""
        while True:
            self.sweep()
            await asyncio.sleep(UPKEEP_S)

    async def warm(self) -> None:
        """Return when every model that is to be there from the start has been loaded; never while one cannot be.

        In the model's own revision: one that is only being tried out keeps nobody waiting.
        """
        while any(slot.entry.stay != "cached" and not slot.preloaded for slot in self._slots.own()):
            await self._changed.wait()

    def place(self, entries: Iterable[CatalogueEntry]) -> None:
        """Make these the whole catalogue, at once.

        What left it is let go when its last stream ends. What is to be held is loaded within the budget, and what is
        no longer to be held has its idle time before it, as if it had just been used.
        """
        held = [slot for slot in self._slots if slot.is_held]
        left = self._slots.replace(entries)
        for slot in held:
            if not slot.is_held:
                slot.used_at = self._clock()
        for slot in left:
            self._release(slot, "catalogue")
        self.sweep()
        self._note()

    # --- use ------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def use(self, task: Task, name: str, digest: str = "") -> AsyncIterator[LoadedModel]:
        """A warm model, for as long as the block runs; loaded first where needed.

        Cancelling a wait leaves the load running for others.

        Raises:
            AntiphonError: MODEL_UNKNOWN; MODEL_LOADING after `load_wait_s`, or while it leaves; LOAD_FAILED with the
                time until it is tried again; WORKER_FULL when nothing can be evicted for it.
        """
        slot = self._slots.find(name, digest)
        if slot.spec.task != task:
            known = self._slots.known(task)
            raise AntiphonError(
                Reason.MODEL_UNKNOWN, f"Model {name!r} is for {slot.spec.task}, not for {task}: name one of {known}."
            )
        async with self._referenced(slot):
            if slot.spec.memory.per_stream_mib:
                await self._make_room(0, 0)
            model = await self._ready(slot, digest)
            try:
                yield model
            except Exception as error:
                model.tally.note_end(error)
                raise
            model.tally.note_end(None)

    async def load(self, name: str, digest: str = "") -> ModelView:
        """Load a model ahead of its first stream; returns when it is warm. Raises as `use` does."""
        slot = self._slots.find(name, digest)
        async with self._referenced(slot):
            await self._ready(slot, digest)
        return slot.view()

    async def unload(self, name: str, digest: str = "") -> ModelView:
        """Let a model go once its streams have ended; it takes no new ones from now on.

        Cancelling the wait does not take it back.

        Raises:
            AntiphonError: MODEL_UNKNOWN; INVALID_REQUEST for a model that is to be held.
        """
        slot = self._slots.find(name, digest)
        if slot.is_held:
            raise AntiphonError(
                Reason.INVALID_REQUEST, f"Model {name!r} is to be held here: change its residency policy first."
            )
        slot.preloaded = True  # it was asked to leave: do not bring it back
        self._release(slot, "unload")
        while slot.state is ModelState.LEAVING:
            await self._changed.wait()
        return slot.view()

    def view(self, name: str, digest: str = "") -> ModelView:
        """One model as it stands. Raises `AntiphonError(MODEL_UNKNOWN)`."""
        return self._slots.find(name, digest).view()

    def views(self) -> list[ModelView]:
        """Every model of the catalogue as it stands."""
        return [slot.view() for slot in self._slots]

    async def watch(self) -> AsyncIterator[ModelView]:
        """Every model as it stands, then each change, until cancelled.

        A slow reader misses what was overtaken by a later change, never the last word.
        """
        seen: dict[Slot, ModelView] = {}
        while True:
            changed = self._changed
            for slot in self._slots:
                view = slot.view()
                if seen.get(slot) != view:
                    seen[slot] = view
                    yield view
            await changed.wait()

    # --- keeping house --------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Start the loads that are due, and let go of what was idle for longer than its TTL."""
        now = self._clock()
        for slot in self._slots:
            due = slot.is_held or (slot.entry.stay == "preloaded" and not slot.preloaded)
            if slot.state in (ModelState.ABSENT, ModelState.FAILED):
                if due and not slot.is_gone and now >= slot.retry_at:
                    self._begin_load(slot)
            elif slot.state is ModelState.WARM and not slot.is_held:
                if now - slot.used_at >= slot.spec.residency.idle_ttl_seconds:
                    self._release(slot, "idle")

    @contextlib.asynccontextmanager
    async def _referenced(self, slot: Slot) -> AsyncIterator[None]:
        if slot.must_leave:
            raise AntiphonError(
                Reason.MODEL_LOADING,
                f"Model {slot.spec.name!r} is being unloaded here: ask another worker, or again in a second.",
                retry_after_ms=1000,
            )
        slot.references += 1
        self._note()
        try:
            yield
        finally:
            slot.references -= 1
            slot.used_at = self._clock()
            self._settle(slot)

    async def _ready(self, slot: Slot, digest: str) -> LoadedModel:
        while slot.model is None:
            if slot.loading is None and not slot.may_load:
                message = f"Model {slot.spec.name!r} is not for this worker: ask another one."
                raise AntiphonError(Reason.MODEL_UNKNOWN, message)
            await self._wait_for_load(slot, slot.loading or self._begin_load(slot))
        if not slot.is_revision(digest):
            raise AntiphonError(
                Reason.MODEL_UNKNOWN,
                f"Model {slot.spec.name!r} is here as {slot.entry.revision}, not as {digest[:80]}.",
            )
        return slot.model

    async def _wait_for_load(self, slot: Slot, load: asyncio.Task[AntiphonError | None]) -> None:
        try:
            async with asyncio.timeout(self._load_wait_s):
                while not load.done() and slot.lack is None:
                    await self._changed.wait()
        except TimeoutError:
            raise AntiphonError(
                Reason.MODEL_LOADING,
                f"Model {slot.spec.name!r} is still loading: try again in a moment.",
                retry_after_ms=1000,
            ) from None
        if load.cancelled():
            await asyncio.sleep(0)  # it is forgotten then, and who still waits begins another
            return
        failure = load.result() if load.done() else slot.lack
        if failure is not None:  # a fresh one for each waiter: exceptions carry tracebacks
            raise AntiphonError(failure.reason, failure.message, retry_after_ms=failure.retry_after_ms)

    def _begin_load(self, slot: Slot) -> asyncio.Task[AntiphonError | None]:
        wait_s = slot.retry_at - self._clock()
        if slot.failure is not None and wait_s > 0:
            raise AntiphonError(slot.failure.reason, slot.failure.message, retry_after_ms=max(1, round(wait_s * 1000)))
        slot.loading = self._tasks.create_task(self._load(slot), name=f"load {slot.spec.name}")
        slot.loading.add_done_callback(lambda load: self._forget_load(slot, load))
        self._note()
        return slot.loading

    def _forget_load(self, slot: Slot, load: asyncio.Task[AntiphonError | None]) -> None:
        """A load that was given up before it began: it has said nothing itself."""
        if slot.loading is load:
            slot.loading = None
            self._settle(slot)

    async def _load(self, slot: Slot) -> AntiphonError | None:
        """Load a slot's model; the error instead of raising it, for everyone who waits."""
        begun = time.perf_counter()
        error: AntiphonError | None = None
        is_given_up = False
        slot.files, slot.fetched = "", NOTHING_FETCHED
        try:
            if slot.closing is not None:
                await asyncio.wait((slot.closing,))
            await self._bring_in(slot)
        except asyncio.CancelledError:  # it must leave, and nobody waits: who does by now begins another load
            is_given_up = True
        except AntiphonError as failure:  # as a fresh one: its traceback would keep what was half loaded in memory
            error = AntiphonError(failure.reason, failure.message)
        except Exception as fault:
            logger.exception("load failed", extra={"model": slot.spec.name})
            error = AntiphonError(Reason.LOAD_FAILED, f"Model {slot.spec.name!r} failed to load: {where(fault)}.")
        finally:
            slot.loading = slot.lack = None
            slot.reserved = slot.model is not None
        if not is_given_up:
            self._note_load(slot, error, time.perf_counter() - begun)
        self._settle(slot)
        return error

    async def _bring_in(self, slot: Slot) -> None:
        told_s = -math.inf

        def report(fetched: Progress) -> None:
            nonlocal told_s
            slot.files, slot.fetched = "fetching", fetched
            if self._clock() - told_s >= PROGRESS_S:
                told_s = self._clock()
                self._note()

        prepared = await self._loader.prepare(slot.spec, report)
        slot.prepared, slot.files = prepared, "cached"
        await self._reserve(slot)
        slot.model = await self._loader.load(prepared)

    async def _reserve(self, slot: Slot) -> None:
        """Take the memory that a load needs. What is to be held waits for it, and the revision before it gives way."""
        while True:
            try:
                async with self._room:
                    await self._make_room_locked(slot.weights_mib, 1, for_held=slot.is_held)
                    slot.reserved, slot.lack = True, None
                    return
            except AntiphonError as error:
                if not slot.is_held or slot.must_leave:
                    raise
                self._wait_behind(slot, error)
            await self._changed.wait()

    def _wait_behind(self, slot: Slot, lack: AntiphonError) -> None:
        """Let other revisions of the model go that nobody wants held, and say what the load waits for."""
        others = [
            other
            for other in self._slots
            if other is not slot and other.spec.name == slot.spec.name and other.reserved and not other.is_held
        ]
        for other in others:
            if not other.must_leave:
                self._release(other, "swap")
        if others:
            message = f"Model {slot.spec.name!r} is loaded when the streams of its other revision have ended here."
            lack = AntiphonError(Reason.MODEL_LOADING, message, retry_after_ms=1000)
        if slot.lack is None or slot.lack.reason is not lack.reason:
            slot.lack = lack
            logger.info("load waits for room", extra={"model": slot.spec.name, "cause": lack.message})
            self._note()

    def _note_load(self, slot: Slot, error: AntiphonError | None, took_s: float) -> None:
        name = slot.spec.name
        labels = name, short(slot.entry.revision)
        self._metrics.loads.labels(*labels, "ok" if error is None else error.reason.value).inc()
        if error is None:
            slot.failure, slot.failures, slot.retry_at = None, 0, 0.0
            slot.loaded_at = slot.used_at = self._clock()
            slot.preloaded = True
            self._metrics.load_time.labels(*labels).observe(took_s)
            logger.info("model warm", extra={"model": name, "revision": labels[1], "took_ms": round(took_s * 1000)})
            return
        slot.failures += 1
        delay_s = min(BACKOFF_S[0] * 2 ** (slot.failures - 1), BACKOFF_S[1])
        slot.retry_at = self._clock() + delay_s
        error.retry_after_ms = round(delay_s * 1000)
        # Want of room is no fault of the model's: who asks next may find some.
        slot.failure = error if error.reason is not Reason.WORKER_FULL else None
        logger.warning(
            "model not loaded",
            extra={
                "model": name,
                "revision": labels[1],
                "reason": error.reason.value,
                "cause": error.message,
                "retry_s": delay_s,
            },
        )

    # --- letting go -----------------------------------------------------------------------------------------------

    async def _make_room(self, memory_mib: int, models: int) -> None:
        async with self._room:
            await self._make_room_locked(memory_mib, models)

    async def _make_room_locked(self, memory_mib: int, models: int, *, for_held: bool = False) -> None:
        """Evict the least recently used until so much more fits; nothing at all when it never would.

        What is to be held may take the place of what has only just been loaded.
        """
        held = [slot for slot in self._slots if slot.reserved]
        over_mib = sum(slot.memory_mib for slot in self._slots) + memory_mib - self._budget_mib
        over_count = len(held) + models - self._cap
        victims = []
        idle = [slot for slot in held if slot.state is ModelState.WARM and not slot.is_held]
        for slot in sorted(idle, key=lambda slot: slot.used_at):
            if not for_held and self._clock() - slot.loaded_at < slot.spec.residency.minimum_seconds:
                continue
            if not self._is_over(over_mib, over_count):
                break
            victims.append(slot)
            over_mib -= slot.memory_mib
            over_count -= 1
        if self._is_over(over_mib, over_count):
            raise AntiphonError(
                Reason.WORKER_FULL,
                f"No room for {memory_mib} MiB in a budget of {self._budget_mib or 'any'} MiB and"
                f" {self._cap or 'any number of'} models: what is there is in use, held or new. Ask another worker.",
                retry_after_ms=1000,
            )
        closings = [closing for slot in victims if (closing := self._release(slot, "room")) is not None]
        if closings:
            await asyncio.wait(closings)

    def _is_over(self, over_mib: int, over_count: int) -> bool:
        return bool((self._budget_mib and over_mib > 0) or (self._cap and over_count > 0))

    def _release(self, slot: Slot, cause: str) -> asyncio.Task[None] | None:
        """Let a slot's model go: at once when nobody uses it, else when the last stream ends."""
        if slot.closing is None and (slot.model is not None or slot.loading is not None):
            slot.must_leave = True
            fields = {"model": slot.spec.name, "revision": short(slot.entry.revision), "cause": cause}
            self._metrics.evictions.labels(*fields.values()).inc()
            logger.info("model leaves", extra={**fields, "streams": slot.references})
        self._settle(slot)
        return slot.closing

    def _settle(self, slot: Slot) -> None:
        """Free the weights of a model that must leave and that nobody uses; a fetch for it is given up."""
        if slot.must_leave and not slot.references:
            if slot.loading is None:
                self._let_go(slot)
            elif slot.files != "cached":
                slot.loading.cancel()
        self._slots.forget(slot)
        self._note()

    def _let_go(self, slot: Slot) -> None:
        slot.must_leave = False
        model, slot.model = slot.model, None
        if model is not None:
            slot.closing = self._tasks.create_task(self._close(slot, model), name=f"close {slot.spec.name}")

    async def _close(self, slot: Slot, model: LoadedModel) -> None:
        try:
            await self._loader.close(model)
        except Exception as error:
            logger.error("model did not close cleanly", extra={"model": slot.spec.name, "cause": where(error)})
        finally:
            slot.closing, slot.reserved = None, False
            self._slots.forget(slot)
            self._note()

    def _note(self) -> None:
        held = [slot for slot in self._slots if slot.reserved]
        self._metrics.resident.set(len(held))
        self._metrics.resident_mib.set(sum(slot.memory_mib for slot in held))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._on_change()
