"""From VoiceModels and what is seen of them to the registry's catalogue and to what has to be placed: pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from antiphon.contracts.errors import Reason
from antiphon.contracts.resources import RevisionStatus, VoiceModel
from antiphon.registry.placing import Ask, Shortage
from antiphon.registry.records import ModelRecord, ResidentModel, Revision
from antiphon.registry.roster import Worker
from antiphon_operator.reconcile.rollout import Sight, spread

SHORT = 12
"""Digits of a digest that people are shown."""
_HELD = ("warm", "in_use")


@dataclass(frozen=True, slots=True)
class Seen:
    """One revision of a model, over all workers that serve."""

    warm: frozenset[str] = frozenset()
    """Workers that hold it, ready for calls."""
    reports: tuple[tuple[str, ResidentModel], ...] = ()
    """What each worker that has anything of it says, by the worker's name."""

    @property
    def streams(self) -> int:
        """How many run on it."""
        return sum(report.streams for _, report in self.reports)

    @property
    def served(self) -> int:
        """Streams that it served to their end."""
        return sum(report.served for _, report in self.reports)

    @property
    def failed(self) -> int:
        """Streams that it broke off."""
        return sum(report.failed for _, report in self.reports)

    @property
    def first_audio_ms(self) -> float:
        """The slowest worker's."""
        return max((report.first_audio_ms for _, report in self.reports), default=0.0)

    @property
    def failures(self) -> list[tuple[str, ResidentModel]]:
        """Who could not load it, and why; to wait for room is no failure."""
        return [(worker, report) for worker, report in self.reports if report.state == "failed"]

    @property
    def memory_mib(self) -> int:
        """What it was found to take of a worker; 0: not known."""
        return max((report.memory_mib for _, report in self.reports if report.state == "warm"), default=0)


@dataclass(frozen=True, slots=True)
class Report:
    """What one worker says of one revision that it has something of."""

    worker: str
    model: ResidentModel
    serves: bool
    """Whether it takes new streams."""


def reports_of(workers: Iterable[Worker]) -> dict[str, list[Report]]:
    """What all workers that are alive say, by the model's name."""
    reports: dict[str, list[Report]] = {}
    for worker in sorted(workers, key=lambda worker: worker.name):
        for model in worker.lease.models if worker.lease is not None else ():
            reports.setdefault(model.name, []).append(Report(worker.name, model, worker.serving))
    return reports


def seen(reports: Iterable[Report], digest: str) -> Seen:
    """What the workers say of one revision."""
    own = [report for report in reports if report.model.is_revision(digest)]
    warm = frozenset(report.worker for report in own if report.serves and report.model.state in _HELD)
    return Seen(warm, tuple((report.worker, report.model) for report in own))


def target_of(model: VoiceModel) -> RevisionStatus:
    """The revision that the spec names."""
    spec = model.spec
    digest = model.revision_digest
    called = spec.artifact.revision if spec.artifact is not None else ""
    return RevisionStatus(
        revision=called or digest.removeprefix("sha256:")[:SHORT],
        digest=digest,
        artifact=spec.artifact,
        memory=spec.memory,
        engine_config=spec.engine_config,
    )


def active_of(model: VoiceModel) -> RevisionStatus:
    """The revision that sessions get: what the status says, else what the spec names."""
    return model.status.active or target_of(model)


def stage_of(model: VoiceModel) -> tuple[object, ...]:
    """All that its places depend on: of the spec, and of how far its rollout is."""
    candidate = model.status.candidate
    coming = (candidate.digest, candidate.step, candidate.weight) if candidate is not None else ()
    return model.metadata.generation, active_of(model).digest, coming


# --- aliases ----------------------------------------------------------------------------------------------------------


def aliases_taken(models: Iterable[VoiceModel], ages: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Model -> alias -> whose it is already. A name belongs to the model of that name, an alias to the oldest.

    Args:
        models: Of one namespace.
        ages: Name -> when it was made, as text that sorts.
    """
    ordered = sorted(models, key=lambda model: (ages.get(model.metadata.name, ""), model.metadata.name))
    owner = {model.metadata.name: model.metadata.name for model in ordered}
    taken: dict[str, dict[str, str]] = {}
    for model in ordered:
        name = model.metadata.name
        for alias in model.spec.aliases:
            if owner.setdefault(alias, name) != name:
                taken.setdefault(name, {})[alias] = owner[alias]
    return taken


# --- the catalogue ----------------------------------------------------------------------------------------------------


def record_of(model: VoiceModel, taken: Iterable[str] = (), leaving: Sequence[Revision] = ()) -> ModelRecord:
    """The catalogue's record of a model: its active revision, its candidate, and what still ends its streams.

    Args:
        model: As it is, with its status.
        taken: Aliases that belong to others.
        leaving: Revisions that nobody is to use any more, and somebody does.
    """
    active, candidate = active_of(model), model.status.candidate
    spec = model.specification(active).model_copy(
        update={"aliases": tuple(alias for alias in model.spec.aliases if alias not in set(taken))}
    )
    record = ModelRecord.of(spec, model.capabilities, active.digest)
    revisions = [each.model_copy(update={"weight": 0}) for each in leaving]
    if candidate is not None:
        revisions += [
            Revision(digest=active.digest, weight=100 - candidate.weight, spec=record.spec),
            Revision(digest=candidate.digest, weight=candidate.weight, spec=_spec(model, candidate)),
        ]
    elif revisions:
        revisions.append(Revision(digest=active.digest, weight=100, spec=record.spec))
    return record.model_copy(update={"revisions": tuple(revisions[-8:])})


def current(model: VoiceModel) -> set[str]:
    """The digests of the revisions that sessions may get."""
    candidate = model.status.candidate
    return {active_of(model).digest} | ({candidate.digest} if candidate is not None else set())


def revisions_of(record: ModelRecord) -> list[Revision]:
    """All revisions that a record names, each with its specification."""
    own = Revision(digest=record.digest, weight=100, spec=record.spec) if record.digest else None
    named = {each.digest: each for each in record.revisions if each.spec}
    return [*named.values()] if own is None or own.digest in named else [*named.values(), own]


def _spec(model: VoiceModel, revision: RevisionStatus) -> dict[str, object]:
    return model.specification(revision).model_dump(mode="json", by_alias=True, exclude_none=True)


# --- placement --------------------------------------------------------------------------------------------------------


def sight_of(
    active: Seen,
    candidate: Seen,
    holders: Sequence[str],
    others: Sequence[str],
    *,
    on_demand: bool,
    is_settled: bool,
    lack: Shortage | None,
) -> Sight:
    """What a rollout goes by.

    Args:
        active: What is seen of the active revision.
        candidate: What is seen of the candidate.
        holders: Workers that should hold the active revision.
        others: Workers that should hold the candidate.
        on_demand: Whether nobody has to hold the model.
        is_settled: Whether the workers can be seen.
        lack: Why fewer workers than wanted should hold the candidate.
    """
    places = len({*holders, *others, *(active.warm if on_demand else ())})
    failure = next((f"{worker} says: {report.message or report.reason}" for worker, report in candidate.failures), "")
    return Sight(
        is_settled=is_settled,
        on_demand=on_demand,
        places=places,
        active_warm=len(active.warm),
        warm=len(candidate.warm),
        has_room=bool(others),
        lack=lack,
        is_beside=len(others) >= places,
        failure=failure,
        may_recover=all(
            report.files != "cached" and report.reason == Reason.LOAD_FAILED for _, report in candidate.failures
        ),
        served=candidate.served,
        failed=candidate.failed,
        first_audio_ms=candidate.first_audio_ms,
    )


def asks_of(
    model: VoiceModel, sight: Sight | None, pools: frozenset[str] | None, memory: Mapping[str, int]
) -> list[Ask]:
    """What is to be placed of a model.

    Args:
        model: As it is, with its status.
        sight: Of its rollout; None: there is none.
        pools: Whose workers may hold it; None: any.
        memory: Digest -> MiB that it was found to take.
    """
    residency, active, candidate = model.spec.residency, active_of(model), model.status.candidate
    on_demand = residency.policy == "OnDemand"
    floor = residency.floor
    most = 0 if on_demand else residency.max_replicas

    def ask(revision: RevisionStatus, order: int, minimum: int, maximum: int | None) -> Ask:
        weights_mib = revision.memory.weights_mib or memory.get(revision.digest, 0)
        return Ask(
            model.metadata.name,
            model.spec.engine,
            digest=revision.digest,
            policy=residency.policy,
            memory_mib=weights_mib + revision.memory.per_stream_mib,
            minimum=minimum,
            maximum=maximum,
            priority=residency.priority,
            pools=pools,
            order=order,
        )

    if candidate is None or sight is None:
        return [ask(active, 0, floor, most)]
    wave, kept = spread(candidate, model.spec.rollout, sight)
    most_of_both = max(wave, sight.places)
    return [ask(active, 0, 0 if on_demand else kept, most), ask(candidate, 1, wave, most_of_both)]
