"""A Realtime client: speaks OpenAI's Realtime events to this server, or to any other."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from antiphon.audio.pcm import Samples, float_to_pcm, pcm_to_float
from antiphon.cli.link import Link
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
LOST, RESUMED = "client.connection_lost", "client.connection_resumed"
"""Events of this client's own, between those of the server."""
_OPEN_S = 10.0


@dataclass(frozen=True, slots=True)
class Received:
    """A server event and when it came, in seconds from the session's start. Audio is taken out of `body`.

    Between them stand `LOST` and `RESUMED`.
    """

    at_s: float
    type: str
    body: Mapping[str, Any]


class RealtimeSession:
    """A session as a person's client holds it: a microphone that streams, a speaker that plays, events in order.

    Made by `connect`. The speaker falls silent at `speech_started`, and says so to the server, as stock clients do.
    When the connection breaks, or the server sends it elsewhere, it comes back to the session by itself; what is said
    meanwhile is sent then.
    """

    def __init__(
        self,
        link: Link,
        speaker: Speaker,
        *,
        most_events: int | None = None,
    ) -> None:
        self.events: list[Received] = []
        """All that came; with `most_events`, only so many of the newest."""
        self._most_events = most_events
        self._forgotten = 0
        self.microphone = Microphone(RATE_HZ)
        self.speaker = speaker
        self._link = link
        link.on_change = self._on_change
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
        await self._link.send(json.dumps(event))

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
        if self._link.protocol == EXTENSION:
            await self._link.send(HEADER.pack(VERSION, USER_AUDIO, 0, 0, self._sent_samples) + float_to_pcm(samples))
        else:
            await self.send(
                {"type": "input_audio_buffer.append", "audio": base64.b64encode(float_to_pcm(samples)).decode()}
            )
        self._sent_samples += len(samples)

    async def receive(self) -> None:
        """Take in what the server sends, until it closes the session or this is cancelled."""
        try:
            async for message in self._link.messages():
                if message.type is aiohttp.WSMsgType.TEXT:
                    await self._take(json.loads(message.data))
                elif message.type is aiohttp.WSMsgType.BINARY:
                    self._take_binary(message.data)
        except AntiphonError as error:
            self._ended = error
        except (ValueError, KeyError, struct.error) as error:
            self._ended = AntiphonError(Reason.INTERNAL, f"The server does not speak Realtime: {error!r}.")
        finally:
            self._arrived.set()

    def _on_change(self, connected: bool) -> None:
        self._keep(Received(self.now_s, RESUMED if connected else LOST, {}))

    async def _take(self, body: dict[str, Any]) -> None:
        event = Received(self.now_s, body.get("type", ""), body)
        if event.type == "response.output_audio.delta":
            self._play(body["item_id"], base64.b64decode(body.pop("delta")))
        elif event.type == "response.output_item.added" and body["item"].get("type") == "message":
            self._reply_item = body["item"]["id"]
        elif event.type == "session.created":
            self._begin_or_go_on(str(body["session"].get("id") or ""))
        elif event.type == "input_audio_buffer.speech_started":
            await self._yield_to_user()
        self._keep(event)

    def _begin_or_go_on(self, session_id: str) -> None:
        if self._link.session_id not in ("", session_id):
            raise AntiphonError(
                Reason.SESSION_UNKNOWN, "The server began anew: it does not know this session any more."
            )
        self._link.session_id = session_id

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
            truncate = {"type": "conversation.item.truncate", "item_id": item_id, "content_index": 0}
            await self._link.send(json.dumps({**truncate, "audio_end_ms": heard_ms}), patient=False)


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
        extension: Speak `antiphon.v1` beside plain Realtime, where the server does.
        session: Settings for a `session.update` to begin with.
        speaker: What plays the reply; one that only keeps it, unless given.
        most_events: How many events are kept; None: all, for a session of minutes that is looked at afterwards.

    Raises:
        AntiphonError: With a sentence that says what to do, when the server cannot be reached or refuses.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    protocols = (EXTENSION, "realtime") if extension else ()
    async with aiohttp.ClientSession(headers=headers) as http:
        link = Link(http, url, {"model": assistant}, protocols)
        await link.open()
        client = RealtimeSession(link, speaker or Speaker(RATE_HZ), most_events=most_events)
        receiving = asyncio.create_task(client.receive(), name="receive")
        try:
            await client.begin(session)
            yield client
        finally:
            try:
                await link.close()
            finally:
                receiving.cancel()
                await asyncio.wait((receiving,))
