"""WorkerPool: where models are served: how many workers, from which image, on what hardware."""

import re
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from antiphon.contracts.resources.base import (
    NAME_LIMIT,
    Condition,
    ListOf,
    Metadata,
    Name,
    Part,
    Rule,
    matching,
)
from antiphon.contracts.resources.values import Labels, LabelValue, MiB, Seconds

_WEB = "https?://[^/ ?#]+(/[^ ?#]*)?"
_QUANTITY = "([0-9]+([.][0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?"
_FACTORS = {"": Decimal(1), "m": Decimal("0.001")}
_FACTORS |= {letter: Decimal(1000) ** power for power, letter in enumerate("kMGTP", start=1)}
_FACTORS |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTP", start=1)}
_QUANTITY_MESSAGE = "Write a quantity as Kubernetes does, such as 500m, 2, 1.5 or 4Gi."
OWN_ENVIRONMENT = "ANTIPHON_WORKER_"
"""Variables that begin so are the operator's, but for the settings in `TUNABLE`."""
TUNABLE = (
    "ANTIPHON_WORKER_SYNTHESIS_THREADS",
    "ANTIPHON_WORKER_RECOGNITION_THREADS",
    "ANTIPHON_WORKER_LOAD_THREADS",
    "ANTIPHON_WORKER_LOAD_WAIT_S",
    "ANTIPHON_WORKER_LOUDNESS_LUFS",
    "ANTIPHON_WORKER_MAX_TEXT_CHARS",
    "ANTIPHON_WORKER_MAX_UTTERANCE_S",
    "ANTIPHON_WORKER_MAX_STREAM_S",
    "ANTIPHON_WORKER_LOG_LEVEL",
)
"""Settings of a worker that have no field of their own in the pool."""


def _amount(value: int | str) -> Decimal | None:
    found = re.fullmatch(_QUANTITY, str(value))
    return Decimal(found[1]) * _FACTORS[found[3] or ""] if found else None


def _within(resources: Any) -> bool:
    pairs = (
        (_amount(each), _amount(resources.limits[name]))
        for name, each in resources.requests.items()
        if name in resources.limits
    )
    return all(asked is None or limit is None or asked <= limit for asked, limit in pairs)


Quantity = Annotated[int | str, Field(json_schema_extra={"x-kubernetes-int-or-string": True, "maxLength": 32})]
Quantities = Annotated[
    dict[str, Quantity],
    Field(max_length=8),
    Rule(
        f"self.all(name, string(self[name]).matches('^({_QUANTITY})$'))",
        _QUANTITY_MESSAGE,
        lambda quantities: all(_amount(value) is not None for value in quantities.values()),
    ),
    Rule(
        "self.all(name, !name.startsWith('nvidia.com/') && !name.startsWith('amd.com/'))",
        "Ask for GPUs by spec.gpu, which knows what else they need.",
        lambda quantities: not any(name.startswith(("nvidia.com/", "amd.com/")) for name in quantities),
    ),
]


class Gpu(Part):
    """The GPU, or the share of one, that each worker has."""

    resource_name: Annotated[
        str,
        Field(min_length=1, max_length=253),
        matching(
            "[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?",
            "Write the resource's full name, such as nvidia.com/gpu or nvidia.com/mig-1g.10gb.",
        ),
    ] = "nvidia.com/gpu"
    """The resource that the node's device plugin offers."""
    count: int = Field(default=1, ge=1, le=16)
    """How many of it each worker asks for. Of a shared GPU only one: a second share brings nothing."""
    product: LabelValue | None = None
    """The product that it must be, as the node's label `nvidia.com/gpu.product` says. Left out: any."""
    memory_mib: MiB = Field(default=0)
    """MiB of memory that the worker has of it: the whole card's, the slice's or the share's. It is the memory budget
    where the pool says none. 0: not said.
    """
    runtime_class_name: Name | None = None
    """The RuntimeClass of the pods, such as nvidia, where the node's runtime does not give GPUs by default."""
    sharing: Literal["None", "MIG", "MPS", "TimeSlicing"] = "None"
    """How the card is divided: `None` (a whole one), `MIG` (a slice with memory of its own), `MPS` (a share with a part
    of the memory), `TimeSlicing` (taking turns, with nothing kept apart).
    """

    RULES = (
        Rule(
            "!(self.sharing in ['MPS', 'TimeSlicing']) || self.count == 1",
            "Set count to 1: of a GPU shared by MPS or TimeSlicing a worker gets one share, and two bring nothing.",
            lambda gpu: gpu.sharing not in ("MPS", "TimeSlicing") or gpu.count == 1,
        ),
        Rule(
            "self.sharing != 'MIG' || self.resourceName.startsWith('nvidia.com/mig-')",
            "Name the slice in resourceName, as in nvidia.com/mig-1g.10gb: MIG slices have resources of their own.",
            lambda gpu: gpu.sharing != "MIG" or gpu.resource_name.startswith("nvidia.com/mig-"),
        ),
        Rule(
            "self.sharing != 'None' || !self.resourceName.startsWith('nvidia.com/mig-')",
            "Set sharing to MIG: this resourceName is a slice of a GPU.",
            lambda gpu: gpu.sharing != "None" or not gpu.resource_name.startswith("nvidia.com/mig-"),
        ),
        Rule(
            "self.sharing in ['MPS', 'TimeSlicing'] || !self.resourceName.endsWith('.shared')",
            "Set sharing to TimeSlicing or MPS: this resourceName is a share of a GPU.",
            lambda gpu: gpu.sharing in ("MPS", "TimeSlicing") or not gpu.resource_name.endswith(".shared"),
        ),
        Rule(
            "self.sharing != 'MPS' || !self.resourceName.startsWith('nvidia.com/mig-')",
            "Share whole GPUs by MPS, or choose MIG: the device plugin does not share slices by MPS.",
            lambda gpu: gpu.sharing != "MPS" or not gpu.resource_name.startswith("nvidia.com/mig-"),
        ),
    )


class Cache(Part):
    """Where fetched weights are kept."""

    kind: Literal["EmptyDir", "Ephemeral", "Claim"] = "EmptyDir"
    """`EmptyDir`: on the node, gone with the pod. `Ephemeral`: a volume for each pod, gone with it. `Claim`: one volume
    for the pool, which stays.
    """
    claim_name: Name | None = None
    """A PersistentVolumeClaim that exists; of the kind Claim. Left out: one is made by `sizeMiB`."""
    size_mib: Annotated[int, Field(ge=1, le=16_777_216)] | None = None
    """MiB of room. For EmptyDir a limit, past which the pod is evicted."""
    storage_class_name: Name | None = None
    """The StorageClass of a volume that is made. Left out: the cluster's default."""

    RULES = (
        Rule(
            "self.kind != 'Claim' || has(self.claimName) || has(self.sizeMiB)",
            "Give claimName for a volume that exists, or sizeMiB for one to be made.",
            lambda cache: cache.kind != "Claim" or cache.claim_name is not None or cache.size_mib is not None,
        ),
        Rule(
            "!has(self.claimName) || !has(self.sizeMiB)",
            "Give claimName or sizeMiB, not both: a volume that exists has its size.",
            lambda cache: cache.claim_name is None or cache.size_mib is None,
        ),
        Rule(
            "self.kind != 'Ephemeral' || has(self.sizeMiB)",
            "Give sizeMiB: an Ephemeral cache is a volume made for each pod.",
            lambda cache: cache.kind != "Ephemeral" or cache.size_mib is not None,
        ),
        Rule(
            "!has(self.claimName) || self.kind == 'Claim'",
            "Set kind to Claim, or leave out claimName: other caches have no claim.",
            lambda cache: cache.claim_name is None or cache.kind == "Claim",
        ),
        Rule(
            "!has(self.storageClassName) || (self.kind != 'EmptyDir' && !has(self.claimName))",
            "Leave out storageClassName: it is for volumes that are made, by Ephemeral, or by Claim with sizeMiB.",
            lambda cache: cache.storage_class_name is None or (cache.kind != "EmptyDir" and cache.claim_name is None),
        ),
        Rule(
            "self.kind != 'Claim' || oldSelf.kind != 'Claim' || !has(self.sizeMiB) || !has(oldSelf.sizeMiB)"
            " || self.sizeMiB >= oldSelf.sizeMiB",
            "Leave sizeMiB as it was, or make it larger: a claim does not shrink.",
        ),
        Rule(
            "self.kind != 'Claim' || oldSelf.kind != 'Claim' || !has(self.sizeMiB) || !has(oldSelf.sizeMiB)"
            " || (has(self.storageClassName) ? self.storageClassName : '')"
            " == (has(oldSelf.storageClassName) ? oldSelf.storageClassName : '')",
            "Leave storageClassName as it was: a claim keeps its class. For another, make a claim and give claimName.",
        ),
    )


class Rewrite(Part):
    """One place that stands for another."""

    prefix: str = Field(min_length=1, max_length=512)
    """How an artifact's uri begins."""
    replacement: Annotated[
        str,
        Field(min_length=1, max_length=512),
        matching(
            "(hf|piper|https|http|file|package)://.*",
            "Begin the replacement with hf://, piper://, https://, http://, file:// or package://.",
        ),
    ]
    """What it begins with instead."""


class Downloads(Part):
    """How workers get at weights: credentials, and mirrors for clusters without a way out."""

    secret_name: Name | None = None
    """A Secret whose keys become variables of the workers, such as HF_TOKEN."""
    hub_endpoint: (
        Annotated[
            str,
            Field(min_length=1, max_length=512),
            matching(_WEB, "Write the hub's address, as in https://hub.example.com."),
        ]
        | None
    ) = None
    """A mirror of the hub, for hf:// and piper://. Left out: the public one."""
    rewrites: Annotated[tuple[Rewrite, ...], Field(max_length=16), ListOf("map", ("prefix",))] = ()
    """Where to fetch instead: the longest prefix that an artifact's uri begins with is replaced."""


class KeyRef(Part):
    """One key of a Secret or ConfigMap of the namespace."""

    name: Name
    """The object's name."""
    key: str = Field(min_length=1, max_length=253)
    """The key in it."""
    optional: bool = False
    """Whether the pod starts without it."""


class EnvSource(Part):
    """Where a variable's value comes from."""

    secret_key_ref: KeyRef | None = None
    """A key of a Secret."""
    config_map_key_ref: KeyRef | None = None
    """A key of a ConfigMap."""

    RULES = (
        Rule(
            "has(self.secretKeyRef) != has(self.configMapKeyRef)",
            "Give secretKeyRef or configMapKeyRef: one of them.",
            lambda source: (source.secret_key_ref is None) != (source.config_map_key_ref is None),
        ),
    )


class EnvVar(Part):
    """One variable of the workers' environment."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=128),
        matching(
            "[A-Za-z_][A-Za-z0-9_]*", "Write a variable's name: letters, digits and '_', with no digit at the start."
        ),
        Rule(
            f"!self.startsWith('{OWN_ENVIRONMENT}') || self in [{', '.join(repr(name) for name in TUNABLE)}]",
            "Leave this variable out: the operator sets it from the pool's fields.",
            lambda name: not name.startswith(OWN_ENVIRONMENT) or name in TUNABLE,
        ),
        Rule(
            "self != 'HF_ENDPOINT'",
            "Give the hub's mirror by spec.downloads.hubEndpoint, not as a variable.",
            lambda name: name != "HF_ENDPOINT",
        ),
    ]
    """What it is called."""
    value: str | None = Field(default=None, max_length=4096)
    """Its value."""
    value_from: EnvSource | None = None
    """Where its value comes from, in place of `value`."""

    RULES = (
        Rule(
            "!has(self.value) || !has(self.valueFrom)",
            "Give value or valueFrom, not both.",
            lambda variable: variable.value is None or variable.value_from is None,
        ),
    )


class Toleration(Part):
    """A taint of nodes that the pods put up with."""

    key: str | None = Field(default=None, max_length=317)
    """The taint's name. Left out, with the operator Exists: every taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """`Equal`: the taint has this value. `Exists`: it has any."""
    value: LabelValue | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect. Left out: any."""
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """How long the pod stays after a NoExecute taint came, in seconds. Left out: for ever."""

    RULES = (
        Rule(
            "self.operator != 'Exists' || !has(self.value)",
            "Leave out value, or choose the operator Equal: Exists takes any value.",
            lambda toleration: toleration.operator != "Exists" or toleration.value is None,
        ),
        Rule(
            "has(self.key) || self.operator == 'Exists'",
            "Give the taint's key, or choose the operator Exists.",
            lambda toleration: toleration.key is not None or toleration.operator == "Exists",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "Set effect to NoExecute, or leave out tolerationSeconds: only that effect ends pods.",
            lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
        ),
    )


class ObjectRef(Part):
    """An object of the namespace."""

    name: Name
    """Its name."""


class Resources(Part):
    """What each worker asks for and may use, GPUs apart."""

    requests: Quantities = Field(default_factory=dict)
    """What a node must have free: cpu, memory, ephemeral-storage."""
    limits: Quantities = Field(default_factory=dict)
    """What the worker may use at most."""

    RULES = (
        Rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits)"
            " || !isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name]))"
            " || quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
            "Set limits to what is requested or more.",
            _within,
        ),
    )


Terms = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


class Affinity(Part):
    """Which nodes and neighbours the pods seek or shun.

    Each part is as a pod has it and is checked when the Deployment is applied: the whole schema of it has a thousand
    lines and changes with Kubernetes.
    """

    node_affinity: Terms | None = None
    """Which nodes, by their labels: `requiredDuringSchedulingIgnoredDuringExecution` and `preferred...`."""
    pod_affinity: Terms | None = None
    """Beside which other pods."""
    pod_anti_affinity: Terms | None = None
    """Not beside which other pods."""


class Template(Part):
    """What of the workers' pods may be set. The rest is the operator's: it keeps them safe and able to drain."""

    node_selector: Labels = Field(default_factory=dict)
    """Labels that a node must have, all of them."""
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=16)
    """Taints of nodes that the pods put up with."""
    affinity: Affinity | None = None
    """Which nodes and neighbours the pods seek or shun."""
    priority_class_name: Name | None = None
    """The PriorityClass of the pods."""
    image_pull_secrets: Annotated[tuple[ObjectRef, ...], Field(max_length=8), ListOf("map", ("name",))] = ()
    """Secrets by which the image is pulled."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=64), ListOf("map", ("name",))] = ()
    """Variables of the workers' environment."""
    resources: Resources = Resources()
    """What each worker asks for and may use, GPUs apart: those are in `gpu`."""


class WorkerPoolSpec(Part):
    """Which workers there are to be."""

    replicas: int = Field(default=1, ge=0, le=1000)
    """How many workers. `kubectl scale` sets it; the idlest leave first."""
    image: Annotated[
        str,
        Field(min_length=1, max_length=512),
        matching(
            "[a-zA-Z0-9][a-zA-Z0-9._:/@-]*", "Write an image as registry/name:tag: letters, digits and . _ - : / @."
        ),
        Rule(
            "self.matches('(:[A-Za-z0-9_][A-Za-z0-9_.-]*|@sha256:[0-9a-f]{64})$') && !self.matches(':[0-9]+/[^:]*$')"
            " && !self.endsWith(':latest')",
            "Give the image a tag other than latest, or a digest: what moves cannot be rolled back.",
            lambda image: (
                re.search("(:[A-Za-z0-9_][A-Za-z0-9_.-]*|@sha256:[0-9a-f]{64})$", image) is not None
                and re.search(":[0-9]+/[^:]*$", image) is None
                and not image.endswith(":latest")
            ),
        ),
    ]
    """The workers' image, with a tag or digest. Its engines decide which models can be placed here."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled."""
    gpu: Gpu | None = None
    """The GPU, or the share of one, of each worker. Left out: it computes on the CPU."""
    streams_per_worker: int = Field(default=16, ge=1, le=10_000)
    """How many streams a worker takes at once; one more goes elsewhere, or is refused."""
    memory_budget_mib: MiB = 0
    """MiB that a worker's models may take together. 0: `gpu.memoryMiB`, or no limit."""
    resident_cap: int = Field(default=0, ge=0, le=1000)
    """How many models a worker holds at most. 0: as many as the memory budget takes."""
    drain_timeout_seconds: Seconds = 300
    """How long a worker that must go may take to finish its streams, in seconds; the pod's grace."""
    max_surge: Annotated[int, Field(ge=0, le=100)] | None = None
    """How many workers a rollout may start beyond `replicas`. Left out: 1, or 0 where each takes whole GPUs or the only
    volume.
    """
    cache: Cache = Cache()
    """Where fetched weights are kept."""
    downloads: Downloads = Downloads()
    """How workers get at weights."""
    template: Template = Template()
    """What of the workers' pods may be set."""

    RULES = (
        Rule(
            "!has(self.gpu) || self.gpu.memoryMiB == 0 || self.memoryBudgetMiB <= self.gpu.memoryMiB * self.gpu.count",
            "Set memoryBudgetMiB to what the GPUs have (gpu.memoryMiB times gpu.count) or less.",
            lambda spec: (
                spec.gpu is None
                or spec.gpu.memory_mib == 0
                or spec.memory_budget_mib <= spec.gpu.memory_mib * spec.gpu.count
            ),
        ),
        Rule(
            "!has(self.gpu) || self.gpu.sharing != 'TimeSlicing' || self.memoryBudgetMiB > 0 || self.gpu.memoryMiB > 0",
            "Set memoryBudgetMiB (or gpu.memoryMiB) to this worker's part of the card: by TimeSlicing each could take "
            "all of its memory.",
            lambda spec: (
                spec.gpu is None
                or spec.gpu.sharing != "TimeSlicing"
                or spec.memory_budget_mib > 0
                or spec.gpu.memory_mib > 0
            ),
        ),
    )


class WorkerPoolStatus(Part):
    """What is true of the pool now."""

    observed_generation: int = Field(default=0, ge=0)
    """The generation of the spec that this status is about."""
    replicas: int = Field(default=0, ge=0)
    """How many pods there are."""
    ready_replicas: int = Field(default=0, ge=0)
    """How many of them Kubernetes calls ready."""
    registered_workers: int = Field(default=0, ge=0)
    """How many are in the registry and alive by their own word."""
    workers: str = Field(default="", max_length=16)
    """Registered and wanted workers, as in 2/3."""
    selector: str = Field(default="", max_length=512)
    """The pods' labels, for `kubectl scale` and autoscalers."""
    streams: int = Field(default=0, ge=0)
    """How many streams run."""
    stream_limit: int = Field(default=0, ge=0)
    """How many could."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), ListOf("map", ("type",))] = ()
    """Accepted, Available, Ready, Progressing, Scheduled, Degraded and RolloutInterrupts."""


class WorkerPool(Part):
    """Workers that are alike: one image on one kind of hardware. Models are placed on them."""

    api_version: Literal["antiphon.dev/v1alpha1"] = "antiphon.dev/v1alpha1"
    """The version of this schema."""
    kind: Literal["WorkerPool"] = "WorkerPool"
    """What this object is."""
    metadata: Metadata
    """Name, namespace and labels."""
    spec: WorkerPoolSpec
    """Which workers there are to be."""
    status: WorkerPoolStatus = WorkerPoolStatus()
    """What is true of it now. Written by the operator alone."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.metadata.name.size() <= {NAME_LIMIT}",
            f"Choose a name of at most {NAME_LIMIT} characters.",
            lambda pool: len(pool.metadata.name) <= NAME_LIMIT,
        ),
        Rule(
            "self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')",
            "Choose a name that begins with a letter and has lower-case letters, digits and '-' only: "
            "a Service gets it too.",
            lambda pool: re.fullmatch("[a-z]([a-z0-9-]*[a-z0-9])?", pool.metadata.name) is not None,
        ),
    )
