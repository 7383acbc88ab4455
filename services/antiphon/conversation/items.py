"""What a conversation remembers: messages, function calls and their answers."""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

Role = Literal["user", "assistant", "system"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


def new_id(prefix: str) -> str:
    """A fresh identifier such as `item_9f…`, at most 32 characters as the Realtime API asks."""
    return f"{prefix}_{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class Message:
    """Something that was said or written. An assistant's spoken text is what was heard, not what was generated."""

    id: str
    role: Role
    text: str = ""
    spoken: bool = False
    status: ItemStatus = "completed"


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of a tool that the client offered."""

    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: ItemStatus = "completed"


@dataclass(frozen=True, slots=True)
class FunctionCallOutput:
    """A client's answer to a `FunctionCall`."""

    id: str
    call_id: str
    output: str
    status: ItemStatus = "completed"


Item = Message | FunctionCall | FunctionCallOutput


class History:
    """The items of a conversation, in order; identifiers are unique."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._items: list[Item] = list(items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def snapshot(self) -> tuple[Item, ...]:
        """The items as they are now."""
        return tuple(self._items)

    def get(self, item_id: str) -> Item | None:
        """The item of this id."""
        return next((item for item in self._items if item.id == item_id), None)

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Put an item at the end, or after another (`root`: first); returns the id it now follows.

        Raises `ValueError` for a duplicate id, `KeyError` when there is no item `after`.
        """
        if self.get(item.id) is not None:
            raise ValueError(item.id)
        index = len(self._items) if after is None else 0 if after == "root" else self._index(after) + 1
        self._items.insert(index, item)
        return self._items[index - 1].id if index else None

    def before(self, item_id: str) -> str | None:
        """The id of the item before another. Raises `KeyError` when it is not there."""
        index = self._index(item_id)
        return self._items[index - 1].id if index else None

    def replace(self, item: Item) -> None:
        """Put a new version of an item in its place. Raises `KeyError` when it is not there."""
        self._items[self._index(item.id)] = item

    def amend(self, item_id: str, *, text: str, status: ItemStatus) -> None:
        """Set a message's text and status. Raises `KeyError` when there is no such message."""
        item = self._items[self._index(item_id)]
        if not isinstance(item, Message):
            raise KeyError(item_id)
        self.replace(replace(item, text=text, status=status))

    def remove(self, item_id: str) -> None:
        """Forget an item. Raises `KeyError` when it is not there."""
        del self._items[self._index(item_id)]

    def _index(self, item_id: str) -> int:
        for index, item in enumerate(self._items):
            if item.id == item_id:
                return index
        raise KeyError(item_id)
