"""One client's session: a conversation at one end, a socket at the other."""

import asyncio
import json
import logging
from dataclasses import dataclass, replace

from aiohttp import WSMessage, WSMsgType, web

from antiphon.contracts.adapters import VadStream
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation import events
from antiphon.conversation.engine import ClientError, Conversation
from antiphon.conversation.items import new_id
from antiphon.conversation.states import State
from antiphon.orchestrator.admission import EventRate
from antiphon.orchestrator.context import Context
from antiphon.orchestrator.holds import Content, Hold
from antiphon.orchestrator.transports.websocket import binary
from antiphon.orchestrator.transports.websocket.client_events import AppendAudio, InvalidEvent, decode
from antiphon.orchestrator.transports.websocket.commands import Commands
from antiphon.orchestrator.transports.websocket.item_json import item_json
from antiphon.orchestrator.transports.websocket.outbox import Outbox, Outgoing
from antiphon.orchestrator.transports.websocket.server_events import (
    JsonObject,
    ServerEvents,
    error_event,
    server_event,
)
from antiphon.orchestrator.transports.websocket.session_record import (
    history_json,
    items_of,
    owed_of,
    settings_json,
)
from antiphon.orchestrator.transports.websocket.session_resource import SessionResource

logger = logging.getLogger(__name__)

CLOSE_S = 2.0
"""How long what is queued, and then the closing handshake, may take once the session is over."""
LULL_S = 0.3
"""How long nobody has said anything when a client is sent elsewhere: what it has just sent would be lost on the way."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session ends: a WebSocket close code (RFC 6455, section 7.4) and a word for log and metric."""

    code: int
    reason: str


CLOSED = Ending(1000, "closed")
EXPIRED = Ending(1000, "session_expired")
TAKEN = Ending(1000, "session_taken")
TOO_SLOW = Ending(1008, "too_slow")
TOO_MANY_EVENTS = Ending(1008, "too_many_events")
TOO_BIG = Ending(1009, "message_too_big")
FAULT = Ending(1011, "internal_error")
DRAINED = Ending(1012, "draining")


class Connection:
    """A session over one WebSocket: `run` it once."""

    def __init__(
        self, ws: web.WebSocketResponse, context: Context, session: SessionResource, vad: VadStream, hold: Hold
    ) -> None:
        self._ws = ws
        self._context = context
        self._metrics = context.metrics
        server = context.config.server
        self._rate = EventRate(server.events_per_s, server.event_burst)
        self._outbox = Outbox(server.send_queue_events, context.metrics)
        self._ending: Ending | None = None
        self._over = asyncio.Event()
        self._resting = asyncio.Event()
        self._resting.set()
        self._leaving = False
        self._turns = 0
        """And whatever else the client asked for: grows while it does not rest."""
        self._reply_generation = 0
        self._reply_item = ""
        self._shown: dict[str, str] = {}
        """What the client was given of the latest reply's words."""
        self._hold = hold
        history, owed = items_of(hold.record.history), owed_of(hold.record)
        ports = replace(context.ports(session.assistant), ownership=hold)
        self._conversation = Conversation(session.settings, ports, vad, self._tell, history, owed)
        self._commands = Commands(self._conversation, session, self._send)
        self._translator = ServerEvents(lambda: self._commands.session, new_id("conv"), extended=session.extended)
        self._fields = {"session_id": session.settings.session_id, "assistant": session.assistant}

    async def run(self) -> None:
        """Converse until either side, a limit or a drain ends it; the socket is closed when this returns."""
        logger.info("session resumed" if self._hold.resumed else "session began", extra=self._fields)
        self._hold.attach(self._content, self._take_leave)
        self._greet()
        try:
            async with asyncio.TaskGroup() as tasks:
                converse = tasks.create_task(self._conversation.run(), name="converse")
                others = [
                    tasks.create_task(self._receive(), name="receive"),
                    tasks.create_task(self._drain(), name="drain"),
                    tasks.create_task(self._obey(), name="obey"),
                ]
                send = tasks.create_task(self._send_all(), name="send")
                await self._over.wait()
                self._conversation.close()
                for task in others:
                    task.cancel()
                await asyncio.wait([converse])
                self._outbox.end()
                await asyncio.wait([send], timeout=CLOSE_S)
                send.cancel()
        except* Exception as group:
            self._ending = FAULT
            logger.error("session failed", extra=self._fields, exc_info=group)
        finally:
            await self._close()

    def _greet(self) -> None:
        session = self._commands.session
        shown = session.as_json()
        if session.extended:
            shown["antiphon"] = {"resume_s": self._hold.resume_s}
        self._send(server_event("session.created", session=shown))
        if self._hold.resumed:
            self._metrics.sessions_resumed.inc()
        if self._hold.resumed and session.extended:
            heard = session.settings.transcription
            items = [item_json(item, transcription=heard) for item in self._conversation.history]
            owed = self._conversation.owed is not None
            self._send(server_event("antiphon.session.resumed", items=items, reply_owed=owed))

    # --- from the client ----------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        """Take the client's messages, one after the other, until it goes."""
        async for message in self._ws:
            if message.type is WSMsgType.ERROR:
                too_big = getattr(message.data, "code", None) == TOO_BIG.code
                return self._end(TOO_BIG, limit="max_message_bytes") if too_big else self._end(CLOSED)
            if not self._rate.allow(self._context.clock.now()):
                self._refuse(ClientError("rate_limit_exceeded", "Too many events in too short a time."))
                return self._end(TOO_MANY_EVENTS, limit="events_per_s")
            if not self._over.is_set():
                await self._take(message)
            await asyncio.sleep(0)  # messages that came together: their answers leave in between
        self._end(CLOSED)

    async def _take(self, message: WSMessage) -> None:
        event_id = None
        try:
            if message.type is WSMsgType.TEXT:
                event = decode(message.data)
                event_id, before = event.event_id, self._commands.session
                self._turns += not isinstance(event, AppendAudio)
                await self._commands.execute(event)
                if self._commands.session is not before:
                    self._hold.changed(settled=True)
            elif not self._commands.session.extended:
                raise ClientError("invalid_value", f"Binary messages need the subprotocol {binary.SUBPROTOCOL}.")
            else:
                await self._commands.hear_frame(message.data)
        except InvalidEvent as error:
            self._refuse(error, error.event_id)
        except ClientError as error:
            self._refuse(error, event_id)

    def _refuse(self, error: ClientError, event_id: str | None = None) -> None:
        self._metrics.errors.labels(error.reason.value).inc()
        self._send(error_event(error, event_id))

    # --- to the client ------------------------------------------------------------------------------------------------

    def _tell(self, event: events.Event) -> None:
        """What the conversation calls with each of its events."""
        match event:
            case events.OutputAudio():
                return self._play(event)
            case events.ItemTruncated(item_id=item_id) if item_id == self._reply_item:
                self._outbox.void(self._reply_generation)
            case events.StateChanged(old, State.IDLE):
                self._resting.set()
                if self._leaving and old is State.THINKING and self._commands.session.kind == "transcription":
                    self._end(DRAINED)  # it is said and written down, and no reply will give a rest
            case events.StateChanged():
                self._turns += self._resting.is_set()
                self._resting.clear()
            case (
                events.OutputTranscript(item_id=item_id, delta=delta) | events.OutputText(item_id=item_id, delta=delta)
            ):
                self._shown = {item_id: self._shown.get(item_id, "") + delta}
            case events.TurnCompleted(timeline):
                self._metrics.turn(timeline)
                logger.info("turn completed", extra={**self._fields, **timeline.as_dict()})
            case events.Problem(error, source):
                self._metrics.errors.labels(error.reason.value).inc()
                logger.warning("problem", extra={**self._fields, "source": source, "reason": error.reason.value})
            case events.ReplyOwed():
                return self._end(DRAINED)
            case events.ConversationEnded(reason):
                if reason != "closed":
                    self._end(EXPIRED)
            case _:
                pass
        self._keep(event)
        for translated in self._translator.translate(event):
            self._send(translated)

    def _play(self, event: events.OutputAudio) -> None:
        session = self._commands.session
        new = event.item_id != self._reply_item
        if new:
            self._hold.changed(settled=True)  # from now on this reply is not owed
        self._reply_generation, self._reply_item = event.generation, event.item_id
        if not session.extended:
            for translated in self._translator.translate(event):
                self._send(translated, event.generation)
            return
        if new:
            for started in self._translator.reply_started(event):
                self._send(started)
        audio = session.output_format.from_pcm(event.pcm)
        frame = binary.AudioFrame(binary.REPLY_AUDIO, event.generation, event.position_samples, audio)
        self._put(Outgoing(binary.pack(frame), event.generation))

    def _send(self, event: JsonObject, generation: int | None = None) -> None:
        self._put(Outgoing(json.dumps(event), generation))

    def _put(self, message: Outgoing) -> None:
        if not self._outbox.put(message):
            self._end(TOO_SLOW, limit="send_queue_events")

    async def _send_all(self) -> None:
        """Send what is queued; a socket that is gone ends the session."""
        try:
            while (message := await self._outbox.get()) is not None:
                if isinstance(message.payload, bytes):
                    await self._ws.send_bytes(message.payload)
                else:
                    await self._ws.send_str(message.payload)
        except ConnectionError:
            self._end(CLOSED)

    # --- the record ---------------------------------------------------------------------------------------------------

    def _content(self) -> Content:
        """What another connection would need to go on with this session."""
        history = self._conversation.history if self._hold.record.transcripts_kept else ()
        owed = self._conversation.owed if self._hold.record.transcripts_kept else None
        return settings_json(self._commands.session, owed), history_json(history, self._shown)

    def _keep(self, event: events.Event) -> None:
        """Have written what an event has changed."""
        match event:
            case events.StateChanged() | events.TranscriptPartial():
                pass
            case (
                events.ItemDone()
                | events.ItemDeleted()
                | events.ItemTruncated()
                | events.TurnCompleted()
                | events.OutputMessageStarted()
                | events.FunctionCallStarted()
            ):
                self._hold.changed(settled=True)
            case _:
                self._hold.changed()

    def _take_leave(self) -> None:
        """A newer connection has this session."""
        self._send(error_event(ClientError("session_taken", "Another connection goes on with this session.")))
        self._end(TAKEN)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """When the process is told to go: let the turn end, then send the client elsewhere.

        What it asks for meanwhile is answered there: some clients never rest.
        """
        await self._context.admission.wait_draining()
        if self._hold.resume_s and self._hold.record.transcripts_kept:
            self._leaving = True
            self._conversation.leave()
        while True:
            await self._resting.wait()
            turns = self._turns
            await asyncio.sleep(LULL_S)
            if self._resting.is_set() and self._turns == turns:
                return self._end(DRAINED)

    async def _obey(self) -> None:
        """When the grace is over: send the client elsewhere now."""
        await self._context.admission.wait_closed()
        self._end(DRAINED)

    def _end(self, ending: Ending, *, limit: str | None = None) -> None:
        """End the session; the first reason stands."""
        if self._ending is None:
            self._ending = ending
            if limit is not None:
                self._metrics.refusals.labels(limit).inc()
        self._over.set()

    async def _close(self) -> None:
        # Without a reason of its own it was cut off: the process did not wait for its sessions.
        ending = self._ending or DRAINED
        self._metrics.sessions_ended.labels(ending.reason).inc()
        logger.info("session ended", extra={**self._fields, "reason": ending.reason})
        # Before the client is let go: it may be elsewhere within milliseconds.
        await (self._hold.end() if ending is EXPIRED else self._hold.release())
        try:
            async with asyncio.timeout(CLOSE_S):
                if ending is DRAINED and self._commands.session.extended and not self._ws.closed:
                    await self._ws.send_str(json.dumps(self._moving()))
                if ending is FAULT and not self._ws.closed:
                    failure = AntiphonError(Reason.INTERNAL, "The session failed; the server's log says why.")
                    await self._ws.send_str(json.dumps(error_event(failure)))
                await self._ws.close(code=ending.code, message=ending.reason.encode())
        except (TimeoutError, ConnectionError):
            pass

    def _moving(self) -> JsonObject:
        session_id = self._commands.session.settings.session_id
        return server_event("antiphon.session.moving", session_id=session_id, resume_s=self._hold.resume_s)
