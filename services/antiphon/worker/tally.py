"""How one loaded model has done since it was loaded."""

import math
from collections import deque

from antiphon.contracts.errors import AntiphonError, Reason

LATEST = 100
"""Streams by which first audio is judged."""
SHARE = 0.95
PATIENCE_S = 2.0
"""Callers give a stream about as long to begin."""
_FAULTS = (Reason.ENGINE_FAULT, Reason.INTERNAL)


class Tally:
    """Counts of one loaded model; for the event loop's thread alone.

    A stream that its caller gave up, or that was refused for what its caller asked, counts neither way; but who gave
    up after having waited for sound for `PATIENCE_S` was failed.
    """

    def __init__(self) -> None:
        self.served = 0
        """Streams that ended as they should."""
        self.failed = 0
        """Streams that a fault of the engine broke off."""
        self._first_audio_ms: deque[float] = deque(maxlen=LATEST)

    @property
    def first_audio_ms(self) -> float:
        """What 95 of 100 of the latest streams waited for sound at most; 0: none has spoken yet."""
        waits = sorted(self._first_audio_ms)
        return waits[math.ceil(len(waits) * SHARE) - 1] if waits else 0.0

    def note_first_audio(self, ms: float) -> None:
        """A stream heard its first sound after so long."""
        self._first_audio_ms.append(ms)

    def note_giving_up(self, waited_s: float) -> None:
        """A caller left after it had waited for the first sound for so long."""
        if waited_s >= PATIENCE_S:
            self.failed += 1

    def note_end(self, error: Exception | None) -> None:
        """A stream has ended, by this error or well."""
        if error is None:
            self.served += 1
        elif not isinstance(error, AntiphonError) or error.reason in _FAULTS:
            self.failed += 1
