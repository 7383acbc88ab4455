"""The operator's part of the registry, as a reader holds it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from antiphon.contracts.adapters import Task
from antiphon.registry.records import ModelRecord, PoolRecord, Record, RecordReader, Want, WorkerRecord

KINDS: Mapping[str, type[Record]] = MappingProxyType(
    {"models": ModelRecord, "pools": PoolRecord, "workers": WorkerRecord, "want": Want}
)
"""The operator's hashes, as entries of the change stream name them, and what lies in each."""


class Catalogue:
    """The operator's records by kind and name; tables that are handed out are never changed afterwards.

    Args:
        records: Counts what cannot be read.
    """

    def __init__(self, records: RecordReader) -> None:
        self._records = records
        self._tables: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        self._aliases: Mapping[tuple[Task, str], str] = {}

    @property
    def models(self) -> Mapping[str, ModelRecord]:
        """By name."""
        return MappingProxyType(self._tables["models"])

    @property
    def aliases(self) -> Mapping[tuple[Task, str], str]:
        """Task and alias -> the model's name."""
        return self._aliases

    @property
    def pools(self) -> Mapping[str, PoolRecord]:
        """By name."""
        return MappingProxyType(self._tables["pools"])

    @property
    def workers(self) -> Mapping[str, WorkerRecord]:
        """The members, by id."""
        return MappingProxyType(self._tables["workers"])

    @property
    def want(self) -> Mapping[str, Want]:
        """What each should hold, by worker id."""
        return MappingProxyType(self._tables["want"])

    def replace(self, kind: str, fields: Mapping[bytes, bytes]) -> set[str]:
        """Take a hash as it stands; returns the names of what is not as it was before."""
        before = self._tables[kind]
        after = {}
        for key, value in fields.items():
            name = key.decode(errors="replace")
            record = self._records.read(KINDS[kind], name, value)
            if record is not None:
                after[name] = record
        # Identity first: an unchanged value is read as the very same record.
        changed = {name for name, record in after.items() if (was := before.get(name)) is not record and was != record}
        gone = before.keys() - after.keys()
        for name in gone:
            self._records.forget(KINDS[kind], name)
        changed |= gone
        if changed:
            self._set(kind, after)
        return changed

    def update(self, kind: str, name: str, value: bytes) -> None:
        """Take one change; an empty value removes. A kind that a newer writer invented is passed over."""
        if kind not in KINDS:
            return
        record = self._records.read(KINDS[kind], name, value) if value else None
        table = self._tables[kind].copy()
        if record is None:
            table.pop(name, None)
            self._records.forget(KINDS[kind], name)
        else:
            table[name] = record
        self._set(kind, table)

    def _set(self, kind: str, table: dict[str, Any]) -> None:
        self._tables[kind] = table
        if kind == "models":
            self._aliases = MappingProxyType(
                {(model.task, alias): model.name for model in table.values() for alias in model.aliases}
            )
