"""`antiphon demo`: a spoken conversation with a fresh antiphon, held and judged as a listener would.

Three turns: during the first reply the user says "mm-hm", which must not stop it; the third turn interrupts the second
reply, and must be answered.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from antiphon.audio.encoding import wav_header
from antiphon.audio.files import read_audio, write_wav
from antiphon.audio.pcm import Samples, float_to_pcm, pcm_to_float
from antiphon.cli.api import Server
from antiphon.cli.embedded import UpOptions
from antiphon.cli.judgement import Judgement, Turn, judge, overlap_of, turns_of
from antiphon.cli.picture import draw
from antiphon.cli.playout import stereo
from antiphon.cli.realtime import RATE_HZ, RealtimeSession, connect
from antiphon.cli.speech_folders import speech_folders
from antiphon.cli.up import started
from antiphon.contracts.errors import AntiphonError, Reason

_INTO_REPLY_S = 1.5
"""How long a reply has sounded when the user says something into it."""
_BETWEEN_S = 0.7
_REPLY_S = 30.0
_CONVERSATION_S = 120.0
_FIRST_SOUND = "response.output_audio.delta"


@dataclass(frozen=True, slots=True)
class Script:
    """One line of the user's."""

    text: str
    recording: str = ""
    """The recording of a human who says it; empty, or not at hand: a voice of the server's says it."""


LINES = (
    Script(
        "Your call is now first in line and will be answered by the next available representative.",
        "queue-youarenext.wav",
    ),
    Script(
        "The person you are calling is not at their desk. I will try to locate them for you.",
        "followme/status.wav",
    ),
    Script("Sorry, let me stop you there. Please tell me when the next train leaves for the city."),
)
BACKCHANNEL = Script("Mm-hmm.")


async def demo(options: UpOptions, out: Path, *, once: bool) -> None:
    """Start antiphon, converse, print and write what came of it; then stay up until cancelled, or end (`once`).

    Raises:
        AntiphonError: When the conversation was not good, with the reasons.
    """
    console = Console()
    async with started(options, console) as deployment:
        faults = await hold(Server(deployment.url), out, console)
        if faults:
            raise AntiphonError(Reason.INTERNAL, f"The conversation was not good: {'; '.join(faults)}. See {out}/.")
        if not once:
            console.print("antiphon stays up until Ctrl-C.")
            await asyncio.Event().wait()


async def hold(server: Server, out: Path, console: Console) -> list[str]:
    """Converse with a server; print transcripts and latencies; write sound, picture and figures into `out`.

    Returns:
        What was not good; empty: all was.
    """
    console.print("\nA conversation begins: three turns, an interruption and an [italic]mm-hm[/].")
    lines = [await _voiced(server, line, console) for line in LINES]
    backchannel = await _voiced(server, BACKCHANNEL, console)
    async with connect(server.url, key=server.key, extension=True) as session:
        speaking = asyncio.create_task(session.stream_microphone(), name="microphone")
        try:
            async with asyncio.timeout(_CONVERSATION_S):
                judgement = await _converse(session, lines, backchannel)
        except TimeoutError:
            message = f"The conversation did not come to its end within {_CONVERSATION_S:.0f} s."
            raise AntiphonError(Reason.TIMEOUT, message) from None
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)
    for turn in judgement.turns:
        turn.reply_heard_back = await _heard_back(server, session, turn)
    judge(judgement)
    _print(judgement, console)
    written = await asyncio.to_thread(_write, session, judgement, out)
    console.print(f"\nWrote {', '.join(str(file) for file in written)}.", highlight=False)
    return judgement.faults


async def _converse(session: RealtimeSession, lines: list[Samples], backchannel: Samples) -> Judgement:
    first = session.say(lines[0])
    await _into_reply(session)
    hummed = session.say(backchannel)
    await _until_quiet(session, replies=1)
    second = session.say(lines[1])
    await _into_reply(session)
    third = session.say(lines[2])
    await _until_quiet(session, replies=3)
    turns = turns_of(session, list(zip((line.text for line in LINES), (first, second, third), strict=True)))
    return Judgement(
        turns, interruption=overlap_of(session, third, turns[1]), backchannel=overlap_of(session, hummed, turns[0])
    )


async def _into_reply(session: RealtimeSession) -> None:
    """Wait until the next reply has sounded for a while."""
    begun = await session.expect(_FIRST_SOUND, since=len(session.events), within_s=_REPLY_S)
    await asyncio.sleep(begun.at_s + _INTO_REPLY_S - session.now_s)


async def _until_quiet(session: RealtimeSession, *, replies: int) -> None:
    """Wait until so many replies are over, of the whole conversation, and have sounded, and a little longer."""
    over = 0
    async for event in session.follow():
        over += event.type == "response.done"
        if over == replies:
            break
    await asyncio.sleep(max(0.0, session.speaker.end_s - session.now_s) + _BETWEEN_S)


# --- the user's voice -----------------------------------------------------------------------------------------------


async def _voiced(server: Server, line: Script, console: Console) -> Samples:
    """A line as sound at 24 kHz: a human's where a recording is at hand, else the server's own voice."""
    recording = next(_recordings(line.recording), None) if line.recording else None
    if recording is not None:
        return await asyncio.to_thread(read_audio, recording, RATE_HZ)
    if line.recording:
        console.print(f"No recording of a human is at hand ({line.recording}): the server's voice says its line.")
    return pcm_to_float(b"".join([piece async for piece in server.speech(line.text, format="pcm")]))


def _recordings(name: str) -> Iterator[Path]:
    for folder in speech_folders():
        yield from sorted(folder.rglob(name))


async def _heard_back(server: Server, session: RealtimeSession, turn: Turn) -> str:
    """A reply's sound, transcribed."""
    pcm = b"".join(float_to_pcm(piece.samples) for piece in session.speaker.pieces(turn.reply_item))
    if not turn.reply_item or not pcm:
        return ""
    return (await server.transcribe(wav_header(RATE_HZ, len(pcm)) + pcm, format="text")).strip()


# --- what came of it ------------------------------------------------------------------------------------------------


def _print(judgement: Judgement, console: Console) -> None:
    console.print()
    for turn in judgement.turns:
        stopped = " [yellow]⏹[/]" if turn.reply_status == "cancelled" else ""
        console.print(f"[green]you[/]       {escape(turn.heard)}", highlight=False)
        console.print(f"[cyan]antiphon[/]  {escape(turn.reply)}{stopped}", highlight=False)
    table = Table("latency", "ms", box=None, header_style="bold", pad_edge=False)
    table.columns[1].justify = "right"
    for name, value in _latencies(judgement):
        table.add_row(name, "-" if value is None else f"{value:.0f}")
    console.print()
    console.print(table)
    console.print(
        f"\nword errors: {judgement.word_error_rate:.0%} of the user's words, "
        f"{judgement.reply_word_error_rate:.0%} of the replies', transcribed back",
        highlight=False,
    )


def _latencies(judgement: Judgement) -> Iterator[tuple[str, float | None]]:
    for number, turn in enumerate(judgement.turns, 1):
        yield f"turn {number}: voice to voice", turn.voice_to_voice_ms
        yield f"turn {number}: end of speech to transcript", turn.transcript_ms
    yield "interruption: onset to ducked", judgement.interruption.ducked_ms
    yield "interruption: onset to silence", judgement.interruption.silent_ms
    yield "mm-hm: onset to ducked", judgement.backchannel.ducked_ms
    yield "mm-hm: onset to full voice again", judgement.backchannel.resumed_ms


def _write(session: RealtimeSession, judgement: Judgement, out: Path) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    sound, figures, *pictures = (
        out / name for name in ("conversation.wav", "conversation.json", "timeline.svg", "timeline.png")
    )
    tapes = stereo(session.microphone.recording(), session.speaker.recording())
    write_wav(sound, tapes, RATE_HZ, channels=2)
    draw(session, judgement.turns, pictures)
    events = [event for event in session.events if event.type != _FIRST_SOUND]
    told = {
        **asdict(judgement),
        "latencies_ms": dict(_latencies(judgement)),
        "events": [{"at_s": round(event.at_s, 4), **event.body} for event in events],
    }
    figures.write_text(json.dumps(told, indent=2))
    return [sound, figures, *pictures]
