"""Which objects want to be looked at: each at most once in the queue, and never twice at a time."""

import asyncio
import heapq
import itertools
from dataclasses import dataclass
from typing import Literal

FIRST_RETRY_S = 0.2
LONGEST_RETRY_S = 30.0
BURST_S = 0.05

_CLOCK_S = 0.001
"""What is due so soon is due: a timer does not tell less."""

KeyKind = Literal["WorkerPool", "VoiceModel", "Registry"]


@dataclass(frozen=True, slots=True)
class Key:
    """An object to be reconciled; `Registry` with an empty name is all that one namespace has in the registry."""

    kind: KeyKind
    namespace: str
    name: str = ""


class WorkQueue:
    """Coalesces, delays and retries keys.

    A key that is added while it is being worked on comes again as soon as that is done. A key that waits for a later
    moment and is added for an earlier one comes at the earlier one.
    """

    def __init__(self) -> None:
        self._due_s: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._working: set[Key] = set()
        self._again_s: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """How many keys wait or are being worked on."""
        return len(self._due_s) + len(self._working)

    @property
    def due(self) -> int:
        """How many keys wait whose moment has come."""
        now = asyncio.get_running_loop().time()
        return sum(due_s <= now for due_s in self._due_s.values())

    def add(self, key: Key, delay_s: float = 0.0) -> None:
        """Have this key worked on, after so long at the latest. Never blocks."""
        due_s = asyncio.get_running_loop().time() + delay_s
        if key in self._working:
            self._again_s[key] = min(due_s, self._again_s.get(key, due_s))
        elif due_s < self._due_s.get(key, float("inf")):
            self._due_s[key] = due_s
            heapq.heappush(self._heap, (due_s, next(self._order), key))
            self._changed.set()

    def touch(self, key: Key) -> None:
        """Have this key worked on because something of it changed: the registry at once, an object a moment later.

        Changes come in bursts, a new pool's objects and Pods for one: they are taken together.
        """
        self.add(key, 0.0 if key.kind == "Registry" else BURST_S)

    async def take(self) -> Key:
        """The next key whose moment has come; waits for it. `finish` must follow. Cancelling it is safe."""
        while True:
            self._changed.clear()
            now = asyncio.get_running_loop().time()
            while self._heap and self._due_s.get(self._heap[0][2]) != self._heap[0][0]:
                heapq.heappop(self._heap)
            if self._heap and self._heap[0][0] <= now + _CLOCK_S:
                key = heapq.heappop(self._heap)[2]
                del self._due_s[key]
                self._working.add(key)
                if self._heap:
                    self._changed.set()
                return key
            try:
                async with asyncio.timeout(self._heap[0][0] - now if self._heap else None):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def finish(self, key: Key, *, failed: bool = False) -> float:
        """Say that `take`'s key is done; a failed one comes again, later each time. Returns after how many seconds."""
        self._working.discard(key)
        delay_s = 0.0
        if failed:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay_s = min(FIRST_RETRY_S * 2 ** min(failures - 1, 16), LONGEST_RETRY_S)
            self.add(key, delay_s)
        else:
            self._failures.pop(key, None)
        if (again_s := self._again_s.pop(key, None)) is not None and not failed:
            self.add(key, max(0.0, again_s - asyncio.get_running_loop().time()))
        return delay_s
