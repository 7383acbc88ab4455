"""Circuit breakers: a worker that fails is left alone, for longer each time, and then tried by one call.

Source: M. Nygard, "Release It!" (2007), chapter 5: closed, open, half-open.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

PAUSE_S = 1.0
"""After the first failure; doubled by each further one."""
LONGEST_PAUSE_S = 16.0
FORGET_S = 60.0
"""A worker that has no lease is remembered for so long after it failed: pods never come back under the same name."""
PROBE_S = 5.0
"""A probe that has said nothing for so long is forgotten, and another call may be one."""

State = Literal["closed", "open", "half-open"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Circuit:
    incarnation: str
    failures: int = 0
    failed_s: float = 0.0
    probed_s: float | None = None

    @property
    def pause_s(self) -> float:
        return float(min(PAUSE_S * 2 ** (self.failures - 1), LONGEST_PAUSE_S))


class Breakers:
    """One breaker for each worker that has failed; all others are closed.

    A worker that was started anew (another incarnation) begins with a closed one.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}

    def state(self, worker: str) -> State:
        """Of this worker's breaker. Half-open: one call at a time may try it."""
        circuit = self._circuits.get(worker)
        if circuit is None:
            return "closed"
        return "open" if self._clock() < circuit.failed_s + circuit.pause_s else "half-open"

    def left_alone(self, incarnation: Callable[[str], str | None], *, last_resort: bool = False) -> set[str]:
        """The workers that are not to be asked now.

        Args:
            incarnation: Of a worker, now; None: it is not known.
            last_resort: There is nobody else: only a worker's first pause is kept.
        """
        self._forget_former(incarnation)
        return {worker for worker, circuit in self._circuits.items() if self._is_shut(circuit, last_resort)}

    def ask(self, worker: str) -> None:
        """Note that a call goes to this worker: behind a breaker that is not closed, it is the probe."""
        circuit = self._circuits.get(worker)
        if circuit is not None:
            circuit.probed_s = self._clock()

    def answered(self, worker: str) -> None:
        """Note that it did what it was asked for: its breaker closes. Cheap; call it as often as you like."""
        if self._circuits.pop(worker, None) is not None:
            logger.info("worker answers again", extra={"worker": worker})

    def undecided(self, worker: str) -> None:
        """Note that a call ended without saying anything of the worker's health: another may probe it."""
        circuit = self._circuits.get(worker)
        if circuit is not None:
            circuit.probed_s = None

    def failed(self, worker: str, incarnation: str) -> None:
        """Note that it was lost, or did not answer: its breaker opens.

        Calls that fail together are one failure: what broke them broke once.
        """
        circuit = self._circuits.setdefault(worker, _Circuit(incarnation))
        if not circuit.failures or self.state(worker) == "half-open":
            circuit.failures += 1
            logger.warning(
                "worker left alone", extra={"worker": worker, "failures": circuit.failures, "pause_s": circuit.pause_s}
            )
        circuit.failed_s = self._clock()
        circuit.probed_s = None

    def _is_shut(self, circuit: _Circuit, last_resort: bool) -> bool:
        now = self._clock()
        if circuit.probed_s is not None and now < circuit.probed_s + PROBE_S:
            return True
        return now < circuit.failed_s + (PAUSE_S if last_resort else circuit.pause_s)

    def _forget_former(self, incarnation: Callable[[str], str | None]) -> None:
        """Of workers that were started anew, and of those that are gone for so long that nobody asks them any more."""
        now = self._clock()
        for worker, circuit in list(self._circuits.items()):
            current = incarnation(worker)
            if current is None and now > circuit.failed_s + FORGET_S or current not in (None, circuit.incarnation):
                del self._circuits[worker]
