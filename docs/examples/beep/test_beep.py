"""The conformance suite, run on this engine."""

import pytest
from antiphon_beep import BeepTts

from antiphon.testing.conformance import TtsConformance

pytestmark = pytest.mark.contract


class TestBeep(TtsConformance):
    """Whatever holds for every voice."""

    engine = BeepTts
    settings = {"pitchHz": 330}
