"""What one reply shows: its items, in the history and as events, withheld until the turn is decided for it."""

from collections.abc import Callable
from dataclasses import replace

from antiphon.contracts.errors import AntiphonError
from antiphon.conversation import events
from antiphon.conversation.items import FunctionCall, History, Item, ItemStatus, Message, new_id
from antiphon.conversation.ports import FunctionCallDelta, Usage


class Output:
    """The items of one reply. Until `commit`, every effect that the world could see waits, in order.

    Args:
        response_id: The reply's.
        history: Where its items go.
        emit: Told of each event.
        audio: Whether its message is spoken; else it is text alone.
        metadata: The client's own, told back with the reply.
    """

    def __init__(
        self,
        response_id: str,
        history: History,
        emit: Callable[[events.Event], None],
        *,
        audio: bool,
        metadata: dict[str, str] | None = None,
    ) -> None:
        self.message: Message | None = None
        """What is said, once there is something."""
        self._id = response_id
        self._history = history
        self._emit = emit
        self._audio = audio
        self._metadata = metadata
        self._withheld: list[Callable[[], None]] | None = []
        self._items: list[Item] = []
        self._message_index = 0
        self._previous_item_id: str | None = None
        self._calls: dict[str, FunctionCall] = {}
        self.show(events.ResponseCreated(response_id, metadata, audio))

    @property
    def is_shown(self) -> bool:
        """Whether the world knows of it."""
        return self._withheld is None

    @property
    def is_begun(self) -> bool:
        """Whether the world knows of anything in it, but for what is spoken."""
        return self.is_shown and any(not (isinstance(item, Message) and item.spoken) for item in self._items)

    def commit(self) -> None:
        """Show what waited, and from now on everything at once."""
        withheld, self._withheld = self._withheld or [], None
        for effect in withheld:
            effect()

    def show(self, event: events.Event) -> None:
        """Emit an event when its turn comes."""
        self._do(lambda: self._emit(event))

    # --- the message ------------------------------------------------------------------------------------------------

    def begin_message(self) -> None:
        """Begin what is said, unless it is begun."""
        if self.message is not None:
            return
        message = Message(new_id("item"), "assistant", spoken=self._audio, status="in_progress")
        self.message, self._message_index = message, len(self._items)
        self._items.append(message)

        def effect() -> None:
            self._previous_item_id = self._history.add(message)
            started = events.OutputMessageStarted(self._id, self._message_index, message, self._previous_item_id)
            self._emit(started)

        self._do(effect)

    def add_text(self, text: str) -> None:
        """More of a message in text alone."""
        self.show(events.OutputText(self._id, self._begun().id, self._message_index, text))

    def add_words(self, text: str) -> None:
        """Words of a spoken message whose audio has been sent."""
        self.show(events.OutputTranscript(self._id, self._begun().id, self._message_index, text))

    def add_frame(self, pcm: bytes, position_samples: int, generation: int) -> None:
        """A frame of the message's audio, and where its first sample lies in it."""
        item_id = self._begun().id
        self.show(events.OutputAudio(self._id, item_id, self._message_index, pcm, position_samples, generation))

    def amend(self, text: str, status: ItemStatus) -> None:
        """Set what the message holds."""
        self.message = replace(self._begun(), text=text, status=status)
        self._items[self._message_index] = self.message
        self._keep(self.message)

    def truncate(self, text: str, audio_end_ms: int) -> None:
        """Let the message hold what was heard of it."""
        self.amend(text, "incomplete")
        self.show(events.ItemTruncated(self._begun().id, audio_end_ms, text))

    # --- tools ------------------------------------------------------------------------------------------------------

    def call(self, part: FunctionCallDelta) -> None:
        """A piece of a function call; the first begins it."""
        call = self._calls.get(part.call_id)
        if call is None:
            call = FunctionCall(new_id("item"), part.call_id, part.name, status="in_progress")
            self._calls[part.call_id] = call
            index, started = len(self._items), call
            self._items.append(call)
            self._do(lambda: self._emit(self._started(index, started)))
        if part.arguments:
            self._calls[part.call_id] = call = replace(call, arguments=call.arguments + part.arguments)
            index = self._index(call)
            self.show(events.FunctionCallArguments(self._id, call.id, index, call.call_id, part.arguments))

    def finish_calls(self) -> None:
        """Every call is whole: the client should act on it."""
        for call in self._calls.values():
            finished = replace(call, status="completed")
            self._items[self._index(call)] = finished
            self._do(lambda finished=finished: self._finish_call(finished))  # type: ignore[misc]

    def _started(self, index: int, call: FunctionCall) -> events.FunctionCallStarted:
        return events.FunctionCallStarted(self._id, index, call, self._history.add(call))

    def _finish_call(self, call: FunctionCall) -> None:
        previous = self._history.before(call.id) if self._keep(call) else None
        self._emit(events.FunctionCallDone(self._id, self._index(call), call, previous))

    def _break_off_calls(self) -> None:
        """Calls whose arguments did not come whole are nobody's to carry out."""
        for index, item in enumerate(self._items):
            if isinstance(item, FunctionCall) and item.status == "in_progress":
                call = replace(self._calls[item.call_id], status="incomplete")
                self._items[index] = call
                self._finish_call(call)

    # --- the end ----------------------------------------------------------------------------------------------------

    def done(
        self, status: events.DoneStatus, reason: events.DoneReason, usage: Usage, error: AntiphonError | None
    ) -> None:
        """Show that the reply is over, and what it came to."""
        self._break_off_calls()
        if self.message is not None:
            done = events.OutputMessageDone(self._id, self._message_index, self.message, self._previous_item_id)
            self.show(done)
        items = tuple(self._items)
        self.show(events.ResponseDone(self._id, status, reason, items, self._metadata, self._audio, usage, error))

    def _begun(self) -> Message:
        assert self.message is not None  # text begins the message, and audio comes of text
        return self.message

    def _index(self, item: Item) -> int:
        return next(index for index, known in enumerate(self._items) if known.id == item.id)

    def _keep(self, item: Item) -> bool:
        """Put an item's new form into the history; False when the client has deleted it there."""
        if self._history.get(item.id) is None:
            return False
        self._history.replace(item)
        return True

    def _do(self, effect: Callable[[], None]) -> None:
        if self._withheld is None:
            effect()
        else:
            self._withheld.append(effect)
