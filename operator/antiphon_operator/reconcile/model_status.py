"""What is true of a VoiceModel, as its conditions say it: pure.

Each condition means one thing:

- `Accepted`: the spec is understood, and none of its names belongs to another model.
- `ArtifactCached`: the active revision's files are on every worker that should hold it, and none are on their way.
- `Scheduled`: as many workers are told to hold it as the spec asks for at least.
- `Resident`: all workers that should hold it do.
- `Ready`: a call is served now: a worker that is alive holds it (or, on demand, may load it).
- `Progressing`: something is on its way: a first load, or another revision.
- `Degraded`: something is not as wanted, and a person may have to act.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from antiphon.contracts.resources import VoiceModel
from antiphon.registry.placing import Shortage
from antiphon.registry.records import ResidentModel
from antiphon_operator.reconcile.conditions import Finding
from antiphon_operator.reconcile.model import Seen
from antiphon_operator.reconcile.rollout import LACKS, Course

STEP = 10
"""Progress is told in steps of so many percent."""


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is known of one model."""

    model: VoiceModel
    course: Course
    active: Seen = Seen()
    candidate: Seen = Seen()
    streams: int = 0
    """On all of its revisions."""
    holders: tuple[str, ...] = ()
    """Workers that should hold the active revision."""
    lenders: tuple[str, ...] = ()
    """Workers that may load it for a caller."""
    shortage: Shortage | None = None
    """Why fewer than wanted should hold it, or why nobody may."""
    taken: Mapping[str, str] = field(default_factory=dict)
    """Of its aliases: whose they are."""
    selected: tuple[str, ...] = ()
    """The pools that its selector chooses."""
    engines: tuple[str, ...] = ()
    """Those that the workers of these pools have."""
    trouble: str = ""
    """Why the registry is not in agreement; empty: it is."""
    is_blind: bool = False
    """Whether the workers were never heard: what was said of them before stands."""

    @property
    def on_demand(self) -> bool:
        """Whether nobody has to hold it."""
        return self.model.spec.residency.policy == "OnDemand"

    @property
    def wanted(self) -> int:
        """How many workers should hold it."""
        if self.course.candidate is not None:  # its workers are changing over
            return len(self.holders)
        return max(len(self.holders), self.model.spec.residency.floor)


def refused(reason: str, message: str) -> list[Finding]:
    """The conditions of a model that is not understood."""
    return [Finding.of("Accepted", False, reason, message), Finding.of("Ready", False, "NotAccepted", message)]


def status_of(picture: Picture) -> dict[str, Any]:
    """All of the status but its conditions."""
    course, resident = picture.course, len(picture.active.warm)
    status: dict[str, Any] = {
        "active": course.active.model_dump(mode="json", exclude_none=True),
        "wantedWorkers": picture.wanted,
        "residentWorkers": resident,
        "resident": f"{resident}/{picture.wanted}",
        "streams": picture.streams,
    }
    if course.candidate is not None:
        status["candidate"] = course.candidate.model_dump(mode="json", exclude_none=True)
    if course.refused is not None:
        status["refused"] = course.refused
    return status


def findings(picture: Picture, before: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """The conditions.

    Args:
        picture: What is known.
        before: Those that stood there: while the workers cannot be heard, what was said of them stands.
    """
    stood = {each["type"]: each for each in before}
    return [
        _kept(stood, kind) or find(picture) if picture.is_blind and kind in _OF_WORKERS else find(picture)
        for kind, find in _FINDERS.items()
    ]


def _kept(stood: Mapping[str, Mapping[str, Any]], kind: str) -> Finding | None:
    old = stood.get(kind)
    if old is None:
        return None
    return Finding(kind, old["status"], old["reason"], old.get("message", ""), old.get("observedGeneration"))


# --- each ------------------------------------------------------------------------------------------------------------


def _accepted(picture: Picture) -> Finding:
    if picture.taken:
        told = ", ".join(f"{alias} is {owner}'s" for alias, owner in sorted(picture.taken.items()))
        message = f"Not all aliases can be had: {told}. Choose others; calls by these names reach the other model."
        return Finding.of("Accepted", False, "AliasTaken", message)
    return Finding.of("Accepted", True, "Accepted", "The spec is understood and in force.")


def _artifact_cached(picture: Picture) -> Finding:
    kind = "ArtifactCached"
    if picture.model.spec.artifact is None and picture.course.active.artifact is None:
        return Finding.of(kind, True, "NothingToFetch", "The engine has its own weights.")
    reports = [*picture.active.reports, *picture.candidate.reports]
    for worker, report in reports:
        if report.state == "failed" and report.files != "cached":
            return Finding.of(kind, False, "FetchFailed", f"{worker}: {report.message or report.reason}")
    fetching = [(worker, report) for worker, report in reports if report.files == "fetching"]
    if fetching:
        return Finding.of(kind, False, "Fetching", _progress(fetching))
    here = {worker for worker, report in picture.active.reports if report.files == "cached" or _is_held(report)}
    missing = set(picture.holders) - here
    if missing:
        return Finding.of(kind, False, "Waiting", f"Not begun yet on {_names(missing)}.")
    if not here:
        why = "Nobody asked for it yet." if picture.on_demand else "No worker holds it."
        return Finding.of(kind, False, "NotFetched", f"The files are on no worker: {why}")
    return Finding.of(kind, True, "Cached", f"The files are on {_names(here)}.")


def _scheduled(picture: Picture) -> Finding:
    if picture.shortage is not None:
        return Finding.of("Scheduled", False, picture.shortage.value, _REMEDIES[picture.shortage](picture))
    if picture.on_demand:
        message = f"Loaded when it is asked for, on any of {len(picture.lenders)} workers."
        return Finding.of("Scheduled", True, "OnDemand", message)
    return Finding.of("Scheduled", True, "Scheduled", f"To be held by {_names(picture.holders)}.")


def _resident(picture: Picture) -> Finding:
    count = f"{len(picture.active.warm)} of {picture.wanted} workers hold revision {picture.course.active.revision}"
    if picture.on_demand:
        return Finding.of("Resident", True, "OnDemand", f"{len(picture.active.warm)} workers hold it; demand decides.")
    is_any_wanted = bool(picture.wanted or picture.course.candidate is None)
    if is_any_wanted and len(picture.active.warm & set(picture.holders)) >= picture.wanted:
        return Finding.of("Resident", True, "Resident", f"{count}.")
    waiting = "; ".join(
        f"{worker}: {report.message}"
        for worker, report in picture.active.reports
        if report.message and not _is_held(report)
    )
    return Finding.of("Resident", False, "NotResident", f"{count}. {waiting}".strip())


def _ready(picture: Picture) -> Finding:
    active, candidate = picture.course.active, picture.course.candidate
    if picture.active.warm and (candidate is None or candidate.weight < 100):
        message = f"Calls are served by {_names(picture.active.warm)}, revision {active.revision}."
        return Finding.of("Ready", True, "Callable", message)
    if candidate is not None and candidate.weight and picture.candidate.warm:
        message = f"Calls are served by {_names(picture.candidate.warm)}, revision {candidate.revision}."
        return Finding.of("Ready", True, "Callable", message)
    failed = {worker for worker, _ in picture.active.failures}
    if picture.on_demand and set(picture.lenders) - failed:
        message = f"The first call has it loaded, by one of {len(picture.lenders)} workers."
        return Finding.of("Ready", True, "OnDemand", message)
    if failed:
        return Finding.of("Ready", False, "LoadFailed", _failure(picture.active.failures))
    if picture.shortage is not None and not picture.holders:
        return Finding.of("Ready", False, picture.shortage.value, _REMEDIES[picture.shortage](picture))
    loading = [each for each in (*picture.active.reports, *picture.candidate.reports) if each[1].state == "loading"]
    if loading:
        return Finding.of("Ready", False, "Loading", f"It is being loaded. {_progress(loading)}")
    return Finding.of("Ready", False, "NoWorker", "No worker that is alive holds it: calls wait for one.")


def _progressing(picture: Picture) -> Finding:
    course = picture.course
    if course.candidate is not None or course.reason == "Waiting":
        return Finding.of("Progressing", True, course.reason, course.message)
    if course.refused is not None:
        return Finding.of(
            "Progressing", False, "RolledBack", "It stays as it is until the spec names another revision."
        )
    missing = set(picture.holders) - picture.active.warm - {worker for worker, _ in picture.active.failures}
    if missing:
        return Finding.of("Progressing", True, "Loading", f"{_names(missing)} is to load it.")
    return Finding.of("Progressing", False, "Complete", f"Revision {course.active.revision} is in force.")


def _degraded(picture: Picture) -> Finding:
    course, kind = picture.course, "Degraded"
    if course.refused is not None:
        return Finding.of(kind, True, "RolledBack", course.message)
    if picture.active.failures:
        return Finding.of(kind, True, "LoadFailed", _failure(picture.active.failures))
    if picture.candidate.failures:
        return Finding.of(kind, True, "CandidateFailing", _failure(picture.candidate.failures))
    if picture.trouble:
        message = f"The registry cannot be written: {picture.trouble}. Calls go on as they are routed now."
        return Finding.of(kind, True, "RegistryUnreachable", message)
    return Finding.of(kind, False, "AsWanted", "Nothing is amiss.")


_FINDERS: Mapping[str, Callable[[Picture], Finding]] = {
    "Accepted": _accepted,
    "ArtifactCached": _artifact_cached,
    "Scheduled": _scheduled,
    "Resident": _resident,
    "Ready": _ready,
    "Progressing": _progressing,
    "Degraded": _degraded,
}
_OF_WORKERS = ("ArtifactCached", "Scheduled", "Resident", "Ready", "Progressing")


# --- in words ---------------------------------------------------------------------------------------------------------


def _no_pool(picture: Picture) -> str:
    labels = ", ".join(
        f"{name}={value}" for name, value in sorted(picture.model.spec.pool_selector.match_labels.items())
    )
    if not picture.selected:
        return f"No WorkerPool has the labels {labels}: label one, or change poolSelector."
    return f"No worker of {_names(picture.selected)} is running: see the pool's conditions."


def _no_engine(picture: Picture) -> str:
    engine, known = picture.model.spec.engine, ", ".join(picture.engines) or "none"
    return f"No worker has the engine {engine} (they have: {known}): give a WorkerPool an image that has it."


def _too_few(picture: Picture) -> str:
    floor = picture.model.spec.residency.floor
    return f"{floor} workers are to hold it, and there are {len(picture.holders)} that can: raise replicas of a pool."


_REMEDIES: Mapping[Shortage, Callable[[Picture], str]] = {
    Shortage.NO_WORKER: lambda picture: (
        f"No worker is running in this namespace: make a WorkerPool whose image has the engine"
        f" {picture.model.spec.engine}, or see the pools' conditions."
    ),
    Shortage.NO_POOL: _no_pool,
    Shortage.NO_ENGINE: _no_engine,
    Shortage.TOO_LARGE: lambda _: LACKS[Shortage.TOO_LARGE],
    Shortage.TOO_FEW: _too_few,
    Shortage.NO_ROOM: lambda _: LACKS[Shortage.NO_ROOM],
}


def _is_held(report: ResidentModel) -> bool:
    return report.state in ("warm", "in_use")


def _failure(failures: Sequence[tuple[str, ResidentModel]]) -> str:
    worker, report = failures[0]
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return f"{worker}{more}: {report.message or report.reason or 'it could not be loaded'}"


def _progress(reports: Sequence[tuple[str, ResidentModel]]) -> str:
    def said(worker: str, report: ResidentModel) -> str:
        percent = int(report.progress * 100) // STEP * STEP
        size = f" of {report.size_bytes / 2**20:.0f} MiB" if report.size_bytes else ""
        return f"{worker}: {percent} %{size}"

    return "; ".join(said(worker, report) for worker, report in reports[:5])


def _names(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:3])
    return shown + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "") if ordered else "no worker"
