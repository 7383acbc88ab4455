"""The states of a conversation and the one table of what may follow what."""

from enum import StrEnum


class State(StrEnum):
    """What the conversation is doing."""

    IDLE = "idle"
    LISTENING = "listening"
    THINKING = "thinking"
    SPEAKING = "speaking"
    BARGED_IN = "barged_in"
    TERMINATED = "terminated"


class Attention(StrEnum):
    """How a live reply treats what may be the user's voice."""

    FULL = "full"
    DUCKED = "ducked"
    PAUSED = "paused"


_NEXT: dict[State, frozenset[State]] = {
    # Typed text and `response.create` think without listening.
    State.IDLE: frozenset({State.LISTENING, State.THINKING, State.TERMINATED}),
    # Back to IDLE when it was no speech, or when the client answers for itself.
    State.LISTENING: frozenset({State.THINKING, State.IDLE, State.TERMINATED}),
    # LISTENING when the user goes on; IDLE when the reply holds no speech.
    State.THINKING: frozenset({State.SPEAKING, State.LISTENING, State.IDLE, State.TERMINATED}),
    # THINKING when a reply that may not be interrupted ends, and what the user said meanwhile is still being heard.
    State.SPEAKING: frozenset({State.IDLE, State.BARGED_IN, State.LISTENING, State.THINKING, State.TERMINATED}),
    State.BARGED_IN: frozenset({State.LISTENING, State.IDLE, State.TERMINATED}),
    State.TERMINATED: frozenset(),
}


class TransitionError(RuntimeError):
    """A transition that the table does not have: a fault of ours."""


def check_transition(old: State, new: State) -> None:
    """Raise `TransitionError` unless `new` may follow `old`."""
    if new not in _NEXT[old]:
        raise TransitionError(f"{old} -> {new}")
