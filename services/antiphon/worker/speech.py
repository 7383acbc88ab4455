"""One clause on its way from the engine to frames: resampled, made as loud as wanted, and timed by word."""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from antiphon.audio.framing import Framer
from antiphon.audio.loudness import limit
from antiphon.audio.resample import Resampler
from antiphon.contracts.adapters import Samples, SpeechChunk, TtsStream, WordTime
from antiphon.contracts.v1 import synthesis_pb2 as pb
from antiphon.worker.clauses import Clause

_WORD = re.compile(r"\S*\w\S*")


@dataclass(frozen=True, slots=True)
class Step:
    """What one hop gave."""

    frames: bytes
    """Whole frames at the stream's rate; perhaps none."""
    words: tuple[WordTime, ...]
    """In samples of the engine's rate."""
    last: bool


class ClauseSpeech:
    """Speaks one clause; `step` blocks, and runs in a thread, one at a time.

    A clause begins with a fresh frame and ends with a whole one, so that it can be resumed at its start.

    Args:
        stream: The caller's voice.
        text: The clause.
        from_hz: The engine's rate.
        to_hz: The stream's rate.
        gain: What every sample is multiplied by.
    """

    def __init__(self, stream: TtsStream, text: str, from_hz: int, to_hz: int, gain: float) -> None:
        self._stream = stream
        self._text = text
        self._gain = gain
        self._resampler = Resampler(from_hz, to_hz)
        self._framer = Framer(to_hz)
        self._chunks: Iterator[SpeechChunk] | None = None
        self.engine_samples = 0
        self.compute_s = 0.0

    def step(self) -> Step:
        """Compute the next chunk."""
        begun = time.perf_counter()
        if self._chunks is None:
            self._chunks = iter(self._stream.synthesize(self._text))
        chunk = next(self._chunks, None)
        if chunk is None:
            step = Step(self._framer.push(self._resampler.flush()) + self._framer.flush(), (), last=True)
        else:
            self.engine_samples += len(chunk.samples)
            frames = self._framer.push(self._resampler.push(self._levelled(chunk.samples)))
            step = Step(frames, chunk.words, last=False)
        self.compute_s += time.perf_counter() - begun
        return step

    def _levelled(self, samples: Samples) -> Samples:
        return samples if self._gain == 1.0 else limit(samples * samples.dtype.type(self._gain))


def estimated_words(text: str, samples: int) -> tuple[WordTime, ...]:
    """Times for the words of a clause that lasts so many samples: each has its share by length."""
    spans = [match.span() for match in _WORD.finditer(text)]
    weights = [end - start + 1 for start, end in spans]  # the space after it takes its time, too
    total, at, words = sum(weights), 0, []
    for (start, end), weight in zip(spans, weights, strict=True):
        first, at = at, at + weight
        words.append(WordTime(start, end, first * samples // total, at * samples // total))
    return tuple(words)


def wire_words(
    clause: Clause, words: Sequence[WordTime], position_samples: int, from_hz: int, to_hz: int, *, estimated: bool
) -> pb.WordTimes:
    """Word times of a clause that begins at `position_samples`, as the wire has them."""

    def word(time: WordTime) -> pb.Word:
        return pb.Word(
            text=clause.text[time.text_start : time.text_end],
            text_start=clause.start + time.text_start,
            text_end=clause.start + time.text_end,
            start_samples=position_samples + time.start_samples * to_hz // from_hz,
            end_samples=position_samples + time.end_samples * to_hz // from_hz,
            estimated=estimated,
            probability=time.probability,
        )

    return pb.WordTimes(clause_index=clause.index, words=[word(time) for time in words])
