"""The CustomResourceDefinitions: what the API server is told of each resource."""

from dataclasses import dataclass
from typing import Any

from antiphon.contracts.resources.base import GROUP, VERSION, Part
from antiphon.contracts.resources.schema import structural
from antiphon.contracts.resources.voice_model import VoiceModel
from antiphon.contracts.resources.worker_pool import WorkerPool

_READY = '.status.conditions[?(@.type=="Ready")]'


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    """Shown by `-o wide` alone."""

    def rendered(self) -> dict[str, Any]:
        """As a CRD has it."""
        found = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return {**found, "priority": 1} if self.wide else found


AGE = Column("Age", ".metadata.creationTimestamp", "date")


@dataclass(frozen=True, slots=True)
class Definition:
    """One resource, and what it is called."""

    model: type[Part]
    plural: str
    short: str
    columns: tuple[Column, ...]
    scalable: bool = False

    @property
    def kind(self) -> str:
        """As manifests call it."""
        return self.model.__name__

    @property
    def name(self) -> str:
        """Of the definition as an object."""
        return f"{self.plural}.{GROUP}"

    def rendered(self) -> dict[str, Any]:
        """The manifest."""
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": self.name, "labels": {"app.kubernetes.io/part-of": "antiphon"}},
            "spec": {
                "group": GROUP,
                "names": {
                    "kind": self.kind,
                    "listKind": f"{self.kind}List",
                    "plural": self.plural,
                    "singular": self.kind.lower(),
                    "shortNames": [self.short],
                    "categories": ["antiphon"],
                },
                "scope": "Namespaced",
                "versions": [self._version()],
            },
        }

    def _version(self) -> dict[str, Any]:
        subresources: dict[str, Any] = {"status": {}}
        if self.scalable:
            subresources["scale"] = {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            }
        return {
            "name": VERSION,
            "served": True,
            "storage": True,
            "subresources": subresources,
            "additionalPrinterColumns": [column.rendered() for column in self.columns],
            "schema": {"openAPIV3Schema": structural(self.model)},
        }


DEFINITIONS = (
    Definition(
        VoiceModel,
        "voicemodels",
        "vmod",
        (
            Column("Task", ".spec.task"),
            Column("Engine", ".spec.engine"),
            Column("Ready", f"{_READY}.status"),
            Column("Resident", ".status.resident"),
            Column("Revision", ".status.active.revision"),
            Column("Streams", ".status.streams", "integer"),
            AGE,
            Column("Policy", ".spec.residency.policy", wide=True),
            Column("Next", ".status.candidate.revision", wide=True),
            Column("Weight", ".status.candidate.weight", "integer", wide=True),
            Column("Why", f"{_READY}.message", wide=True),
        ),
    ),
    Definition(
        WorkerPool,
        "workerpools",
        "wpool",
        (
            Column("Workers", ".status.workers"),
            Column("Ready", f"{_READY}.status"),
            Column("GPU", ".spec.gpu.resourceName"),
            Column("Streams", ".status.streams", "integer"),
            Column("Limit", ".status.streamLimit", "integer"),
            AGE,
            Column("Sharing", ".spec.gpu.sharing", wide=True),
            Column("Image", ".spec.image", wide=True),
            Column("Why", f"{_READY}.message", wide=True),
        ),
        scalable=True,
    ),
)
