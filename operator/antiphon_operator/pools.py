"""A WorkerPool made true: its objects applied where they differ, its workers drained before they leave, its status."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from antiphon.contracts.resources import WorkerPool
from antiphon.registry.roster import Worker
from antiphon_operator.config import OperatorConfig
from antiphon_operator.context import Context
from antiphon_operator.kube import ApiError
from antiphon_operator.queueing import Key
from antiphon_operator.reconcile.blueprint import Blueprint
from antiphon_operator.reconcile.members import member_of
from antiphon_operator.reconcile.pool import Manifest, Surroundings
from antiphon_operator.reconcile.pool_status import Observed, Said, is_going, is_taken_up, pool_refused, pool_status
from antiphon_operator.world import DELETION_COST, DRAINING, POOL, Body, is_ours

MARK_S = 0.25
"""Between the mark on workers that must leave and their end: callers learn of it first."""
SOON_S = 0.2
"""Until it is asked again whether the workers of a namespace could be heard."""
LEAVES = "-1000"
"""The deletion cost of a Pod that must leave; others have 0."""
TAKEN_EASILY = ("ServiceAccount", "PersistentVolumeClaim")
"""Of what others have made, an apply would take these over without a conflict: little is said of them."""
NUMBERS = ("streams", "streamLimit")
WARNINGS = {"Accepted": "False", "Available": "False", "Ready": "False", "Scheduled": "False", "Degraded": "True"}

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def reconcile_pool(context: Context, namespace: str, name: str) -> None:
    """Make one pool as it should be. Writes nothing where everything is.

    Raises:
        ApiError: the API server could not be asked; to be tried again.
    """
    body = context.world.get(POOL, namespace, name)
    if body is None or "deletionTimestamp" in body["metadata"]:
        context.blueprints.forget(namespace, name)
        return
    key = Key("WorkerPool", namespace, name)
    claimed = _claimed(context.world.children(namespace, name))
    try:
        blueprint = context.blueprints.of(body, surroundings(context.config), claimed)
    except ValidationError as error:
        await _say(context, key, body, pool_refused(_sentence(error), body.get("status") or {}))
        return
    pool = blueprint.pool
    refusals = await _apply_all(context, blueprint)
    await _unmark(context, pool)
    if not context.registries.is_known(namespace, context.clock()):
        # Just begun to lead, or just made: what is said of the workers waits until they could be heard.
        context.queue.add(key, SOON_S)
        return
    observed = _observe(context, pool, refusals)
    await _say(
        context, key, body, pool_status(observed), is_taken_up=bool(refusals) or is_taken_up(observed.deployment)
    )


def surroundings(config: OperatorConfig) -> Surroundings:
    """What is the same for all pools."""
    return Surroundings(
        registry_secret=config.registry_secret,
        worker_token_secret=config.worker_token_secret,
        redis_ports=_ports(config.redis_url.get_secret_value()),
    )


def _ports(url: str) -> tuple[int, ...]:
    """All that the registry's URL names: there are several in front of a Sentinel or a Cluster."""
    hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    default = "26379" if "sentinel" in urlsplit(url).scheme else "6379"
    found = {port if (port := host.rpartition(":")[2]).isdigit() and ":" in host else default for host in hosts}
    return tuple(sorted({int(port) for port in found} | {6379}))


# --- objects ----------------------------------------------------------------------------------------------------------


async def _apply_all(context: Context, blueprint: Blueprint) -> dict[str, str]:
    """Apply what differs, the Deployment last: its Pods need the rest. Returns what was refused, and why."""
    pool = blueprint.pool
    children = context.world.children(pool.metadata.namespace, pool.metadata.name)
    before = [kind for kind in blueprint.manifests if kind != "Deployment"]
    told = await _all(_apply(context, blueprint, kind) for kind in before)
    refusals = {kind: why for kind, why in zip(before, told, strict=True) if why}
    await _mark_leaving(context, pool, children.get("Deployment"))
    if why := await _apply(context, blueprint, "Deployment"):
        refusals["Deployment"] = why
    await _remove_claim(context, pool, children, blueprint.manifests)
    return refusals


async def _apply(context: Context, blueprint: Blueprint, kind: str) -> str:
    """Apply one object where it differs. Returns why it was refused for good; empty: it is as it should be."""
    manifest = blueprint.manifests[kind]
    metadata = manifest["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    live = context.world.get(kind, namespace, name)
    owner = metadata["ownerReferences"][0]["uid"]
    if (live is None and context.world.is_foreign(kind, namespace, name)) or (live is not None and not is_ours(live)):
        return f"{name} exists and is not the pool's. Delete it, or give the pool another name."
    if live is not None and live["metadata"].get("ownerReferences") and not _belongs(live, owner):
        # When it goes, it touches the pool. A claim may take as long as the last worker that drains.
        return f"{name} belongs to a former pool of this name. It is made anew once that one has gone."
    if live is not None and blueprint.holds(kind, live):
        return ""
    is_new = live is None and kind in TAKEN_EASILY
    try:
        # What is not known to be ours is not taken over.
        if is_new:
            answer = await context.cluster.create(kind, manifest)
        else:
            answer = await context.cluster.apply(kind, manifest, force=live is not None)
    except ApiError as error:
        # One that is there, and was not heard of yet: once it was, it is known whose it is.
        if error.status in (403, 409, 422, 400) and not (is_new and error.conflict):
            return error.message
        raise
    context.world.put(kind, answer)
    what = "created" if live is None else "changed"
    logger.info(f"{what} {kind}", extra={"namespace": namespace, "object": name})
    if not blueprint.holds(kind, answer):
        logger.debug(
            "the API server keeps something else", extra={"kind": kind, "namespace": namespace, "object": name}
        )
    return ""


async def _all(requests: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The answers to requests that are sent together; none is under way any more when this ends, however it does."""
    answers = await asyncio.gather(*requests, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]


async def _remove_claim(
    context: Context, pool: WorkerPool, children: Mapping[str, Body], desired: Mapping[str, Manifest]
) -> None:
    """A claim of ours that the pool asks for no more."""
    claim = children.get("PersistentVolumeClaim")
    if claim is None or "PersistentVolumeClaim" in desired or "deletionTimestamp" in claim["metadata"]:
        return
    if _belongs(claim, pool.metadata.uid):
        await context.cluster.delete("PersistentVolumeClaim", claim)


def _belongs(child: Body, uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in child["metadata"].get("ownerReferences") or ())


def _claimed(children: Mapping[str, Body]) -> str:
    modes = (children.get("PersistentVolumeClaim") or {}).get("spec", {}).get("accessModes") or [""]
    return str(modes[0])


# --- leaving ----------------------------------------------------------------------------------------------------------


async def _mark_leaving(context: Context, pool: WorkerPool, deployment: Body | None) -> None:
    """Before the Deployment shrinks: have the idlest leave, and callers know of it."""
    pods = _staying(context, pool)
    wanted = pool.spec.replicas
    if deployment is None or deployment["spec"].get("replicas", 1) <= wanted or len(pods) <= wanted:
        return
    workers = _workers(context, pool.metadata.namespace, pods)
    leaving = sorted(pods, key=lambda pod: _load(pod, workers))[: len(pods) - wanted]
    marks = {DRAINING: "true", DELETION_COST: LEAVES}
    unmarked = [pod for pod in leaving if not _has(pod, marks)]
    await _all(_annotate(context, pod, marks) for pod in unmarked)
    if unmarked:
        await asyncio.sleep(MARK_S)


async def _unmark(context: Context, pool: WorkerPool) -> None:
    """Who was to leave and may stay after all takes calls again."""
    pods = _staying(context, pool)
    if len(pods) > pool.spec.replicas:
        return
    marked = [pod for pod in pods if DRAINING in (pod["metadata"].get("annotations") or {})]
    await _all(_annotate(context, pod, {DRAINING: None, DELETION_COST: None}) for pod in marked)


async def _annotate(context: Context, pod: Body, annotations: Mapping[str, str | None]) -> None:
    try:
        context.world.put("Pod", await context.cluster.annotate("Pod", pod, annotations))
    except ApiError as error:
        if not error.gone:
            raise


def _staying(context: Context, pool: WorkerPool) -> list[Body]:
    """Pods that count for the Deployment: what was evicted lies there, ended, until somebody clears it away."""
    return [pod for pod in context.world.pods(pool.metadata.namespace, pool.metadata.name) if not is_going(pod)]


def _has(pod: Body, annotations: Mapping[str, str]) -> bool:
    return annotations.items() <= (pod["metadata"].get("annotations") or {}).items()


def _load(pod: Body, workers: Mapping[str, Worker]) -> tuple[int, int, str]:
    """The lowest leaves first: in whose Pod no worker runs, the idlest, who runs and is not heard of; then by name.

    Unreachable is not idle: a worker that is cut off from Redis may be in the midst of its streams.
    """
    name = pod["metadata"]["name"]
    if member_of(pod) is None or DRAINING in (pod["metadata"].get("annotations") or {}):
        return 0, 0, name
    worker = workers.get(name)
    lease = worker.lease if worker is not None else None
    return (1, lease.streams, name) if lease is not None else (2, 0, name)


# --- status -----------------------------------------------------------------------------------------------------------


def _observe(context: Context, pool: WorkerPool, refusals: Mapping[str, str]) -> Observed:
    namespace, name = pool.metadata.namespace, pool.metadata.name
    registry = context.registries.get(namespace)
    children, pods = context.world.children(namespace, name), context.world.pods(namespace, name)
    return Observed(
        pool=pool,
        pods=pods,
        deployment=children.get("Deployment"),
        workers=_workers(context, namespace, pods),
        registry_stale=registry is not None and bool(registry.trouble or registry.snapshot.stale),
        registry_read=registry is None or registry.has_read,
        refusals=refusals,
        claim_mode=_claimed(children),
    )


def _workers(context: Context, namespace: str, pods: Iterable[Body]) -> dict[str, Worker]:
    """By name. What a Pod says of its own end counts at once, also while the registry cannot be asked."""
    registry = context.registries.get(namespace)
    if registry is None:
        return {}
    found = (registry.worker(pod["metadata"]["name"]) for pod in pods)
    return {worker.name: worker for worker in found if worker is not None}


async def _say(context: Context, key: Key, body: Body, said: Said, *, is_taken_up: bool = True) -> None:
    await context.statuses.write(
        key, body, said.numbers, said.findings, numbers=NUMBERS, warnings=WARNINGS, is_taken_up=is_taken_up
    )


def _sentence(error: ValidationError) -> str:
    first: Sequence[str] = [
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)[:3]
    ]
    return "; ".join(first)
