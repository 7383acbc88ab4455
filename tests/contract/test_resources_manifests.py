"""Python reads the manifests as the API server does: what that one refuses by a rule is refused in the same words."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec
from antiphon.contracts.resources import VoiceModel
from antiphon.contracts.resources.definitions import DEFINITIONS
from antiphon.contracts.resources.manifests import read_manifest, read_manifests

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "tests/cluster/manifests"
KINDS = ("VoiceModel", "WorkerPool")


def documents(folder: Path) -> list[Any]:
    """Every one of our resources in a folder's files, each with its name as the test's."""
    files = sorted(folder.rglob("*.yaml"))
    found = [document for file in files for document in yaml.safe_load_all(file.read_text()) if document]
    return [pytest.param(each, id=each["metadata"]["name"]) for each in found if each["kind"] in KINDS]


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
        read_manifest(document)
    sentence = document["metadata"]["annotations"]["refused"]
    if sentence in SENTENCES:
        assert sentence in str(refused.value)


@pytest.mark.parametrize("document", documents(MANIFESTS / "good") + documents(ROOT / "crds/samples"))
def test_good_manifests_are_read_and_written_again(document: dict[str, Any]) -> None:
    resource = read_manifest(document)
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


MODEL = "{apiVersion: antiphon.dev/v1alpha1, kind: VoiceModel, metadata: {name: joe}, spec: {task: tts, engine: piper}}"
FAULTY = {
    "no-yaml": ("a: [", "is not YAML"),
    "no-manifest": ("- joe", "document 1: it is no manifest: apiVersion and kind are missing."),
    "no-such-kind": (
        "{apiVersion: antiphon.dev/v1alpha1, kind: Voice}",
        "document 1: antiphon.dev/v1alpha1 has no kind 'Voice'; there is VoiceModel, WorkerPool.",
    ),
    "unknown-field": (
        MODEL + "\n---\n" + MODEL.replace("engine: piper", "engine: piper, residency: {polcy: Pinned}"),
        "document 2: spec.residency.polcy: Extra inputs are not permitted.",
    ),
    "rule": (
        MODEL.replace("engine: piper", "engine: piper, aliases: [a, B]"),
        "document 1: spec.aliases[1]: Write a name of lower-case letters",
    ),
    "text-for-a-number": (
        MODEL.replace("engine: piper", "engine: piper, memory: {weightsMiB: '1'}"),
        "document 1: spec.memory.weightsMiB: Input should be a valid integer.",
    ),
}


@pytest.mark.parametrize(("text", "sentence"), FAULTY.values(), ids=FAULTY)
def test_a_faulty_file_is_refused_by_place(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    with pytest.raises(AntiphonError) as refused:
        read_manifests(file)
    assert refused.value.reason is Reason.INVALID_REQUEST
    assert str(file) in str(refused.value) and sentence in str(refused.value)


def test_a_folder_is_read_whole_and_other_documents_passed_over(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(MODEL + "\n---\n{apiVersion: v1, kind: Secret, metadata: {name: hub}}\n---\n")
    (tmp_path / "a.json").write_text(
        '{"apiVersion": "antiphon.dev/v1alpha1", "kind": "WorkerPool", "metadata": '
        '{"name": "cpu", "creationTimestamp": null}, "spec": {"image": "worker:1"}}'
    )
    (tmp_path / "notes.txt").write_text("not a manifest")
    assert [(each.kind, each.metadata.name) for each in read_manifests(tmp_path)] == [
        ("WorkerPool", "cpu"),
        ("VoiceModel", "joe"),
    ]
