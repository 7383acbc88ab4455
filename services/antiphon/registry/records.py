"""What the registry holds, one record a thing, each with one writer.

Readers ignore fields that they do not know, so that a newer writer does not blind them; a record that cannot be read
at all is skipped and counted, never raised.
"""

import logging
from collections import Counter
from typing import Any, Literal, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from antiphon.contracts.adapters import Capabilities
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec

FORMAT = 1
"""Of the records as a whole; in `meta`. A reader refuses a higher one."""
WIRE_VERSION = 1
"""Of the gRPC contract (`antiphon.v1`) that a worker speaks."""
RECORD_LIMIT_BYTES = 1_048_576
"""A longer record is malformed: nothing that we write comes near it."""

ModelState = Literal["loading", "warm", "in_use", "leaving", "failed"]
FilesState = Literal["", "fetching", "cached"]

logger = logging.getLogger(__name__)


class Record(BaseModel):
    """What all records have in common: immutable, and tolerant of what a newer writer adds."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Revision(Record):
    """One revision of a model, while there is more than one."""

    digest: str = Field(min_length=1, max_length=80)
    """Its name: the `revision_digest` of its specification."""
    weight: int = Field(ge=0, le=100)
    """The share of sessions that get it, relative to the other revisions' weights."""
    spec: dict[str, Any] = Field(default_factory=dict)
    """A `ModelSpec` as JSON; empty: the model's own."""


class ModelRecord(Record):
    """A model of the catalogue. Written by the operator."""

    name: str = Field(min_length=1, max_length=64)
    task: Literal["tts", "asr"]
    engine: str
    aliases: tuple[str, ...] = ()
    digest: str = ""
    """The name of its revision; empty: whatever a worker holds under this name."""
    capabilities: Capabilities | None = None
    """None: not known before a worker has loaded it."""
    revisions: tuple[Revision, ...] = Field(default=(), max_length=8)
    """The oldest first; empty: there is one, that of `digest`."""
    memory_mib: int = Field(default=0, ge=0)
    """What a load takes of a worker's memory; 0: not known before a worker has loaded it."""
    memory_per_stream_mib: int = Field(default=0, ge=0)
    spec: dict[str, Any] = Field(default_factory=dict)
    """A `ModelSpec` as JSON: what a worker loads. Read by `specification`."""

    @classmethod
    def of(cls, spec: ModelSpec, capabilities: Capabilities | None = None, digest: str = "") -> Self:
        """The catalogue's record of a model as people wrote it."""
        estimate_mib = capabilities.memory_mib if capabilities is not None else 0
        return cls(
            name=spec.name,
            task=spec.task,
            engine=spec.engine,
            aliases=spec.aliases,
            digest=digest,
            capabilities=capabilities,
            memory_mib=spec.memory.weights_mib or estimate_mib,
            memory_per_stream_mib=spec.memory.per_stream_mib,
            spec=spec.model_dump(mode="json", by_alias=True, exclude_none=True),
        )

    def specification(self, digest: str = "") -> ModelSpec | None:
        """What to load for a revision (empty: the model's own); None when nothing was said.

        Unlike a record, a specification is taken whole or not at all: what it asks for must not be ignored.

        Raises:
            AntiphonError: `LOAD_FAILED` for one that this version does not understand.
        """
        said = next((each.spec for each in self.revisions if each.digest == digest and each.spec), self.spec)
        if not said:
            return None
        try:
            return ModelSpec.model_validate(said)
        except ValidationError as error:
            message = f"The catalogue's {self.name!r} is not understood by this version: {error.errors()[0]['msg']}."
            raise AntiphonError(Reason.LOAD_FAILED, message) from error


class PoolRecord(Record):
    """Workers that are alike. Written by the operator."""

    workers: int = Field(default=0, ge=0)
    """How many there should be."""
    streams_per_worker: int = Field(default=0, ge=0)
    memory_budget_mib: int = Field(default=0, ge=0)
    resident_cap: int = Field(default=0, ge=0)
    """How many models a worker holds at most; 0: as many as its memory takes."""


class WorkerRecord(Record):
    """A worker that may be called. Written by the operator."""

    address: str = Field(min_length=1, max_length=255)
    """`host:port` of its gRPC server."""
    pool: str = ""
    node: str = ""
    """The machine that it runs on."""
    draining: bool = False


class ModelRef(Record):
    """A model, and which revision of it."""

    name: str = Field(min_length=1, max_length=64)
    digest: str = ""
    """The name of the revision; empty: the catalogue's."""

    def means(self, name: str, *digests: str) -> bool:
        """Whether it is that model, in a revision that has one of these names."""
        return self.name == name and (not self.digest or self.digest in digests)


class Want(Record):
    """What one worker should hold. Written by the operator.

    A floor, not a list of all: what is in neither is kept or left as the worker's own cache sees fit. Only what leaves
    the catalogue must go.
    """

    hold: tuple[ModelRef, ...] = Field(default=(), max_length=1000)
    """To be loaded, and kept."""
    may: tuple[ModelRef, ...] = Field(default=(), max_length=1000)
    """May be loaded when a caller asks for it."""

    def allows(self, name: str, digest: str = "") -> bool:
        """Whether a caller may have that revision of this model loaded; empty: any of it."""
        return any(ref.name == name if not digest else ref.means(name, digest) for ref in (*self.hold, *self.may))


class ResidentModel(Record):
    """A model that a worker holds, or is about to."""

    name: str
    digest: str = ""
    """Of its content: of its files, engine and engine settings. Empty: not known before the files are there."""
    revision: str = ""
    """The name of its revision, known from the first moment."""
    state: ModelState
    progress: float = 0.0
    """0 to 1, while its files are fetched."""
    files: FilesState = ""
    """Where its files are: on their way, or on this machine. Empty: nothing was tried yet."""
    fetched_bytes: int = 0
    """Of `size_bytes`, while they are on their way."""
    size_bytes: int = 0
    """0: not known, or nothing to fetch."""
    reason: str = ""
    """Why it is not there, as a machine reads it: a `Reason`. WORKER_FULL with `loading`: it waits for room."""
    message: str = ""
    """The same in one sentence that says what to do."""
    memory_mib: int = 0
    streams: int = 0
    served: int = 0
    """Streams that it served to their end since it was loaded."""
    failed: int = 0
    """Streams that it broke off since it was loaded, by a fault of its engine."""
    first_audio_ms: float = 0.0
    """What 95 of 100 of its latest streams waited for sound at most; 0: none has spoken yet, or it is a recogniser."""

    def is_revision(self, digest: str) -> bool:
        """Whether it is what this digest names, be it a revision or its content. Empty: anything is."""
        return not digest or digest in (self.revision, self.digest)


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
    resident_cap: int = 0
    """How many models it holds at most; 0: as many as its memory takes."""
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

    def resident(self, model: str, digest: str = "") -> ResidentModel | None:
        """What it holds under that name and digest; the warmest, where there are two revisions of it."""
        held = [resident for resident in self.models if resident.name == model and resident.is_revision(digest)]
        return min(held, key=lambda resident: _WARMTH[resident.state], default=None)


class SessionRecord(Record):
    """A conversation, for whoever goes on with it. Written by the orchestrator that owns it."""

    session_id: str = Field(min_length=1, max_length=128)
    owner: str = Field(min_length=1, max_length=255)
    """The orchestrator that answers."""
    epoch: int = Field(ge=1)
    """Of the owner: one more at each change of hands. Who writes with a lower one is refused."""
    assistant: str
    caller: str = ""
    """A digest of the key that opened it: only that key goes on with it. Empty: no key was asked for."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The session's own, over the assistant's, as JSON."""
    history: tuple[dict[str, Any], ...] = ()
    """The conversation's items as JSON, the oldest first; empty when transcripts are not kept."""
    updated_at_ms: int = 0
    """Wall clock: for people; nothing is decided by it."""
    transcripts_kept: bool = True


class Demand(Record):
    """What no worker could serve. Written by each orchestrator for itself; expires."""

    task: Literal["tts", "asr"]
    model: str = Field(min_length=1, max_length=64)
    count: int = Field(ge=0)
    """How many streams asked for it since it began to lack."""
    since_ms: int
    """Wall clock: when it began to lack."""
    reason: str = ""
    """Why, as a machine reads it: a `Refusal` of `routing` or a `Reason`."""


_WARMTH = {"in_use": 0, "warm": 1, "loading": 2, "leaving": 3, "failed": 4}

_REMEMBERED = 20_000

AnyRecord = TypeVar("AnyRecord", bound=Record)


class RecordReader:
    """Reads records, and keeps count of those that it cannot read.

    Args:
        remembered: How many values are kept to be compared with the next ones; 0 for what is rarely read twice.
    """

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self.malformed: Counter[str] = Counter()
        """By kind of record."""
        self._known: dict[tuple[str, str], int] = {}
        self._last: dict[tuple[type[Record], str], tuple[bytes, Any]] = {}

    def read(self, kind: type[AnyRecord], key: str, value: bytes) -> AnyRecord | None:
        """The record, or None for one that is malformed: counted, and logged once for each key and value.

        A value that is the same as last time gives the same object again, for the cost of comparing it.
        """
        known = self._last.get((kind, key))
        if known is not None and known[0] == value:
            return cast(AnyRecord, known[1])
        try:
            if len(value) > RECORD_LIMIT_BYTES:
                raise ValueError(f"longer than {RECORD_LIMIT_BYTES} bytes")
            record = kind.model_validate_json(value)
        except (ValidationError, ValueError, RecursionError) as error:
            self._count(kind.__name__, key, value, error)
            return None
        if len(self._last) >= self._remembered:
            self._last.clear()
        if self._remembered:
            self._last[kind, key] = (value, record)
        return record

    def forget(self, kind: type[Record], key: str) -> None:
        """Keep nothing of a record that is gone."""
        self._last.pop((kind, key), None)

    def _count(self, kind: str, key: str, value: bytes, error: Exception) -> None:
        if self._known.get((kind, key)) == hash(value):
            return
        if len(self._known) >= 1000:
            self._known.clear()
        self._known[kind, key] = hash(value)
        self.malformed[kind] += 1
        cause = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        logger.warning("skipped a malformed record", extra={"record": kind, "key": key[:200], "cause": cause})
