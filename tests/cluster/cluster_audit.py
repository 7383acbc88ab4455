"""What the API server's audit log says: who asked for what, when, and what came of it."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One answered request."""

    at: datetime
    verb: str
    user: str
    agent: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES

    def __str__(self) -> str:
        """One line, as a failed assertion shows it."""
        what = "/".join(part for part in (self.resource, self.subresource) if part)
        return f"{self.at:%H:%M:%S.%f} {self.code} {self.verb} {what} {self.namespace}/{self.name} by {self.user}"


def read_audit(log: Path, since: int = 0) -> list[AuditEntry]:
    """The entries after byte `since`; a line that is still being written is left for the next time."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(since)
        lines = file.read().split(b"\n")
    return [entry(json.loads(line)) for line in lines[:-1]]


def entry(record: dict[str, Any]) -> AuditEntry:
    """An entry from one line's record."""
    target = record.get("objectRef", {})
    return AuditEntry(
        at=datetime.fromisoformat(record["stageTimestamp"]),
        verb=record["verb"],
        user=record.get("user", {}).get("username", ""),
        agent=record.get("userAgent", ""),
        group=target.get("apiGroup", ""),
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=record.get("responseStatus", {}).get("code", 0),
    )
