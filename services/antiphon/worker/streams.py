"""Every open stream of the worker: how many there may be, which they are, and the end of taking new ones."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

from antiphon.contracts.adapters import Task
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.telemetry.metrics import WorkerMetrics
from antiphon.worker.faults import is_lost, told

REMEMBER_S = 10.0
"""How long a STOP for a stream not yet seen is kept."""
REMEMBER_MOST = 1024
"""How many of them; the oldest is forgotten first."""

logger = logging.getLogger(__name__)


class Stream(Protocol):
    """What the worker can ask of any stream."""

    def leave(self) -> None:
        """End at the next place where another worker can go on, with DRAINING."""
        ...


class Streams:
    """The streams of one worker; for the event loop's thread alone.

    Args:
        max_streams: How many may be open.
        metrics: Where they are counted.
        clock: Monotonic seconds.
        on_change: Called after one was opened or has ended, and when draining begins.
    """

    def __init__(
        self,
        max_streams: int,
        metrics: WorkerMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.max_streams = max_streams
        self._metrics = metrics
        self._clock = clock
        self._on_change = on_change
        self._open: dict[str, Stream] = {}
        self._stopped: OrderedDict[str, float] = OrderedDict()
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def draining(self) -> bool:
        """Whether new streams are refused."""
        return self._draining

    @contextlib.contextmanager
    def open(self, task: Task, stream_id: str, stream: Stream) -> Iterator[None]:
        """Count a stream as open while the block runs.

        Raises:
            AntiphonError: DRAINING, WORKER_FULL, or INVALID_REQUEST for an id that is no UUID or is in use.
        """
        self._admit(stream_id)
        self._open[stream_id] = stream
        self._empty.clear()
        self._metrics.streams.labels(task).inc()
        self._on_change()
        outcome = "cancelled"
        try:
            yield
            outcome = "ok"
        except Exception as error:
            answer = told(error)
            outcome = answer.reason.value if answer else "cancelled" if is_lost(error) else Reason.INTERNAL.value
            raise
        finally:
            self._metrics.streams_ended.labels(task, outcome).inc()
            del self._open[stream_id]
            if not self._open:
                self._empty.set()
            self._metrics.streams.labels(task).dec()
            self._on_change()

    def find(self, stream_id: str) -> Stream | None:
        """The open stream of that id."""
        return self._open.get(stream_id)

    def remember_stop(self, stream_id: str) -> None:
        """Keep a STOP that came before its stream, for ten seconds."""
        self._forget_old()
        self._stopped[stream_id] = self._clock() + REMEMBER_S
        while len(self._stopped) > REMEMBER_MOST:
            self._stopped.popitem(last=False)

    def take_stop(self, stream_id: str) -> bool:
        """Whether a STOP came before this stream; it is then forgotten."""
        self._forget_old()
        return self._stopped.pop(stream_id, None) is not None

    def drain(self) -> None:
        """Refuse new streams from now on. Idempotent."""
        if self._draining:
            return
        self._draining = True
        self._metrics.draining.set(1)
        logger.info("draining", extra={"streams": len(self)})
        self._on_change()

    def leave(self) -> None:
        """Ask every stream to end where another worker can go on."""
        for stream in list(self._open.values()):
            stream.leave()

    async def ended(self) -> None:
        """Return when no stream is open."""
        await self._empty.wait()

    def _admit(self, stream_id: str) -> None:
        if self._draining:
            raise AntiphonError(Reason.DRAINING, "This worker takes nothing new any more: ask another one.")
        if len(self._open) >= self.max_streams:
            raise AntiphonError(
                Reason.WORKER_FULL,
                f"This worker has all of its {self.max_streams} streams in use: ask another one, or again in a second.",
                retry_after_ms=1000,
            )
        if stream_id in self._open:
            raise AntiphonError(Reason.INVALID_REQUEST, "A stream of this id is open already: make a new UUID.")

    def _forget_old(self) -> None:
        now = self._clock()
        while self._stopped and next(iter(self._stopped.values())) <= now:
            self._stopped.popitem(last=False)


def checked_id(stream_id: str) -> str:
    """The id in its one spelling. Raises `AntiphonError(INVALID_REQUEST)` when it is no UUID."""
    try:
        return str(uuid.UUID(stream_id))
    except ValueError:
        raise AntiphonError(
            Reason.INVALID_REQUEST, "stream_id must be a UUID that the caller makes for this stream."
        ) from None
