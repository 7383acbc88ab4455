"""A responder that asks any OpenAI-compatible chat-completions server."""

import asyncio
from codecs import getincrementaldecoder
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import openai
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from pydantic import SecretStr

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.ports import FunctionCallDelta, ReplyPart, ReplyRequest, TextDelta, Usage
from antiphon.orchestrator.responders.messages import chat_messages, chat_tools

_CLOSE_TIMEOUT_S = 1.0
_Utf16 = getincrementaldecoder("utf-16-le")


class ChatResponder:
    """Asks a chat server for each reply, and passes on what it says as it says it.

    Text is passed through as it comes: instructions should ask for plain sentences. One responder serves every session
    of an assistant, over one pool of connections.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: SecretStr | None = None,
        timeout_s: float = 10.0,
        temperature: float | None = None,
    ) -> None:
        """Make one; no connection is opened yet.

        Args:
            url: base URL up to and including `/v1`.
            model: the model's name at that server.
            key: sent as a bearer token; without one a placeholder is sent, never a key from the environment.
            timeout_s: the longest silence before the first piece of a reply, and between two pieces.
            temperature: as the server understands it; None leaves it to the server.
        """
        self._url, self._model, self._timeout_s, self._temperature = url, model, timeout_s, temperature
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=key.get_secret_value() if key is not None else "none",
            max_retries=0,  # the listener waits: an apology in time is better than a second attempt
            timeout=openai.Timeout(timeout_s),
        )

    async def respond(self, request: ReplyRequest) -> AsyncGenerator[ReplyPart, None]:
        """The reply, as the server streams it; `Usage` last, where the server tells it.

        Closing the iterator, or cancelling the task that waits on it, closes the request's connection: the server sees
        its client leave. Raises `AntiphonError`: TIMEOUT when the server stays silent for longer than `timeout_s`,
        RESPONDER_FAILED for any other failure, an answer without content included.
        """
        pieces = self._pieces(request)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        async with aclosing(pieces):
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        part = await anext(pieces, None)
                except TimeoutError:
                    raise self._too_slow() from None
                if part is None:
                    return
                yield part
                deadline = loop.time() + self._timeout_s

    async def aclose(self) -> None:
        """Close the pool of connections. Idempotent."""
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await self._client.close()

    async def _pieces(self, request: ReplyRequest) -> AsyncGenerator[ReplyPart, None]:
        translation = _Translation()
        try:
            stream = await self._client.chat.completions.create(**self._body(request))
            async with stream:
                async for chunk in stream:
                    for part in translation.parts(chunk):
                        yield part
        except openai.APITimeoutError:
            raise self._too_slow() from None
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except openai.APIConnectionError:
            message = f"The connection to the chat server at {self._url} failed: check that it runs and can be reached."
            raise AntiphonError(Reason.RESPONDER_FAILED, message) from None
        except (openai.OpenAIError, ValueError):  # an error event, or what is no chat completion; may hold speech
            message = f"The chat server at {self._url} sent an answer that is no chat completion, or an error in it."
            raise AntiphonError(Reason.RESPONDER_FAILED, message) from None
        if translation.filtered:
            raise AntiphonError(Reason.RESPONDER_FAILED, "The chat server withheld its answer (content filter).")
        if translation.empty:
            raise AntiphonError(Reason.RESPONDER_FAILED, "The chat server answered without a word or a call.")
        if translation.usage is not None or translation.truncated:
            yield replace(translation.usage or Usage(), truncated=translation.truncated)

    def _body(self, request: ReplyRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": chat_messages(request.instructions, request.history),
            "stream": True,
            "stream_options": {"include_usage": True},
            **chat_tools(request.tools, request.tool_choice),
        }
        if self._temperature is not None:
            body["temperature"] = self._temperature
        if request.max_output_tokens is not None:
            # The newer max_completion_tokens is ignored by several servers; this one is honoured, or refused aloud.
            body["max_tokens"] = request.max_output_tokens
        return body

    def _too_slow(self) -> AntiphonError:
        message = f"The chat server at {self._url} was silent for {self._timeout_s:g} s."
        return AntiphonError(Reason.TIMEOUT, message)

    def _refused(self, error: openai.APIStatusError) -> AntiphonError:
        code = f" ({error.code})" if error.code else ""
        message = f"The chat server at {self._url} answered {error.status_code}{code}."
        if error.status_code in (401, 403):
            message += " Check the assistant's key."
        elif error.status_code == 404:
            message += f" Check the URL, and that it serves the model {self._model!r}."
        return AntiphonError(Reason.RESPONDER_FAILED, message)


class _Translation:
    """Chunks of one chat completion as reply parts."""

    def __init__(self) -> None:
        self.empty = True
        self.filtered = False
        self.truncated = False
        self.usage: Usage | None = None
        self._call_ids: dict[int, str] = {}
        self._characters = defaultdict[str, Any](lambda: _Utf16("replace"))
        """By call, or empty for what is said: puts characters together that a server has cut in two."""

    def parts(self, chunk: ChatCompletionChunk) -> list[ReplyPart]:
        if chunk.usage is not None:
            self.usage = Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        if not chunk.choices:
            return []
        choice = chunk.choices[0]
        self.filtered = self.filtered or choice.finish_reason == "content_filter"
        self.truncated = self.truncated or choice.finish_reason == "length"
        parts = self._said(choice.delta) + self._called(choice.delta)
        self.empty = self.empty and not parts
        return parts

    def _said(self, delta: ChoiceDelta) -> list[ReplyPart]:
        text = self._whole("", (delta.content or "") + (delta.refusal or ""))
        return [TextDelta(text)] if text else []

    def _called(self, delta: ChoiceDelta) -> list[ReplyPart]:
        parts: list[ReplyPart] = []
        for call in delta.tool_calls or ():
            if call.id and call.index not in self._call_ids:
                self._call_ids[call.index] = call.id
            call_id = self._call_ids.get(call.index)
            if call_id is None:
                raise ValueError("a piece of a tool call without its beginning")
            function = call.function
            parts.append(
                FunctionCallDelta(
                    call_id,
                    name=(function.name or "") if function else "",
                    arguments=self._whole(call_id, (function.arguments or "") if function else ""),
                )
            )
        return parts

    def _whole(self, call_id: str, text: str) -> str:
        """The text without halves of characters, which cannot be sent: joined, replaced or, at the end, left out."""
        whole: str = self._characters[call_id].decode(text.encode("utf-16-le", "surrogatepass"))
        return whole
