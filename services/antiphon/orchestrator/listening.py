"""A whole recording heard: two pieces at a time, told in order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TypeVar

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.ports import FinalTranscript, ModelLoading, Recogniser, RecognitionRequest
from antiphon.orchestrator.recordings import Piece
from antiphon.orchestrator.transcripts import HeardPiece

AT_ONCE = 2
"""Pieces of one recording that are heard at once: more would take the workers from people who talk."""
_PUSH_BYTES = 32_000
_RETRIES = 6
_RETRY_S = 0.5

T = TypeVar("T")


async def listen(
    recogniser: Recogniser,
    request: RecognitionRequest,
    pieces: Iterator[Piece],
    heard: Callable[[HeardPiece], Awaitable[None]],
) -> None:
    """Hear every piece and tell `heard` of each, in order.

    `pieces` is iterated in a thread of its own. Once the first piece was heard, one that no worker has room for is
    tried again for a few seconds; until then a refusal is the caller's to know. Cancelling closes all streams.

    Raises:
        AntiphonError: What the first piece that failed said, or the recording's decoder.
    """
    first = asyncio.Event()
    waiting: deque[asyncio.Task[HeardPiece]] = deque()

    async def tell() -> None:
        piece = await waiting.popleft()
        first.set()
        await heard(piece)

    try:
        async with asyncio.TaskGroup() as group, aclosing(_in_thread(pieces)) as stream:
            async for piece in stream:
                hearing = _hear_patiently(recogniser, request, piece, first)
                waiting.append(group.create_task(hearing, name=f"hear-{piece.start_s:.0f}s"))
                if len(waiting) == AT_ONCE:
                    await tell()
            while waiting:
                await tell()
    except* (AntiphonError, ConnectionError) as failures:
        failure = _first(failures)
    else:
        return
    raise failure


async def _hear_patiently(
    recogniser: Recogniser, request: RecognitionRequest, piece: Piece, first: asyncio.Event
) -> HeardPiece:
    for attempt in range(_RETRIES + 1):
        try:
            return await _hear(recogniser, request, piece)
        except AntiphonError as error:
            if not error.retryable or not first.is_set() or attempt == _RETRIES:
                raise
            await asyncio.sleep(max((error.retry_after_ms or 0) / 1000, _RETRY_S))
    raise AssertionError("unreachable")


async def _hear(recogniser: Recogniser, request: RecognitionRequest, piece: Piece) -> HeardPiece:
    stream, model = recogniser.open(request), request.model
    try:
        for start in range(0, len(piece.pcm), _PUSH_BYTES):
            stream.push(piece.pcm[start : start + _PUSH_BYTES])
        stream.end()
        async for result in stream.results():
            if isinstance(result, ModelLoading):
                model = result.fallback or request.model
            elif isinstance(result, FinalTranscript):
                return HeardPiece.of(piece, result.transcript, model)
    finally:
        await stream.aclose()
    raise AntiphonError(Reason.ENGINE_FAULT, "The recogniser ended without a final transcript.")


async def _in_thread(items: Iterator[T]) -> AsyncGenerator[T, None]:
    """What a blocking iterator gives. Closing waits for nothing: the iterator ends after its running step."""
    loop = asyncio.get_running_loop()
    done = object()
    executor = ThreadPoolExecutor(1, thread_name_prefix="decode")
    try:
        while (item := await loop.run_in_executor(executor, next, items, done)) is not done:
            yield item  # type: ignore[misc]
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            executor.submit(close)
        executor.shutdown(wait=False)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
