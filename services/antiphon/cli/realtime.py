"""A Realtime client: speaks OpenAI's Realtime events to this server, or to any other."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp

from antiphon.audio.pcm import Samples, float_to_pcm, pcm_to_float
from antiphon.cli.playout import Line, Microphone, Speaker
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.frames import FRAME_MS

RATE_HZ = 24_000
"""The rate of Realtime audio, unless our own extension asks for another."""
EXTENSION = "antiphon.v1"
"""The subprotocol that brings `antiphon.*` events and binary audio."""
HEADER = struct.Struct("!BBHIQ")
"""Of a binary message: version, kind, flags, generation, sample position."""
VERSION, USER_AUDIO, REPLY_AUDIO = 1, 1, 2
_MESSAGE_BYTES = 64 * 2**20
_OPEN_S = 10.0
_CLOSE_S = 3.0


@dataclass(frozen=True, slots=True)
class Received:
    """A server event and when it came, in seconds from the session's start. Audio is taken out of `body`."""

    at_s: float
    type: str
    body: Mapping[str, Any]


class RealtimeSession:
    """A session as a person's client holds it: a microphone that streams, a speaker that plays, events in order.

    Made by `connect`. The speaker falls silent at `speech_started`, and says so to the server, as stock clients do.
    """

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        speaker: Speaker,
        *,
        extension: bool = False,
        most_events: int | None = None,
    ) -> None:
        self.events: list[Received] = []
        """All that came; with `most_events`, only so many of the newest."""
        self._most_events = most_events
        self._forgotten = 0
        self.microphone = Microphone(RATE_HZ)
        self.speaker = speaker
        self._socket = socket
        self._extension = extension
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._arrived = asyncio.Event()
        self._ended: AntiphonError | None = None
        self._reply_item = ""
        self._sent_samples = 0

    @property
    def now_s(self) -> float:
        """Seconds since the session's start."""
        return self._loop.time() - self._start

    async def send(self, event: Mapping[str, Any]) -> None:
        """Send a client event. Raises `AntiphonError(WORKER_LOST)` when the server has closed the session."""
        await self._write(json.dumps(event))

    async def begin(self, settings: Mapping[str, Any] | None) -> None:
        """Wait until the session stands, with these settings where there are any."""
        await self._granted("session.created")
        if settings is not None:
            await self.send({"type": "session.update", "session": {"type": "realtime", **settings}})
            await self._granted("session.updated")

    async def _granted(self, type: str) -> None:
        event = await self.expect(type, "error", within_s=_OPEN_S)
        if event.type == "error":
            raise AntiphonError(Reason.INVALID_REQUEST, f"The server says: {event.body['error'].get('message')}")

    def say(self, samples: Samples) -> Line:
        """Say something into the microphone: float32, mono, 24 kHz; returns when it is heard."""
        return self.microphone.say(samples)

    async def say_text(self, text: str) -> None:
        """Type a message and ask for the reply."""
        content = [{"type": "input_text", "text": text}]
        await self.send(
            {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": content}}
        )
        await self.send({"type": "response.create"})

    async def follow(self, since: int = 0) -> AsyncIterator[Received]:
        """Every event from number `since` on, as it comes; who is too slow misses those that are no longer kept.

        Raises `AntiphonError` when the server ends the session.
        """
        while True:
            while since < self._forgotten + len(self.events):
                since = max(since, self._forgotten)
                yield self.events[since - self._forgotten]
                since += 1
            if self._ended is not None:
                raise self._ended
            self._arrived.clear()
            await self._arrived.wait()

    async def expect(
        self, *types: str, since: int = 0, within_s: float, where: Callable[[Received], bool] = lambda _: True
    ) -> Received:
        """The first event of these types from number `since` on.

        Raises `AntiphonError(TIMEOUT)` when none came in time, or what the server said when it ended the session.
        """
        try:
            async with asyncio.timeout(within_s):
                async for event in self.follow(since):
                    if event.type in types and where(event):
                        return event
        except TimeoutError:
            pass
        raise AntiphonError(Reason.TIMEOUT, f"The server sent no {' or '.join(types)} within {within_s:g} s.")

    async def stream_microphone(self) -> None:
        """Send what the microphone hears, 20 ms every 20 ms, each frame once its last sample was recorded.

        Deadlines are absolute. Ends when cancelled.
        """
        self.microphone.start_s = self.now_s
        while True:
            await asyncio.sleep(max(0.0, self.microphone.position_s + FRAME_MS / 1000 - self.now_s))
            await self.send_audio(self.microphone.frame())

    async def send_audio(self, samples: Samples) -> None:
        """Send the user's next samples: float32, mono, 24 kHz."""
        if self._extension:
            await self._write(HEADER.pack(VERSION, USER_AUDIO, 0, 0, self._sent_samples) + float_to_pcm(samples))
        else:
            await self.send(
                {"type": "input_audio_buffer.append", "audio": base64.b64encode(float_to_pcm(samples)).decode()}
            )
        self._sent_samples += len(samples)

    async def receive(self) -> None:
        """Take in what the server sends, until it closes the session or this is cancelled."""
        try:
            async for message in self._socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    await self._take(json.loads(message.data))
                elif message.type is aiohttp.WSMsgType.BINARY:
                    self._take_binary(message.data)
            self._ended = _closed(self._socket)
        except (ValueError, KeyError, struct.error) as error:
            self._ended = AntiphonError(Reason.INTERNAL, f"The server does not speak Realtime: {error!r}.")
        finally:
            self._arrived.set()

    async def _write(self, message: str | bytes) -> None:
        try:
            await (self._socket.send_str(message) if isinstance(message, str) else self._socket.send_bytes(message))
        except (ConnectionError, aiohttp.ClientError):
            raise self._ended or AntiphonError(Reason.WORKER_LOST, "The server closed the session.") from None

    async def _take(self, body: dict[str, Any]) -> None:
        event = Received(self.now_s, body.get("type", ""), body)
        if event.type == "response.output_audio.delta":
            self._play(body["item_id"], base64.b64decode(body.pop("delta")))
        elif event.type == "response.output_item.added" and body["item"].get("type") == "message":
            self._reply_item = body["item"]["id"]
        elif event.type == "input_audio_buffer.speech_started":
            await self._yield_to_user()
        self._keep(event)

    def _take_binary(self, message: bytes) -> None:
        _, kind, _, generation, position = HEADER.unpack_from(message)
        if kind != REPLY_AUDIO:
            return
        self._play(self._reply_item, message[HEADER.size :])
        body = {"item_id": self._reply_item, "generation": generation, "position_samples": position}
        self._keep(Received(self.now_s, "response.output_audio.delta", body))

    def _keep(self, event: Received) -> None:
        self.events.append(event)
        if self._most_events is not None and len(self.events) > self._most_events:
            del self.events[0]
            self._forgotten += 1
        self._arrived.set()

    def _play(self, item_id: str, pcm: bytes) -> None:
        self.speaker.play(item_id, pcm_to_float(pcm), self.now_s)

    async def _yield_to_user(self) -> None:
        dropped = self.speaker.drop(self.now_s)
        if dropped is not None:
            item_id, heard_ms = dropped
            truncate = {"item_id": item_id, "content_index": 0, "audio_end_ms": heard_ms}
            await self.send({"type": "conversation.item.truncate", **truncate})


@asynccontextmanager
async def connect(
    url: str,
    *,
    assistant: str = "default",
    key: str = "",
    extension: bool = False,
    session: Mapping[str, Any] | None = None,
    speaker: Speaker | None = None,
    most_events: int | None = None,
) -> AsyncIterator[RealtimeSession]:
    """An open session, whose events are taken in until the block ends.

    Args:
        url: The server's base, such as `http://127.0.0.1:8080` or `https://host/v1`.
        assistant: The Realtime API's `model`.
        key: An API key, where the server wants one.
        extension: Speak `antiphon.v1` beside plain Realtime.
        session: Settings for a `session.update` to begin with.
        speaker: What plays the reply; one that only keeps it, unless given.
        most_events: How many events are kept; None: all, for a session of minutes that is looked at afterwards.

    Raises:
        AntiphonError: With a sentence that says what to do, when the server cannot be reached or refuses.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    protocols = ("realtime", EXTENSION) if extension else ()
    address = f"{api_base(url)}/realtime?{urlencode({'model': assistant})}"
    async with aiohttp.ClientSession(headers=headers) as http:
        try:
            socket = await http.ws_connect(address, protocols=protocols, max_msg_size=_MESSAGE_BYTES)
        except aiohttp.WSServerHandshakeError as error:
            raise _refused(error.status, url) from None
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(url) from error
        client = RealtimeSession(socket, speaker or Speaker(RATE_HZ), extension=extension, most_events=most_events)
        receiving = asyncio.create_task(client.receive(), name="receive")
        try:
            await client.begin(session)
            yield client
        finally:
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_CLOSE_S):
                        await socket.close()
            finally:
                receiving.cancel()
                await asyncio.wait((receiving,))


def api_base(url: str) -> str:
    """The address under which a server's API stands: `/v1`, unless the URL has a path of its own."""
    base = url.rstrip("/")
    return base if base.count("/") > 2 else f"{base}/v1"


def unreachable(url: str) -> AntiphonError:
    """The error for a server that does not answer."""
    return AntiphonError(
        Reason.NO_WORKER, f"Nothing answers at {url}: start it with `antiphon up`, or name another with --url."
    )


def _refused(status: int, url: str) -> AntiphonError:
    if status in (401, 403):
        return AntiphonError(Reason.UNAUTHENTICATED, f"{url} wants an API key: give it with --key or ANTIPHON_API_KEY.")
    if status == 404:
        return AntiphonError(
            Reason.MODEL_UNKNOWN, f"{url} has no such assistant: `antiphon models` lists what there is."
        )
    if status in (429, 503):
        return AntiphonError(Reason.WORKER_FULL, f"{url} takes no more sessions now: try again in a moment.")
    return AntiphonError(Reason.INTERNAL, f"{url} refused the session with HTTP {status}.")


def _closed(socket: aiohttp.ClientWebSocketResponse) -> AntiphonError:
    code = socket.close_code
    return AntiphonError(Reason.WORKER_LOST, f"The server closed the session (code {code}).")
