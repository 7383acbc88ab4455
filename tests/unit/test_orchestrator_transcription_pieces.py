"""How a recording is cut, and how its transcript is written."""

from collections.abc import Sequence

import numpy as np
import pytest

from antiphon.contracts.adapters import Samples
from antiphon.conversation.ports import Transcript, TranscriptWord
from antiphon.orchestrator.recordings import PIECE_S, Piece, SplitSettings, Splitter, pieces_of
from antiphon.orchestrator.transcripts import HeardPiece, Recording, plain_json, subrip, verbose_json, webvtt
from antiphon.testing.fakes import FakeVad

pytestmark = pytest.mark.unit

RATE_HZ = 16_000


def recording(*parts: tuple[float, float]) -> Samples:
    """Stretches of a level and a length in seconds."""
    return np.concatenate([np.full(round(seconds * RATE_HZ), level, np.float32) for level, seconds in parts])


def cut(samples: Samples, settings: SplitSettings | None = None, step: int = 7_000) -> tuple[list[Piece], Splitter]:
    splitter = Splitter(FakeVad(), settings or SplitSettings())
    steps = (samples[start : start + step] for start in range(0, len(samples), step))
    return list(pieces_of(steps, splitter)), splitter


def voiced_s(pieces: Sequence[Piece]) -> float:
    return sum(int(np.count_nonzero(np.abs(np.frombuffer(piece.pcm, "<i2")) > 3000)) for piece in pieces) / RATE_HZ


def test_silence_holds_no_piece() -> None:
    pieces, splitter = cut(recording((0.0, 60)))
    assert pieces == []
    assert splitter.heard_s == 60


def test_one_sentence_is_one_piece_with_a_little_silence_around_it() -> None:
    pieces, splitter = cut(recording((0.0, 5), (0.2, 3), (0.0, 7)))
    (piece,) = pieces
    assert piece.start_s == pytest.approx(4.7, abs=0.05)
    assert piece.end_s == pytest.approx(8.3, abs=0.05)
    assert len(piece.pcm) / 2 / RATE_HZ == piece.duration_s
    assert splitter.heard_s == 15


def test_short_pauses_stay_within_a_piece_and_long_ones_are_not_sent() -> None:
    pieces, _ = cut(recording((0.2, 2), (0.0, 1), (0.2, 2), (0.0, 30), (0.2, 2)))
    assert [round(piece.start_s) for piece in pieces] == [0, 35]
    assert [round(piece.duration_s) for piece in pieces] == [5, 2]
    assert voiced_s(pieces) == pytest.approx(6, abs=0.01)


def test_a_long_speech_is_cut_in_the_middle_of_its_last_pause() -> None:
    talk = [(0.2, 4.0), (0.0, 0.6)] * 20
    pieces, _ = cut(recording(*talk))
    assert max(piece.duration_s for piece in pieces) <= PIECE_S
    assert len(pieces) == 4
    for piece, following in zip(pieces, pieces[1:], strict=False):
        assert following.start_s == pytest.approx(piece.end_s)  # nothing between them is lost
        assert (piece.end_s % 4.6) == pytest.approx(4.3, abs=0.1)
    assert voiced_s(pieces) == pytest.approx(80, abs=0.01)


def test_a_pause_that_is_too_short_is_no_place_to_cut() -> None:
    talk = [(0.2, 4.0), (0.0, 0.6)] * 8
    pieces, _ = cut(recording(*talk), SplitSettings(silence_ms=800))
    assert voiced_s(pieces) == pytest.approx(32, abs=0.01)
    assert pieces[0].duration_s <= PIECE_S


def test_a_speaker_who_never_pauses_is_cut_and_loses_nothing() -> None:
    pieces, _ = cut(recording((0.2, 60)))
    assert all(piece.duration_s <= PIECE_S for piece in pieces)
    assert voiced_s(pieces) == pytest.approx(60, abs=0.001)


def test_how_the_decoder_cuts_does_not_matter() -> None:
    samples = recording((0.0, 1), (0.2, 3.3), (0.0, 3), (0.2, 40.1))
    assert cut(samples, step=333)[0] == cut(samples, step=RATE_HZ * 100)[0]


def heard(start_s: float, text: str, *words: tuple[str, float, float], language: str = "en") -> HeardPiece:
    times = tuple(TranscriptWord(word, start, end, 0.9) for word, start, end in words)
    return HeardPiece.of(Piece(start_s, b"", 5.0), Transcript(f" {text} ", language, times, -0.2, 0.01))


RECORDING = Recording(
    duration_s=3700.0,
    heard=[
        heard(
            0.0,
            "Good day. How are",
            ("Good", 0.1, 0.3),
            ("day.", 0.3, 0.6),
            ("How", 0.7, 0.8),
            ("are", 0.8, 0.95),
        ),
        heard(3600.5, "you <now>?", ("you", 0.0, 0.2), ("<now>?", 2.0, 2.4)),
    ],
)


def test_words_and_lines_count_from_the_recordings_start() -> None:
    body = verbose_json(RECORDING, ("word", "segment"), "")
    assert body["text"] == "Good day. How are you <now>?"
    assert (body["language"], body["duration"]) == ("en", 3700.0)
    assert body["words"][-1] == {"word": "<now>?", "start": 3602.5, "end": 3602.9}
    assert [segment["text"] for segment in body["segments"]] == ["Good day.", "How are", "you", "<now>?"]
    assert (body["segments"][2]["start"], body["segments"][2]["seek"]) == (3600.5, 360050)
    assert "words" not in verbose_json(RECORDING, (), "")
    assert "segments" not in verbose_json(RECORDING, ("word",), "")
    assert plain_json(RECORDING)["usage"] == {"type": "duration", "seconds": 3700.0}


def test_subtitles() -> None:
    assert subrip(RECORDING).startswith(
        "1\n00:00:00,100 --> 00:00:00,600\nGood day.\n\n2\n00:00:00,700 --> 00:00:00,950\n"
    )
    assert "01:00:02,500 --> 01:00:02,900\n<now>?\n" in subrip(RECORDING)
    vtt = webvtt(RECORDING)
    assert vtt.startswith("WEBVTT\n\n00:00:00.100 --> 00:00:00.600\nGood day.\n\n")
    assert vtt.endswith("01:00:02.500 --> 01:00:02.900\n&lt;now>?\n")
    assert (subrip(Recording()), webvtt(Recording())) == ("", "WEBVTT\n")


def test_a_recogniser_without_word_times_gives_a_line_a_piece() -> None:
    (segment,) = Recording(9.0, [heard(3.0, "Good day.")]).segments()
    assert (segment.text, segment.start_s, segment.end_s) == ("Good day.", 3.0, 8.0)


def test_long_sentences_become_lines_that_can_be_read() -> None:
    words = [(f"word{index}", index * 0.3, index * 0.3 + 0.3) for index in range(60)]
    lines = list(Recording(20.0, [heard(0.0, "…", *words)]).segments())
    assert all(len(line.text) <= 74 and line.end_s - line.start_s <= 7.0 for line in lines)
    assert " ".join(line.text for line in lines) == " ".join(word for word, _, _ in words)


def test_lines_are_written_as_the_text_is() -> None:
    piece = heard(
        0.0, "A non-member. 你好。Bye", ("A", 0, 1), ("non", 1, 2), ("-member.", 2, 3), ("你", 3, 4), ("好。", 4, 5)
    )
    assert [line.text for line in Recording(5.0, [piece]).segments()] == ["A non-member.", "你好。"]
    odd = heard(0.0, "Twenty.", ("20", 0.0, 0.5), ("times", 0.5, 1.0))
    assert [line.text for line in Recording(5.0, [odd]).segments()] == ["20 times"]
