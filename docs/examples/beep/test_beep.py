"""The conformance suite, run on this engine."""

from antiphon_beep import BeepTts

from antiphon.testing.conformance import TtsConformance


class TestBeep(TtsConformance):
    """Whatever holds for every voice."""

    engine = BeepTts
    settings = {"pitchHz": 330}
