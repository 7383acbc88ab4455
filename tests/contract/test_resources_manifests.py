"""Python reads the manifests as the API server does: what that one refuses by a rule is refused in the same words."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from antiphon.contracts.models import ModelSpec
from antiphon.contracts.resources import VoiceModel, WorkerPool
from antiphon.contracts.resources.definitions import DEFINITIONS

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "tests/cluster/manifests"
KINDS = {"VoiceModel": VoiceModel, "WorkerPool": WorkerPool}


def documents(folder: Path) -> list[Any]:
    """Every one of our resources in a folder's files, each with its name as the test's."""
    files = sorted(folder.rglob("*.yaml"))
    found = [document for file in files for document in yaml.safe_load_all(file.read_text()) if document]
    return [pytest.param(each, id=each["metadata"]["name"]) for each in found if each["kind"] in KINDS]


def read(document: dict[str, Any]) -> VoiceModel | WorkerPool:
    """The document, strictly: numbers are numbers, and nothing is unknown but in its metadata."""
    metadata = {"name": document["metadata"]["name"]}
    text = json.dumps({**document, "metadata": metadata})
    return KINDS[document["kind"]].model_validate_json(text, strict=True, extra="forbid")


def sentences(schema: Any) -> set[str]:
    """The sentences of every rule in a schema."""
    if isinstance(schema, list):
        return set().union(*map(sentences, schema))
    if not isinstance(schema, dict):
        return set()
    own = {rule["message"] for rule in schema.get("x-kubernetes-validations", ()) if isinstance(rule, dict)}
    return own.union(*map(sentences, schema.values()))


SENTENCES = sentences([definition.rendered() for definition in DEFINITIONS])


def test_there_are_enough() -> None:
    assert len(documents(MANIFESTS / "bad")) >= 60
    assert len(documents(MANIFESTS / "good")) >= 20


@pytest.mark.parametrize("document", documents(MANIFESTS / "bad"))
def test_bad_manifests_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        read(document)
    sentence = document["metadata"]["annotations"]["refused"]
    if sentence in SENTENCES:
        assert sentence in str(refused.value)


@pytest.mark.parametrize("document", documents(MANIFESTS / "good") + documents(ROOT / "crds/samples"))
def test_good_manifests_are_read_and_written_again(document: dict[str, Any]) -> None:
    resource = read(document)
    written = resource.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert written["spec"] == document["spec"]
    assert type(resource).model_validate(written) == resource


def test_every_rule_is_broken_by_a_manifest() -> None:
    broken = {param.values[0]["metadata"]["annotations"]["refused"] for param in documents(MANIFESTS / "bad")}
    of_changes = {
        sentence for sentence in SENTENCES if sentence.startswith(("Change ", "Leave sizeMiB", "Leave storage"))
    }
    of_changes |= {sentence for sentence in SENTENCES if " cannot change: " in sentence}
    assert SENTENCES - broken == of_changes


def test_unknown_fields_of_the_api_server_are_ignored() -> None:
    document = {"metadata": {"name": "joe", "managedFields": []}, "spec": {"task": "tts", "engine": "piper", "new": 1}}
    assert VoiceModel.model_validate(document).spec.engine == "piper"


def test_a_model_becomes_what_a_worker_loads() -> None:
    good = (param.values[0] for param in documents(MANIFESTS / "good"))
    [document] = [each for each in good if (each["kind"], each["metadata"]["name"]) == ("VoiceModel", "all-fields")]
    model = VoiceModel.model_validate(document)
    spec = model.specification()
    assert isinstance(spec, ModelSpec)
    assert (spec.name, spec.task, spec.engine, spec.aliases) == ("all-fields", "tts", "piper", ("alloy", "tts-1"))
    assert spec.artifact is not None and spec.artifact.revision.startswith("0123")
    assert spec.memory.weights_mib == 120 and spec.residency.idle_ttl_seconds == 900
    assert spec.engine_config == {"speed": 1.1, "speaker": "joe"}
    assert model.capabilities is not None and model.capabilities.voices == ("joe",)
