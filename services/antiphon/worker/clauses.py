"""Text that arrives in any pieces, cut into what is spoken at one go.

A clause ends where a speaker would breathe: at the end of a sentence; at a comma or alike once it is long enough; and
at a space when nothing else would stop it. The mark that ends a clause is only believed once the text goes on after it
with a space (or was flushed), so "3." waits for "5" and "Dr." for "Smith".
"""

import re
from dataclasses import dataclass

MAX_CHARS = 300
"""A clause never has more code points."""
MAX_WORDS = 40
BREAK_WORDS = 8
"""From this many words on, a comma, semicolon, colon or dash ends the clause."""
FIRST_BREAK_WORDS = 3
"""The same for the first clause of a reply, so that sound starts early."""

_SENTENCE = ".!?\u2026"
_WIDE_SENTENCE = "\u3002\uff01\uff1f\uff0e\uff61"  # CJK writes no space after these
_BREAK = ",;:\u2014\u2013\n"
_WIDE_BREAK = "\uff0c\u3001\uff1b\uff1a"
_CLOSING = "\"')]}\u00bb\u201d\u2019\u300d\u300f\uff09"
_MARKS = re.compile(f"[{re.escape(_SENTENCE + _WIDE_SENTENCE + _BREAK + _WIDE_BREAK)}]")
_WORD = re.compile(r"\w")
_ABBREVIATIONS = frozenset(
    "dr mr mrs ms prof st sr jr vs etc eg ie e.g i.e cf approx dept est fig gen gov hon inc ltd no vol rev sgt capt col"
    " mt ft lt u.s u.k a.m p.m jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
_MAY_END = frozenset(("etc", "a.m", "p.m", "inc", "ltd", "jr", "sr", "u.s", "u.k"))
"""Abbreviations that often end a sentence: before a capital letter they do."""


@dataclass(frozen=True, slots=True)
class Clause:
    """What is spoken at one go; `text` is the pushed text from code point `start` to `end`."""

    index: int
    start: int
    end: int
    text: str


class ClauseCutter:
    """Cuts one reply's text into clauses, as it arrives.

    The clauses follow each other in the text, and together they are all of it but for stretches without a word in them,
    which nobody could speak.
    """

    def __init__(self) -> None:
        self._pending = ""
        self._start = 0
        self._index = 0
        self._scanned = 0

    @property
    def pushed_chars(self) -> int:
        """Code points of all the text pushed."""
        return self._start + len(self._pending)

    @property
    def clauses(self) -> int:
        """How many clauses were cut."""
        return self._index

    def push(self, text: str) -> list[Clause]:
        """The clauses that are complete with this piece of text."""
        self._pending += text
        clauses = []
        while (end := self._cut()) is not None:
            clauses += self._take(end)
        return clauses

    def flush(self) -> list[Clause]:
        """What is pending, as a clause; nothing when there is no word in it."""
        return self._take(len(self._pending))

    def _take(self, end: int) -> list[Clause]:
        clause = Clause(self._index, self._start, self._start + end, self._pending[:end])
        self._pending = self._pending[end:]
        self._start += end
        self._scanned = 0
        if _WORD.search(clause.text) is None:
            return []
        self._index += 1
        return [clause]

    def _cut(self) -> int | None:
        """Where the first complete clause of the pending text ends, its trailing space included."""
        text = self._pending
        forced = _forced_cut(text)
        for match in _MARKS.finditer(text, self._scanned):
            at = match.start()
            if forced is not None and at >= forced:
                break
            end = self._end_at(text, at)
            if end is None:
                continue
            if end == len(text) and not text[-1].isspace() and text[at] not in _WIDE_SENTENCE + _WIDE_BREAK:
                break  # what follows will tell
            if _WORD.search(text, 0, at + 1) is not None:
                return min(_skip_spaces(text, end), MAX_CHARS)
            self._scanned = end
        return forced

    def _end_at(self, text: str, at: int) -> int | None:
        """The end of the clause that the mark at `at` ends; None when it ends none."""
        mark, end = text[at], _skip_closing(text, at + 1)
        if mark in _WIDE_SENTENCE or text.startswith("\n\n", at):
            return end
        if mark not in _WIDE_BREAK + "\u2014\n" and end < len(text) and not text[end].isspace():
            return None
        if mark in _SENTENCE:
            return None if mark == "." and _is_abbreviation(text, at) else end
        return end if self._is_long(text[:at]) else None

    def _is_long(self, text: str) -> bool:
        least = FIRST_BREAK_WORDS if self._index == 0 else BREAK_WORDS
        # Scripts without spaces: four characters count as a word.
        return len(text.split()) >= least or (not text.isascii() and len(text) >= 4 * least and _is_unspaced(text))


def _forced_cut(text: str) -> int | None:
    """Where a clause that nothing else ends is cut: after its last space before the limits."""
    if len(text) <= MAX_CHARS and text.count(" ") < MAX_WORDS:
        return None
    words, limit = 0, min(len(text), MAX_CHARS)
    cut = 0  # no space at all: a word of that length is cut through
    for match in re.finditer(r"\s+", text[:limit]):
        cut, words = match.end(), words + 1
        if words >= MAX_WORDS:
            break
    if words < MAX_WORDS and len(text) <= MAX_CHARS:
        return None
    return cut or limit


def _skip_closing(text: str, at: int) -> int:
    while at < len(text) and text[at] in _CLOSING + _SENTENCE:
        at += 1
    return at


def _skip_spaces(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _is_unspaced(text: str) -> bool:
    return text.count(" ") * 10 < len(text)


def _is_abbreviation(text: str, at: int) -> bool:
    """Whether the full stop at `at` belongs to an abbreviation, an initial or a list number."""
    word = re.split(r"[\s(\[\"']", text[:at])[-1].lower()
    following = text[at + 1 :].lstrip()[:1]
    if not word:
        return False
    if len(word) == 1 and word.isalpha() and word != "i":
        return True
    if word not in _ABBREVIATIONS:
        return False
    return not (word in _MAY_END and following.isupper())
