"""What a listener would say of a conversation: what was understood, how long each thing took, whether manners held."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from antiphon.cli.playout import Line
from antiphon.cli.realtime import RealtimeSession, Received

WER_LIMIT = 0.15

_HEARD = "conversation.item.input_audio_transcription.completed"
_STOPPED_BY_USER = "turn_detected"


@dataclass(slots=True)
class Turn:
    """One thing that the user said, and the reply to it. Times are seconds of the session's clock."""

    text: str
    """What was really said."""
    said: Line
    heard: str = ""
    """The transcript."""
    heard_s: float | None = None
    reply: str = ""
    """What was said back, as far as it was heard."""
    reply_heard_back: str = ""
    """The reply's sound, transcribed."""
    reply_item: str = ""
    reply_status: str = ""
    reply_reason: str = ""
    reply_start_s: float | None = None
    reply_end_s: float | None = None

    @property
    def voice_to_voice_ms(self) -> float | None:
        """From the user's last sound to the reply's first."""
        return _ms(self.said.end_s, self.reply_start_s)

    @property
    def transcript_ms(self) -> float | None:
        """From the user's last sound to the transcript."""
        return _ms(self.said.end_s, self.heard_s)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Something said while a reply was sounding, and what it did to the reply."""

    said: Line
    ducked_ms: float | None = None
    silent_ms: float | None = None
    """To the reply's last sound; None: it went on."""
    resumed_ms: float | None = None


@dataclass(slots=True)
class Judgement:
    """All of it."""

    turns: list[Turn]
    interruption: Overlap
    backchannel: Overlap
    word_error_rate: float = 1.0
    reply_word_error_rate: float = 1.0
    faults: list[str] = field(default_factory=list)
    """Why the conversation was not good; empty: it was."""


def turns_of(session: RealtimeSession, said: Sequence[tuple[str, Line]]) -> list[Turn]:
    """The turns of a conversation in which these lines were said, each with the reply that followed it."""
    turns = [Turn(text, line) for text, line in said]
    for turn, event in zip(turns, _of_type(session.events, _HEARD), strict=False):
        turn.heard, turn.heard_s = event.body["transcript"].strip(), event.at_s
    for turn, event in zip(turns, _of_type(session.events, "response.done"), strict=False):
        response = event.body["response"]
        turn.reply_status = response["status"]
        turn.reply_reason = (response.get("status_details") or {}).get("reason", "")
        turn.reply_item = next((item["id"] for item in response["output"] if item["type"] == "message"), "")
        turn.reply = "".join(
            part.body["delta"]
            for part in _of_type(session.events, "response.output_audio_transcript.delta")
            if part.body["item_id"] == turn.reply_item
        ).strip()
        pieces = session.speaker.pieces(turn.reply_item)
        if pieces:
            turn.reply_start_s = pieces[0].start_s
            turn.reply_end_s = pieces[-1].start_s + len(pieces[-1].samples) / session.speaker.rate_hz
    return turns


def overlap_of(session: RealtimeSession, said: Line, reply: Turn) -> Overlap:
    """What `said` did to a reply that was sounding when it began."""
    after = [event for event in session.events if event.at_s >= said.start_s]
    ducked_s, resumed_s = (
        next((event.at_s for event in _of_type(after, f"antiphon.reply.{what}")), None)
        for what in ("ducked", "resumed")
    )
    stopped = reply.reply_status == "cancelled"
    return Overlap(
        said,
        ducked_ms=_ms(said.start_s, ducked_s),
        silent_ms=_ms(said.start_s, reply.reply_end_s) if stopped else None,
        resumed_ms=_ms(said.start_s, resumed_s),
    )


def judge(judgement: Judgement) -> None:
    """Fill in the error rates and the faults."""
    turns = judgement.turns
    whole = [turn for turn in turns if turn.reply_status == "completed"]
    judgement.word_error_rate = word_error_rate([turn.text for turn in turns], [turn.heard for turn in turns])
    judgement.reply_word_error_rate = word_error_rate(
        [turn.reply for turn in whole], [turn.reply_heard_back for turn in whole]
    )
    backchanneled, interrupted, answering = turns
    checks = {
        f"the transcripts are wrong: {judgement.word_error_rate:.0%} of the words": judgement.word_error_rate
        <= WER_LIMIT,
        f"the replies cannot be understood: {judgement.reply_word_error_rate:.0%} of their words are wrong": (
            judgement.reply_word_error_rate <= WER_LIMIT
        ),
        'the "mm-hm" stopped the reply': backchanneled.reply_status == "completed",
        "the interruption did not stop the reply": interrupted.reply_reason == _STOPPED_BY_USER,
        "the interruption was not answered": answering.reply_status == "completed" and answering.reply != "",
    }
    judgement.faults += [fault for fault, good in checks.items() if not good]


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Words substituted, left out or put in, of all that were said; case and punctuation aside. Nothing said: 1."""
    import jiwer

    pairs = [(plain(reference), plain(hypothesis)) for reference, hypothesis in zip(said, heard, strict=True)]
    pairs = [(reference, hypothesis) for reference, hypothesis in pairs if reference]
    if not pairs:
        return 1.0
    return float(jiwer.wer([reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs]))


def plain(text: str) -> str:
    """Words alone, in lower case, with single spaces."""
    return " ".join(re.sub(r"[^\w\s']", " ", text.lower()).split())


def _of_type(events: Iterable[Received], type: str) -> Iterator[Received]:
    return (event for event in events if event.type == type)


def _ms(start_s: float, end_s: float | None) -> float | None:
    return None if end_s is None else (end_s - start_s) * 1000
