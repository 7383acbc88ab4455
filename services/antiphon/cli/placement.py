"""What each worker of one machine should hold, without an operator to say so."""

from collections.abc import Iterable

from antiphon.contracts.models import ModelSpec
from antiphon.registry.placing import Ask, Host, place
from antiphon.registry.records import Lease, ModelRecord, Want


def want_of(catalogue: Iterable[ModelRecord], lease: Lease) -> Want:
    """All of the catalogue that the worker has engines for, within its memory and its number of models.

    Pinned models are held first, then preloaded ones; what does not fit beside them, or is loaded on demand, may be
    loaded when a caller asks. A model larger than the worker's whole budget is not for it. A size that is not known
    counts as none: the worker, who learns it, has the last word.
    """
    host = Host(lease.worker, frozenset(lease.engines), memory_mib=lease.memory_mib, resident_cap=lease.resident_cap)
    return place(map(_ask, catalogue), [host]).want[lease.worker]


def _ask(record: ModelRecord) -> Ask:
    policy = ModelSpec.model_validate(record.spec).residency.policy
    count = 0 if policy == "OnDemand" else 1
    return Ask(record.name, record.engine, policy=policy, memory_mib=record.memory_mib, minimum=count, maximum=count)
