"""The two judgements of a turn, case by case."""

import pytest

from antiphon.conversation.ports import Transcript
from antiphon.conversation.settings import TurnSettings
from antiphon.conversation.turns import Verdict, judge, normalise, required_silence_ms

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("voiced_ms", "text", "log_probability", "no_speech", "verdict"),
    [
        (300, "", 0.0, 0.0, Verdict.NOISE),
        (300, "...", 0.0, 0.0, Verdict.NOISE),
        (400, "Yeah.", -0.2, 0.1, Verdict.BACKCHANNEL),
        (400, "Yeah, right.", -0.2, 0.1, Verdict.BACKCHANNEL),
        (576, "I see.", -0.2, 0.3, Verdict.BACKCHANNEL),
        (544, "MMM.", -0.93, 0.2, Verdict.BACKCHANNEL),
        (300, "You", -0.3, 0.9, Verdict.BACKCHANNEL),
        (512, "In a month.", -0.48, 0.2, Verdict.BACKCHANNEL),
        (480, "Imam Imam. Imam. Imam. Imam.", -0.2, 0.1, Verdict.BACKCHANNEL),
        (512, "Stop.", -0.25, 0.2, Verdict.WORDS),
        (352, "Wait.", -0.44, 0.2, Verdict.WORDS),
        (672, "Stop it now.", -0.08, 0.2, Verdict.WORDS),
        (512, "Hold on.", -0.12, 0.2, Verdict.WORDS),
        (900, "Yeah, yeah.", -0.9, 0.2, Verdict.WORDS),
        (700, "Yeah", -0.2, 0.2, Verdict.WORDS),
    ],
)
def test_judge(voiced_ms: float, text: str, log_probability: float, no_speech: float, verdict: Verdict) -> None:
    transcript = Transcript(text, mean_log_probability=log_probability, no_speech_probability=no_speech)
    assert judge(TurnSettings(), voiced_ms, transcript) is verdict


@pytest.mark.parametrize(("probability", "silence_ms"), [(None, 500), (0.9, 500), (0.5, 500), (0.21, 500), (0.1, 1500)])
def test_only_a_confident_no_asks_for_patience(probability: float | None, silence_ms: int) -> None:
    assert required_silence_ms(TurnSettings(), probability) == silence_ms


def test_patience_never_shortens_the_silence_that_was_asked_for() -> None:
    assert required_silence_ms(TurnSettings(silence_duration_ms=3000), 0.1) == 3000


@pytest.mark.parametrize(("text", "words"), [("Mm-hmm.", "mmhmm"), (" I  see! ", "i see"), ("...", ""), ("A_b", "a b")])
def test_normalise(text: str, words: str) -> None:
    assert normalise(text) == words
