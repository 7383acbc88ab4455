"""Text cut into clauses as it arrives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.worker.clauses import MAX_CHARS, Clause, ClauseCutter

pytestmark = pytest.mark.unit


def cut(*pieces: str) -> list[str]:
    cutter = ClauseCutter()
    clauses = [clause for piece in pieces for clause in cutter.push(piece)]
    return [clause.text for clause in clauses + cutter.flush()]


def ready(*pieces: str) -> list[str]:
    """The clauses that are complete before any flush."""
    cutter = ClauseCutter()
    return [clause.text for piece in pieces for clause in cutter.push(piece)]


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("Hello there. How are you?", ["Hello there. ", "How are you?"]),
        ("Dr. Smith paid 3.5 dollars. Then he left.", ["Dr. Smith paid 3.5 dollars. ", "Then he left."]),
        ("J. S. Bach wrote it, e.g. in Leipzig. Yes.", ["J. S. Bach wrote it, ", "e.g. in Leipzig. ", "Yes."]),
        ("See https://example.org/a.b?c=d. Then go.", ["See https://example.org/a.b?c=d. ", "Then go."]),
        ('She said "stop!" Then nothing.', ['She said "stop!" ', "Then nothing."]),
        ("Wait... what? Really?!", ["Wait... ", "what? ", "Really?!"]),
        ("We came at 5 p.m. Then we ate.", ["We came at 5 p.m. ", "Then we ate."]),
        ("We came at 5 p.m. and ate.", ["We came at 5 p.m. and ate."]),
        ("It costs 1,250 dollars at 10:30 today.", ["It costs 1,250 dollars at 10:30 today."]),
        ("\u4f60\u597d\u3002\u518d\u89c1\u3002", ["\u4f60\u597d\u3002", "\u518d\u89c1\u3002"]),
        ("One\n\nTwo", ["One\n\n", "Two"]),
        ("?! ... ", []),
        ("Hello. ... !", ["Hello. "]),
        ("", []),
    ],
)
def test_sentences(text: str, clauses: list[str]) -> None:
    assert cut(text) == clauses
    assert cut(*text) == clauses  # letter by letter


def test_a_sentence_is_complete_only_when_the_text_goes_on() -> None:
    assert ready("It is 3.") == []
    assert ready("It is 3.", "5 dollars.") == []
    assert ready("It is 3.", " Then") == ["It is 3. "]


def test_the_first_clause_ends_at_an_early_comma_later_ones_only_when_long() -> None:
    text = "Well my friend, yes, it is a very long and winding road, so take care. "
    assert ready(text) == ["Well my friend, ", "yes, it is a very long and winding road, ", "so take care. "]
    assert ready("Yes, of course. ") == ["Yes, of course. "]


def test_what_nothing_ends_is_cut_at_a_space_or_through_a_word() -> None:
    clauses = cut("word " * 100)
    assert [len(clause.split()) for clause in clauses] == [40, 40, 20]
    assert [len(clause) for clause in cut("x" * 700)] == [300, 300, 100]


PIECES = st.lists(st.text("ab .,!?\n\u3002\u2014\u00e93\"'(", max_size=400) | st.just("word " * 50), max_size=6)


@settings(max_examples=100, deadline=None)
@given(PIECES)
def test_clauses_are_the_text_whatever_the_pieces(pieces: list[str]) -> None:
    text = "".join(pieces)
    cutter = ClauseCutter()
    clauses: list[Clause] = [clause for piece in pieces for clause in cutter.push(piece)]
    clauses += cutter.flush()
    assert cutter.pushed_chars == len(text)
    assert [clause.index for clause in clauses] == list(range(len(clauses)))
    at = 0
    for clause in clauses:
        assert text[clause.start : clause.end] == clause.text
        assert not any(letter.isalnum() for letter in text[at : clause.start])
        assert any(letter.isalnum() for letter in clause.text)
        assert len(clause.text) <= MAX_CHARS
        at = clause.end
    assert not any(letter.isalnum() for letter in text[at:])
