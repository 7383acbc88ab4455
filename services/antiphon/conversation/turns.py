"""Two judgements, as pure functions: has the user finished, and does the user want the floor."""

import re
from enum import StrEnum

from antiphon.conversation.ports import Transcript
from antiphon.conversation.settings import TurnSettings

_GOES_ON = 0.2
"""Below this end-of-turn probability the detector is confident that the user goes on: patience ends the turn."""

_DOUBTFUL_LOG_PROBABILITY = -0.8
_DOUBTFUL_NO_SPEECH = 0.8
"""A small recogniser gives "mm-hm" any short word, but with a mean log probability below the first or a no-speech
probability above the second (measured with Whisper tiny.en on human recordings)."""

_FAST_WORDS_PER_S = 5.0
_FAST_LOG_PROBABILITY = -0.4
_IMPOSSIBLE_WORDS_PER_S = 8.0
"""Or it gives a hum more words than fit: "in a month", or one word again and again. People say 3 to 5 words a second;
at more than the first rate a recogniser must be surer than the second, and nobody says more than the third (measured
like the above: "mm-hmm" 5.2 to 10 a second at -0.48 and below; "stop it now" 4.5 at -0.1)."""


class Verdict(StrEnum):
    """What a sound made over a reply was."""

    NOISE = "noise"
    BACKCHANNEL = "backchannel"
    WORDS = "words"


def required_silence_ms(settings: TurnSettings, end_of_turn_probability: float | None) -> int:
    """How long the user must be silent for the turn to be over; None: the detector has not answered yet."""
    if end_of_turn_probability is not None and end_of_turn_probability < _GOES_ON:
        return max(settings.silence_duration_ms, settings.patience_ms)
    return settings.silence_duration_ms


def judge(settings: TurnSettings, voiced_ms: float, transcript: Transcript) -> Verdict:
    """Whether a sound of so much voiced audio, heard as `transcript`, should stop a reply.

    A backchannel is short *and* either a listed word or something that the recogniser doubts: the words alone of a
    small recogniser cannot be trusted.
    """
    words = normalise(transcript.text)
    if not words:
        return Verdict.NOISE
    if voiced_ms < settings.stop_after_ms and (_listed(settings, words) or _doubtful(words, voiced_ms, transcript)):
        return Verdict.BACKCHANNEL
    return Verdict.WORDS


def normalise(text: str) -> str:
    """Lower-case words separated by single spaces, without punctuation: "Mm-hmm." becomes "mmhmm"."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower().replace("_", " ")).split())


def _listed(settings: TurnSettings, words: str) -> bool:
    listed = settings.backchannels
    return words in listed or all(word in listed for word in words.split())


def _doubtful(words: str, voiced_ms: float, transcript: Transcript) -> bool:
    words_per_s = len(words.split()) * 1000 / voiced_ms if voiced_ms else 0.0
    return (
        transcript.mean_log_probability < _DOUBTFUL_LOG_PROBABILITY
        or transcript.no_speech_probability > _DOUBTFUL_NO_SPEECH
        or (words_per_s > _FAST_WORDS_PER_S and transcript.mean_log_probability < _FAST_LOG_PROBABILITY)
        or words_per_s > _IMPOSSIBLE_WORDS_PER_S
    )
