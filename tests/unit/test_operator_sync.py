"""What the leader knows of a namespace's workers: from Pods, from the registry, and from what it said itself."""

import asyncio
from types import SimpleNamespace

import pytest

from antiphon.registry.records import Lease, ModelRef, Want, WorkerRecord
from antiphon.registry.roster import Worker
from antiphon.registry.snapshot import Snapshot
from antiphon_operator.sync import RegistrySync

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

MEMBER = WorkerRecord(address="10.0.0.1:7001", pool="voices")


async def test_an_end_that_a_pod_tells_counts_though_the_registry_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sync = RegistrySync("redis://127.0.0.1:1", "team", 0, lambda change: None)
    await asyncio.sleep(1.0)
    heard = Worker("a", MEMBER, Lease(worker="a", incarnation="i"), heard_s=1.0, want=Want())
    stale = SimpleNamespace(snapshot=Snapshot(version=1, stale=True, workers={"a": heard}))
    monkeypatch.setattr(sync, "_reader", stale)
    sync.say_members({"a": MEMBER})
    known = sync.worker("a")
    assert known is not None and known.serving and known.want == Want()
    sync.say([], {}, {"a": Want(hold=(ModelRef(name="joe"),))})
    told = sync.worker("a")
    assert told is not None and told.want is not None and told.want.hold[0].name == "joe"
    sync.say_members({})
    assert sync.worker("a") is None
    await asyncio.sleep(1.0)
    # Its container runs again: what was heard before was another process's word.
    sync.say_members({"a": MEMBER})
    again = sync.worker("a")
    assert again is not None and not again.serving
