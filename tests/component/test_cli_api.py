"""The HTTP client against a scripted server, and the commands that use it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from antiphon.cli.api import Server
from antiphon.cli.say import say
from antiphon.cli.transcribe import transcribe
from antiphon.contracts.errors import AntiphonError, Reason

pytestmark = pytest.mark.component

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(path: str, handler: Handler) -> AsyncIterator[Server]:
    app = web.Application()
    app.router.add_post(path, handler)
    async with TestServer(app) as server:
        yield Server(f"http://127.0.0.1:{server.port}", key="k")


async def test_a_suffix_names_the_format(tmp_path: Path) -> None:
    asked = []

    async def speak(request: web.Request) -> web.Response:
        asked.append((await request.json(), request.headers["Authorization"]))
        return web.Response(body=b"sound")

    file = tmp_path / "morning.mp3"
    async with serving("/v1/audio/speech", speak) as server:
        await say(server, "Good morning.", output=file, model="default", voice="joe", speed=1.5)
    assert await asyncio.to_thread(file.read_bytes) == b"sound"
    body, authorization = asked[0]
    assert body == {
        "input": "Good morning.",
        "model": "default",
        "voice": "joe",
        "speed": 1.5,
        "response_format": "mp3",
    }
    assert authorization == "Bearer k"


async def test_a_suffix_that_is_no_format_is_refused() -> None:
    with pytest.raises(AntiphonError, match=r"\.opus"):
        await say(Server("http://127.0.0.1:9"), "Good morning.", output=Path("morning.doc"))


async def test_a_transcript_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def hear(request: web.Request) -> web.Response:
        form = await request.post()
        assert (form["response_format"], form["language"]) == ("srt", "en")
        assert isinstance(form["file"], web.FileField)
        return web.Response(text=form["file"].file.read().decode())

    file = tmp_path / "a.wav"
    file.write_bytes(b"1\nwhat was said\n")
    async with serving("/v1/audio/transcriptions", hear) as server:
        await transcribe(server, file, format="srt", language="en")
    assert capsys.readouterr().out == "1\nwhat was said\n"


async def test_the_servers_own_sentence_is_told() -> None:
    async def refuse(_: web.Request) -> web.Response:
        error = {"message": "There is no voice 'x'.", "code": "MODEL_UNKNOWN"}
        return web.json_response({"error": error}, status=404)

    async with serving("/v1/audio/speech", refuse) as server:
        with pytest.raises(AntiphonError, match="There is no voice 'x'") as refused:
            _ = [piece async for piece in server.speech("Good morning.")]
    assert refused.value.reason is Reason.MODEL_UNKNOWN


async def test_an_answer_without_a_sentence_is_told_by_its_status() -> None:
    async def fail(_: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>")

    async with serving("/v1/audio/speech", fail) as server:
        with pytest.raises(AntiphonError, match="502"):
            _ = [piece async for piece in server.speech("Good morning.")]


async def test_nobody_there_says_how_to_start() -> None:
    with pytest.raises(AntiphonError, match="antiphon up"):
        await Server("http://127.0.0.1:9").transcribe(b"")


async def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(AntiphonError, match=r"nowhere\.wav"):
        await Server("http://127.0.0.1:9").transcribe(Path("nowhere.wav"))
