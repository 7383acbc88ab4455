"""The configuration file: what it means, and how it is refused."""

from pathlib import Path

import pytest

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.config import AssistantConfig, ChatConfig, OrchestratorConfig, load_config

pytestmark = pytest.mark.unit

WHOLE = """
assistants:
  concierge:
    recogniser: tiny-en
    voice: {model: joe, name: low, speed: 1.1}
    language: en-GB
    instructions: Be brief.
    tools:
      - name: open_door
        description: Opens the door.
        parameters: {type: object, properties: {floor: {type: integer}}}
    apology: One moment.
    responder: {kind: chat, url: "http://127.0.0.1:9/v1", model: small, key: {env: CHAT_KEY}, timeout_s: 4}
    turns: {silence_duration_ms: 300, backchannels: [right]}
    limits: {idle_s: 60}
  echo: {}
default: {assistant: echo, voice: joe, recogniser: tiny-en}
aliases:
  models: {gpt-realtime: concierge, whisper-1: tiny-en}
  voices: {alloy: joe}
models:
  - {name: joe, task: tts, engine: piper, artifact: {uri: "package://joe/data"}}
server: {port: 0, max_sessions: 3}
registry: {url: "redis://127.0.0.1:6400/1", namespace: home}
workers: {token_file: /run/token}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "antiphon.yaml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(AntiphonError) as raised:
        load_config(written(folder, text))
    assert raised.value.reason is Reason.INVALID_REQUEST
    return raised.value.message


def test_whole_file_becomes_conversation_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_KEY", "secret")
    config = load_config(written(tmp_path, WHOLE))
    name, assistant = config.assistant("gpt-realtime")
    settings = assistant.settings("sess_1")
    assert (name, settings.session_id, settings.recogniser, settings.voice_model) == (
        "concierge",
        "sess_1",
        "tiny-en",
        "joe",
    )
    assert (settings.voice, settings.speed, settings.apology) == ("low", 1.1, "One moment.")
    assert settings.tools[0].parameters["properties"] == {"floor": {"type": "integer"}}
    assert (settings.turns.silence_duration_ms, settings.turns.backchannels) == (300, ("right",))
    assert (settings.limits.idle_s, settings.limits.session_s) == (60, 3600)
    assert isinstance(assistant.responder, ChatConfig)
    assert assistant.responder.key is not None
    assert assistant.responder.key.read().get_secret_value() == "secret"
    assert config.model_defaults() == {"tts": "joe", "asr": "tiny-en"}
    assert "secret" not in repr(config)


def test_no_file_is_one_echo_assistant() -> None:
    config = load_config(None)
    assert config.assistant("default") == ("default", AssistantConfig())
    assert config.assistant("") == ("default", AssistantConfig())


@pytest.mark.parametrize(
    ("default", "expected"), [({"assistant": "bert"}, "bert"), ({}, "anna")], ids=["named", "first by name"]
)
def test_default_assistant(default: dict[str, str], expected: str) -> None:
    config = OrchestratorConfig.model_validate({"assistants": {"bert": {}, "anna": {}}, "default": default})
    assert config.assistant("default")[0] == expected


def test_unknown_assistant_is_an_error_that_lists_what_there_is() -> None:
    config = OrchestratorConfig.model_validate({"assistants": {"bert": {}, "anna": {}}})
    with pytest.raises(AntiphonError, match="anna, bert") as raised:
        config.assistant("gpt-4o")
    assert raised.value.reason is Reason.MODEL_UNKNOWN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("asistants: {}", "unknown key 'asistants'; did you mean 'assistants'?"),
        ("assistants: {a: {recognizer: x}}", "assistants.a: unknown key 'recognizer'; did you mean 'recogniser'?"),
        ("assistants: {a: {turns: {silence_duration_ms: 3}}}", "assistants.a.turns.silence_duration_ms: "),
        ("assistants: {a: {responder: {kind: parrot}}}", "assistants.a.responder: "),
        ("assistants: {a: {responder: {kind: chat, model: m}}}", "assistants.a.responder.chat.url: "),
        ("default: {assistant: nobody}", "there is no assistant 'nobody'"),
        ("server: {keys: [{}]}", "name one source of the secret"),
        ("server: {keys: [{env: NOT_SET_ANYWHERE}]}", "the environment variable NOT_SET_ANYWHERE"),
        ("server: {keys: [{file: /nowhere/key}]}", "Cannot read the file /nowhere/key"),
        ("models: [{name: x, task: tts, engine: e, voise: v}]", "models.0.voise: "),
        ("a: [", "is not YAML"),
        ("- a", "valid dictionary"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    assert "sk-very-secret" not in refusal(tmp_path, "server: {keys: [sk-very-secret]}")


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AntiphonError, match="Cannot read .*No such file"):
        load_config(tmp_path / "none.yaml")


def test_backchannels_follow_the_language() -> None:
    assert "mhm" in AssistantConfig(language="en-US").settings("s").turns.backchannels
    assert AssistantConfig(language="fi").settings("s").turns.backchannels == ()
