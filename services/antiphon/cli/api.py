"""The HTTP side of a server, as its command line uses it: OpenAI's audio API."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from antiphon.cli.link import api_base, unreachable
from antiphon.contracts.errors import MEANINGS, AntiphonError, Reason

_PIECE_BYTES = 16_384
_CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is and how to enter."""

    url: str
    """Its base, such as `http://127.0.0.1:8080`."""
    key: str = ""

    async def speech(self, text: str, *, format: str = "pcm", **options: str | float) -> AsyncIterator[bytes]:
        """`text`, spoken: pieces of a file of `format`, as they are synthesised (`pcm`: 24 kHz, mono, s16le).

        Args:
            text: What to say.
            format: wav, pcm, mp3, opus, flac or aac.
            options: Other fields of the request: `model`, `voice`, `speed`.

        Raises:
            AntiphonError: With the server's own sentence, or one that says how to start it.
        """
        body = {"model": "default", "voice": "default", **options, "input": text, "response_format": format}
        async with self._post("/audio/speech", json=body) as response:
            async for piece in response.content.iter_chunked(_PIECE_BYTES):
                yield piece

    async def transcribe(self, file: Path | bytes, *, format: str = "json", **options: str) -> str:
        """What is said in a recording (a file, or a file's bytes), in the form asked for.

        Args:
            file: Any common container.
            format: json, text, srt, vtt or verbose_json.
            options: Other fields of the request: `model`, `language`.

        Raises:
            AntiphonError: When the file cannot be read, or with the server's own sentence.
        """
        form = aiohttp.FormData({"model": "default", **options, "response_format": format})
        form.add_field(
            "file",
            await asyncio.to_thread(_content, file),
            filename=file.name if isinstance(file, Path) else "speech.wav",
        )
        async with self._post("/audio/transcriptions", data=form) as response:
            return await response.text()

    @asynccontextmanager
    async def _post(
        self, path: str, *, json: Mapping[str, object] | None = None, data: aiohttp.FormData | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=timeout) as http,
                http.post(f"{api_base(self.url)}{path}", json=json, data=data) as response,
            ):
                if response.status != 200:
                    raise await _refusal(response)
                yield response
        except aiohttp.ClientConnectorError as error:
            raise unreachable(self.url) from error
        except aiohttp.ClientError as error:
            raise AntiphonError(Reason.WORKER_LOST, f"The connection to {self.url} broke: {error}.") from error


def _content(file: Path | bytes) -> bytes:
    if isinstance(file, bytes):
        return file
    try:
        return file.read_bytes()
    except OSError as error:
        raise AntiphonError(Reason.INVALID_REQUEST, f"Cannot read {file}: {error.strerror}.") from error


async def _refusal(response: aiohttp.ClientResponse) -> AntiphonError:
    """The error in an OpenAI-shaped body, or one that its status tells."""
    try:
        error = (await response.json())["error"]
        reason = next((reason for reason in MEANINGS if reason.value == error.get("code")), Reason.INTERNAL)
        return AntiphonError(reason, str(error["message"]))
    except (aiohttp.ClientError, ValueError, KeyError, TypeError, AttributeError):
        return AntiphonError(Reason.INTERNAL, f"The server answered {response.status} {response.reason}.")
