"""A scripted chat server that speaks OpenAI's chat completions: slow, wrong or silent exactly when a test wants it.

In a test: `async with ChatServer("Good morning.") as server: ... server.url ...`. By hand, to talk with something:
`python -m antiphon.testing.chat_server --port 8090`.
"""

import argparse
import asyncio
import json
import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScriptedToolCall:
    """A function that the reply calls."""

    name: str
    arguments: str = "{}"
    """JSON, sent in pieces of a few characters."""


@dataclass(frozen=True, slots=True)
class ScriptedReply:
    """One answer, and all that may go wrong with it."""

    text: str = ""
    tool_calls: tuple[ScriptedToolCall, ...] = ()
    first_token_delay_s: float = 0.0
    token_delay_s: float = 0.0
    hang_after: int | None = None
    """Falls silent for ever after so many tokens; 0: accepts the request and never answers."""
    break_after: int | None = None
    """Drops the connection after so many tokens, in the middle of the answer."""
    error_status: int | None = None
    """Answers with this HTTP status and an error body."""
    finish_reason: str = ""
    """Empty: `stop` or `tool_calls`, as it comes; `length` and `content_filter` for a reply that was cut."""


Answer = str | ScriptedReply | Callable[[Mapping[str, Any]], str | ScriptedReply]
"""A text, a whole reply, or what a function of the request's body makes of it."""
Script = Answer | Sequence[Answer]
"""What is answered: always the same, or one after another, the last again and again."""


class ChatServer:
    """Serves `/v1/chat/completions` on loopback while its context is open, and remembers what it was asked.

    `requests` holds every request's body in order; `finished` and `cancelled` count the answers that went out whole
    and those whose client left early. The host and port are free to choose; 0 takes any port.
    """

    _script: Script
    _answered: int
    """Requests since the script was given."""

    def __init__(self, script: Script = "All right.", *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.script(script)
        self._host, self._port = host, port
        self._runner: web.AppRunner | None = None
        self._changed = asyncio.Event()
        self._closing = False
        self.requests: list[Mapping[str, Any]] = []
        self.authorizations: list[str] = []
        self.finished = 0
        self.cancelled = 0

    @property
    def url(self) -> str:
        """The base URL, as the `openai` client takes it."""
        return f"http://{self._host}:{self._port}/v1"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.5, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        if self._runner is not None:
            await self._runner.cleanup()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait until `condition` holds; it is asked after every request, finish and cancellation.

        Raises `TimeoutError` when it does not hold in time.
        """
        async with asyncio.timeout(timeout_s):
            while not condition():
                await self._changed.wait()

    def script(self, script: Script) -> None:
        """Answer like this from the next request on."""
        self._script, self._answered = script, 0

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _next_reply(self, body: Mapping[str, Any]) -> ScriptedReply:
        script = self._script
        self._answered += 1
        if isinstance(script, Sequence) and not isinstance(script, str):
            script = script[min(self._answered, len(script)) - 1]
        reply = script(body) if callable(script) else script
        return ScriptedReply(reply) if isinstance(reply, str) else reply

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.authorizations.append(request.headers.get("Authorization", ""))
        self._notify()
        reply = self._next_reply(body)
        try:
            answer = await (_stream if body.get("stream") else _whole)(request, body, reply)
        except (asyncio.CancelledError, ConnectionError):
            if not self._closing:
                self.cancelled += 1
                self._notify()
            raise
        self.finished += 1
        self._notify()
        return answer


async def _whole(request: web.Request, body: Mapping[str, Any], reply: ScriptedReply) -> web.StreamResponse:
    if reply.error_status is not None:
        return _error(reply.error_status)
    deltas = _deltas(reply)
    await _wait_for_token(reply, 0)
    for index in range(1, len(deltas) + 1):
        await _wait_for_token(reply, index)
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if reply.tool_calls:
        message["tool_calls"] = [_tool_call(call, f"call_{secrets.token_hex(8)}") for call in reply.tool_calls]
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(reply)}
    return web.json_response(_envelope(body, "chat.completion") | {"choices": [choice], "usage": _usage(body, deltas)})


async def _stream(request: web.Request, body: Mapping[str, Any], reply: ScriptedReply) -> web.StreamResponse:
    if reply.error_status is not None:
        return _error(reply.error_status)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    envelope = _envelope(body, "chat.completion.chunk")
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))

    async def send(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> None:
        chunk = envelope | {"choices": choices} | ({"usage": usage} if with_usage else {})
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())

    await response.prepare(request)
    deltas = _deltas(reply)
    await send([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    for index, delta in enumerate(deltas):
        await _wait_for_token(reply, index)
        if index == reply.break_after:
            return _broken(request, response)
        await send([{"index": 0, "delta": delta, "finish_reason": None}])
    await _wait_for_token(reply, len(deltas))
    await send([{"index": 0, "delta": {}, "finish_reason": _finish_reason(reply)}])
    if with_usage:
        await send([], _usage(body, deltas))
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _wait_for_token(reply: ScriptedReply, index: int) -> None:
    if reply.hang_after is not None and index >= reply.hang_after:
        await asyncio.Event().wait()
    await asyncio.sleep(reply.token_delay_s if index else reply.first_token_delay_s)


def _broken(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response


def _deltas(reply: ScriptedReply) -> list[dict[str, Any]]:
    """The reply as a model would stream it: words with the blank before them, then calls, arguments in pieces."""
    deltas: list[dict[str, Any]] = [{"content": token} for token in re.findall(r"\s*\S+|\s+$", reply.text)]
    for index, call in enumerate(reply.tool_calls):
        opening = _tool_call(call, f"call_{secrets.token_hex(8)}") | {"index": index}
        opening["function"] = {"name": call.name, "arguments": ""}
        deltas.append({"tool_calls": [opening]})
        pieces = re.findall(r".{1,8}", call.arguments, re.DOTALL)
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces]
    return deltas


def _tool_call(call: ScriptedToolCall, call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _finish_reason(reply: ScriptedReply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def _envelope(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(8)}", "object": kind, "created": 0, "model": body.get("model", "")}


def _usage(body: Mapping[str, Any], deltas: Sequence[object]) -> dict[str, int]:
    """Words stand for tokens here."""
    asked = sum(len(str(message.get("content") or "").split()) for message in body.get("messages", ()))
    return {"prompt_tokens": asked, "completion_tokens": len(deltas), "total_tokens": asked + len(deltas)}


def _error(status: int) -> web.Response:
    return web.json_response({"error": {"message": "Scripted error.", "code": "scripted"}}, status=status)


def answer_last(body: Mapping[str, Any]) -> str:
    """A reply that repeats what the user said last: shows who is talking to whom."""
    asked = [message["content"] for message in body["messages"] if message["role"] == "user"]
    return f"You said: {asked[-1]}" if asked else "Hello, I am a scripted chat server."


async def _serve(arguments: argparse.Namespace) -> None:
    def script(body: Mapping[str, Any]) -> ScriptedReply:
        return ScriptedReply(
            arguments.reply or answer_last(body),
            first_token_delay_s=arguments.first_token_delay_ms / 1000,
            token_delay_s=arguments.token_delay_ms / 1000,
        )

    async with ChatServer(script, host=arguments.host, port=arguments.port) as server:
        print(f"Scripted chat server at {server.url} (Ctrl-C ends it)", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m antiphon.testing.chat_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0: any free port")
    parser.add_argument("--reply", default="", help="what is always answered (default: what was said)")
    parser.add_argument("--first-token-delay-ms", type=float, default=200.0)
    parser.add_argument("--token-delay-ms", type=float, default=30.0)
    try:
        asyncio.run(_serve(parser.parse_args()))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
