"""One conversation: the tasks that hear, think and speak, and the calls by which a transport drives them."""

from collections.abc import Callable

from antiphon.contracts.adapters import VadStream
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.events import Event
from antiphon.conversation.items import History, Item
from antiphon.conversation.ports import Ports
from antiphon.conversation.settings import ConversationSettings, ResponseOptions


class ClientError(AntiphonError):
    """A request that cannot be granted, with the `code` that Realtime clients look for."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(Reason.INVALID_REQUEST, message)
        self.code = code
        self.param = param


class Conversation:
    """Hears, takes turns, yields and speaks.

    Every call below returns at once and none is a coroutine: what follows from it comes as events, in order, through
    `emit`, which must not block either. All calls are made on the loop that runs `run`.
    """

    def __init__(
        self, settings: ConversationSettings, ports: Ports, vad: VadStream, emit: Callable[[Event], None]
    ) -> None:
        raise NotImplementedError

    @property
    def history(self) -> History: ...

    @property
    def settings(self) -> ConversationSettings: ...

    async def run(self) -> None:
        """Converse until `close` or a limit; ends after every task and stream of it has, also when cancelled."""

    def close(self) -> None:
        """End the conversation. Idempotent; may be called before `run`."""

    def update(self, settings: ConversationSettings) -> None:
        """Take new settings: the next utterance and the next reply use them.

        Raises `ClientError` (`cannot_update_voice`) for a new output rate while a reply is live.
        """

    def hear(self, pcm: bytes) -> None:
        """More of the user's audio: mono s16le at `input_rate_hz`, any length, at any pace."""

    def commit_audio(self) -> None:
        """End the utterance here (`input_audio_buffer_commit_empty` when there is none). Does not create a response."""

    def clear_audio(self) -> None:
        """Forget audio that is not committed."""

    def add_item(self, item: Item, after: str | None = None) -> None:
        """Put an item into the history (`item_create_duplicate_item_id`, `item_create_invalid_previous_item_id`)."""

    def delete_item(self, item_id: str) -> None:
        """Remove an item (`item_delete_invalid_item_id`)."""

    def truncate_item(self, item_id: str, audio_end_ms: int) -> None:
        """Say what was heard of a reply (`item_truncate_invalid_item_id`); clamped to what was played.

        A live reply is stopped by it.
        """

    def respond(self, options: ResponseOptions) -> None:
        """Reply now (`conversation_already_has_active_response`)."""

    def cancel_response(self, response_id: str | None = None) -> None:
        """Stop the live reply (`response_cancel_not_active` when there is none, or not this one)."""
