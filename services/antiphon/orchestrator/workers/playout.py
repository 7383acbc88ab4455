"""Where a reply's audio stands, whichever worker it came from."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Playout:
    """The reply's timeline, in samples from its start: what was handed out, where clauses began, what was played.

    When a clause begins a second time, what was handed out of it and not played is void: the timeline is cut there.
    """

    handed_out_samples: int = 0
    _played_samples: int = 0
    _base_samples: int = 0
    _starts: dict[int, int] = field(default_factory=dict)

    @property
    def position_samples(self) -> int:
        """The playout position in the stream of the worker that speaks now; 0 while older audio plays."""
        return max(0, self._played_samples - self._base_samples)

    def played(self, samples: int) -> None:
        """Note the playout position."""
        self._played_samples = max(self._played_samples, samples)

    def begin(self, index: int, *, anew: bool) -> None:
        """Note that a clause begins here; `anew`: it is the first of another worker's stream."""
        start = self._starts.get(index)
        if start is not None:
            self.handed_out_samples = max(start, min(self.handed_out_samples, self._played_samples))
            self._starts = {known: at for known, at in self._starts.items() if known < index}
        self._starts[index] = self.handed_out_samples
        if anew:
            self._base_samples = self.handed_out_samples

    def hand_out(self, samples: int) -> None:
        """Note that more audio was handed out."""
        self.handed_out_samples += samples
