"""Recordings of human speech, by how long they are and how long they pause."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from antiphon.audio.files import read_audio
from antiphon.audio.pcm import Samples
from antiphon.cli.bench.measures import longest_pause_ms, sounding, trimmed
from antiphon.cli.realtime import RATE_HZ
from antiphon.cli.speech_folders import speech_folders
from antiphon.contracts.errors import AntiphonError, Reason

_SCAN_HZ = 8_000
_NO_SPEECH = ("tone", "beep", "ring", "silence", "music")
"""Words in the names of recordings in which nobody speaks."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One human utterance."""

    name: str
    path: Path
    length_s: float
    """From its first to its last audible window."""
    pause_ms: int
    """The longest silence in it."""

    def samples(self) -> Samples:
        """From its first to its last audible window: float32, mono, 24 kHz."""
        return trimmed(read_audio(self.path, RATE_HZ), RATE_HZ)


def lasting(least_s: float, most_s: float, *, pause_ms: int = 250, count: int) -> Sequence[Recording]:
    """`count` recordings of such a length, spread evenly over what there is; none pauses longer. Blocking.

    Raises:
        AntiphonError: INVALID_REQUEST when fewer are at hand, saying how to get them.
    """
    fitting = [each for each in _scan() if least_s <= each.length_s <= most_s and each.pause_ms <= pause_ms]
    if not fitting:
        raise AntiphonError(
            Reason.INVALID_REQUEST,
            "The bench needs recordings of human speech: `make speech` fetches them, or name a folder of WAV files "
            f"in ANTIPHON_SPEECH (here: some of {least_s:g} to {most_s:g} s).",
        )
    return [fitting[index * len(fitting) // count % len(fitting)] for index in range(count)]


def by_name(name: str) -> Recording:
    """The recording of that name. Raises `KeyError` when there is none."""
    return {each.name: each for each in _scan()}[name]


@cache
def _scan() -> tuple[Recording, ...]:
    """All there are, by name, from the first folder that holds any."""
    for folder in speech_folders():
        found = tuple(each for path in sorted(folder.rglob("*.wav")) if (each := _measured(path, folder)) is not None)
        if found:
            return found
    return ()


def _measured(path: Path, folder: Path) -> Recording | None:
    name = str(path.relative_to(folder).with_suffix(""))
    if any(word in name for word in _NO_SPEECH):
        return None
    samples = read_audio(path, _SCAN_HZ)
    span = sounding(samples, _SCAN_HZ)
    return None if span is None else Recording(name, path, span.length_s, longest_pause_ms(samples, _SCAN_HZ))
