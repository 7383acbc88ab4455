"""What lies in Redis: its shape, and what a reader makes of a newer or a broken one."""

import json

import pytest

from antiphon.contracts.adapters import Capabilities
from antiphon.contracts.models import ModelSpec
from antiphon.registry.keys import Keys
from antiphon.registry.records import Lease, ModelRecord, RecordReader, ResidentModel, WorkerRecord

pytestmark = pytest.mark.contract


def test_keys_lie_in_one_slot() -> None:
    keys = Keys("prod")
    assert keys.lease("w-1") == "{antiphon:prod}:lease:w-1"
    assert {keys.meta, keys.models, keys.workers, keys.changes, keys.leases} == {
        f"{{antiphon:prod}}:{name}" for name in ("meta", "models", "workers", "changes", "leases")
    }


def test_a_model_record_of_a_spec_survives_the_wire() -> None:
    spec = ModelSpec(name="joe", task="tts", engine="piper", aliases=("tts-1",))
    record = ModelRecord.of(spec, Capabilities(task="tts", sample_rate_hz=22_050, voices=("joe",)), "sha256:00")
    assert RecordReader().read(ModelRecord, "joe", record.model_dump_json().encode()) == record
    assert record.name == "joe" and record.aliases == ("tts-1",) and record.digest == "sha256:00"


def test_fields_of_a_newer_writer_are_ignored() -> None:
    value = json.dumps({"address": "h:1", "pool": "p", "draining": True, "zone": "x"}).encode()
    assert RecordReader().read(WorkerRecord, "w", value) == WorkerRecord(address="h:1", pool="p", draining=True)


def test_a_lease_with_two_revisions_of_a_model_tells_the_warmer() -> None:
    models = (
        ResidentModel(name="joe", digest="b", state="loading"),
        ResidentModel(name="joe", digest="a", state="warm"),
    )
    lease = Lease(worker="w", incarnation="i", models=models)
    resident = lease.resident("joe")
    assert resident is not None and resident.digest == "a"
    assert lease.resident("ann") is None


def test_a_malformed_record_is_counted_once_until_it_changes() -> None:
    reader = RecordReader()
    for value in (b"{", b"{", b"[", b"["):
        assert reader.read(Lease, "w", value) is None
    assert reader.malformed == {"Lease": 2}
    assert reader.read(Lease, "w", b'{"worker": "w", "incarnation": "i"}') is not None
