"""A WorkerPool as the objects that it consists of. All are named after it and belong to it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from antiphon.contracts.resources import API_VERSION, WorkerPool, WorkerPoolSpec
from antiphon_operator.reconcile import gpu
from antiphon_operator.reconcile.difference import signed
from antiphon_operator.world import MANAGER, MANAGER_LABEL, NAME, NAME_LABEL, POOL_LABEL

GRPC_PORT = 7001
METRICS_PORT = 9101
USER = 10001
GRACE_MARGIN_S = 15
"""Beyond the drain's time: for the worker to say goodbye."""
SLOWEST_LOAD_S = 3600
"""A rollout that moved nothing for so long, and for a drain, is stalled."""
LIVENESS = "liveness"
"""The name under which a worker's health service says that it lives, ready or not."""
ORCHESTRATOR = "antiphon-orchestrator"
CACHE_PATH = "/var/cache/antiphon"
TOKEN_PATH = "/etc/antiphon/token"

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for all pools of an operator."""

    registry_secret: str
    worker_token_secret: str
    redis_ports: tuple[int, ...] = (6379,)
    """Where workers may reach the registry."""


def surge(spec: WorkerPoolSpec) -> int:
    """How many workers a rollout may start beyond the wanted: none where each takes cards, or the only volume."""
    if spec.max_surge is not None:
        return spec.max_surge
    return 0 if gpu.takes_whole_gpus(spec) or access_mode(spec) == "ReadWriteOnce" else 1


def access_mode(spec: WorkerPoolSpec) -> str:
    """Of the claim that is made for the pool's cache; empty where none is."""
    if spec.cache.kind != "Claim" or spec.cache.claim_name is not None:
        return ""
    return "ReadWriteOnce" if spec.replicas <= 1 else "ReadWriteMany"


def selector(pool: str) -> dict[str, str]:
    """The labels by which a pool's pods are found."""
    return {NAME_LABEL: NAME, POOL_LABEL: pool}


def manifests(pool: WorkerPool, around: Surroundings, *, claimed: str = "") -> dict[str, Manifest]:
    """What there should be: kind -> object.

    Args:
        pool: As it was asked for.
        around: What is the same for all pools.
        claimed: The access mode of the pool's claim, where it exists: a claim does not change it.
    """
    whole: dict[str, Manifest] = {
        "ServiceAccount": {"automountServiceAccountToken": False},
        "Service": {"spec": _service(pool)},
        "PodDisruptionBudget": {"spec": _budget(pool)},
        "NetworkPolicy": {"spec": _network_policy(pool, around)},
        "Deployment": {"spec": _deployment(pool, around)},
    }
    if mode := access_mode(pool.spec):
        whole["PersistentVolumeClaim"] = {"spec": _claim(pool.spec, claimed or mode)}
    metadata = _metadata(pool)
    return {kind: signed({"metadata": metadata, **parts}) for kind, parts in whole.items()}


def _metadata(pool: WorkerPool) -> Manifest:
    owner = {
        "apiVersion": API_VERSION,
        "kind": "WorkerPool",
        "name": pool.metadata.name,
        "uid": pool.metadata.uid,
        "controller": True,
    }
    return {
        "name": pool.metadata.name,
        "namespace": pool.metadata.namespace,
        "labels": _labels(pool.metadata.name),
        "ownerReferences": [owner],
    }


def _labels(pool: str) -> dict[str, str]:
    return {**selector(pool), MANAGER_LABEL: MANAGER}


def _service(pool: WorkerPool) -> Manifest:
    return {
        "clusterIP": "None",
        "selector": selector(pool.metadata.name),
        "ports": [
            {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "protocol": "TCP", "appProtocol": "grpc"},
            {"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics", "protocol": "TCP"},
        ],
    }


def _budget(pool: WorkerPool) -> Manifest:
    return {
        "maxUnavailable": 1,
        "selector": {"matchLabels": selector(pool.metadata.name)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }


def _network_policy(pool: WorkerPool, around: Surroundings) -> Manifest:
    callers = {"namespaceSelector": {}, "podSelector": {"matchLabels": {NAME_LABEL: ORCHESTRATOR}}}
    return {
        "podSelector": {"matchLabels": selector(pool.metadata.name)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [callers], "ports": _tcp([GRPC_PORT])}, {"ports": _tcp([METRICS_PORT])}],
        "egress": [
            {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
            {"ports": _tcp(around.redis_ports)},
            {"ports": _tcp(_download_ports(pool.spec))},
        ],
    }


def _tcp(ports: Iterable[int]) -> list[Manifest]:
    return [{"port": port, "protocol": "TCP"} for port in ports]


def _download_ports(spec: WorkerPoolSpec) -> list[int]:
    """Where weights come from: https, and the mirrors' own."""
    mirrors = [spec.downloads.hub_endpoint or "", *(each.replacement for each in spec.downloads.rewrites)]
    ports = {443}
    for mirror in map(urlsplit, mirrors):
        if mirror.scheme in ("http", "https"):
            ports.add(mirror.port or (80 if mirror.scheme == "http" else 443))
    return sorted(ports)


def _claim(spec: WorkerPoolSpec, mode: str) -> Manifest:
    claim = {"accessModes": [mode], "resources": {"requests": {"storage": f"{spec.cache.size_mib}Mi"}}}
    return {**claim, **_given(storageClassName=spec.cache.storage_class_name)}


def _deployment(pool: WorkerPool, around: Surroundings) -> Manifest:
    spec = pool.spec
    beyond = surge(spec)
    return {
        "replicas": spec.replicas,
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": SLOWEST_LOAD_S + spec.drain_timeout_seconds,
        "selector": {"matchLabels": selector(pool.metadata.name)},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": beyond, "maxUnavailable": 0 if beyond else 1},
        },
        "template": {"metadata": {"labels": _labels(pool.metadata.name)}, "spec": _pod(pool, around)},
    }


def _pod(pool: WorkerPool, around: Surroundings) -> Manifest:
    spec, template = pool.spec, pool.spec.template
    affinity = template.affinity.model_dump(by_alias=True, exclude_none=True) if template.affinity else None
    return {
        "serviceAccountName": pool.metadata.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.drain_timeout_seconds + GRACE_MARGIN_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(pool, around)],
        "volumes": [
            {"name": "cache", **_cache_volume(pool)},
            {"name": "tmp", "emptyDir": {}},
            {"name": "token", "secret": {"secretName": around.worker_token_secret, "defaultMode": 0o440}},
        ],
        **_given(
            nodeSelector=gpu.node_selector(spec),
            tolerations=gpu.tolerations(spec),
            affinity=affinity,
            priorityClassName=template.priority_class_name,
            runtimeClassName=spec.gpu.runtime_class_name if spec.gpu else None,
            imagePullSecrets=[{"name": each.name} for each in template.image_pull_secrets],
        ),
    }


def _container(pool: WorkerPool, around: Surroundings) -> Manifest:
    spec = pool.spec
    lives = {"grpc": {"port": GRPC_PORT, "service": LIVENESS}}
    secret = spec.downloads.secret_name
    return {
        "name": "worker",
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "env": _environment(pool, around),
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        # A worker that loads lives; it is ready once what it should hold is warm.
        "startupProbe": {**lives, "periodSeconds": 1, "failureThreshold": 300, "timeoutSeconds": 2},
        "livenessProbe": {**lives, "periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5},
        "readinessProbe": {
            "grpc": {"port": GRPC_PORT},
            "periodSeconds": 2,
            "failureThreshold": 3,
            "timeoutSeconds": 2,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "cache", "mountPath": CACHE_PATH},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "token", "mountPath": TOKEN_PATH, "readOnly": True},
        ],
        **_given(
            resources=gpu.resources(spec),
            envFrom=[{"secretRef": {"name": secret}}] if secret else None,
        ),
    }


def _environment(pool: WorkerPool, around: Surroundings) -> list[Manifest]:
    spec = pool.spec
    told = {
        "HOST": "0.0.0.0",
        "PORT": GRPC_PORT,
        "METRICS_PORT": METRICS_PORT,
        "NAMESPACE": pool.metadata.namespace,
        "TOKEN_FILE": f"{TOKEN_PATH}/token",
        "CACHE": CACHE_PATH,
        "MAX_STREAMS": spec.streams_per_worker,
        "MEMORY_BUDGET_MIB": gpu.memory_budget_mib(spec),
        "RESIDENT_CAP": spec.resident_cap,
        "DRAIN_TIMEOUT_S": spec.drain_timeout_seconds,
        "LOG_JSON": "true",
    }
    if spec.downloads.rewrites:
        told["REWRITES"] = json.dumps([each.model_dump() for each in spec.downloads.rewrites])
    own: list[Manifest] = [
        {"name": "ANTIPHON_WORKER_WORKER_ID", "valueFrom": _of_pod("metadata.name")},
        {"name": "ANTIPHON_WORKER_ADVERTISE_HOST", "valueFrom": _of_pod("status.podIP")},
        {
            "name": "ANTIPHON_WORKER_REDIS_URL",
            "valueFrom": {"secretKeyRef": {"name": around.registry_secret, "key": "url"}},
        },
        *({"name": f"ANTIPHON_WORKER_{name}", "value": str(value)} for name, value in told.items()),
    ]
    if spec.downloads.hub_endpoint:
        own.append({"name": "HF_ENDPOINT", "value": spec.downloads.hub_endpoint})
    return own + [_variable(each.model_dump(by_alias=True, exclude_none=True)) for each in spec.template.env]


def _variable(said: Manifest) -> Manifest:
    """Without an empty value: the API server leaves it out."""
    return {name: value for name, value in said.items() if value != ""}


def _of_pod(path: str) -> Manifest:
    return {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}


def _cache_volume(pool: WorkerPool) -> Manifest:
    cache = pool.spec.cache
    if cache.kind == "Claim":
        return {"persistentVolumeClaim": {"claimName": cache.claim_name or pool.metadata.name}}
    if cache.kind == "Ephemeral":
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": f"{cache.size_mib}Mi"}},
            **_given(storageClassName=cache.storage_class_name),
        }
        return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}
    return {"emptyDir": _given(sizeLimit=f"{cache.size_mib}Mi" if cache.size_mib else None)}


def _given(**fields: Any) -> Manifest:
    """Without what is empty: the API server would leave it out, and it would seem to differ for ever."""
    return {name: value for name, value in fields.items() if value}
