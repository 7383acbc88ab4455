"""The parts of the Realtime transport that need no socket: formats, binary headers, session, outbox."""

import asyncio
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from antiphon.conversation.engine import ClientError
from antiphon.conversation.settings import ConversationSettings
from antiphon.orchestrator.metrics import OrchestratorMetrics
from antiphon.orchestrator.transports.websocket import binary
from antiphon.orchestrator.transports.websocket.formats import AudioFormat, FormatType
from antiphon.orchestrator.transports.websocket.outbox import Outbox, Outgoing
from antiphon.orchestrator.transports.websocket.session_resource import SessionResource, not_in_force
from antiphon.orchestrator.transports.websocket.session_update import SessionUpdate

pytestmark = pytest.mark.unit


class NoNames:
    def model(self, task: str, name: str) -> str | None:
        return None

    def voice(self, name: str, model: str) -> tuple[str, str] | None:
        return None


def updated(session: dict[str, Any], *, extended: bool = False, kind: Any = "realtime") -> SessionResource:
    resource = SessionResource(kind, "anna", ConversationSettings("sess_1"), NoNames(), extended)
    return resource.updated(SessionUpdate.model_validate({"type": kind, **session}))


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["audio/pcmu", "audio/pcma"])
def test_g711_codes_survive_a_round_trip(law: FormatType) -> None:
    audio_format = AudioFormat(law, 8_000)
    codes = bytes(range(256))
    again = audio_format.from_pcm(audio_format.to_pcm(codes))
    # The mu-law has two zeros.
    assert {a for a, b in zip(codes, again, strict=True) if a != b} <= {0x7F}


@pytest.mark.parametrize(("law", "relative"), [("audio/pcmu", 0.04), ("audio/pcma", 0.04)])
def test_g711_keeps_every_level_within_its_step(law: FormatType, relative: float) -> None:
    audio_format = AudioFormat(law, 8_000)
    levels = np.arange(-32_768, 32_768, dtype="<i2")
    heard = np.frombuffer(audio_format.to_pcm(audio_format.from_pcm(levels.tobytes())), "<i2").astype(int)
    allowed = np.maximum(16, np.abs(levels.astype(int)) * relative)
    assert (np.abs(heard - levels.astype(int)) <= allowed).all()


@pytest.mark.parametrize(
    ("law", "code", "linear"),
    [
        ("audio/pcmu", 0xFF, 0),
        ("audio/pcmu", 0x80, 32_124),
        ("audio/pcmu", 0x00, -32_124),
        ("audio/pcma", 0xD5, 8),
        ("audio/pcma", 0x55, -8),
        ("audio/pcma", 0xAA, 32_256),
    ],
)
def test_g711_has_the_values_of_the_recommendation(law: FormatType, code: int, linear: int) -> None:
    pcm = AudioFormat(law, 8_000).to_pcm(bytes([code]))
    assert int.from_bytes(pcm, "little", signed=True) == linear


def test_binary_header_has_sixteen_bytes_in_network_order() -> None:
    frame = binary.AudioFrame(binary.REPLY_AUDIO, 7, 960, b"\x01\x02")
    message = binary.pack(frame)
    assert message == bytes.fromhex("01 02 0000 00000007 00000000000003c0 0102")
    assert binary.unpack(message) == frame


# --- the session ------------------------------------------------------------------------------------------------------


def test_server_vad_is_taken_over() -> None:
    vad = {"type": "server_vad", "threshold": 0.7, "silence_duration_ms": 2000, "create_response": False}
    turns = updated({"audio": {"input": {"turn_detection": vad}}}).settings.turns
    assert (turns.threshold, turns.silence_duration_ms, turns.create_response) == (0.7, 2000, False)
    assert turns.patience_ms >= turns.silence_duration_ms


@pytest.mark.parametrize(("eagerness", "silence_ms"), [("low", 800), ("medium", 500), ("auto", 500), ("high", 300)])
def test_semantic_vad_is_shown_as_the_server_vad_that_it_is(eagerness: str, silence_ms: int) -> None:
    asked = {"type": "semantic_vad", "eagerness": eagerness}
    session = updated({"audio": {"input": {"turn_detection": asked}}}).as_json()
    shown = session["audio"]["input"]["turn_detection"]
    assert (shown["type"], shown["silence_duration_ms"]) == ("server_vad", silence_ms)


def test_turn_detection_and_transcription_can_be_off() -> None:
    resource = updated({"audio": {"input": {"turn_detection": None, "transcription": None}}})
    assert not resource.settings.turns.detect
    shown = resource.as_json()["audio"]["input"]
    assert shown["turn_detection"] is None
    assert shown["transcription"] is None
    untouched = updated({"audio": {"input": {}}}).settings
    assert untouched.turns.detect
    assert untouched.transcription


@pytest.mark.parametrize(("extended", "rate_hz"), [(True, 48_000), (False, 24_000)])
def test_other_rates_need_the_extension(extended: bool, rate_hz: int) -> None:
    asked = {"audio": {"output": {"format": {"type": "audio/pcm", "rate": 48_000}}}}
    assert updated(asked, extended=extended).settings.output_rate_hz == rate_hz


def test_only_functions_are_tools() -> None:
    tools = [{"type": "mcp", "server_label": "x"}, {"type": "function", "name": "f"}]
    assert [tool["name"] for tool in updated({"tools": tools}).as_json()["tools"]] == ["f"]
    with pytest.raises(ClientError, match="needs a name"):
        updated({"tools": [{"type": "function"}]})


@pytest.mark.parametrize(
    "session",
    [
        {"output_modalities": ["text", "audio"]},
        {"output_modalities": []},
        {"max_output_tokens": 0},
        {"tool_choice": "sometimes"},
        {"audio": {"output": {"speed": 9}}},
        {"audio": {"input": {"format": {"type": "audio/ogg"}}}},
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}},
    ],
)
def test_what_is_invalid_is_refused(session: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        updated(session)


def test_type_of_the_session_does_not_change() -> None:
    resource = SessionResource("transcription", "anna", ConversationSettings("sess_1"), NoNames())
    with pytest.raises(ClientError, match="transcription"):
        resource.updated(SessionUpdate(type="realtime"))


def test_transcription_sessions_never_create_responses() -> None:
    vad = {"type": "server_vad", "create_response": True}
    resource = updated({"audio": {"input": {"turn_detection": vad}}}, kind="transcription")
    assert not resource.settings.turns.create_response


def test_not_in_force_names_the_places() -> None:
    asked = {"a": {"b": 1, "c": 2}, "d": [1], "e": None, "f": {"g": 1}}
    shown = {"a": {"b": 1, "c": 3}, "d": [1], "e": None}
    assert not_in_force(asked, shown) == ["a.c", "f"]


# --- the outbox -------------------------------------------------------------------------------------------------------


def outbox(limit: int = 10) -> tuple[Outbox, CollectorRegistry]:
    registry = CollectorRegistry()
    return Outbox(limit, OrchestratorMetrics(registry)), registry


async def drained(box: Outbox) -> list[str | bytes]:
    box.end()
    messages = []
    while (message := await box.get()) is not None:
        messages.append(message.payload)
    return messages


async def test_void_audio_is_dropped_and_all_else_kept_in_order() -> None:
    box, registry = outbox()
    for message in (Outgoing("a"), Outgoing("old", 1), Outgoing("b"), Outgoing("new", 2)):
        box.put(message)
    box.void(1)
    assert await drained(box) == ["a", "b", "new"]
    assert registry.get_sample_value("antiphon_dropped_reply_frames_total") == 1


async def test_full_outbox_takes_no_more() -> None:
    box, _ = outbox(limit=2)
    assert [box.put(Outgoing(str(n))) for n in range(4)] == [True, True, False, False]
    assert await box.get() is not None
    assert not box.put(Outgoing("late")), "a gap would be silent"
    assert await drained(box) == ["1"]


async def test_reader_waits_for_what_comes() -> None:
    box, _ = outbox()
    waiting = asyncio.create_task(box.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    box.put(Outgoing("now"))
    assert await waiting == Outgoing("now")
