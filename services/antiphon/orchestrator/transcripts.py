"""What was heard of a whole recording, and how it is written: JSON, plain text, SubRip, WebVTT."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from antiphon.conversation.ports import Transcript, TranscriptWord
from antiphon.orchestrator.recordings import Piece

# A cue that can be read while it is shown. Source: BBC Subtitle Guidelines (two lines of 37 characters, up to 7 s).
_CUE_CHARS = 74
_CUE_S = 7.0
_CUE_PAUSE_S = 1.0
_SENTENCE_ENDS = (".", "?", "!", "…", "。")


@dataclass(frozen=True, slots=True)
class HeardPiece:
    """A piece of the recording with its transcript; word times count from the recording's start."""

    piece: Piece
    transcript: Transcript
    model: str = ""
    """What heard it."""

    @classmethod
    def of(cls, piece: Piece, transcript: Transcript, model: str = "") -> "HeardPiece":
        """The piece as it was heard, its words moved to where they are in the recording."""
        words = tuple(
            replace(word, start_s=word.start_s + piece.start_s, end_s=word.end_s + piece.start_s)
            for word in transcript.words
        )
        return cls(piece, replace(transcript, text=transcript.text.strip(), words=words), model)


@dataclass(frozen=True, slots=True)
class Segment:
    """A line of the transcript that can be shown at once."""

    text: str
    start_s: float
    end_s: float
    heard: HeardPiece


@dataclass(slots=True)
class Recording:
    """A recording, as far as it was heard."""

    duration_s: float = 0.0
    heard: list[HeardPiece] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All that was said."""
        return " ".join(each.transcript.text for each in self.heard if each.transcript.text)

    @property
    def models(self) -> tuple[str, ...]:
        """Those that heard it, the first one first."""
        return tuple(dict.fromkeys(each.model for each in self.heard))

    @property
    def language(self) -> str:
        """The language of the first piece that has one."""
        return next((each.transcript.language for each in self.heard if each.transcript.language), "")

    def segments(self) -> Iterator[Segment]:
        """The transcript in lines: at sentences' ends and pauses, short enough to read; pieces where no word times."""
        for each in self.heard:
            if each.transcript.words:
                rest = each.transcript.text
                for words in _lines(each.transcript.words):
                    text, rest = _written(words, rest)
                    yield Segment(text, words[0].start_s, words[-1].end_s, each)
            elif each.transcript.text:
                yield Segment(each.transcript.text, each.piece.start_s, each.piece.end_s, each)


def _lines(words: Sequence[TranscriptWord]) -> Iterator[list[TranscriptWord]]:
    line: list[TranscriptWord] = []
    for word in words:
        if line and not _fits(line, word):
            yield line
            line = []
        line.append(word)
    yield line


def _fits(line: Sequence[TranscriptWord], word: TranscriptWord) -> bool:
    chars = sum(len(each.text.strip()) + 1 for each in line) + len(word.text.strip())
    return (
        chars <= _CUE_CHARS
        and word.end_s - line[0].start_s <= _CUE_S
        and word.start_s - line[-1].end_s < _CUE_PAUSE_S
        and not line[-1].text.strip().endswith(_SENTENCE_ENDS)
    )


def _written(words: Sequence[TranscriptWord], text: str) -> tuple[str, str]:
    """The words as the text writes them, which knows where no blank belongs, and the text after them."""
    end = 0
    for word in words:
        at = text.find(word.text.strip(), end)
        if at < 0:
            return " ".join(word.text.strip() for word in words), text
        end = at + len(word.text.strip())
    return text[:end].strip(), text[end:]


def usage(recording: Recording) -> dict[str, Any]:
    """What was used: seconds of audio."""
    return {"type": "duration", "seconds": round(recording.duration_s, 3)}


def plain_json(recording: Recording) -> dict[str, Any]:
    """The `json` form."""
    return {"text": recording.text, "usage": usage(recording)}


def verbose_json(recording: Recording, granularities: Iterable[str], language: str) -> dict[str, Any]:
    """The `verbose_json` form; without granularities it holds segments.

    Tokens are not known here, and a segment's list of them is empty; a segment's probabilities are those of the piece
    in which it was heard.
    """
    wanted = set(granularities) or {"segment"}
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": recording.language or language,
        "duration": round(recording.duration_s, 3),
        "text": recording.text,
        "usage": usage(recording),
    }
    if "segment" in wanted:
        body["segments"] = [_segment(index, segment) for index, segment in enumerate(recording.segments())]
    if "word" in wanted:
        body["words"] = [
            {"word": word.text.strip(), "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
            for each in recording.heard
            for word in each.transcript.words
        ]
    return body


def _segment(index: int, segment: Segment) -> dict[str, Any]:
    encoded = segment.text.encode()
    return {
        "id": index,
        "seek": round(segment.heard.piece.start_s * 100),  # in Whisper's frames of 10 ms
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": segment.heard.transcript.mean_log_probability,
        "compression_ratio": len(encoded) / len(zlib.compress(encoded)),
        "no_speech_prob": segment.heard.transcript.no_speech_probability,
    }


def subrip(recording: Recording) -> str:
    """The `srt` form."""
    cues = (
        f"{number}\n{_time(segment.start_s, ',')} --> {_time(segment.end_s, ',')}\n{segment.text}\n"
        for number, segment in enumerate(recording.segments(), 1)
    )
    return "\n".join(cues)


def webvtt(recording: Recording) -> str:
    """The `vtt` form."""
    cues = (
        f"{_time(segment.start_s, '.')} --> {_time(segment.end_s, '.')}\n{_escaped(segment.text)}\n"
        for segment in recording.segments()
    )
    return "\n".join(("WEBVTT\n", *cues))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("-->", "--&gt;")


def _time(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"
