"""What a pool becomes, and when that differs from what is there."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.contracts.resources import WorkerPool
from antiphon.worker.config import WorkerConfig
from antiphon_operator.reconcile.difference import APPLIED, is_so, signed
from antiphon_operator.reconcile.pool import GRACE_MARGIN_S, Surroundings, manifests, surge

pytestmark = pytest.mark.unit

AROUND = Surroundings("antiphon-registry", "antiphon-workers", (6380,))
GPU = {"resourceName": "nvidia.com/gpu"}
SHARED = {"resourceName": "nvidia.com/gpu.shared", "sharing": "TimeSlicing", "memoryMiB": 8000}
SLICE = {"resourceName": "nvidia.com/mig-1g.10gb", "sharing": "MIG"}


def pool(**spec: Any) -> WorkerPool:
    metadata = {"name": "voices", "namespace": "team", "uid": "u-1"}
    return WorkerPool.model_validate({"metadata": metadata, "spec": {"image": "w:1", **spec}})


def pod(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = manifests(pool(**spec), AROUND)["Deployment"]["spec"]["template"]["spec"]
    return found


def environment(**spec: Any) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in pod(**spec)["containers"][0]["env"]}


def test_everything_is_named_after_the_pool_and_belongs_to_it() -> None:
    made = manifests(pool(), AROUND)
    assert set(made) == {"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"}
    for each in made.values():
        assert (each["metadata"]["namespace"], each["metadata"]["name"]) == ("team", "voices")
        assert [(owner["uid"], owner["controller"]) for owner in each["metadata"]["ownerReferences"]] == [("u-1", True)]
        assert each["metadata"]["labels"]["antiphon.dev/pool"] == "voices"
        assert "finalizers" not in each["metadata"]


def test_pods_meet_restricted_pod_security() -> None:
    spec = pod()
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    allowed = {
        "configMap",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
        "downwardAPI",
        "csi",
    }
    assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])


def test_a_worker_understands_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    told = environment(streamsPerWorker=3, memoryBudgetMiB=900, residentCap=2, drainTimeoutSeconds=40)
    for name, value in told.items():
        monkeypatch.setenv(name, value if isinstance(value, str) else "from-elsewhere")
    config = WorkerConfig()
    assert (config.host, config.port, config.metrics_port, config.namespace) == ("0.0.0.0", 7001, 9101, "team")
    assert (config.max_streams, config.memory_budget_mib, config.resident_cap) == (3, 900, 2)
    assert config.drain_timeout_s == 40 and config.log_json
    assert str(config.token_file) == "/etc/antiphon/token/token" and str(config.cache) == "/var/cache/antiphon"
    assert config.models == ()
    unknown = [name for name in told if name.removeprefix("ANTIPHON_WORKER_").lower() not in WorkerConfig.model_fields]
    assert unknown == []


def test_where_it_is_and_whom_it_may_ask_comes_from_the_pod_and_secrets() -> None:
    told = environment()
    assert told["ANTIPHON_WORKER_WORKER_ID"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert told["ANTIPHON_WORKER_ADVERTISE_HOST"]["fieldRef"]["fieldPath"] == "status.podIP"
    assert told["ANTIPHON_WORKER_REDIS_URL"] == {"secretKeyRef": {"name": "antiphon-registry", "key": "url"}}


def test_the_grace_is_the_drain_and_a_margin() -> None:
    assert pod(drainTimeoutSeconds=120)["terminationGracePeriodSeconds"] == 120 + GRACE_MARGIN_S


def test_a_probe_never_ends_a_worker_that_loads() -> None:
    container = pod()["containers"][0]
    assert container["livenessProbe"]["grpc"]["service"] == container["startupProbe"]["grpc"]["service"] == "liveness"
    assert "service" not in container["readinessProbe"]["grpc"]


@pytest.mark.parametrize(
    ("spec", "beyond"),
    [
        ({}, 1),
        ({"gpu": GPU}, 0),
        ({"gpu": SLICE}, 1),
        ({"gpu": SHARED}, 1),
        ({"gpu": GPU, "maxSurge": 2}, 2),
        ({"cache": {"kind": "Claim", "sizeMiB": 10}}, 0),
        ({"cache": {"kind": "Claim", "sizeMiB": 10}, "replicas": 2}, 1),
    ],
)
def test_a_rollout_surges_where_there_is_room(spec: dict[str, Any], beyond: int) -> None:
    made = pool(**spec)
    assert surge(made.spec) == beyond
    strategy = manifests(made, AROUND)["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": beyond, "maxUnavailable": 0 if beyond else 1}


@pytest.mark.parametrize(
    ("gpu", "resource", "budget"),
    [
        ({**GPU, "count": 2, "memoryMiB": 1000}, {"nvidia.com/gpu": "2"}, "2000"),
        (SLICE, {"nvidia.com/mig-1g.10gb": "1"}, "0"),
        (SHARED, {"nvidia.com/gpu.shared": "1"}, "8000"),
        ({**SHARED, "sharing": "MPS"}, {"nvidia.com/gpu.shared": "1"}, "8000"),
    ],
)
def test_a_gpu_is_asked_for_by_name(gpu: dict[str, Any], resource: dict[str, str], budget: str) -> None:
    made = pod(gpu=gpu)
    assert made["containers"][0]["resources"] == {"requests": resource, "limits": resource}
    assert environment(gpu=gpu)["ANTIPHON_WORKER_MEMORY_BUDGET_MIB"] == budget
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in made["tolerations"]


def test_without_a_gpu_nothing_speaks_of_one() -> None:
    text = json.dumps(manifests(pool(), AROUND))
    assert "nvidia" not in text and "tolerations" not in text


@pytest.mark.parametrize(
    ("cache", "volume"),
    [
        ({}, {"emptyDir": {}}),
        ({"sizeMiB": 5}, {"emptyDir": {"sizeLimit": "5Mi"}}),
        ({"kind": "Claim", "claimName": "shared"}, {"persistentVolumeClaim": {"claimName": "shared"}}),
        ({"kind": "Claim", "sizeMiB": 5}, {"persistentVolumeClaim": {"claimName": "voices"}}),
    ],
)
def test_the_cache_is_where_it_was_asked_for(cache: dict[str, Any], volume: dict[str, Any]) -> None:
    assert pod(cache=cache)["volumes"][0] == {"name": "cache", **volume}


def test_a_claim_keeps_its_access_mode() -> None:
    claims = {"kind": "Claim", "sizeMiB": 5, "storageClassName": "fast"}
    made = manifests(pool(cache=claims, replicas=3), AROUND)["PersistentVolumeClaim"]["spec"]
    assert (made["accessModes"], made["storageClassName"]) == (["ReadWriteMany"], "fast")
    kept = manifests(pool(cache=claims, replicas=3), AROUND, claimed="ReadWriteOnce")["PersistentVolumeClaim"]["spec"]
    assert kept["accessModes"] == ["ReadWriteOnce"]


def test_the_network_lets_callers_in_and_what_is_needed_out() -> None:
    spec = manifests(pool(downloads={"hubEndpoint": "http://mirror:8080"}), AROUND)["NetworkPolicy"]["spec"]
    callers, metrics = spec["ingress"]
    assert callers["ports"] == [{"port": 7001, "protocol": "TCP"}]
    assert callers["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "antiphon-orchestrator"}
    assert metrics == {"ports": [{"port": 9101, "protocol": "TCP"}]}
    assert {port["port"] for rule in spec["egress"] for port in rule["ports"]} == {53, 6380, 443, 8080}


def test_downloads_and_the_template_reach_the_pod() -> None:
    downloads = {
        "secretName": "hub",
        "hubEndpoint": "https://m",
        "rewrites": [{"prefix": "hf://", "replacement": "https://m/"}],
    }
    template = {
        "env": [{"name": "LEVEL", "value": "1"}, {"name": "EMPTY", "value": ""}],
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "pull"}],
        "nodeSelector": {"disk": "fast"},
    }
    made = pod(downloads=downloads, template=template)
    container = made["containers"][0]
    assert container["envFrom"] == [{"secretRef": {"name": "hub"}}]
    told = {each["name"]: each.get("value") for each in container["env"]}
    assert told["HF_ENDPOINT"] == "https://m" and told["LEVEL"] == "1" and told["EMPTY"] is None
    assert json.loads(told["ANTIPHON_WORKER_REWRITES"] or "") == [{"prefix": "hf://", "replacement": "https://m/"}]
    assert made["priorityClassName"] == "high" and made["nodeSelector"] == {"disk": "fast"}


# --- differences ------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(VALUES)
def test_a_thing_is_so_when_it_is_the_same(value: Any) -> None:
    assert is_so(value, value)


@given(
    st.dictionaries(st.text(max_size=5), VALUES, max_size=3), st.dictionaries(st.text(min_size=6), VALUES, max_size=3)
)
def test_what_others_add_does_not_matter(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert is_so(mine, {**mine, **theirs})


@pytest.mark.parametrize(
    ("desired", "live"),
    [
        ({"requests": {"cpu": "1000m"}}, {"requests": {"cpu": "1"}}),
        ({"requests": {"memory": "1024Mi"}}, {"requests": {"memory": "1Gi"}}),
        ({"limits": {"cpu": 2}}, {"limits": {"cpu": "2"}}),
        ({"emptyDir": {"sizeLimit": "2048Mi"}}, {"emptyDir": {"sizeLimit": "2Gi"}}),
        ([{"name": "a"}], [{"name": "a", "protocol": "TCP"}]),
        ([{"name": "a"}], [{"name": "of-others"}, {"name": "a"}]),
    ],
)
def test_what_the_api_server_writes_in_its_own_way_is_the_same(desired: Any, live: Any) -> None:
    assert is_so(desired, live)


@pytest.mark.parametrize(
    ("desired", "live"),
    [
        ({"replicas": 2}, {"replicas": 3}),
        ({"replicas": 2}, {}),
        ({"ports": [1]}, {"ports": [1, 2]}),
        ({"requests": {"cpu": "1"}}, {"requests": {"cpu": "2"}}),
        ({"env": [{"name": "A", "value": "1000m"}]}, {"env": [{"name": "A", "value": "1"}]}),
        ({"a": {}}, {"a": 1}),
        ({"env": [{"name": "A"}]}, {"env": [{"name": "B"}]}),
        ({"env": []}, {"env": [{"name": "B"}]}),
    ],
)
def test_what_differs_differs(desired: Any, live: Any) -> None:
    assert not is_so(desired, live)


def test_a_field_that_is_said_no_more_is_a_difference() -> None:
    live = manifests(pool(template={"nodeSelector": {"disk": "fast"}}), AROUND)["Deployment"]
    assert is_so(live, live)
    assert not is_so(manifests(pool(), AROUND)["Deployment"], live)


def test_the_digest_is_that_of_the_rest() -> None:
    once, twice = signed({"metadata": {"name": "a"}, "x": 1}), signed({"metadata": {"name": "a"}, "x": 2})
    assert once["metadata"]["annotations"][APPLIED] != twice["metadata"]["annotations"][APPLIED]
    assert once == signed({"metadata": {"name": "a"}, "x": 1})
