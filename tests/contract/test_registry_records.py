"""What lies in Redis: its shape, and what a reader makes of a newer or a broken one."""

import gc
import hashlib
import json
import weakref

import pytest

from antiphon.contracts.adapters import Capabilities
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec, revision_digest
from antiphon.registry.catalogue import KINDS
from antiphon.registry.keys import Keys
from antiphon.registry.records import (
    Demand,
    Lease,
    ModelRecord,
    ModelRef,
    PoolRecord,
    Record,
    RecordReader,
    ResidentModel,
    Revision,
    SessionRecord,
    Want,
    WorkerRecord,
)

pytestmark = pytest.mark.contract


def test_keys_lie_in_one_slot() -> None:
    keys = Keys("prod")
    assert keys.lease("w-1") == "{antiphon:prod}:lease:w-1"
    assert keys.session("s") == "{antiphon:prod}:session:s" and keys.demand("joe") == "{antiphon:prod}:demand:joe"
    names = ("meta", "models", "pools", "workers", "want", "changes", "leases", "claims")
    assert [getattr(keys, name) for name in names] == [f"{{antiphon:prod}}:{name}" for name in names]
    assert [keys.hash(kind) for kind in KINDS] == [keys.models, keys.pools, keys.workers, keys.want]


RECORDS = [
    ModelRecord(name="joe", task="tts", engine="piper", revisions=(Revision(digest="a", weight=5, spec={"x": [1]}),)),
    PoolRecord(workers=2, streams_per_worker=4, memory_budget_mib=8000, resident_cap=3),
    WorkerRecord(address="h:1", pool="p", node="n", draining=True),
    Want(hold=(ModelRef(name="joe", digest="a"),), may=(ModelRef(name="ann"),)),
    Lease(worker="w", incarnation="i", models=(ResidentModel(name="joe", state="warm", memory_mib=60),), epoch=7),
    SessionRecord(session_id="s", owner="o", epoch=3, assistant="x", history=({"type": "message", "text": "è"},)),
    Demand(task="tts", model="joe", count=2, since_ms=1_700_000_000_000, reason="no_memory"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_every_record_survives_the_wire_and_a_newer_writer(record: Record) -> None:
    value = json.loads(record.model_dump_json()) | {"invented_later": {"deep": [1]}}
    assert RecordReader().read(type(record), "key", json.dumps(value).encode()) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_no_broken_value_is_taken_and_none_raises(record: Record) -> None:
    whole = record.model_dump_json().encode()
    wrong_types = json.dumps({name: {"no": "such"} for name in type(record).model_fields}).encode()
    values = [b"", b"null", b"[]", b"1e999", b"\xff\xfe", b"{" * 100_000, whole[:-1], wrong_types, b"9" * 10_000_000]
    reader = RecordReader()
    for value in values * 2:
        assert reader.read(type(record), "key", value) is None
    assert reader.read(type(record), "key", whole) == record
    assert reader.malformed[type(record).__name__] <= 2 * len(values)


def test_the_same_value_is_the_same_record_and_a_changed_one_is_not() -> None:
    reader, one = RecordReader(), WorkerRecord(address="h:1")
    first = reader.read(WorkerRecord, "w", one.model_dump_json().encode())
    assert reader.read(WorkerRecord, "w", one.model_dump_json().encode()) is first
    other = reader.read(WorkerRecord, "w", one.model_copy(update={"draining": True}).model_dump_json().encode())
    assert other is not None and other.draining


def test_a_specification_is_taken_whole_or_not_at_all() -> None:
    spec = ModelSpec(name="joe", task="tts", engine="piper", engine_config={"speaker": 3})
    record = ModelRecord.of(spec)
    assert record.specification() == spec
    assert ModelRecord(name="joe", task="tts", engine="piper").specification() is None
    newer = {**record.spec, "inventedLater": True}
    both = record.model_copy(update={"revisions": (Revision(digest="new", weight=1, spec=newer),)})
    assert both.specification("old") == spec
    with pytest.raises(AntiphonError) as refused:
        both.specification("new")
    assert refused.value.reason is Reason.LOAD_FAILED


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
    loading = lease.resident("joe", "b")
    assert loading is not None and loading.state == "loading"


def test_a_model_is_found_by_its_revision_and_by_its_content() -> None:
    resident = ResidentModel(name="joe", digest="content", revision="revision", state="warm")
    assert [resident.is_revision(digest) for digest in ("", "content", "revision", "other")] == [
        True,
        True,
        True,
        False,
    ]
    want = Want(hold=(ModelRef(name="joe", digest="revision"),), may=(ModelRef(name="ann"),))
    assert want.allows("joe") and want.allows("joe", "revision") and not want.allows("joe", "other")
    assert want.allows("ann", "any")


def test_a_revision_is_named_by_what_decides_how_it_sounds() -> None:
    artifact = {"uri": "hf://owner/voice", "revision": "v1"}
    spec = ModelSpec(name="joe", task="tts", engine="mock", artifact=artifact, engine_config={"b": "é", "a": [1, 0.5]})
    said = (
        '{"artifact":{"digest":"","revision":"v1","uri":"hf://owner/voice"},"engine":"mock",'
        '"engineConfig":{"a":[1,0.5],"b":"é"},"task":"tts"}'
    )
    assert revision_digest(spec) == "sha256:" + hashlib.sha256(said.encode()).hexdigest()
    others = {"name": "ann", "aliases": ("x",), "memory": {"weightsMiB": 5}, "residency": {"policy": "Pinned"}}
    assert revision_digest(ModelSpec.model_validate({**spec.model_dump(by_alias=True), **others})) == revision_digest(
        spec
    )
    for change in (
        {"engine": "piper"},
        {"engineConfig": {}},
        {"artifact": {**artifact, "revision": "v2"}},
        {"task": "asr"},
    ):
        assert revision_digest(
            ModelSpec.model_validate({**spec.model_dump(by_alias=True), **change})
        ) != revision_digest(spec)


def test_a_malformed_record_is_counted_once_until_it_changes() -> None:
    reader = RecordReader()
    for value in (b"{", b"{", b"[", b"["):
        assert reader.read(Lease, "w", value) is None
    assert reader.malformed == {"Lease": 2}
    assert reader.read(Lease, "w", b'{"worker": "w", "incarnation": "i"}') is not None


def test_nothing_is_kept_of_a_record_that_is_gone() -> None:
    reader = RecordReader()
    value = b'{"worker": "w", "incarnation": "i"}'
    kept = reader.read(Lease, "w", value)
    assert reader.read(Lease, "w", value) is kept
    gone = weakref.ref(kept)
    reader.forget(Lease, "w")
    del kept
    gc.collect()
    assert gone() is None
