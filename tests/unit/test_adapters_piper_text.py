"""Words found again in phonemes."""

import pytest

from antiphon.adapters.tts.piper_text import align

pytestmark = pytest.mark.unit


def heard(apart: list[str], spoken: str) -> list[str]:
    return [spoken[first:end] for first, end in align(apart, spoken)]


def test_words_between_blanks() -> None:
    assert heard(["həlˈoʊ", "wˈɜːld."], "həlˈoʊ wˈɜːld.") == ["həlˈoʊ", "wˈɜːld"]


def test_words_that_melt_part_at_their_phonemes() -> None:
    assert heard(["wˈʌn", "ˈʌv", "ðˈə", "bˈɛst"], "wˈʌn ʌvðə bˈɛst") == ["wˈʌn", "ʌv", "ðə", "bˈɛst"]
    assert heard(["ðˈɪs", "wˈʌn"], "ðˈɪswˌʌn") == ["ðˈɪs", "wˌʌn"]


def test_a_number_is_many_phoneme_words_and_one_text_word() -> None:
    assert heard(["kˈɔsts", "fˈɪfti dˈɑːlɚz", "plˈiːz"], "kˈɔsts fˈɪfti dˈɑːlɚz plˈiːz") == [
        "kˈɔsts", "fˈɪfti dˈɑːlɚz", "plˈiːz"
    ]  # fmt: skip


def test_a_word_without_a_sound_has_an_empty_span() -> None:
    assert heard(["wˈɛl", "", "nˈoʊn"], "wˈɛl nˈoʊn") == ["wˈɛl", "", "nˈoʊn"]


def test_a_reading_that_is_quite_another_gives_no_words() -> None:
    assert align(["abc", "def"], "xyz uvw") == []
    assert align([], "") == []
