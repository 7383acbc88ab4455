"""`antiphon talk`: a conversation by microphone, by file or by typing, with both transcripts as they come."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from antiphon.audio.files import read_audio, write_wav
from antiphon.audio.pcm import float_to_pcm
from antiphon.cli.api import Server
from antiphon.cli.realtime import LOST, RATE_HZ, RESUMED, RealtimeSession, Received, connect
from antiphon.cli.sound import Loudspeaker, microphone
from antiphon.contracts.errors import AntiphonError, Reason

_REPLY_S = 60.0
_EVENTS = 1000
"""Kept of a conversation that may last for hours; they are printed as they come."""
_LOADING = "antiphon.model.loading"
_HEARD = "conversation.item.input_audio_transcription.completed"


async def talk(server: Server, *, assistant: str, input: Path | None, output: Path | None, text: str | None) -> None:
    """Hold a conversation: one spoken or typed turn for `input` or `text`, else by microphone until interrupted.

    Raises:
        AntiphonError: When the server refuses or fails, a file cannot be read, or there is no sound device.
    """
    if input is not None and text is not None:
        raise AntiphonError(Reason.INVALID_REQUEST, "A turn is spoken or typed: give --input or --text, not both.")
    samples = None if input is None else await asyncio.to_thread(read_audio, input, RATE_HZ)
    async with AsyncExitStack() as stack:
        aloud = input is None and text is None
        loudspeaker = stack.enter_context(Loudspeaker.opened(keeps=output is not None)) if aloud else None
        session = await stack.enter_async_context(
            connect(
                server.url,
                key=server.key,
                assistant=assistant,
                extension=True,
                speaker=loudspeaker,
                most_events=_EVENTS,
            )
        )
        console = Console()
        await stack.enter_async_context(_beside(_print_transcripts(session, console), "transcripts"))
        if text is not None:
            await session.say_text(text)
            await _reply(session)
        elif samples is not None:
            await stack.enter_async_context(_beside(session.stream_microphone(), "microphone"))
            session.say(samples)
            await _reply(session)
        else:
            console.print("Speak; interrupt it whenever you like. Ctrl-C ends the conversation.")
            await _by_microphone(session)
        if output is not None:
            await asyncio.to_thread(write_wav, output, float_to_pcm(_spoken(session)), RATE_HZ)
            console.print(f"Wrote {output}.", highlight=False)


async def _by_microphone(session: RealtimeSession) -> None:
    async with microphone() as heard:
        async for samples in heard:
            await session.send_audio(samples)


async def _reply(session: RealtimeSession) -> None:
    """Wait until the reply has been spoken, or until it is clear that there will be none."""
    done = await session.expect("response.done", "error", within_s=_REPLY_S)
    if done.type == "error":
        raise AntiphonError(Reason.INTERNAL, f"The server says: {done.body['error'].get('message')}")
    status = done.body["response"]
    if status["status"] == "failed":
        error = (status.get("status_details") or {}).get("error") or {}
        raise AntiphonError(Reason.RESPONDER_FAILED, f"The reply failed: {error.get('message') or error.get('code')}.")
    await asyncio.sleep(max(0.0, session.speaker.end_s - session.now_s))


def _spoken(session: RealtimeSession) -> Any:
    """What the speaker played, from its first sound on."""
    pieces = session.speaker.pieces()
    return session.speaker.recording()[round(pieces[0].start_s * RATE_HZ) :] if pieces else session.speaker.recording()


async def _print_transcripts(session: RealtimeSession, console: Console) -> None:
    """What either side says, as it is known; the reply's words come with their sound."""
    line_open = False
    async for event in session.follow():
        words = _words(event)
        if event.type == "response.output_audio_transcript.delta":
            console.print(escape(words) if line_open else f"[cyan]antiphon[/]  {escape(words).lstrip()}", end="")
            line_open = True
        elif words or event.type == "response.done":
            if line_open:
                console.print()
            line_open = False
            if words:
                console.print(words, highlight=False)


def _words(event: Received) -> str:
    if event.type == "response.output_audio_transcript.delta":
        return str(event.body["delta"])
    if event.type == _HEARD:
        return f"[green]you[/]       {escape(event.body['transcript'].strip())}"
    if event.type == _LOADING:
        return f"[yellow]{escape(_loading(event))}[/]"
    if event.type == LOST:
        return "[yellow]the connection is lost: coming back …[/]"
    if event.type == RESUMED:
        return "[yellow]the conversation goes on[/]"
    if event.type == "error":
        return f"[red]error[/]     {escape(str(event.body['error'].get('message')))}"
    return ""


def _loading(event: Received) -> str:
    """How far the load of a model is, and who serves meanwhile."""
    model, fallback = event.body["model"], event.body.get("fallback")
    does = "speaks" if event.body.get("task") == "tts" else "listens"
    meanwhile = f"{fallback} {does} meanwhile" if fallback else "one moment"
    return f"{model} is being loaded ({float(event.body['progress']):.0%}): {meanwhile}"


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """`work` as a task beside the block, ended with it; what it raises ends the block."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work, name=name)
        try:
            yield
        finally:
            task.cancel()
