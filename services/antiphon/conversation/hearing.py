"""An utterance's way to a recogniser and back: its stream, and the task that takes in what is heard."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from antiphon.contracts.errors import AntiphonError
from antiphon.conversation.ports import Recogniser, RecognitionRequest, RecognitionResult
from antiphon.conversation.utterance import Utterance

_CLOSE_S = 1.0
"""How long a stream may take to be closed before it is left to its own cancellation."""

logger = logging.getLogger(__name__)


class Hearing:
    """Gives utterances to a recogniser.

    Args:
        recogniser: Opens a stream for each.
        spawn: Begins a task of the conversation, by name.
        on_result: Told of what is heard; returns whether more of this utterance is waited for.
        on_failure: Told when no recogniser could hear it to the end.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        spawn: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]],
        *,
        on_result: Callable[[Utterance, RecognitionResult], bool],
        on_failure: Callable[[Utterance, AntiphonError], None],
    ) -> None:
        self._recogniser = recogniser
        self._spawn = spawn
        self._on_result = on_result
        self._on_failure = on_failure

    def begin(self, utterance: Utterance, request: RecognitionRequest, preroll: bytes) -> None:
        """Open a stream for an utterance, with the audio from before it; the rest goes through `Utterance.hear`."""
        utterance.stream = self._recogniser.open(request)
        utterance.audio_bytes = 0
        utterance.hear(preroll)
        utterance.listener = self._spawn(f"hear:{utterance.item_id}", self._listen(utterance, request.session_id))

    def stop(self, utterance: Utterance) -> None:
        """Ask nothing more of its recogniser; the listener itself, where it runs this, ends by its own loop."""
        if utterance.listener is not None and utterance.listener is not asyncio.current_task():
            utterance.listener.cancel()

    async def _listen(self, utterance: Utterance, session_id: str) -> None:
        assert utterance.stream is not None
        try:
            async for result in utterance.stream.results():
                if not self._on_result(utterance, result):
                    break
        except AntiphonError as error:
            self._on_failure(utterance, error)
        finally:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await utterance.stream.aclose()
            except TimeoutError:
                logger.warning("recogniser did not let go", extra={"session_id": session_id})
