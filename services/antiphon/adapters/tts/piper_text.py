"""From a clause to a Piper voice's phonemes, and from phonemes back to the clause's words."""

import re
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

# espeak ends a sentence at the full stop of an abbreviation: the voice would fall and pause before the name.
_ABBREVIATION = re.compile(r"\b(Dr|Mr|Mrs|Ms|Prof|St|Mt|vs)\.(?=\s)")
# Below this share of phonemes found again in the words spoken one by one, times would be guesses.
_LEAST_MATCH = 0.5
_STRESS = "ˈˌ"


@dataclass(frozen=True, slots=True)
class Reading:
    """How a clause is pronounced."""

    clause: str
    sentences: tuple[tuple[str, ...], ...]
    """Phonemes, for each sentence that the phonemiser sees in the clause."""


@dataclass(frozen=True, slots=True)
class WordSpan:
    """Which phonemes are a word's: of one sentence, from `first` up to and without `end`; none when nothing sounds."""

    text_start: int
    text_end: int
    sentence: int
    first: int
    end: int


class PiperText:
    """The text side of one voice. Thread-safe: espeak keeps its state in the process, so one call runs at a time.

    Args:
        config: The voice's JSON file.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        from piper import PiperVoice
        from piper.config import PhonemeType, PiperConfig

        parsed = PiperConfig.from_dict(dict(config))
        self._voice = PiperVoice(session=None, config=parsed)
        self._lock = threading.Lock()
        self.tells_words = parsed.phoneme_type in (PhonemeType.ESPEAK, PhonemeType.TEXT)
        """Whether phonemes can be traced back to words."""

    def read(self, clause: str) -> Reading:
        """The clause's phonemes; no sentence at all when there is nothing to pronounce."""
        return Reading(clause, tuple(map(tuple, self._phonemise(clause))))

    def ids(self, phonemes: Sequence[str]) -> list[int]:
        """What the network reads for a sentence."""
        ids: list[int] = self._voice.phonemes_to_ids(list(phonemes))
        return ids

    def phoneme_frames(self, phonemes: Sequence[str], durations: Sequence[int]) -> list[tuple[int, int]] | None:
        """Where each phoneme begins and ends, in frames, of the frames of each id; None when they do not fit.

        An id and the pad after it are one phoneme's; the two ids before the first phoneme are the sentence's start.
        """
        known = self._voice.config.phoneme_id_map
        borders = [0]
        for duration in durations:
            borders.append(borders[-1] + duration)
        position = len(known["^"]) + len(known["_"])
        spans: list[tuple[int, int]] = []
        for phoneme in phonemes:
            after = position + (len(known[phoneme]) + len(known["_"]) if phoneme in known else 0)
            if after > len(durations):
                return None
            spans.append((borders[position], borders[after]))
            position = after
        return spans if position + len(known["$"]) == len(durations) else None

    def words(self, reading: Reading) -> list[WordSpan]:
        """The phonemes of each word of the clause, found by pronouncing it word by word and comparing.

        Phoneme words are not text words: "of the" is one, "$1,250" many. Where words melt, the border is where their
        phonemes part. Empty when the two pronunciations differ too much for an answer.
        """
        matches = list(re.finditer(r"\S+", reading.clause))
        apart = [[p for sentence in self._phonemise(match.group()) for p in sentence] for match in matches]
        spoken = [phoneme for sentence in reading.sentences for phoneme in sentence]
        spans = align(apart, spoken)
        starts = [0]
        for sentence in reading.sentences:
            starts.append(starts[-1] + len(sentence))
        found: list[WordSpan] = []
        for match, (first, end) in zip(matches if spans else (), spans, strict=True):
            index = max(i for i, start in enumerate(starts[:-1]) if start <= first or i == 0)
            end = min(end, starts[index + 1])
            first = min(first, end)
            found.append(WordSpan(match.start(), match.end(), index, first - starts[index], end - starts[index]))
        return found

    def _phonemise(self, text: str) -> list[list[str]]:
        with self._lock:
            sentences: list[list[str]] = self._voice.phonemize(_pronounceable(text))
        return [sentence for sentence in sentences if sentence]


def _pronounceable(text: str) -> str:
    """The text, code point for code point, without what the phonemiser would take for a command or choke on."""
    text = text.encode("utf-8", "replace").decode().replace("\0", " ").replace("[[", "((")
    return _ABBREVIATION.sub(r"\1 ", text)


def align(apart: Sequence[Sequence[str]], spoken: Sequence[str]) -> list[tuple[int, int]]:
    """For each word, pronounced apart, its span of indices in what was spoken; empty when the two hardly agree."""
    owners, letters = [], []
    for word, phonemes in enumerate(apart):
        kept = [phoneme for phoneme in phonemes if _is_sound(phoneme)]
        owners += [word] * len(kept)
        letters += kept
    places = [place for place, phoneme in enumerate(spoken) if _is_sound(phoneme)]
    matcher = SequenceMatcher(a=letters, b=[spoken[place] for place in places], autojunk=False)
    found: dict[int, list[int]] = {}
    matched = 0
    for block in matcher.get_matching_blocks():
        matched += block.size
        for step in range(block.size):
            found.setdefault(owners[block.a + step], []).append(places[block.b + step])
    if matched < _LEAST_MATCH * max(1, len(places)):
        return []
    return _spans(len(apart), found, spoken)


def _spans(words: int, found: Mapping[int, list[int]], spoken: Sequence[str]) -> list[tuple[int, int]]:
    """Spans in order and apart from each other: matched phonemes, and those next to them up to a blank."""
    spans: list[tuple[int, int]] = []
    border = 0
    for word in range(words):
        following = next((found[later][0] for later in range(word + 1, words) if later in found), len(spoken))
        if word in found:
            first = _after_blank(spoken, border, found[word][0])
            end = _before_blank(spoken, found[word][-1] + 1, following)
        else:
            first = end = border
        spans.append((first, end))
        border = end
    return spans


def _after_blank(spoken: Sequence[str], low: int, high: int) -> int:
    """The first place of the run of sounds and marks that leads up to `high`, not before `low`."""
    while high > low and not _is_blank(spoken[high - 1]):
        high -= 1
    return high


def _before_blank(spoken: Sequence[str], low: int, high: int) -> int:
    """The end of the run of sounds and marks that begins at `low`, not after `high`."""
    end = low
    while end < high and not _is_blank(spoken[end]):
        end += 1
    while end == high and end > low and spoken[end - 1] in _STRESS:
        end, high = end - 1, high - 1  # stress stands before the sound that it is on: the next word's
    return end


def _is_sound(phoneme: str) -> bool:
    """A vowel, a consonant or a digit: no mark of stress or length, no punctuation."""
    return unicodedata.category(phoneme[0]) in ("Ll", "Lu", "Lo", "Nd")


def _is_blank(phoneme: str) -> bool:
    return phoneme.isspace() or unicodedata.category(phoneme[0]).startswith("P")
