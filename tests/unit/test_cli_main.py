"""The command line itself: it lists what it can do, and fails in one sentence."""

import pytest
from typer.testing import CliRunner

from antiphon.cli.failures import explain
from antiphon.cli.main import app
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.worker.config import WorkerConfig

pytestmark = pytest.mark.unit

COMMANDS = ("up", "talk", "say", "transcribe", "models", "workers", "route", "worker", "orchestrator", "demo", "bench")


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


def test_a_fault_of_our_own_says_so() -> None:
    assert "KeyError" in explain(KeyError("x"))
