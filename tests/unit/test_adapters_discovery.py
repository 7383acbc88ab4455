"""Engines are found by entry point, or named as missing with what to do."""

import pytest

from antiphon.adapters.asr.mock import MockAsr
from antiphon.adapters.discovery import engines, find_engine, find_vad
from antiphon.adapters.tts.mock import MockTts
from antiphon.contracts.errors import AntiphonError, Reason

pytestmark = pytest.mark.unit


def test_the_engines_of_this_distribution_are_found() -> None:
    found = engines()
    assert found["tts", "mock"].factory is MockTts
    assert found["asr", "mock"].factory is MockAsr
    assert all(entry.version for entry in found.values())
    assert find_engine("tts", "mock") is MockTts


def test_an_unknown_engine_is_refused_with_those_there_are() -> None:
    with pytest.raises(AntiphonError, match="'parrot'.*mock") as error:
        find_engine("tts", "parrot")
    assert error.value.reason is Reason.INVALID_REQUEST


def test_an_engine_that_lacks_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MockTts, "REQUIRES", ("no-such-distribution",), raising=False)
    monkeypatch.setattr(MockTts, "EXTRA", "mock")
    assert ("tts", "mock") not in engines()
    with pytest.raises(AntiphonError, match=r"no-such-distribution: pip install 'antiphon\[mock\]'"):
        find_engine("tts", "mock")


def test_an_unknown_vad_is_refused() -> None:
    with pytest.raises(AntiphonError, match="silero"):
        find_vad("ears")
