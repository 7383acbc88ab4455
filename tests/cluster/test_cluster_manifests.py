"""What the API server makes of manifests: the bad are refused, each with its sentence; the good are taken as meant."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane, KubectlError

from antiphon.contracts.resources import API_VERSION, VoiceModel, WorkerPool
from antiphon.contracts.resources.definitions import DEFINITIONS, Definition

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
MANIFESTS = Path(__file__).parent / "manifests"
KINDS = {"VoiceModel": VoiceModel, "WorkerPool": WorkerPool}
A_DIGEST = "sha256:" + "0" * 62 + "aa"
B_DIGEST = "sha256:" + "0" * 62 + "bb"


def documents(folder: Path) -> list[Any]:
    """Every document of a folder's files, each with its name as the test's."""
    found = [each for file in sorted(folder.rglob("*.yaml")) for each in yaml.safe_load_all(file.read_text()) if each]
    return [pytest.param(each, id=each["metadata"]["name"]) for each in found]


@pytest.fixture(scope="module")
def namespace(control_plane: ControlPlane) -> str:
    """One namespace for all tests of this module: each has objects of its own name."""
    return control_plane.create_namespace("manifests")


def applied(control_plane: ControlPlane, document: dict[str, Any], *flags: str) -> str:
    """What is said when a document is applied; empty when it was taken."""
    try:
        control_plane.kubectl("apply", *flags, "-f", "-", stdin=json.dumps(document))
    except KubectlError as refused:
        return str(refused)
    return ""


BAD = documents(MANIFESTS / "bad")


@pytest.fixture(scope="module")
def refusals(control_plane: ControlPlane) -> dict[tuple[str, str], str]:
    """What is said of each bad manifest, by kind and name."""
    bad = [param.values[0] for param in BAD]
    with ThreadPoolExecutor(4) as several:
        said = list(several.map(lambda each: applied(control_plane, each, "--dry-run=server"), bad))
    return {(each["kind"], each["metadata"]["name"]): text for each, text in zip(bad, said, strict=True)}


@pytest.mark.parametrize("document", BAD)
def test_bad_manifests_are_refused(refusals: dict[tuple[str, str], str], document: dict[str, Any]) -> None:
    metadata = document["metadata"]
    assert metadata["annotations"]["refused"] in refusals[document["kind"], metadata["name"]]


@pytest.mark.parametrize("document", documents(MANIFESTS / "good"))
def test_good_manifests_are_taken(control_plane: ControlPlane, namespace: str, document: dict[str, Any]) -> None:
    kind, name = document["kind"], document["metadata"]["name"]
    control_plane.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(document))
    stored = control_plane.get("-n", namespace, kind, name)
    # What the schema fills in is what the models say: both read alike.
    assert KINDS[kind].model_validate(stored).spec == KINDS[kind].model_validate(document).spec


@pytest.mark.parametrize("document", documents(ROOT / "crds/samples"))
def test_samples_are_taken(control_plane: ControlPlane, document: dict[str, Any]) -> None:
    control_plane.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=json.dumps(document))


def model(**spec: Any) -> dict[str, Any]:
    """A VoiceModel."""
    whole = {"task": "tts", "engine": "piper", **spec}
    return {
        "apiVersion": "antiphon.dev/v1alpha1",
        "kind": "VoiceModel",
        "metadata": {"name": "changing"},
        "spec": whole,
    }


def named(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The same under another name."""
    return {**document, "metadata": {"name": name}}


def hub(**artifact: str) -> dict[str, Any]:
    """A VoiceModel with these weights."""
    return model(artifact={"uri": "hf://owner/voices", **artifact})


def pool(**cache: Any) -> dict[str, Any]:
    """A WorkerPool with this cache."""
    spec = {"image": "example.com/worker:1", "cache": cache}
    return {"apiVersion": "antiphon.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "changing"}, "spec": spec}


TOGETHER = "Change revision and digest together: another revision has other weights, and other weights are another"
REFUSED_CHANGES = {
    "task": (model(), model(task="asr"), "The task cannot change: make a VoiceModel of another name"),
    "engine": (model(), model(engine="mock"), "The engine cannot change: make a VoiceModel of another name"),
    "revision-alone": (hub(revision="v1", digest=A_DIGEST), hub(revision="v2", digest=A_DIGEST), TOGETHER),
    "digest-alone": (hub(revision="v1", digest=A_DIGEST), hub(revision="v1", digest=B_DIGEST), TOGETHER),
    "claim-shrinks": (
        pool(kind="Claim", sizeMiB=100),
        pool(kind="Claim", sizeMiB=50),
        "Leave sizeMiB as it was, or make it larger: a claim does not shrink.",
    ),
    "claim-of-another-class": (
        pool(kind="Claim", sizeMiB=100),
        pool(kind="Claim", sizeMiB=100, storageClassName="fast"),
        "Leave storageClassName as it was: a claim keeps its class.",
    ),
}
ALLOWED_CHANGES = {
    "both": (hub(revision="v1", digest=A_DIGEST), hub(revision="v2", digest=B_DIGEST)),
    "revision-without-digest": (hub(revision="v1"), hub(revision="v2")),
    "digest-added": (hub(revision="v1"), hub(revision="v1", digest=A_DIGEST)),
    "digest-given-up": (hub(revision="v1", digest=A_DIGEST), hub(revision="v2")),
    "digest-without-revision": (hub(digest=A_DIGEST), hub(digest=B_DIGEST)),
    "another-place": (
        hub(revision="v1", digest=A_DIGEST),
        hub(uri="hf://mirror/voices", revision="v1", digest=A_DIGEST),
    ),
    "weights-at-all": (model(), hub(revision="v1", digest=A_DIGEST)),
    "claim-grows": (pool(kind="Claim", sizeMiB=100), pool(kind="Claim", sizeMiB=200)),
    "another-kind-of-cache": (pool(kind="Claim", sizeMiB=100), pool(kind="Ephemeral", sizeMiB=50)),
}


@pytest.mark.parametrize("change", REFUSED_CHANGES)
def test_changes_are_refused(control_plane: ControlPlane, namespace: str, change: str) -> None:
    before, after, sentence = REFUSED_CHANGES[change]
    assert applied(control_plane, named(before, change), "-n", namespace) == ""
    assert sentence in applied(control_plane, named(after, change), "-n", namespace)


@pytest.mark.parametrize("change", ALLOWED_CHANGES)
def test_changes_are_taken(control_plane: ControlPlane, namespace: str, change: str) -> None:
    for document in ALLOWED_CHANGES[change]:
        assert applied(control_plane, named(document, change), "-n", namespace) == ""


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field below a value, and its path as `kubectl explain` wants it."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field.get("items", field), f"{path}.{name}")


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.kind)
def test_every_field_is_explained(control_plane: ControlPlane, definition: Definition) -> None:
    # What `kubectl explain` reads, and what it prints of it.
    published = json.loads(control_plane.kubectl("get", "--raw", f"/openapi/v3/apis/{API_VERSION}"))
    [schema] = [each for name, each in published["components"]["schemas"].items() if name.endswith(definition.kind)]
    found = dict(fields({"properties": schema["properties"]}, definition.kind.lower()))
    assert len(found) > 60
    assert [path for path, field in found.items() if not field.get("description") and "allOf" not in field] == []
    tree = control_plane.kubectl("explain", definition.kind.lower(), "--recursive")
    assert [path for path in found if path.rsplit(".", 1)[1] not in tree] == []
    deepest = max((path for path in found if ".spec." in path), key=lambda path: path.count("."))
    assert found[deepest]["description"] in " ".join(control_plane.kubectl("explain", deepest).split())


def test_a_pool_can_be_scaled(control_plane: ControlPlane, cluster_namespace: str) -> None:
    control_plane.kubectl("-n", cluster_namespace, "apply", "-f", "-", stdin=json.dumps(pool()))
    control_plane.kubectl("-n", cluster_namespace, "scale", "wpool/changing", "--replicas=3")
    scale = control_plane.get("-n", cluster_namespace, "wpool", "changing", "--subresource=scale")
    assert scale["kind"] == "Scale" and scale["spec"] == {"replicas": 3}


def test_a_glance_shows_the_state(control_plane: ControlPlane, cluster_namespace: str) -> None:
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Resident",
        "message": "Two workers hold it.",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    active = {"revision": "v1", "digest": A_DIGEST, "artifact": {"uri": "hf://owner/voices", "revision": "v1"}}
    model_status = VoiceModel.model_validate(
        {**model(), "status": {"conditions": [ready], "active": active, "resident": "2/2", "streams": 7}}
    )
    pool_status = WorkerPool.model_validate(
        {**pool(), "status": {"conditions": [ready], "workers": "3/3", "streams": 9, "streamLimit": 48}}
    )
    for each in (model_status, pool_status):
        document = each.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        document = {"apiVersion": each.api_version, "kind": each.kind, **document}
        control_plane.kubectl("-n", cluster_namespace, "apply", "-f", "-", stdin=json.dumps(document))
        status = ("apply", "--server-side", "--subresource=status", "--field-manager=test", "-f", "-")
        control_plane.kubectl("-n", cluster_namespace, *status, stdin=json.dumps(document))
    shown = control_plane.kubectl("-n", cluster_namespace, "get", "antiphon", "-o", "wide").split("\n\n")
    by_kind = {row.split()[0].split(".")[0]: row for table in shown for row in table.splitlines()[1:]}
    assert by_kind["voicemodel"].split()[1:7] == ["tts", "piper", "True", "2/2", "v1", "7"]
    assert by_kind["workerpool"].split()[1:5] == ["3/3", "True", "9", "48"]
    assert all("Two workers hold it." in row for row in by_kind.values())
