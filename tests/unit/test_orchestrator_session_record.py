"""A session to a record and back: nothing of it is lost, and what a foreign hand has spoilt does no harm."""

import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.items import FunctionCall, FunctionCallOutput, Item, Message
from antiphon.conversation.ports import Tool
from antiphon.conversation.settings import ConversationSettings, TurnSettings
from antiphon.orchestrator.sessions import new_session_id
from antiphon.orchestrator.transports.websocket.formats import AudioFormat
from antiphon.orchestrator.transports.websocket.session_record import (
    HISTORY_CHARS,
    history_json,
    items_of,
    session_of,
    settings_json,
)
from antiphon.orchestrator.transports.websocket.session_resource import Names, SessionResource
from antiphon.registry.records import SessionRecord

pytestmark = pytest.mark.unit

NAMES = cast(Names, None)
IDS = st.uuids().map(str)
TEXT = st.text(max_size=30)
ITEMS = st.one_of(
    st.builds(
        Message,
        IDS,
        st.sampled_from(["user", "assistant", "system"]),
        TEXT,
        st.booleans(),
        st.sampled_from(["completed", "incomplete"]),
    ),
    st.builds(FunctionCall, IDS, TEXT, TEXT, TEXT, st.sampled_from(["completed", "incomplete"])),
    st.builds(FunctionCallOutput, IDS, TEXT, TEXT),
)


def resource(**changes: Any) -> SessionResource:
    settings = ConversationSettings("sess_1", instructions="Be brief.", tools=(Tool("t", "d", {"type": "object"}),))
    return SessionResource(
        **({"kind": "realtime", "assistant": "anna", "settings": settings, "names": NAMES} | changes)
    )


def record(session: SessionResource, **changes: Any) -> SessionRecord:
    settings = json.loads(json.dumps(settings_json(session)))
    fields = {"session_id": "sess_1", "owner": "o", "epoch": 2, "assistant": session.assistant, "settings": settings}
    return SessionRecord(**(fields | changes))


@given(st.lists(ITEMS, max_size=6, unique_by=lambda item: item.id))
def test_history_comes_back_as_it_was(items: list[Item]) -> None:
    assert items_of(json.loads(json.dumps(history_json(items, {})))) == tuple(items)


def test_what_is_not_finished_is_kept_as_if_it_broke_off_here() -> None:
    heard = Message("a", "assistant", "", spoken=True, status="in_progress")
    unwritten = Message("u", "user", "", spoken=True, status="in_progress")
    call = FunctionCall("c", "call", "name", '{"ha', status="in_progress")
    assert items_of(history_json([unwritten, heard, call], {"a": "one two"})) == (
        Message("a", "assistant", "one two", spoken=True, status="incomplete"),
    )


def test_the_oldest_items_make_room() -> None:
    items = [Message(f"item_{number}", "user", "x" * 10_000) for number in range(30)]
    kept = items_of(history_json(items, {}))
    assert kept == tuple(items[-len(kept) :])
    assert HISTORY_CHARS - 20_000 < sum(len(item.text) for item in kept if isinstance(item, Message)) <= HISTORY_CHARS


def test_items_of_a_foreign_hand_are_left_out() -> None:
    good = {"id": "a", "role": "user", "text": "hello"}
    spoilt = [{}, {"id": 7, "role": "user"}, {"id": "b", "role": "nobody"}, {**good, "text": "another"}]
    assert items_of([good, *spoilt]) == (Message("a", "user", "hello"),)


@pytest.mark.parametrize("kind", ["realtime", "transcription"])
def test_settings_come_back_as_they_were(kind: str) -> None:
    turns = TurnSettings(detect=False, patience_ms=2500)
    settings = ConversationSettings("sess_1", "ears", "duo", "bob", "de", turns=turns, input_rate_hz=8000)
    session = resource(kind=kind, settings=settings, input_format=AudioFormat("audio/pcmu", 8000))
    assert session_of(record(session), NAMES, extended=False) == session


def test_plain_realtime_knows_one_rate_of_pcm() -> None:
    settings = ConversationSettings("sess_1", input_rate_hz=48_000, output_rate_hz=48_000)
    wide = AudioFormat("audio/pcm", 48_000)
    session = resource(settings=settings, input_format=wide, output_format=wide, extended=True)
    assert session_of(record(session), NAMES, extended=True) == session
    plain = session_of(record(session), NAMES, extended=False)
    assert plain.settings.input_rate_hz == plain.output_format.rate_hz == 24_000


@pytest.mark.parametrize("settings", [{}, {"kind": "realtime"}, {"kind": "song", "input": 1, "conversation": []}])
def test_settings_that_are_not_understood_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(AntiphonError) as refused:
        session_of(record(resource(), settings=settings), NAMES, extended=False)
    assert refused.value.reason is Reason.SESSION_UNKNOWN


def test_ids_are_long_and_never_the_same() -> None:
    ids = {new_session_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(session_id) for session_id in ids} == {32}
