"""Which words of a reply were heard, from where its clauses and words lie in its audio."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from antiphon.conversation.ports import ClauseBegins, ClauseWords, SpokenWord


@dataclass(slots=True)
class _Clause:
    text_start: int
    text_end: int
    start_samples: int
    words: list[SpokenWord] = field(default_factory=list)


class SpokenText:
    """A reply's text on its own time axis: samples of what was queued for the user, from the reply's start."""

    def __init__(self) -> None:
        self.text = ""
        self._clauses: dict[int, _Clause] = {}

    def push(self, text: str) -> None:
        """More text."""
        self.text += text

    def begin_clause(self, clause: ClauseBegins, start_samples: int) -> None:
        """Say where a clause's audio begins. One that begins again takes the place of its first beginning."""
        self._clauses = {index: known for index, known in self._clauses.items() if index < clause.index}
        self._clauses[clause.index] = _Clause(clause.text_start, clause.text_end, start_samples)

    def add_words(self, words: ClauseWords) -> None:
        """Word times of a clause that has begun."""
        clause = self._clauses.get(words.clause_index)
        if clause is not None:
            clause.words.extend(words.words)

    def clause_start(self, index: int) -> int | None:
        """Where a clause's audio begins, in samples; None: it has not begun."""
        clause = self._clauses.get(index)
        return None if clause is None else clause.start_samples

    def begun(self, samples: int) -> int:
        """Code points of the text whose words have begun when `samples` were sent: what a transcript may show."""
        return self._offset(samples, lambda word: word.start_samples)

    def heard(self, samples: int) -> str:
        """The text that a listener has heard after `samples`: every word of which at least half was played."""
        return self.text[: self._offset(samples, lambda word: (word.start_samples + word.end_samples) // 2)].rstrip()

    def _offset(self, samples: int, moment: Callable[[SpokenWord], int]) -> int:
        clauses = list(self._clauses.values())
        current = bisect_right([clause.start_samples for clause in clauses], samples) - 1
        if current < 0:
            return 0
        clause = clauses[current]
        offset = clause.text_start
        for word in clause.words:
            if clause.start_samples + moment(word) < samples:
                offset = max(offset, word.text_end)
        return offset
