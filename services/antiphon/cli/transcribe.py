"""`antiphon transcribe`: a recording to text."""

from pathlib import Path

from antiphon.cli.api import Server


async def transcribe(server: Server, file: Path, *, format: str, **options: str) -> None:
    """Print what is said in `file`, as plain text or in the format asked for."""
    print((await server.transcribe(file, format=format, **options)).strip())
