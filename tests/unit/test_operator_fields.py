"""No field of a spec is accepted and ignored: with another value of any of them, something else is done."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from antiphon.contracts.resources import CandidateStatus, RevisionStatus, VoiceModel, WorkerPool
from antiphon.contracts.resources.definitions import DEFINITIONS
from antiphon.contracts.resources.worker_pool import TUNABLE
from antiphon.worker.config import WorkerConfig
from antiphon_operator.reconcile.model import asks_of, record_of, target_of
from antiphon_operator.reconcile.pool import Surroundings, manifests
from antiphon_operator.reconcile.rollout import Course, Sight, advance

pytestmark = pytest.mark.unit

DIGESTS = ("sha256:" + "a" * 64, "sha256:" + "b" * 64)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ELSEWHERE = {"spec.poolSelector.matchLabels"}
"""Held against pools, in the tests of placement by a cluster's pools."""


def residency(name: str, one: Any, other: Any, policy: str = "Preload") -> tuple[dict[str, Any], dict[str, Any]]:
    return {"residency": {"policy": policy, name: one}}, {"residency": {"policy": policy, name: other}}


def step(**fields: int) -> dict[str, Any]:
    return {"rollout": {"steps": [{"weight": 10, "pauseSeconds": 60, **fields}, {"weight": 100}]}}


def pair(path: str, one: Any, other: Any, **beside: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two specs that differ in the value at `path` of a part, which has other fields beside it."""
    part, name = path.split(".")
    return {part: {**beside, name: one}}, {part: {**beside, name: other}}


def setting(name: str, value: str) -> dict[str, Any]:
    return {"engineConfig": [{"name": name, "value": value}]}


def rewrite(prefix: str, replacement: str) -> dict[str, Any]:
    return {"downloads": {"rewrites": [{"prefix": prefix, "replacement": replacement}]}}


def variable(one: dict[str, Any], other: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"template": {"env": [{"name": "A", **one}]}}, {"template": {"env": [{"name": "A", **other}]}}


def source(kind: str, field: str, one: Any, other: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = ({kind: {"name": "n", "key": "k", field: value}} for value in (one, other))
    return variable({"valueFrom": first}, {"valueFrom": second})


def toleration(field: str, one: Any, other: Any, **beside: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = ({"template": {"tolerations": [{**beside, field: value}]}} for value in (one, other))
    return first, second


VOICE_MODEL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "task": ({"task": "tts"}, {"task": "asr"}),
    "engine": ({"engine": "piper"}, {"engine": "mock"}),
    "aliases": ({"aliases": ["a"]}, {"aliases": ["b"]}),
    "artifact.uri": pair("artifact.uri", "hf://a/b", "hf://a/c"),
    "artifact.revision": pair("artifact.revision", "v1", "v2", uri="hf://a/b"),
    "artifact.digest": pair("artifact.digest", *DIGESTS, uri="hf://a/b"),
    "capabilities.languages": pair("capabilities.languages", ["en"], ["de"]),
    "capabilities.voices": pair("capabilities.voices", ["joe"], ["amy"]),
    "capabilities.sampleRateHz": pair("capabilities.sampleRateHz", 16000, 24000),
    "capabilities.streaming": pair("capabilities.streaming", False, True),
    "capabilities.cloning": pair("capabilities.cloning", False, True),
    "capabilities.emotion": pair("capabilities.emotion", False, True),
    "memory.weightsMiB": pair("memory.weightsMiB", 100, 200),
    "memory.perStreamMiB": pair("memory.perStreamMiB", 1, 2),
    "residency.policy": pair("residency.policy", "Preload", "Pinned"),
    "residency.minReplicas": residency("minReplicas", 1, 2),
    "residency.maxReplicas": residency("maxReplicas", 1, 2),
    "residency.idleTTLSeconds": residency("idleTTLSeconds", 60, 120, policy="OnDemand"),
    "residency.priority": residency("priority", 1, 2),
    "rollout.steps[].weight": (step(weight=10), step(weight=20)),
    "rollout.steps[].pauseSeconds": (step(pauseSeconds=0), step(pauseSeconds=60)),
    "rollout.gate.maxErrorPercent": pair("rollout.gate", {"maxErrorPercent": 10}, {"maxErrorPercent": 20}),
    "rollout.gate.maxFirstAudioMs": pair("rollout.gate", {"maxFirstAudioMs": 500}, {"maxFirstAudioMs": 300}),
    "rollout.gate.minStreams": pair("rollout.gate", {"minStreams": 10}, {"minStreams": 100}),
    "engineConfig[].name": (setting("a", "1"), setting("b", "1")),
    "engineConfig[].value": (setting("a", "1"), setting("a", "2")),
}  # fmt: skip

WORKER_POOL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "replicas": ({"replicas": 1}, {"replicas": 2}),
    "image": ({"image": "worker:1"}, {"image": "worker:2"}),
    "imagePullPolicy": ({"imagePullPolicy": "Always"}, {"imagePullPolicy": "Never"}),
    "gpu.resourceName": pair("gpu.resourceName", "nvidia.com/gpu", "amd.com/gpu"),
    "gpu.count": pair("gpu.count", 1, 2),
    "gpu.product": pair("gpu.product", "L4", "H100"),
    "gpu.memoryMiB": pair("gpu.memoryMiB", 1000, 2000),
    "gpu.runtimeClassName": pair("gpu.runtimeClassName", "nvidia", "other"),
    "gpu.sharing": pair("gpu.sharing", "None", "MPS"),
    "streamsPerWorker": ({"streamsPerWorker": 1}, {"streamsPerWorker": 2}),
    "memoryBudgetMiB": ({"memoryBudgetMiB": 1000}, {"memoryBudgetMiB": 2000}),
    "residentCap": ({"residentCap": 1}, {"residentCap": 2}),
    "drainTimeoutSeconds": ({"drainTimeoutSeconds": 10}, {"drainTimeoutSeconds": 20}),
    "maxSurge": ({"maxSurge": 1}, {"maxSurge": 2}),
    "cache.kind": pair("cache.kind", "EmptyDir", "Ephemeral", sizeMiB=1000),
    "cache.claimName": pair("cache.claimName", "a", "b", kind="Claim"),
    "cache.sizeMiB": pair("cache.sizeMiB", 1000, 2000),
    "cache.storageClassName": pair("cache.storageClassName", "a", "b", kind="Claim", sizeMiB=1000),
    "downloads.secretName": pair("downloads.secretName", "a", "b"),
    "downloads.hubEndpoint": pair("downloads.hubEndpoint", "https://a", "https://b"),
    "downloads.rewrites[].prefix": (rewrite("hf://a", "https://c/"), rewrite("hf://b", "https://c/")),
    "downloads.rewrites[].replacement": (rewrite("hf://a", "https://c/"), rewrite("hf://a", "https://d/")),
    "template.nodeSelector": pair("template.nodeSelector", {"a": "b"}, {"a": "c"}),
    "template.tolerations[].key": toleration("key", "a", "b", operator="Exists"),
    "template.tolerations[].operator": toleration("operator", "Exists", "Equal", key="a"),
    "template.tolerations[].value": toleration("value", "a", "b", key="a"),
    "template.tolerations[].effect": toleration("effect", "NoSchedule", "NoExecute", key="a"),
    "template.tolerations[].tolerationSeconds": toleration("tolerationSeconds", 1, 2, key="a", effect="NoExecute"),
    "template.affinity.nodeAffinity": pair("template.affinity", {}, {"nodeAffinity": {"a": 1}}),
    "template.affinity.podAffinity": pair("template.affinity", {}, {"podAffinity": {"a": 1}}),
    "template.affinity.podAntiAffinity": pair("template.affinity", {}, {"podAntiAffinity": {"a": 1}}),
    "template.priorityClassName": pair("template.priorityClassName", "a", "b"),
    "template.imagePullSecrets[].name": pair("template.imagePullSecrets", [{"name": "a"}], [{"name": "b"}]),
    "template.env[].name": pair("template.env", [{"name": "A", "value": "1"}], [{"name": "B", "value": "1"}]),
    "template.env[].value": variable({"value": "1"}, {"value": "2"}),
    "template.env[].valueFrom.secretKeyRef.name": source("secretKeyRef", "name", "a", "b"),
    "template.env[].valueFrom.secretKeyRef.key": source("secretKeyRef", "key", "a", "b"),
    "template.env[].valueFrom.secretKeyRef.optional": source("secretKeyRef", "optional", False, True),
    "template.env[].valueFrom.configMapKeyRef.name": source("configMapKeyRef", "name", "a", "b"),
    "template.env[].valueFrom.configMapKeyRef.key": source("configMapKeyRef", "key", "a", "b"),
    "template.env[].valueFrom.configMapKeyRef.optional": source("configMapKeyRef", "optional", False, True),
    "template.resources.requests": pair("template.resources", {"requests": {"cpu": 1}}, {"requests": {"cpu": 2}}),
    "template.resources.limits": pair("template.resources", {"limits": {"cpu": 1}}, {"limits": {"cpu": 2}}),
}  # fmt: skip


def leaves(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Every field that has a value of its own."""
    for name, field in schema["properties"].items():
        inner = field.get("items", field)
        below = f"{path}.{name}{'[]' if 'items' in field else ''}"
        if "properties" in inner:
            yield from leaves(inner, below)
        else:
            yield f"{path}.{name}"


def test_no_field_is_left_out_here() -> None:
    for definition, known in zip(DEFINITIONS, (VOICE_MODEL, WORKER_POOL), strict=True):
        schema = definition.rendered()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        assert set(leaves(schema, "spec")) - ELSEWHERE == {f"spec.{path}" for path in known}


@pytest.mark.parametrize("path", VOICE_MODEL)
def test_every_field_of_a_model_does_something(path: str) -> None:
    one, other = VOICE_MODEL[path]
    assert model_effects(one) != model_effects(other)


@pytest.mark.parametrize("path", WORKER_POOL)
def test_every_field_of_a_pool_does_something(path: str) -> None:
    one, other = WORKER_POOL[path]
    assert pool_effects(one) != pool_effects(other)


def model_effects(spec: dict[str, Any]) -> tuple[Any, ...]:
    """What follows from a model: in the catalogue, in what is to be placed, and in how a new revision goes on."""
    whole = {"task": "tts", "engine": "piper", **spec}
    model = VoiceModel.model_validate({"metadata": {"name": "joe"}, "spec": whole})
    return record_of(model), asks_of(model, None, None, {}), [*courses(model)]


def courses(model: VoiceModel) -> Iterator[Course]:
    """Half a minute into a step: with some streams failed and late audio, with all failed, with none."""
    target = target_of(model)
    known = target.model_dump(exclude={"revision", "digest"})
    candidate = CandidateStatus(revision="v2", digest=target.digest, step=0, weight=10, since=NOW.isoformat(), **known)
    course = Course(RevisionStatus(revision="v1", digest=DIGESTS[0]), candidate)
    for served, failed, first_audio_ms in ((17, 3, 100.0), (20, 0, 400.0), (0, 20, 100.0), (20, 0, 100.0)):
        sight = Sight(places=2, active_warm=2, warm=2, served=served, failed=failed, first_audio_ms=first_audio_ms)
        yield advance(course, target, model.spec.rollout, sight, NOW + timedelta(seconds=30))


def pool_effects(spec: dict[str, Any]) -> str:
    """What follows from a pool: all its objects."""
    pool = WorkerPool.model_validate({"metadata": {"name": "cpu"}, "spec": {"image": "worker:1", **spec}})
    return json.dumps(manifests(pool, Surroundings("registry", "token")), sort_keys=True)


def test_settings_that_may_be_set_are_a_workers_and_not_the_operators() -> None:
    fields = {f"ANTIPHON_WORKER_{name.upper()}" for name in WorkerConfig.model_fields}
    assert set(TUNABLE) <= fields
    assert not [name for name in TUNABLE if f'"{name}"' in pool_effects({})]
