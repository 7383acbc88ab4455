"""A session as the registry keeps it: what is in force and what was said, to JSON and back."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.items import Item, Message
from antiphon.conversation.settings import ConversationSettings, ResponseOptions
from antiphon.orchestrator.transports.websocket.formats import AudioFormat, FormatType
from antiphon.orchestrator.transports.websocket.session_resource import REALTIME_RATE_HZ, Names, SessionResource
from antiphon.registry.records import SessionRecord

HISTORY_CHARS = 131_072
"""Of a history as JSON; the oldest items beyond it are left out. An hour of talk is about half of it."""

_ITEM: TypeAdapter[Item] = TypeAdapter(Item)

logger = logging.getLogger(__name__)


class _Settings(BaseModel):
    """`SessionRecord.settings`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kind: Literal["realtime", "transcription"]
    input: FormatType
    output: FormatType
    conversation: ConversationSettings
    owed: ResponseOptions | None = None


def settings_json(session: SessionResource, owed: ResponseOptions | None = None) -> dict[str, Any]:
    """What is in force, and the reply that is to be given yet."""
    kept = _Settings(
        kind=session.kind,
        input=session.input_format.type,
        output=session.output_format.type,
        conversation=session.settings,
        owed=owed,
    )
    return kept.model_dump(mode="json")


def history_json(items: Iterable[Item], shown: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
    """What was said, the newest items of it; `shown` holds what was heard of replies that are not over yet.

    What is not finished is kept as it would be if it broke off here: a reply as it was heard, one of which nothing was
    heard, speech that is not written down and a call whose arguments are not whole not at all.
    """
    kept: list[dict[str, Any]] = []
    chars = 0
    for item in reversed(tuple(items)):
        finished = _finished(item, shown)
        if finished is None:
            continue
        value = _ITEM.dump_python(finished, mode="json")
        chars += sum(len(part) for part in value.values() if isinstance(part, str))
        if chars > HISTORY_CHARS:
            break
        kept.append(value)
    return tuple(reversed(kept))


def _finished(item: Item, shown: Mapping[str, str]) -> Item | None:
    if item.status != "in_progress":
        return item
    if isinstance(item, Message) and item.role == "assistant":
        text = shown.get(item.id, item.text)
        return replace(item, text=text, status="incomplete") if text else None
    return None


def session_of(record: SessionRecord, names: Names, *, extended: bool) -> SessionResource:
    """The session that goes on.

    Raises:
        AntiphonError: `SESSION_UNKNOWN` for a record that this version does not understand.
    """
    try:
        kept = _Settings.model_validate(record.settings)
    except ValidationError as error:
        logger.warning("a session's settings cannot be read", extra={"cause": error.errors()[0]["msg"]})
        raise AntiphonError(
            Reason.SESSION_UNKNOWN, "This session was kept in a form that this server does not understand."
        ) from None
    settings = replace(kept.conversation, session_id=record.session_id)
    if not extended:  # who speaks plain Realtime now knows one rate of linear PCM
        if kept.input == "audio/pcm":
            settings = replace(settings, input_rate_hz=REALTIME_RATE_HZ)
        if kept.output == "audio/pcm":
            settings = replace(settings, output_rate_hz=REALTIME_RATE_HZ)
    return SessionResource(
        kind=kept.kind,
        assistant=record.assistant,
        settings=settings,
        names=names,
        extended=extended,
        input_format=AudioFormat(kept.input, settings.input_rate_hz),
        output_format=AudioFormat(kept.output, settings.output_rate_hz),
    )


def owed_of(record: SessionRecord) -> ResponseOptions | None:
    """The reply that whoever goes on with the session is to give."""
    try:
        return _Settings.model_validate(record.settings).owed
    except ValidationError:
        return None  # a new session, or one that `session_of` has refused


def items_of(history: Sequence[Mapping[str, Any]]) -> tuple[Item, ...]:
    """What was said; items that cannot be read, and such as have another's id, are left out."""
    items: dict[str, Item] = {}
    for value in history:
        try:
            item = _ITEM.validate_python(dict(value))
        except ValidationError:
            logger.warning("an item of a session's history cannot be read")
            continue
        items.setdefault(item.id, item)
    return tuple(items.values())
