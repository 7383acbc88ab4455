"""What the names that callers use stand for."""

import pytest

from antiphon.contracts.adapters import Capabilities
from antiphon.orchestrator.config import AliasesConfig
from antiphon.orchestrator.names import Names
from antiphon.registry.records import ModelRecord
from antiphon.registry.snapshot import Snapshot

pytestmark = pytest.mark.unit

CATALOGUE = Snapshot(
    models={
        "duo": ModelRecord(
            name="duo", task="tts", engine="e", capabilities=Capabilities("tts", 24_000, voices=("ann", "bob"))
        ),
        "joe": ModelRecord(name="joe", task="tts", engine="e"),
        "tiny": ModelRecord(name="tiny", task="asr", engine="e", aliases=("small",)),
    },
    aliases={("asr", "small"): "tiny"},
)
ALIASES = AliasesConfig(models={"tts-1": "joe", "whisper-1": "default"}, voices={"alloy": "bob", "echo": "default"})


def names(snapshot: Snapshot = CATALOGUE, voice: str | None = None) -> Names:
    return Names(ALIASES, {"tts": voice, "asr": None}, lambda: snapshot)


@pytest.mark.parametrize(
    ("task", "name", "expected"),
    [
        ("tts", "joe", "joe"),
        ("tts", "tts-1", "joe"),
        ("tts", "default", "duo"),
        ("asr", "small", "tiny"),
        ("asr", "whisper-1", "tiny"),
        ("asr", "joe", None),
        ("tts", "nobody", None),
    ],
)
def test_models(task: str, name: str, expected: str | None) -> None:
    assert names().model(task, name) == expected  # type: ignore[arg-type]


def test_configured_default_wins_over_the_first_by_name() -> None:
    assert names(voice="joe").model("tts", "default") == "joe"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bob", ("duo", "bob")),
        ("alloy", ("duo", "bob")),
        ("echo", ("duo", "")),
        ("default", ("duo", "")),
        ("joe", ("joe", "")),
        ("marin", None),
    ],
)
def test_voices(name: str, expected: tuple[str, str] | None) -> None:
    assert names().voice(name, "default") == expected


def test_nothing_is_known_before_the_registry_was_read() -> None:
    empty = names(Snapshot())
    assert empty.model("tts", "default") is None
    assert empty.voice("ann", "default") is None
