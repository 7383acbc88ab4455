"""A responder without a mind: it says back what was said to it."""

from collections.abc import AsyncGenerator, Sequence

from antiphon.conversation.items import Item, Message
from antiphon.conversation.ports import ReplyPart, ReplyRequest, TextDelta

NOTHING_SAID = "You have not said anything yet."


class EchoResponder:
    """Says the user's last words again, exactly, after an optional prefix; a sentence of its own before there are any.

    It shows that hearing and speaking work, with no language model at hand.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix

    async def respond(self, request: ReplyRequest) -> AsyncGenerator[ReplyPart, None]:
        """The reply, as one piece."""
        said = _last_words(request.history)
        yield TextDelta(" ".join(filter(None, (self._prefix.strip(), said))) if said else NOTHING_SAID)

    async def aclose(self) -> None:
        """Nothing to let go of."""


def _last_words(history: Sequence[Item]) -> str:
    said = (item.text.strip() for item in reversed(history) if isinstance(item, Message) and item.role == "user")
    return next(filter(None, said), "")
