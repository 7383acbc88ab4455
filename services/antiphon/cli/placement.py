"""What each worker of one machine should hold, without an operator to say so."""

from collections.abc import Iterable

from antiphon.contracts.models import ModelSpec
from antiphon.registry.records import Lease, ModelRecord, ModelRef, Want


def want_of(catalogue: Iterable[ModelRecord], lease: Lease) -> Want:
    """All of the catalogue that the worker has engines for, within its memory and its number of models.

    Pinned models are held first, then preloaded ones, in the catalogue's order; what does not fit beside them, or is
    loaded on demand, may be loaded when a caller asks. A model larger than the worker's whole budget is not for it. A
    size that is not known counts as none: the worker, who learns it, has the last word.
    """
    able = [record for record in catalogue if record.engine in lease.engines and _has_room([], record, lease)]
    hold: list[ModelRecord] = []
    for policy in ("Pinned", "Preload"):
        for record in able:
            if _policy(record) == policy and _has_room(hold, record, lease):
                hold.append(record)
    may = [record for record in able if record not in hold]
    return Want(hold=tuple(map(_ref, hold)), may=tuple(map(_ref, may)))


def _has_room(hold: list[ModelRecord], record: ModelRecord, lease: Lease) -> bool:
    if lease.resident_cap and len(hold) >= lease.resident_cap:
        return False
    return not lease.memory_mib or sum(held.memory_mib for held in (*hold, record)) <= lease.memory_mib


def _policy(record: ModelRecord) -> str:
    return ModelSpec.model_validate(record.spec).residency.policy


def _ref(record: ModelRecord) -> ModelRef:
    return ModelRef(name=record.name)
