"""What the operator knows, whatever the order in which it is told."""

from typing import Any

import pytest

from antiphon_operator.queueing import Key
from antiphon_operator.world import World

pytestmark = pytest.mark.unit

NAMES = {"app.kubernetes.io/name": "antiphon-worker", "antiphon.dev/pool": "voices"}


def body(name: str, version: int, uid: str = "", **metadata: Any) -> dict[str, Any]:
    known = {"namespace": "team", "name": name, "resourceVersion": str(version), "uid": uid or f"uid-{name}"}
    return {"metadata": known | metadata}


def child(version: int, uid: str = "") -> dict[str, Any]:
    return body("voices", version, uid, ownerReferences=[{"kind": "WorkerPool", "name": "voices"}])


@pytest.fixture
def touched() -> list[Key]:
    return []


@pytest.fixture
def world(touched: list[Key]) -> World:
    return World(touched.append)


def test_a_pod_touches_its_pool_and_the_registry(world: World, touched: list[Key]) -> None:
    world.put("Pod", body("voices-1", 1, labels=NAMES))
    assert touched == [Key("WorkerPool", "team", "voices"), Key("Registry", "team")]
    assert [pod["metadata"]["name"] for pod in world.pods("team", "voices")] == ["voices-1"]
    told = set(touched)
    touched.clear()
    world.remove("Pod", body("voices-1", 2, labels=NAMES))
    assert world.pods("team", "voices") == [] and set(touched) == told


def test_pods_of_others_are_not_kept(world: World, touched: list[Key]) -> None:
    world.put("Pod", body("nginx", 1, labels={"app": "nginx"}))
    world.put("Pod", body("odd", 1, labels={"antiphon.dev/pool": "voices"}))
    assert touched == [] and world.pods("team", "voices") == []


def test_a_pod_that_loses_its_label_leaves_the_pool(world: World, touched: list[Key]) -> None:
    world.put("Pod", body("voices-1", 1, labels=NAMES))
    touched.clear()
    world.put("Pod", body("voices-1", 2, labels={}))
    assert world.pods("team", "voices") == []
    assert Key("WorkerPool", "team", "voices") in touched and Key("Registry", "team") in touched


def test_what_is_older_than_what_is_known_is_not_taken(world: World, touched: list[Key]) -> None:
    world.put("Deployment", child(5))
    touched.clear()
    world.put("Deployment", child(4))
    world.put("Deployment", child(5))
    assert touched == [] and world.get("Deployment", "team", "voices") == child(5)


def test_an_answer_that_comes_after_the_deletion_brings_nothing_back(world: World) -> None:
    world.put("Deployment", child(5))
    world.remove("Deployment", child(7))
    world.put("Deployment", child(6))
    assert world.get("Deployment", "team", "voices") is None
    world.put("Deployment", child(8, uid="another"))
    assert world.get("Deployment", "team", "voices") is not None


def test_a_deletion_of_a_former_object_leaves_its_successor(world: World) -> None:
    world.put("Deployment", child(9, uid="new"))
    world.remove("Deployment", child(8, uid="old"))
    assert world.get("Deployment", "team", "voices") is not None


def test_a_list_removes_what_is_gone_but_nothing_newer_than_itself(world: World, touched: list[Key]) -> None:
    world.put("WorkerPool", body("old", 3))
    world.put("WorkerPool", body("new", 12))
    world.put("WorkerPool", {"metadata": {**body("elsewhere", 3)["metadata"], "namespace": "other"}})
    touched.clear()
    world.replace("WorkerPool", [body("listed", 4)], version=10, namespace="team")
    assert [each["metadata"]["name"] for each in world.pools("team")] == ["listed", "new"]
    assert len(world.pools("other")) == 1
    assert set(touched) == {Key("WorkerPool", "team", name) for name in ("old", "listed")} | {Key("Registry", "team")}


def test_what_a_list_has_not_may_still_come_back(world: World) -> None:
    """A list is by label: what lost its label is missing from it, and is not gone."""
    world.put("ServiceAccount", child(3))
    world.replace("ServiceAccount", [], version=5)
    assert world.get("ServiceAccount", "team", "voices") is None
    world.put("ServiceAccount", child(6))
    assert world.get("ServiceAccount", "team", "voices") is not None


def test_objects_of_others_are_known_by_name_only(world: World, touched: list[Key]) -> None:
    world.put("Service", body("voices", 1))
    assert world.is_foreign("Service", "team", "voices") and world.get("Service", "team", "voices") is None
    assert touched == []
    world.remove("Service", body("voices", 2))
    assert not world.is_foreign("Service", "team", "voices")
    assert touched == [Key("WorkerPool", "team", "voices")]


def test_children_are_those_named_after_the_pool(world: World) -> None:
    world.put("Deployment", child(1))
    world.put("Service", child(2))
    assert set(world.children("team", "voices")) == {"Deployment", "Service"}
    assert world.children("team", "others") == {}


def test_everything_is_reconciled_the_registry_first(world: World) -> None:
    world.put("WorkerPool", body("voices", 1))
    world.put("VoiceModel", body("joe", 1))
    assert world.keys() == [
        Key("Registry", "team"),
        Key("WorkerPool", "team", "voices"),
        Key("VoiceModel", "team", "joe"),
    ]
    assert world.namespaces() == {"team"}
