"""What a pod needs to be given a GPU, or a share of one, by the NVIDIA device plugin (or another of its kind).

A whole card and a MIG slice are counted resources. A card that is shared, by MPS or by taking turns, is offered as
several of one resource; a worker takes one. The plugin itself puts an MPS client's pipe and memory into the pod, and
since all workers run as one user, one MPS server serves them all.
"""

from typing import Any

from antiphon.contracts.resources import WorkerPoolSpec

PRODUCT_LABEL = "nvidia.com/gpu.product"
"""What GPU feature discovery says of a node."""


def takes_whole_gpus(spec: WorkerPoolSpec) -> bool:
    """Whether each worker has cards of its own, so that one more needs one more card."""
    return spec.gpu is not None and spec.gpu.sharing == "None"


def memory_budget_mib(spec: WorkerPoolSpec) -> int:
    """What a worker's models may take; 0: no limit."""
    of_gpu = spec.gpu.memory_mib * spec.gpu.count if spec.gpu is not None else 0
    return spec.memory_budget_mib or of_gpu


def resources(spec: WorkerPoolSpec) -> dict[str, Any]:
    """The container's `resources`: a device is asked for as request and limit alike."""
    asked = spec.template.resources
    requests, limits = dict(asked.requests), dict(asked.limits)
    if spec.gpu is not None:
        requests[spec.gpu.resource_name] = limits[spec.gpu.resource_name] = str(spec.gpu.count)
    return {name: values for name, values in (("requests", requests), ("limits", limits)) if values}


def node_selector(spec: WorkerPoolSpec) -> dict[str, str]:
    """The labels that a node must have."""
    product = spec.gpu.product if spec.gpu is not None else None
    return {**spec.template.node_selector, **({PRODUCT_LABEL: product} if product else {})}


def tolerations(spec: WorkerPoolSpec) -> list[dict[str, Any]]:
    """Those of the template, and that of nodes which are kept for GPUs."""
    said = [each.model_dump(by_alias=True, exclude_none=True) for each in spec.template.tolerations]
    if spec.gpu is None:
        return said
    vendor, _, _ = spec.gpu.resource_name.partition("/")
    return [*said, {"key": f"{vendor}/gpu", "operator": "Exists", "effect": "NoSchedule"}]
