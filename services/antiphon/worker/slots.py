"""One model of a worker's catalogue, and where it stands."""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from antiphon.adapters.download import Progress
from antiphon.contracts.adapters import Capabilities
from antiphon.contracts.errors import AntiphonError
from antiphon.contracts.models import ModelSpec, revision_digest
from antiphon.worker.loading import LoadedModel, PreparedModel


class ModelState(StrEnum):
    """Where a model stands."""

    ABSENT = "absent"
    LOADING = "loading"
    WARM = "warm"
    IN_USE = "in_use"
    LEAVING = "leaving"
    FAILED = "failed"


NOTHING_FETCHED = Progress(0, 0)
FilesState = Literal["", "fetching", "cached"]
Stay = Literal["held", "preloaded", "cached"]
"""held: loaded, and never let go by the worker itself; preloaded: loaded at start; cached: loaded when asked for."""


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model that may be asked for, and how it is to be kept."""

    spec: ModelSpec
    digest: str = ""
    """What the catalogue calls it; empty: the model's own revision, whatever it is."""
    stay: Stay = "cached"
    may_load: bool = True
    """Whether a caller may have it loaded; what is held needs no caller."""
    revision: str = field(init=False)
    """The name of its revision: where it is the same, the same weights are loaded in the same way."""

    def __post_init__(self) -> None:
        """Name the revision."""
        object.__setattr__(self, "revision", revision_digest(self.spec))

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the others."""
        return self.spec.name, self.revision


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model as it stands at one moment."""

    spec: ModelSpec
    state: ModelState
    digest: str = ""
    revision: str = ""
    streams: int = 0
    memory_mib: int = 0
    files: FilesState = ""
    fetched: Progress = NOTHING_FETCHED
    reason: str = ""
    message: str = ""
    capabilities: Capabilities | None = None
    served: int = 0
    failed: int = 0
    first_audio_ms: float = 0.0
    """Of the latest streams; 0: none has spoken yet."""
    warm_up_ms: float = 0.0
    """The same of the warm-up sentence."""
    real_time_factor: float = 0.0

    @property
    def progress(self) -> float:
        """0 to 1: how much of its files is here."""
        return self.fetched.done_bytes / self.fetched.total_bytes if self.fetched.total_bytes else 0.0


@dataclass(slots=True, eq=False)
class Slot:
    """One entry of the catalogue, and what is behind it now."""

    entry: CatalogueEntry
    prepared: PreparedModel | None = None
    model: LoadedModel | None = None
    references: int = 0
    loading: asyncio.Task[AntiphonError | None] | None = None
    closing: asyncio.Task[None] | None = None
    must_leave: bool = False
    reserved: bool = False
    files: FilesState = ""
    fetched: Progress = NOTHING_FETCHED
    failure: AntiphonError | None = None
    lack: AntiphonError | None = None
    """Its load waits for room: what there is too little of."""
    failures: int = 0
    retry_at: float = 0.0
    loaded_at: float = 0.0
    used_at: float = 0.0
    preloaded: bool = False
    is_gone: bool = False
    """It has left the catalogue: what is in it goes with its last stream."""

    @property
    def spec(self) -> ModelSpec:
        """What is loaded."""
        return self.entry.spec

    def is_revision(self, digest: str) -> bool:
        """Whether that digest names it: as a revision, or as the content that it turned out to have."""
        names = (self.entry.revision, self.entry.digest, self.prepared.digest if self.prepared is not None else "")
        return not digest or digest in names

    def stay_on(self, entry: CatalogueEntry) -> None:
        """Keep what is in it under what the catalogue says now; what was on its way out and is wanted again stays."""
        self.entry = entry
        if self.is_gone or entry.stay == "held":
            self.is_gone = self.must_leave = False

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits for it, and nothing is in memory or on its way."""
        return not (self.references or self.reserved or self.loading or self.closing or self.model)

    @property
    def state(self) -> ModelState:
        """Where the model stands."""
        if self.must_leave or self.closing is not None:
            return ModelState.LEAVING
        if self.loading is not None:
            return ModelState.LOADING
        if self.model is not None:
            return ModelState.IN_USE if self.references else ModelState.WARM
        return ModelState.FAILED if self.failure is not None else ModelState.ABSENT

    @property
    def weights_mib(self) -> int:
        """What its weights take: as the catalogue says by now, else as the engine estimates; 0: not known yet."""
        estimate_mib = self.prepared.capabilities.memory_mib if self.prepared is not None else 0
        return self.spec.memory.weights_mib or estimate_mib

    @property
    def memory_mib(self) -> int:
        """What the model and its streams take, from before its load until its weights are freed."""
        weights_mib = self.weights_mib if self.reserved else 0
        return weights_mib + self.references * self.spec.memory.per_stream_mib

    @property
    def is_held(self) -> bool:
        """Whether the model stays until somebody else says otherwise."""
        return self.entry.stay == "held" and not self.is_gone

    @property
    def may_load(self) -> bool:
        """Whether a caller may have it loaded."""
        return not self.is_gone and (self.entry.may_load or self.is_held)

    def view(self) -> ModelView:
        """The model as it stands now."""
        known, model, trouble = self.prepared, self.model, self.lack or self.failure
        return ModelView(
            spec=self.spec,
            state=self.state,
            digest=known.digest if known else "",
            revision=self.entry.revision,
            streams=self.references,
            memory_mib=self.memory_mib,
            files=self.files,
            fetched=self.fetched,
            reason=trouble.reason.value if trouble else "",
            message=trouble.message if trouble else "",
            capabilities=known.capabilities if known else None,
            served=model.tally.served if model else 0,
            failed=model.tally.failed if model else 0,
            first_audio_ms=model.tally.first_audio_ms if model else 0.0,
            warm_up_ms=model.first_audio_ms if model else 0.0,
            real_time_factor=model.real_time_factor if model else 0.0,
        )
