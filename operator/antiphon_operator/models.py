"""VoiceModels made true: a namespace's registry says what is served and by whom; each model's status says how it is."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from antiphon.contracts.errors import AntiphonError
from antiphon.contracts.resources import RevisionStatus, VoiceModel, WorkerPool
from antiphon.contracts.resources.voice_model import Artifact, ModelMemory, Setting
from antiphon.registry.placing import Ask, Host, Plan, Shortage, obstacle, place
from antiphon.registry.records import ModelRecord, PoolRecord, Revision, Want, WorkerRecord
from antiphon_operator.context import Context
from antiphon_operator.queueing import Key
from antiphon_operator.reconcile.members import member_of
from antiphon_operator.reconcile.model import (
    SHORT,
    Report,
    active_of,
    aliases_taken,
    asks_of,
    current,
    record_of,
    revisions_of,
    seen,
    sight_of,
    stage_of,
    target_of,
)
from antiphon_operator.reconcile.model_status import Picture, findings, refused, status_of
from antiphon_operator.reconcile.rollout import Course, Sight, advance
from antiphon_operator.sync import RegistrySync
from antiphon_operator.world import MODEL, Body

LEAVE_S = 3.0
"""A revision that nobody is to use any more stays in the catalogue for so long at least: who was routed to it just now
is still to be served."""
LOOK_S = 1.0
SOON_S = 0.2
PACE = 3
"""After the registry was worked out, it is left alone for so many times as long: changes that come together are taken
together."""
NUMBERS = ("streams",)
WARNINGS = {"Accepted": "False", "Scheduled": "False", "Ready": "False", "Degraded": "True"}

logger = logging.getLogger(__name__)


# --- the registry of a namespace --------------------------------------------------------------------------------------


async def reconcile_registry(context: Context, namespace: str, _: str = "") -> None:
    """Say in the registry what there is in a namespace: members first, then catalogue, pools and placement.

    Once nothing is left in the namespace, its registry is emptied and left; also where it went while nobody led.
    """
    key = Key("Registry", namespace)
    if not context.world.pools(namespace) and not context.world.models(namespace):
        is_known = namespace in context.registries or context.world.is_read(namespace)
        if is_known and not context.registries.close(namespace):
            context.queue.add(key, SOON_S)
        return
    sync = context.registries.open(namespace)
    sync.say_members(_members(context, namespace))
    if not sync.has_read:
        return  # the first word from Redis brings it here again
    begun = context.clock()
    if begun < sync.not_before_s:
        context.queue.add(key, sync.not_before_s - begun)
        return
    _say(context, sync)
    if (absent_s := sync.next_absence_s(begun)) is not None:
        context.queue.add(key, absent_s + SOON_S)
    took_s = context.clock() - begun
    sync.not_before_s = begun + (PACE + 1) * took_s


def _members(context: Context, namespace: str) -> dict[str, WorkerRecord]:
    pods = (pod for pool in context.world.pools(namespace) for pod in context.world.pods(namespace, _name(pool)))
    return {_name(pod): member for pod in pods if (member := member_of(pod)) is not None}


def _say(context: Context, sync: RegistrySync) -> None:
    now = context.clock()
    bodies = [body for body in context.world.models(sync.namespace) if "deletionTimestamp" not in body["metadata"]]
    models = [model for body in bodies if isinstance(model := read(sync, body), VoiceModel)]
    refused_names = {_name(body) for body in bodies} - {model.metadata.name for model in models}
    taken = aliases_taken(models, {_name(body): str(body["metadata"].get("creationTimestamp", "")) for body in bodies})
    reports = sync.reports()
    hosts = _hosts(sync, now)
    asks = [ask for model in models for ask in _asks(context, sync, model, reports.get(model.metadata.name, []))]
    plan = place(asks, hosts)
    records = [
        _record(sync, model, tuple(taken.get(model.metadata.name, ())), _leaving(context, sync, model, reports))
        for model in models
    ]
    records += [before for name in refused_names if (before := _before(sync, name)) is not None]
    waits = {name: want for name in sync.members if name not in plan.want and (want := _last_want(sync, name))}
    sync.keep({_name(body) for body in bodies})
    earlier, sync.planned = sync.planned, {model.metadata.name: stage_of(model) for model in models}
    for name, _ in sync.planned.items() - earlier.items():  # its status waits for that
        context.queue.add(Key("VoiceModel", sync.namespace, name))
    for name in plan.want.keys() - sync.wanted.keys():  # told for the first time: its pool waits for that
        context.queue.add(Key("WorkerPool", sync.namespace, sync.members[name].pool))
    sync.say(records, _pools(context, sync.namespace), {**waits, **plan.want})
    _touch(context, sync, plan, taken)
    obstacles = {ask.key: why for ask in asks if ask.maximum == 0 and (why := obstacle(ask, hosts)) is not None}
    sync.plan = dataclasses.replace(plan, short={**obstacles, **plan.short})
    sync.taken, sync.lenders = taken, _by_model(plan.want)


def _record(sync: RegistrySync, model: VoiceModel, taken: tuple[str, ...], leaving: list[Revision]) -> ModelRecord:
    """The catalogue's record; the one before, where nothing that it is made of is another."""
    name = model.metadata.name
    made = sync.recorded.get(name)
    if made is None or made[0] is not model or made[1:3] != (taken, leaving):
        made = sync.recorded[name] = model, taken, leaving, record_of(model, taken, leaving)
    return made[3]


def _by_model(want: Mapping[str, Want]) -> dict[tuple[str, str], list[str]]:
    workers: dict[tuple[str, str], list[str]] = {}
    for worker, each in want.items():
        for ref in (*each.hold, *each.may):
            workers.setdefault((ref.name, ref.digest), []).append(worker)
    return workers


def _asks(context: Context, sync: RegistrySync, model: VoiceModel, reports: list[Report]) -> list[Ask]:
    labels = model.spec.pool_selector.match_labels
    pools = frozenset(_selected(context, sync.namespace, model)) if labels else None
    memory = {digest: seen(reports, digest).memory_mib for digest in current(model)}
    sight = _sight(sync, model, reports, context.clock()) if model.status.candidate is not None else None
    return asks_of(model, sight, pools, memory)


def _selected(context: Context, namespace: str, model: VoiceModel) -> list[str]:
    labels = model.spec.pool_selector.match_labels.items()
    return [
        _name(pool)
        for pool in context.world.pools(namespace)
        if labels <= (pool["metadata"].get("labels") or {}).items()
    ]


def _hosts(sync: RegistrySync, now: float) -> list[Host]:
    """The workers that models can be placed on: members that stay, and that were heard of lately."""
    hosts = []
    for name, member in sync.members.items():
        lease = sync.last_lease(name, now)
        if lease is None or lease.draining or member.draining:
            continue
        want = _last_want(sync, name)
        held = [(ref.name, ref.digest) for ref in want.hold] if want is not None else []
        if want is None:  # nobody knows what it was told: what it holds, it was told to hold
            held = [(model.name, model.revision) for model in lease.models if model.state in ("warm", "in_use")]
        hosts.append(
            Host(
                name,
                frozenset(lease.engines),
                pool=member.pool,
                memory_mib=lease.memory_mib,
                resident_cap=lease.resident_cap,
                held=tuple(held),
            )
        )
    return hosts


def _last_want(sync: RegistrySync, worker: str) -> Want | None:
    known = sync.snapshot.workers.get(worker)
    return sync.wanted.get(worker) or (known.want if known is not None else None)


def _pools(context: Context, namespace: str) -> dict[str, PoolRecord]:
    records = {}
    for body in context.world.pools(namespace):
        try:
            spec = WorkerPool.model_validate(body).spec
        except ValidationError:
            continue  # its own status says so
        records[_name(body)] = PoolRecord(
            workers=spec.replicas,
            streams_per_worker=spec.streams_per_worker or 0,
            memory_budget_mib=spec.memory_budget_mib,
            resident_cap=spec.resident_cap,
        )
    return records


def _leaving(
    context: Context, sync: RegistrySync, model: VoiceModel, reports: Mapping[str, list[Report]]
) -> list[Revision]:
    """Revisions that the catalogue had, that nobody is to use any more, and that still end their streams."""
    name, now = model.metadata.name, context.clock()
    before = _before(sync, name)
    if before is None:
        return []
    leaving, wanted = [], current(model)
    for revision in revisions_of(before):
        if revision.digest in wanted:
            sync.leaving_s.pop((name, revision.digest), None)
            continue
        since_s = sync.leaving_s.setdefault((name, revision.digest), now)
        busy = any(report.streams for _, report in seen(reports.get(name, []), revision.digest).reports)
        if busy or now - since_s < LEAVE_S or not sync.is_settled(now):
            leaving.append(revision)
            context.queue.add(Key("Registry", sync.namespace), LOOK_S)
    return leaving


def _before(sync: RegistrySync, name: str) -> ModelRecord | None:
    """What the catalogue says of a model until now."""
    return sync.said.get(name) or sync.snapshot.models.get(name)


def _touch(context: Context, sync: RegistrySync, plan: Plan, taken: Mapping[str, Mapping[str, str]]) -> None:
    """Have those looked at of whom something else is true now."""
    old, seen_as = sync.plan, (sync.snapshot.stale, sync.trouble)
    everything = sync.shown != seen_as
    sync.shown = seen_as
    holders = {*old.holders.items(), *old.short.items()} ^ {*plan.holders.items(), *plan.short.items()}
    names = {key[0] for key, _ in holders} | {
        name for name in {*sync.taken, *taken} if sync.taken.get(name) != taken.get(name)
    }
    if everything:
        names |= {_name(body) for body in context.world.models(sync.namespace)}
        for pool in context.world.pools(sync.namespace):
            context.queue.add(Key("WorkerPool", sync.namespace, _name(pool)))
    for name in names:
        context.queue.add(Key("VoiceModel", sync.namespace, name))


# --- one model --------------------------------------------------------------------------------------------------------


async def reconcile_model(context: Context, namespace: str, name: str) -> None:
    """See how one model is, take its rollout a step further, and say it in its status.

    What must not be forgotten of a rollout is written in the status first; the registry follows what stands there.

    Raises:
        ApiError: the API server could not be asked; to be tried again.
    """
    body = context.world.get(MODEL, namespace, name)
    if body is None or "deletionTimestamp" in body["metadata"]:
        return
    key, now = Key("VoiceModel", namespace, name), context.clock()
    sync = context.registries.get(namespace)
    if sync is None:
        context.queue.add(Key("Registry", namespace))
        context.queue.add(key, SOON_S)
        return
    model = read(sync, body)
    if isinstance(model, str):
        status = {field: value for field, value in (body.get("status") or {}).items() if field not in _OUR_OWN}
        await context.statuses.write(key, body, status, refused("Invalid", model), warnings=WARNINGS)
        return
    if not context.registries.is_known(namespace, now):
        context.queue.add(key, SOON_S)
        return
    if sync.has_read and sync.planned.get(name) != stage_of(model):
        return  # nothing can be said before places were looked for: that brings it here again
    picture = _picture(context, sync, model, now)
    if picture.course.look_s is not None:
        context.queue.add(key, picture.course.look_s)
    stood = (body.get("status") or {}).get("conditions") or ()
    if picture.trouble:
        context.queue.add(key, LOOK_S)
    await context.statuses.write(
        key, body, status_of(picture), findings(picture, stood), numbers=NUMBERS, warnings=WARNINGS
    )


_OUR_OWN = ("conditions", "observedGeneration")


def _picture(context: Context, sync: RegistrySync, model: VoiceModel, now: float) -> Picture:
    name = model.metadata.name
    reports = sync.reports().get(name, [])
    sight = _sight(sync, model, reports, now)
    course = advance(_course(model), target_of(model), model.spec.rollout, sight, datetime.now(UTC))
    active, plan = course.active, sync.plan
    candidate = seen(reports, course.candidate.digest) if course.candidate is not None else None
    selected = _selected(context, sync.namespace, model)
    members = [member for member, record in sync.members.items() if record.pool in selected]
    leases = [lease for member in members if (lease := sync.last_lease(member, now)) is not None]
    details: dict[str, Any] = {"candidate": candidate} if candidate is not None else {}
    return Picture(
        model=model,
        course=course,
        active=seen(reports, active.digest),
        streams=sum(report.model.streams for report in reports),
        holders=plan.holders.get((name, active.digest), ()),
        lenders=_lenders(sync, name, active.digest),
        shortage=_shortage(plan, name, active.digest, sync),
        taken=sync.taken.get(name, {}),
        selected=tuple(selected),
        engines=tuple(sorted({engine for lease in leases for engine in lease.engines})),
        trouble=sync.trouble,
        is_blind=not sync.has_read,
        **details,
    )


def _lenders(sync: RegistrySync, name: str, digest: str) -> tuple[str, ...]:
    workers = map(sync.worker, sync.lenders.get((name, digest), ()))
    return tuple(worker.name for worker in workers if worker is not None and worker.serving)


def _shortage(plan: Plan, name: str, digest: str, sync: RegistrySync) -> Shortage | None:
    if not sync.members:
        return Shortage.NO_WORKER
    return plan.short.get((name, digest))


def _sight(sync: RegistrySync, model: VoiceModel, reports: list[Report], now: float) -> Sight:
    """What is seen of the rollout to whatever the spec names now."""
    name, candidate = model.metadata.name, model.status.candidate
    active = active_of(model)
    other = candidate.digest if candidate is not None else target_of(model).digest
    holders = sync.plan.holders
    return sight_of(
        seen(reports, active.digest),
        seen(reports, other),
        holders.get((name, active.digest), ()),
        holders.get((name, other), ()),
        on_demand=model.spec.residency.policy == "OnDemand",
        is_settled=sync.is_settled(now),
        lack=sync.plan.short.get((name, other)),
    )


def _course(model: VoiceModel) -> Course:
    status = model.status
    told = next(
        (each.message for each in status.conditions if each.reason == "RolledBack" and each.type == "Degraded"), ""
    )
    return Course(active_of(model), status.candidate, status.refused, message=told or "It was rolled back.")


# --- reading ----------------------------------------------------------------------------------------------------------


def read(sync: RegistrySync, body: Body) -> VoiceModel | str:
    """The model as it is, with its active revision; or, in a sentence, why it is not understood."""
    metadata = body["metadata"]
    name, version = metadata["name"], f"{metadata.get('uid')} {metadata.get('resourceVersion')}"
    known = sync.read_as.get(name)
    if known is None or known[0] != version:
        try:
            model: VoiceModel | str = VoiceModel.model_validate(body)
            target_of(model)  # type: ignore[arg-type]
        except ValidationError as error:
            model = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3])
        known = sync.read_as[name] = version, model
    model = known[1]
    if isinstance(model, str):
        return model
    if model.status.active is None:
        return _adopted(sync, model)
    sync.adopted.pop(model.metadata.uid, None)
    return model


def _adopted(sync: RegistrySync, model: VoiceModel) -> VoiceModel:
    """A model whose status says nothing: what the registry had, and somebody holds, is the active revision."""
    name, uid = model.metadata.name, model.metadata.uid
    if not sync.has_read:
        return model
    if uid not in sync.adopted:
        record = sync.snapshot.models.get(name)
        held = record is not None and any(
            lease.resident(name, record.digest)
            for worker in sync.snapshot.workers.values()
            if (lease := worker.lease) is not None
        )
        revision = _revision(record) if held and record is not None else None
        sync.adopted[uid] = revision
    adopted = sync.adopted[uid]
    if adopted is None:
        return model
    return model.model_copy(update={"status": model.status.model_copy(update={"active": adopted})})


def _revision(record: ModelRecord) -> RevisionStatus | None:
    """What a record of the catalogue asks workers to load."""
    try:
        spec = record.specification()
        if spec is None or not record.digest:
            return None
        said = spec.artifact
        return RevisionStatus(
            revision=(said.revision if said is not None else "") or record.digest.removeprefix("sha256:")[:SHORT],
            digest=record.digest,
            artifact=Artifact(uri=said.uri, revision=said.revision, digest=said.digest or None) if said else None,
            memory=ModelMemory(weights_mib=spec.memory.weights_mib, per_stream_mib=spec.memory.per_stream_mib),
            engine_config=tuple(
                Setting(name=name, value=json.dumps(value)) for name, value in spec.engine_config.items()
            ),
        )
    except (AntiphonError, ValidationError):
        return None


def _name(body: Body) -> str:
    return str(body["metadata"]["name"])
