"""What every engine must do, as pytest classes: subclass one, say which engine, and run pytest.

    class TestBeep(TtsConformance):
        engine = BeepTts
        settings = {"pitchHz": 440}

Bounds on time are generous: they tell streaming from not streaming, not a fast machine from a slow one.
"""

from antiphon.testing.conformance.asr import AsrConformance
from antiphon.testing.conformance.tts import TtsConformance

__all__ = ["AsrConformance", "TtsConformance"]
