"""What the registry holds, one record a thing, each with one writer.

Readers ignore fields that they do not know, so that a newer writer does not blind them; a record that cannot be read
at all is skipped and counted, never raised.
"""

import logging
from collections import Counter
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from antiphon.contracts.adapters import Capabilities
from antiphon.contracts.models import ModelSpec

FORMAT = 1
"""Of the records as a whole; in `meta`. A reader refuses a higher one."""
WIRE_VERSION = 1
"""Of the gRPC contract (`antiphon.v1`) that a worker speaks."""
RECORD_LIMIT_BYTES = 262_144
"""A longer record is malformed: nothing that we write comes near it."""

ModelState = Literal["loading", "warm", "in_use", "leaving", "failed"]

logger = logging.getLogger(__name__)


class Record(BaseModel):
    """What all records have in common: immutable, and tolerant of what a newer writer adds."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ModelRecord(Record):
    """A model of the catalogue. Written by the operator."""

    name: str = Field(min_length=1, max_length=64)
    task: Literal["tts", "asr"]
    engine: str
    aliases: tuple[str, ...] = ()
    digest: str = ""
    """Empty: whatever a worker holds under this name."""
    capabilities: Capabilities | None = None
    """None: not known before a worker has loaded it."""

    @classmethod
    def of(cls, spec: ModelSpec, capabilities: Capabilities | None = None, digest: str = "") -> Self:
        """The catalogue's record of a model as people wrote it."""
        return cls(
            name=spec.name,
            task=spec.task,
            engine=spec.engine,
            aliases=spec.aliases,
            digest=digest,
            capabilities=capabilities,
        )


class WorkerRecord(Record):
    """A worker that may be called. Written by the operator."""

    address: str = Field(min_length=1, max_length=255)
    """`host:port` of its gRPC server."""
    pool: str = ""
    draining: bool = False


class ResidentModel(Record):
    """A model that a worker holds, or is about to."""

    name: str
    digest: str = ""
    state: ModelState
    progress: float = 0.0
    """0 to 1, while loading."""
    memory_mib: int = 0
    streams: int = 0


class Lease(Record):
    """What a worker says of itself, every second. Written by that worker alone."""

    worker: str = Field(min_length=1, max_length=255)
    incarnation: str = Field(min_length=1, max_length=64)
    """A UUID of this process: two processes that claim one id differ in it."""
    address: str = Field(default="", max_length=255)
    """Where it listens. Only a writer that adopts workers reads it; routing follows `WorkerRecord.address`."""
    wire_version: int = WIRE_VERSION
    engines: dict[str, str] = Field(default_factory=dict)
    """Name -> version of every engine that it can load."""
    device: str = "cpu"
    memory_mib: int = 0
    memory_free_mib: int = 0
    models: tuple[ResidentModel, ...] = ()
    streams: int = 0
    max_streams: int = 0
    """0: it has not said; it refuses by itself what is too much."""
    first_audio_ms: float = 0.0
    """Measured lately; 0: not yet."""
    real_time_factor: float = 0.0
    draining: bool = False
    epoch: int = 0
    """The highest operator's epoch that it has seen."""

    def resident(self, model: str) -> ResidentModel | None:
        """What it holds under that name; the warmest, where there are two revisions of it."""
        held = [resident for resident in self.models if resident.name == model]
        return min(held, key=lambda resident: _WARMTH[resident.state], default=None)


_WARMTH = {"in_use": 0, "warm": 1, "loading": 2, "leaving": 3, "failed": 4}

AnyRecord = TypeVar("AnyRecord", bound=Record)


class RecordReader:
    """Reads records, and keeps count of those that it cannot read."""

    def __init__(self) -> None:
        self.malformed: Counter[str] = Counter()
        """By kind of record."""
        self._known: dict[tuple[str, str], int] = {}

    def read(self, kind: type[AnyRecord], key: str, value: bytes) -> AnyRecord | None:
        """The record, or None for one that is malformed: counted, and logged once for each key and value."""
        try:
            if len(value) > RECORD_LIMIT_BYTES:
                raise ValueError(f"longer than {RECORD_LIMIT_BYTES} bytes")
            return kind.model_validate_json(value)
        except (ValidationError, ValueError) as error:
            self._count(kind.__name__, key, value, error)
            return None

    def _count(self, kind: str, key: str, value: bytes, error: ValueError) -> None:
        if self._known.get((kind, key)) == hash(value):
            return
        if len(self._known) >= 1000:
            self._known.clear()
        self._known[kind, key] = hash(value)
        self.malformed[kind] += 1
        cause = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        logger.warning("skipped a malformed record", extra={"record": kind, "key": key[:200], "cause": cause})
