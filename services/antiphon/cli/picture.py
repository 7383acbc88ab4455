"""A conversation as a picture: who spoke when, what state it was in, where the reply was lowered, held and stopped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.audio.pcm import Samples
from antiphon.cli.judgement import Turn
from antiphon.cli.realtime import RATE_HZ, RealtimeSession

_COLOURS = {
    "idle": "#e8e8e8",
    "listening": "#9ecae1",
    "thinking": "#fdd49e",
    "speaking": "#a1d99b",
    "barged_in": "#fc9272",
}
_MARKS = {
    "antiphon.reply.ducked": ("ducked", "#b58900"),
    "antiphon.reply.paused": ("paused", "#cb4b16"),
    "antiphon.reply.resumed": ("resumed", "#2aa198"),
    "input_audio_buffer.speech_started": ("speech started", "#6c71c4"),
    "conversation.item.truncated": ("stopped", "#dc322f"),
}
_WINDOW_S = 0.02


def draw(session: RealtimeSession, turns: Sequence[Turn], files: Sequence[Path]) -> None:
    """Draw the conversation into each of the files, whose suffixes name their formats. Blocking, about a second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    user, reply = session.microphone.recording(), session.speaker.recording()
    length_s = max(len(user), len(reply)) / RATE_HZ
    figure, (top, bottom, states) = pyplot.subplots(
        3, 1, sharex=True, figsize=(max(10, length_s * 0.55), 5), height_ratios=(3, 3, 1), layout="constrained"
    )
    _speech(top, user, "user", "#08519c")
    _speech(bottom, reply, "antiphon", "#006d2c")
    _gaps(bottom, turns)
    _marks((top, bottom), session)
    _states(states, session, length_s)
    states.set_xlabel("seconds")
    states.set_xlim(0, length_s)
    for file in files:
        figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _speech(axes: Any, samples: Samples, name: str, colour: str) -> None:
    window = round(_WINDOW_S * RATE_HZ)
    level = np.abs(samples[: len(samples) // window * window].reshape(-1, window)).max(axis=1, initial=0.0)
    seconds = np.arange(len(level)) * _WINDOW_S
    axes.fill_between(seconds, -level, level, color=colour, linewidth=0, step="post")
    axes.set_ylabel(name)
    axes.set_ylim(-1, 1)
    axes.set_yticks([])


def _gaps(axes: Any, turns: Sequence[Turn]) -> None:
    """The silence before each reply, with its length."""
    for turn in turns:
        if turn.reply_start_s is not None and turn.voice_to_voice_ms is not None:
            axes.axvspan(turn.said.end_s, turn.reply_start_s, color="#fee391", alpha=0.7, linewidth=0)
            label = f"{turn.voice_to_voice_ms:.0f} ms"
            axes.annotate(label, (turn.reply_start_s, 0.85), ha="right", va="top", fontsize=8)


def _marks(lanes: Sequence[Any], session: RealtimeSession) -> None:
    named: set[str] = set()
    for event in session.events:
        if event.type in _MARKS:
            name, colour = _MARKS[event.type]
            for axes in lanes:
                axes.axvline(event.at_s, color=colour, linewidth=1, label=None if name in named else name)
            named.add(name)
    if named:
        handles, labels = lanes[0].get_legend_handles_labels()
        lanes[0].legend(handles, labels, loc="lower right", bbox_to_anchor=(1, 1), ncols=5, fontsize=8, frameon=False)


def _states(axes: Any, session: RealtimeSession, length_s: float) -> None:
    changes = [(event.at_s, event.body["new"]) for event in session.events if event.type == "antiphon.state"]
    changes = [(0.0, "idle"), *changes]
    ends = [at_s for at_s, _ in changes[1:]] + [length_s]
    for (start_s, state), end_s in zip(changes, ends, strict=True):
        axes.axvspan(start_s, end_s, color=_COLOURS.get(state, "#ffffff"), linewidth=0)
        if end_s - start_s > 0.04 * length_s:
            axes.text((start_s + end_s) / 2, 0.5, state.replace("_", " "), ha="center", va="center", fontsize=8)
    axes.set_ylabel("state")
    axes.set_yticks([])
