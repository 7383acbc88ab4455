"""Who may come in now: sessions in all and for each key, each refusal typed and counted."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.config import ServerConfig
from antiphon.orchestrator.metrics import OrchestratorMetrics

RETRY_AFTER_MS = 5_000
"""When a caller that was turned away may find room: sessions last minutes."""


class Admission:
    """Counts the sessions of this process and refuses what is too many, or new while it drains."""

    def __init__(self, limits: ServerConfig, metrics: OrchestratorMetrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._by_caller: Counter[str] = Counter()
        self._requests = 0
        self._draining = asyncio.Event()
        self._closed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def sessions(self) -> int:
        """Sessions that are open."""
        return self._by_caller.total()

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken any more."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Take nothing new from now on; sessions end with their turns. Idempotent."""
        self._draining.set()

    async def wait_draining(self) -> None:
        """Wait until the process is told to go."""
        await self._draining.wait()

    def close(self) -> None:
        """End every session now, in mid-turn if need be. Idempotent."""
        self.drain()
        self._closed.set()

    async def wait_closed(self) -> None:
        """Wait until every session has to end now."""
        await self._closed.wait()

    async def wait_empty(self) -> None:
        """Wait until no session is open and no request runs."""
        await self._empty.wait()

    @contextmanager
    def session(self, caller: str, *, replaces: bool = False) -> Iterator[None]:
        """A place for one session of a caller (its key's fingerprint; empty: nobody in particular).

        One that replaces another is not refused for want of a place: that one's becomes free once its socket is closed.

        Raises `AntiphonError`: `DRAINING` when the process is about to go, `WORKER_FULL` when there is no place.
        """
        if self.draining:
            self._refuse("draining", Reason.DRAINING, "This server is about to go; connect again to reach another.")
        if not replaces:
            self._check_places(caller)
        self._by_caller[caller] += 1
        self._empty.clear()
        self._metrics.sessions.inc()
        try:
            yield
        finally:
            self._by_caller[caller] -= 1
            if not self._by_caller[caller]:
                del self._by_caller[caller]
            self._metrics.sessions.dec()
            self._look_empty()

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request that is no session: it takes no place, and a drain lets it end.

        Raises `AntiphonError(DRAINING)` when the process is about to go.
        """
        if self.draining:
            message = "This server is about to go; ask again to reach another."
            raise AntiphonError(Reason.DRAINING, message, retry_after_ms=RETRY_AFTER_MS)
        self._requests += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._requests -= 1
            self._look_empty()

    def _look_empty(self) -> None:
        if not self.sessions and not self._requests:
            self._empty.set()

    def _check_places(self, caller: str) -> None:
        if self.sessions >= self._limits.max_sessions:
            self._refuse("max_sessions", Reason.WORKER_FULL, "Every session of this server is taken; try again soon.")
        per_key = self._limits.max_sessions_per_key
        if per_key and self._by_caller[caller] >= per_key:
            self._refuse(
                "max_sessions_per_key", Reason.WORKER_FULL, f"This key has its {per_key} sessions open; close one."
            )

    def _refuse(self, limit: str, reason: Reason, message: str) -> None:
        self._metrics.refusals.labels(limit).inc()
        raise AntiphonError(reason, message, retry_after_ms=RETRY_AFTER_MS)


class EventRate:
    """A token bucket for the events of one session."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._tokens = float(burst)
        self._last: float | None = None

    def allow(self, now: float) -> bool:
        """Take one event at this moment (monotonic seconds); False: too many."""
        if self._last is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._last) * self._per_s)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
