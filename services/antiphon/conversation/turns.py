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
    if voiced_ms < settings.stop_after_ms and (_listed(settings, words) or _doubtful(transcript)):
        return Verdict.BACKCHANNEL
    return Verdict.WORDS


def normalise(text: str) -> str:
    """Lower-case words separated by single spaces, without punctuation: "Mm-hmm." becomes "mmhmm"."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower().replace("_", " ")).split())


def _listed(settings: TurnSettings, words: str) -> bool:
    listed = settings.backchannels
    return words in listed or all(word in listed for word in words.split())


def _doubtful(transcript: Transcript) -> bool:
    return (
        transcript.mean_log_probability < _DOUBTFUL_LOG_PROBABILITY
        or transcript.no_speech_probability > _DOUBTFUL_NO_SPEECH
    )
