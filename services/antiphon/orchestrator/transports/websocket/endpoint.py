"""`GET /v1/realtime`: lets a client in, or says why not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from aiohttp import web

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.api_errors import error_response
from antiphon.orchestrator.auth import REALTIME_PATH, KeyRing, offered_subprotocols
from antiphon.orchestrator.config import DEFAULT
from antiphon.orchestrator.context import Context
from antiphon.orchestrator.holds import Hold
from antiphon.orchestrator.sessions import new_session_id
from antiphon.orchestrator.transports.websocket.binary import SUBPROTOCOL
from antiphon.orchestrator.transports.websocket.connection import CLOSE_S, Connection
from antiphon.orchestrator.transports.websocket.server_events import error_event
from antiphon.orchestrator.transports.websocket.session_record import session_of
from antiphon.orchestrator.transports.websocket.session_resource import SessionResource

HEARTBEAT_S = 20.0
"""Between pings: a client that vanished without a word is noticed within one and a half of these."""
WRITE_BUFFER_BYTES = 16_384
"""What may wait in the socket's own buffer, where a stopped reply's frames cannot be taken back: 0.25 s of audio."""
REALTIME_SUBPROTOCOL = "realtime"

_CLOSE_CODES = {
    Reason.UNAUTHENTICATED: 1008,
    Reason.MODEL_UNKNOWN: 1008,
    Reason.SESSION_UNKNOWN: 1008,
    Reason.WORKER_FULL: 1013,
    Reason.NO_WORKER: 1013,
    Reason.DRAINING: 1012,
}


class RealtimeEndpoint:
    """The WebSocket route."""

    def __init__(self, context: Context, keys: KeyRing) -> None:
        self._context = context
        self._keys = keys

    def routes(self) -> list[web.RouteDef]:
        """Where it is."""
        return [web.get(REALTIME_PATH, self.handle)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Hold one session. A refusal comes before the upgrade, or, for browsers, inside it."""
        try:
            caller = self._keys.caller(request)
            async with self._admitted(request, caller) as (session, hold):
                ws = self._socket(request)
                vad = await asyncio.to_thread(self._context.vad.open)  # some 20 ms, which no other session should feel
                await ws.prepare(request)
                try:
                    await Connection(ws, self._context, session, vad, hold).run()
                finally:
                    if request.transport is not None and request.transport.get_write_buffer_size():
                        request.transport.abort()  # what this client does not read would be kept for it
                return ws
        except AntiphonError as error:
            self._context.metrics.errors.labels(error.reason.value).inc()
            return await self._refuse(request, error)

    @asynccontextmanager
    async def _admitted(self, request: web.Request, caller: str) -> AsyncIterator[tuple[SessionResource, Hold]]:
        """A session, new or resumed, and its place among all; released at the end, whatever comes between."""
        admission, sessions = self._context.admission, self._context.sessions
        session_id = request.query.get("session_id")
        if session_id is None:
            session = self._new(request)
            with admission.session(caller):
                new = sessions.open(session.settings.session_id, caller, session.assistant)
                try:
                    yield session, new
                finally:
                    await new.release()
            return
        # A session that a client has here gives its place to the newer client; any other needs a free one first.
        hold = await sessions.resume(session_id, caller) if sessions.has(session_id) else None
        try:
            with admission.session(caller, replaces=hold is not None):
                hold = hold or await sessions.resume(session_id, caller)
                yield session_of(hold.record, self._context.names, extended=_extended(request)), hold
        finally:
            if hold is not None:
                await hold.release()

    def _new(self, request: web.Request) -> SessionResource:
        """What a new session begins with, by the query and the subprotocols."""
        query, config = request.query, self._context.config
        intent = query.get("intent", "conversation")
        if intent not in ("conversation", "transcription"):
            raise AntiphonError(Reason.INVALID_REQUEST, "Known intents are 'conversation' and 'transcription'.")
        transcribes, model = intent == "transcription", query.get("model", DEFAULT)
        # Who only wants a transcript may name the recogniser instead of an assistant.
        recogniser = self._context.names.model("asr", model) if transcribes and model != DEFAULT else None
        name, assistant = config.assistant(DEFAULT if recogniser is not None else model)
        settings = assistant.settings(new_session_id())
        if transcribes:
            turns = replace(settings.turns, create_response=False)
            settings = replace(settings, turns=turns, audio_output=False, recogniser=recogniser or settings.recogniser)
        return SessionResource(
            kind="transcription" if transcribes else "realtime",
            assistant=name,
            settings=settings,
            names=self._context.names,
            extended=_extended(request),
        )

    def _socket(self, request: web.Request) -> web.WebSocketResponse:
        # The client's order says nothing: who offers ours wants it.
        protocol = SUBPROTOCOL if _extended(request) else REALTIME_SUBPROTOCOL
        return web.WebSocketResponse(
            timeout=CLOSE_S,
            heartbeat=HEARTBEAT_S,
            protocols=(protocol,),
            compress=False,
            max_msg_size=self._context.config.server.max_message_bytes,
            writer_limit=WRITE_BUFFER_BYTES,
        )

    async def _refuse(self, request: web.Request, error: AntiphonError) -> web.StreamResponse:
        """Browsers see nothing of a handshake that failed: who offers subprotocols is told inside."""
        if "Sec-WebSocket-Key" not in request.headers or not offered_subprotocols(request):
            return error_response(error)
        ws = self._socket(request)
        await ws.prepare(request)
        await ws.send_str(json.dumps(error_event(error)))
        await ws.close(code=_CLOSE_CODES.get(error.reason, 1008), message=error.reason.value.encode())
        return ws


def _extended(request: web.Request) -> bool:
    return SUBPROTOCOL in offered_subprotocols(request)
