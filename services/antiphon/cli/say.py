"""`antiphon say`: text to a voice, out loud or into a file."""

import asyncio
from pathlib import Path

from antiphon.cli.api import Server
from antiphon.cli.sound import Loudspeaker
from antiphon.contracts.errors import AntiphonError, Reason

_FORMATS = {
    ".wav": "wav",
    ".mp3": "mp3",
    ".opus": "opus",
    ".ogg": "opus",
    ".flac": "flac",
    ".aac": "aac",
    ".pcm": "pcm",
}


async def say(server: Server, text: str, *, output: Path | None, **options: str | float) -> None:
    """Speak `text` through the loudspeaker, or into `output`, whose suffix names the format.

    Raises:
        AntiphonError: For a suffix that is no format, or whatever the server or the loudspeaker says.
    """
    if output is None:
        await _aloud(server, text, **options)
        return
    if output.suffix not in _FORMATS:
        raise AntiphonError(
            Reason.INVALID_REQUEST, f"{output} has no suffix that names a format: use {', '.join(_FORMATS)}."
        )
    pieces = [piece async for piece in server.speech(text, format=_FORMATS[output.suffix], **options)]
    await asyncio.to_thread(output.write_bytes, b"".join(pieces))


async def _aloud(server: Server, text: str, **options: str | float) -> None:
    with Loudspeaker.opened() as loudspeaker:
        odd = b""
        async for piece in server.speech(text, format="pcm", **options):
            whole = odd + piece
            odd = whole[len(whole) // 2 * 2 :]
            loudspeaker.play_pcm(whole[: len(whole) // 2 * 2])
        await loudspeaker.silent()
