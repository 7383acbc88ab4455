"""The command line itself: it lists what it can do, and fails in one sentence."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from antiphon.cli.failures import explain
from antiphon.cli.main import app
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.worker.config import WorkerConfig

pytestmark = pytest.mark.unit

COMMANDS = (
    *("up", "talk", "say", "transcribe", "models", "workers", "route", "worker", "orchestrator", "registrar", "demo"),
    "bench",
)


def test_help_lists_every_command() -> None:
    told = CliRunner().invoke(app, ["--help"])
    assert told.exit_code == 0
    assert all(f" {command} " in told.output for command in COMMANDS)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "bench"])
def test_every_command_teaches_by_example(command: str) -> None:
    told = CliRunner().invoke(app, [command, "--help"])
    assert told.exit_code == 0
    assert "Examples:" in told.output
    assert f"antiphon {command}" in told.output


def test_a_worker_tells_its_settings() -> None:
    told = CliRunner().invoke(app, ["worker", "--help"]).output
    missing = [name for name in WorkerConfig.model_fields if not re.search(rf"\b{name}\b", told)]
    assert not missing


def test_an_error_is_its_sentence_even_out_of_a_group() -> None:
    group = ExceptionGroup("g", [ExceptionGroup("h", [AntiphonError(Reason.TIMEOUT, "Wait a little.")])])
    assert explain(group) == "Wait a little."


def test_a_missing_part_names_its_extra() -> None:
    assert "antiphon[client]" in explain(ModuleNotFoundError("no", name="aiohttp.web"))


def test_a_setting_that_is_not_valid_is_named_without_its_value() -> None:
    with pytest.raises(ValueError) as refused:
        WorkerConfig(port="s3cret")  # type: ignore[arg-type]
    told = explain(refused.value)
    assert "WorkerConfig: port" in told
    assert "s3cret" not in told


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("models", "/no/such.yaml", "models: the file /no/such.yaml cannot be read: No such file or directory"),
        ("models", "broken.yaml", "broken.yaml is not YAML"),
        ("models", "binary.yaml", "binary.yaml is not YAML"),
        ("models", "other.yaml", "no key `models`"),
        ("models", "[{", "models: "),
        ("rewrites", "hf://=https://", "rewrites: "),
        ("log_level", "chatty", "'chatty' is no level: choose one of CRITICAL"),
    ],
)
def test_what_the_environment_says_wrongly_to_a_worker_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, says: str
) -> None:
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "other.yaml").write_text("foo: []")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"ANTIPHON_WORKER_{setting.upper()}", value)
    with pytest.raises(ValueError) as refused:
        WorkerConfig()
    assert explain(refused.value).startswith(f"WorkerConfig: {setting}: ")
    assert says in explain(refused.value)


def test_a_worker_takes_its_rewrites_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_WORKER_REWRITES", '[{"prefix": "hf://", "replacement": "https://mirror/"}]')
    assert [each.prefix for each in WorkerConfig().rewrites] == ["hf://"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError) as failed:
        (tmp_path / "none" / "reply.wav").write_bytes(b"")
    assert explain(failed.value) == f"Cannot read or write {tmp_path}/none/reply.wav: No such file or directory."


def test_a_fault_of_our_own_says_so() -> None:
    assert "KeyError" in explain(KeyError("x"))
