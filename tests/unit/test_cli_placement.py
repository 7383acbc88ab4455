"""What the workers of one machine should hold, and what stands in for a model that is not there."""

from pathlib import Path
from typing import Any

import pytest

from antiphon.cli.embedded import UpOptions, complete_config
from antiphon.cli.placement import want_of
from antiphon.contracts.errors import AntiphonError
from antiphon.contracts.models import ModelSpec
from antiphon.orchestrator.config import OrchestratorConfig
from antiphon.registry.records import Lease, ModelRecord

pytestmark = pytest.mark.unit


def model(name: str, policy: str = "OnDemand", mib: int = 10, engine: str = "mock") -> ModelRecord:
    settings = {"residency": {"policy": policy}, "memory": {"weightsMiB": mib}}
    return ModelRecord.of(ModelSpec.model_validate({"name": name, "task": "tts", "engine": engine, **settings}))


def wanted(*models: ModelRecord, **lease: Any) -> tuple[list[str], list[str]]:
    want = want_of(models, Lease(worker="w", incarnation="i", engines={"mock": "1"}, **lease))
    return [ref.name for ref in want.hold], [ref.name for ref in want.may]


def test_without_limits_all_is_held_but_what_is_loaded_on_demand() -> None:
    assert wanted(model("a"), model("b", "Preload"), model("c", "Pinned")) == (["c", "b"], ["a"])


def test_what_is_pinned_comes_before_what_is_preloaded() -> None:
    assert wanted(model("a", "Preload", 30), model("b", "Pinned", 30), memory_mib=50) == (["b"], ["a"])


def test_no_more_is_held_than_the_worker_takes() -> None:
    models = [model(name, "Preload") for name in "abc"]
    assert wanted(*models, resident_cap=2) == (["a", "b"], ["c"])
    assert wanted(*models, memory_mib=25) == (["a", "b"], ["c"])


def test_a_smaller_model_is_held_where_a_larger_one_does_not_fit_any_more() -> None:
    assert wanted(model("a", "Preload", 40), model("b", "Preload", 40), model("c", "Preload", 5), memory_mib=50) == (
        ["a", "c"],
        ["b"],
    )


def test_a_worker_is_never_asked_for_what_it_cannot_have() -> None:
    assert wanted(model("large", "Pinned", 100), model("other", engine="piper"), memory_mib=50) == ([], [])


MODELS = "models: [{name: sine, task: tts, engine: mock}, {name: script, task: asr, engine: mock}]\n"


def completed(folder: Path, assistant: str) -> OrchestratorConfig:
    file = folder / "config.yaml"
    file.write_text(MODELS + f"assistants: {{anna: {assistant}}}")
    return complete_config(UpOptions(config=file))


def test_a_fallback_reaches_the_conversation(tmp_path: Path) -> None:
    config = completed(
        tmp_path, "{voice: {model: large, fallback: sine}, recogniser: big, recogniser_fallback: script}"
    )
    settings = config.assistants["anna"].settings("s")
    assert (settings.voice_fallback, settings.recogniser_fallback) == ("sine", "script")


@pytest.mark.parametrize(
    ("assistant", "said"),
    [
        ("{voice: {fallback: script}}", "'script', which is no tts model"),
        ("{recogniser_fallback: nobody}", "'nobody', which is no asr model"),
        ("{voice: {model: sine, fallback: sine}}", "'sine' is the model that it should stand in for"),
    ],
)
def test_a_fallback_that_could_not_help_is_refused(tmp_path: Path, assistant: str, said: str) -> None:
    with pytest.raises(AntiphonError, match=said):
        completed(tmp_path, assistant)
