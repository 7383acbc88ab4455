"""When each thing in a turn happened: the answer to "why was it slow"."""

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Timeline:
    """One turn; moments are monotonic seconds of the conversation's clock, None where a thing did not happen.

    `speech_end` is back-dated to the last voiced window; the moments of the user's speech are those at which its
    samples arrived.
    """

    turn_id: str
    speech_start: float | None = None
    speech_end: float | None = None
    pause_asked: float | None = None
    transcript: float | None = None
    turn_decided: float | None = None
    first_token: float | None = None
    first_audio_ready: float | None = None
    first_audio: float | None = None
    ducked: float | None = None
    paused: float | None = None
    stopped: float | None = None
    reply_end: float | None = None
    speculative: bool = False
    """The reply was begun before the turn was decided, and kept."""

    def span_ms(self, start: str, end: str) -> float | None:
        """Milliseconds between two moments, where both happened."""
        first, last = getattr(self, start), getattr(self, end)
        return None if first is None or last is None else (last - first) * 1000

    def as_dict(self) -> dict[str, float | str | bool | None]:
        """All fields, for an event or a log line."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
