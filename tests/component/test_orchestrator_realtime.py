"""The Realtime WebSocket, driven by the unchanged `openai` client, with scripted ears, voice and mind."""

import base64
import json

import pytest

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.ports import FunctionCallDelta, TextDelta, Usage
from antiphon.testing.realtime import RATE_HZ, serving, silence, talking, tone

pytestmark = pytest.mark.component

# --- turns ------------------------------------------------------------------------------------------------------------


async def test_typed_turn_is_answered_in_speech() -> None:
    async with serving([TextDelta("one two three"), Usage(7, 3)]) as server, talking(server) as talk:
        created = talk.events[0]["session"]
        assert created["id"].startswith("sess_")
        assert created["audio"]["output"]["voice"] == "duo"
        await talk.say("hello")
        await talk.connection.response.create()
        done = (await talk.until("response.done"))["response"]
    assert done["status"] == "completed"
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "one two three"}]
    assert done["usage"]["total_tokens"] == 10
    audio = b"".join(base64.b64decode(event["delta"]) for event in talk.of("response.output_audio.delta"))
    assert len(audio) == RATE_HZ * 600 // 1000 * 2
    transcript = "".join(event["delta"] for event in talk.of("response.output_audio_transcript.delta"))
    assert transcript.strip() == "one two three"
    order = [type_ for type_ in talk.types() if not type_.endswith(".delta")][3:]
    assert order == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert server.responder.requests[0].history[-1].text == "hello"


async def test_spoken_turn_with_server_vad_is_answered() -> None:
    async with serving() as server, talking(server) as talk:
        await talk.connection.session.update(
            session={
                "type": "realtime",
                "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 200}}},
            }
        )
        await talk.append(silence(200) + tone(600) + silence(800))
        started = await talk.until("input_audio_buffer.speech_started")
        stopped = await talk.until("input_audio_buffer.speech_stopped")
        heard = await talk.until("conversation.item.input_audio_transcription.completed")
        done = await talk.until("response.done")
    assert abs(started["audio_start_ms"] - 0) <= 64  # 200 ms, less the padding of 300
    assert abs(stopped["audio_end_ms"] - 800) <= 64
    assert heard["transcript"] == "what is the time"
    assert heard["usage"]["type"] == "duration"
    assert heard["usage"]["seconds"] > 0.5
    assert done["response"]["status"] == "completed"
    assert server.value("antiphon_turns_total", interrupted="no") == 1
    assert server.value("antiphon_voice_to_voice_seconds_count") == 1


async def test_interruption_stops_the_reply_and_truncates_its_item() -> None:
    async with serving("word " * 60) as server, talking(server) as talk:
        await talk.say()
        await talk.connection.response.create()
        for _ in range(4):
            await talk.until("response.output_audio_transcript.delta")
        await talk.append(tone(900) + silence(300))
        started = await talk.until("input_audio_buffer.speech_started")
        truncated = await talk.until("conversation.item.truncated")
        done = (await talk.until("response.done"))["response"]
        await talk.connection.conversation.item.retrieve(item_id=truncated["item_id"])
        kept = (await talk.until("conversation.item.retrieved"))["item"]
    assert started["item_id"] != truncated["item_id"]
    assert done["status"] == "cancelled"
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    heard = kept["content"][0]["transcript"].split()
    assert 0 < len(heard) < 60
    assert abs(len(heard) * 200 - truncated["audio_end_ms"]) <= 200


async def test_cancel_and_truncate_by_the_client() -> None:
    async with serving("word " * 60) as server, talking(server) as talk:
        await talk.say()
        await talk.connection.response.create()
        delta = await talk.until("response.output_audio.delta")
        await talk.connection.response.cancel()
        done = (await talk.until("response.done"))["response"]
        assert done["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
        await talk.connection.conversation.item.truncate(item_id=delta["item_id"], content_index=0, audio_end_ms=0)
        assert (await talk.until("conversation.item.truncated"))["audio_end_ms"] == 0
        await talk.connection.response.cancel(event_id="again")
        error = (await talk.until("error"))["error"]
        assert (error["code"], error["event_id"]) == ("response_cancel_not_active", "again")
        assert "Cancellation failed" in error["message"]


async def test_text_reply_has_no_audio() -> None:
    async with serving() as server, talking(server) as talk:
        await talk.say()
        await talk.connection.response.create(response={"output_modalities": ["text"], "metadata": {"turn": "1"}})
        done = (await talk.until("response.done"))["response"]
    assert done["output"][0]["content"][0] == {"type": "output_text", "text": "one two three four"}
    assert done["metadata"] == {"turn": "1"}
    assert talk.of("response.created")[0]["response"]["metadata"] == {"turn": "1"}
    assert not server.synthesiser.streams
    assert "response.output_text.done" in talk.types()


async def test_a_tool_call_that_is_broken_off_is_not_to_be_carried_out() -> None:
    calls = [FunctionCallDelta("call_1", "clock", '{"zone":'), FunctionCallDelta("call_1", "", '"UTC"}')]
    async with serving(calls) as server, talking(server) as talk:
        server.responder.delay_s = 600
        await talk.say("what time is it")
        await talk.connection.response.create()
        await talk.until("response.function_call_arguments.delta")
        await talk.connection.response.cancel()
        done = await talk.until("response.done")
    (item,) = done["response"]["output"]
    assert (item["status"], item["arguments"]) == ("incomplete", '{"zone":')
    assert talk.of("response.output_item.done")[0]["item"] == item
    assert not talk.of("response.function_call_arguments.done")


async def test_tool_call_and_its_answer() -> None:
    calls = [FunctionCallDelta("call_1", "clock", '{"zone":'), FunctionCallDelta("call_1", "", '"UTC"}')]
    async with serving(calls) as server, talking(server) as talk:
        await talk.connection.session.update(
            session={"type": "realtime", "tools": [{"type": "function", "name": "clock", "parameters": {}}]}
        )
        await talk.say("what time is it")
        await talk.connection.response.create()
        call = await talk.until("response.function_call_arguments.done")
        await talk.until("response.done")
        assert (call["name"], json.loads(call["arguments"])) == ("clock", {"zone": "UTC"})
        server.responder.reply = "it is noon"
        answer = {"type": "function_call_output", "call_id": call["call_id"], "output": "12:00"}
        await talk.connection.conversation.item.create(item=answer)
        await talk.connection.response.create()
        done = await talk.until("response.done")
    assert done["response"]["output"][0]["content"][0]["transcript"].strip() == "it is noon"
    assert server.responder.requests[0].tools[0].name == "clock"
    assert server.responder.requests[1].history[-1].output == "12:00"


async def test_manual_turns_are_committed_and_answered_on_demand() -> None:
    async with serving() as server, talking(server) as talk:
        await talk.connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        updated = await talk.until("session.updated")
        assert updated["session"]["audio"]["input"]["turn_detection"] is None
        await talk.connection.input_audio_buffer.commit()
        assert (await talk.until("error"))["error"]["code"] == "input_audio_buffer_commit_empty"
        await talk.append(tone(500))
        await talk.connection.input_audio_buffer.commit()
        await talk.until("conversation.item.input_audio_transcription.completed")
        await talk.connection.response.create()
        assert (await talk.until("response.done"))["response"]["status"] == "completed"
        await talk.append(tone(200))
        await talk.connection.input_audio_buffer.clear()
        await talk.until("input_audio_buffer.cleared")


async def test_transcription_session_never_replies() -> None:
    async with serving() as server, talking(server, intent="transcription") as talk:
        assert talk.events[0]["session"]["type"] == "transcription"
        await talk.append(tone(600) + silence(900))
        heard = await talk.until("conversation.item.input_audio_transcription.completed")
        assert heard["transcript"] == "what is the time"
        await talk.connection.response.create()
        assert (await talk.until("error"))["error"]["type"] == "invalid_request_error"
    assert not server.responder.requests


async def test_transcription_session_may_name_its_recogniser() -> None:
    config = {"aliases": {"models": {"whisper-1": "tiny-en"}}}
    async with serving(config=config) as server, talking(server, "whisper-1", intent="transcription") as talk:
        assert talk.events[0]["session"]["audio"]["input"]["transcription"] == {"model": "tiny-en"}


async def test_lost_recogniser_is_told_and_the_session_lives() -> None:
    lost = AntiphonError(Reason.NO_WORKER, "No recogniser can be had.")
    async with serving(heard=[lost, "hello"]) as server, talking(server) as talk:
        await talk.append(tone(600) + silence(900))
        failed = await talk.until("conversation.item.input_audio_transcription.failed")
        assert failed["error"]["code"] == "NO_WORKER"
        await talk.append(tone(600) + silence(900))
        await talk.until("conversation.item.input_audio_transcription.completed")
        assert (await talk.until("response.done"))["response"]["status"] == "completed"
    assert server.value("antiphon_errors_total", reason="NO_WORKER") == 1


async def test_failing_responder_is_told_in_response_done() -> None:
    failure = AntiphonError(Reason.RESPONDER_FAILED, "The chat server refused.")
    async with serving(failure) as server, talking(server) as talk:
        await talk.say()
        await talk.connection.response.create()
        done = (await talk.until("response.done"))["response"]
    assert done["status"] == "failed"
    assert done["status_details"]["error"]["code"] == "RESPONDER_FAILED"
    assert talk.of("response.output_audio.delta"), "an apology is spoken"


# --- what is invalid --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ("{", "invalid_json", None),
        ('{"type": "session.update", "session": {"tools": [{"parameters": {"a": "\\ud83d"}}]}}', "invalid_json", None),
        ("[]", "invalid_json", None),
        ("[" * 100_000, "invalid_json", None),
        ('{"type": "session.destroy", "event_id": "e1"}', "invalid_value", "type"),
        ('{"event_id": "e1"}', "missing_required_parameter", "type"),
        ('{"type": "session.update", "event_id": "e1", "session": {}}', "missing_required_parameter", "session.type"),
        ('{"type": "input_audio_buffer.append", "event_id": "e1", "audio": "%%%%"}', "invalid_value", "audio"),
        ('{"type": "input_audio_buffer.append", "event_id": "e1", "audio": "AAAA"}', "invalid_value", "audio"),
        ('{"type": "input_audio_buffer.append", "event_id": "e1", "audio": 3}', "invalid_type", "audio"),
        ('{"type": "conversation.item.delete", "event_id": "e1", "item_id": "x"}', "item_delete_invalid_item_id", None),
        (
            '{"type": "conversation.item.retrieve", "event_id": "e1", "item_id": "x"}',
            "item_retrieve_invalid_item_id",
            "item_id",
        ),
        (
            '{"type": "response.create", "event_id": "e1", "response": {"conversation": "none"}}',
            "invalid_value",
            "response.conversation",
        ),
        (
            '{"type": "response.create", "event_id": "e1", "response": {"input": []}}',
            "unsupported_parameter",
            "response.input",
        ),
        (
            '{"type": "response.create", "event_id": "e1", "response": {"audio": {"output": {"voice": "marin"}}}}',
            "invalid_value",
            "response.audio.output.voice",
        ),
        (
            '{"type": "response.create", "event_id": "e1", "response": '
            '{"audio": {"output": {"format": {"type": "audio/pcmu"}}}}}',
            "invalid_value",
            "response.audio.output.format",
        ),
        (
            '{"type": "conversation.item.create", "event_id": "e1", "item": {"type": "message", "role": "user", '
            '"content": [{"type": "input_image", "image_url": "data:"}]}}',
            "invalid_value",
            "item.content",
        ),
    ],
)
async def test_invalid_events_are_refused_by_name_and_the_session_lives(
    message: str, code: str, param: str | None
) -> None:
    async with serving() as server, talking(server) as talk:
        await talk.connection.send_raw(message)
        error = (await talk.until("error"))["error"]
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
        assert error["event_id"] == ("e1" if "e1" in message else None)
        assert await talk.say()


async def test_text_of_a_megabyte_is_refused() -> None:
    async with serving() as server, talking(server) as talk:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * 2**20}]}
        await talk.connection.conversation.item.create(item=item, event_id="e1")
        error = (await talk.until("error"))["error"]
        assert (error["code"], error["event_id"]) == ("invalid_value", "e1")
        assert error["param"].endswith("content.0.text")
        await talk.connection.session.update(session={"type": "realtime", "instructions": "x" * 2**20})
        assert (await talk.until("error"))["error"]["param"] == "session.instructions"


async def test_binary_without_the_extension_is_refused() -> None:
    async with serving() as server, talking(server) as talk:
        await talk.connection.send_raw(bytes(20))
        assert "antiphon.v1" in (await talk.until("error"))["error"]["message"]


async def test_duplicate_item_and_second_response_are_refused() -> None:
    async with serving("word " * 50) as server, talking(server) as talk:
        item_id = await talk.say()
        again = {"id": item_id, "type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
        await talk.connection.conversation.item.create(item=again)
        assert (await talk.until("error"))["error"]["code"] == "item_create_duplicate_item_id"
        await talk.connection.response.create()
        await talk.until("response.created")
        await talk.connection.response.create()
        assert (await talk.until("error"))["error"]["code"] == "conversation_already_has_active_response"
