"""Writes what is said of objects: only what changed, and at most once a second for each."""

import datetime
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from antiphon_operator.kube import ApiError, Cluster
from antiphon_operator.queueing import Key, WorkQueue
from antiphon_operator.reconcile.conditions import Finding, changed, conditions
from antiphon_operator.reconcile.difference import is_so
from antiphon_operator.world import Body, World

SETTLE_S, SETTLED_S = 0.8, 3.0
"""A first status waits until what there is to say stayed the same for so long; and no longer than that."""
BETWEEN_S = 1.0
BETWEEN_NUMBERS_S = 10.0
"""Where nothing but how much runs has changed."""

_REMEMBERED = 4096

logger = logging.getLogger(__name__)


class StatusWriter:
    """One for all objects; it remembers when each was written.

    Args:
        cluster: Where it writes.
        world: Told of what was written.
        queue: An object that must wait for its write comes again.
        clock: Monotonic seconds.
    """

    def __init__(self, cluster: Cluster, world: World, queue: WorkQueue, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._world = world
        self._queue = queue
        self._clock = clock
        self._not_before_s: dict[str, float] = {}
        self._first: dict[str, tuple[list[str], float, float]] = {}

    async def write(
        self,
        key: Key,
        body: Body,
        status: Mapping[str, Any],
        findings: Iterable[Finding],
        *,
        numbers: Iterable[str] = (),
        warnings: Mapping[str, str] | None = None,
        is_taken_up: bool = True,
    ) -> None:
        """Say this of an object, now or as soon as it may be said, and tell events of conditions that turned.

        That something is Ready no more is said at once: people and programs rely on it.

        Args:
            key: The object's, to come again where it must wait.
            body: The object as it is known.
            status: All of it but `conditions` and `observedGeneration`.
            findings: The conditions.
            numbers: Fields that tell how much runs: a change of these alone is written less often.
            warnings: Condition -> the status of it that is a warning ("True" or "False"); others turn quietly.
            is_taken_up: Whether those who carry out what was applied have seen it: a first status waits for them, too.

        Raises:
            ApiError: it was refused.
        """
        metadata, before = body["metadata"], body.get("status") or {}
        stood = before.get("conditions") or ()
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        generation = metadata.get("generation", 0)
        found = conditions(findings, stood, generation=generation, now=now)
        said = {**status, "observedGeneration": generation, "conditions": found}
        if _is_said(said, before):
            return
        turned = changed(found, stood)
        wait_s = self._wait_s(metadata["uid"], before, said, frozenset(numbers), is_taken_up)
        if wait_s > 0 and not any(each["type"] == "Ready" and each["status"] == "False" for each in turned):
            self._queue.add(key, wait_s)
            return
        self._not_before_s[metadata["uid"]] = self._clock() + BETWEEN_S
        try:
            self._world.put(key.kind, await self._cluster.write_status(key.kind, body, said))
        except ApiError as error:
            if not (error.gone or error.conflict):
                raise
            # Deleted, or deleted and made again: what there is now will be looked at.
            return
        await self._tell(key, body, turned, warnings or {})

    def _wait_s(
        self, uid: str, before: Mapping[str, Any], said: Mapping[str, Any], numbers: frozenset[str], is_taken_up: bool
    ) -> float:
        now = self._clock()
        if len(self._not_before_s) + len(self._first) > _REMEMBERED:
            kept = {known: then for known, then in self._not_before_s.items() if then > now - BETWEEN_NUMBERS_S}
            self._not_before_s = kept
            self._first = {known: each for known, each in self._first.items() if each[2] > now - BETWEEN_NUMBERS_S}
        if not before:
            told = [f"{each['type']} {each['reason']}" for each in said["conditions"]]
            return self._settles_s(uid, told, is_taken_up) - now
        self._first.pop(uid, None)
        last_s = self._not_before_s.get(uid, now) - BETWEEN_S
        little = _is_said(_without(numbers, said), _without(numbers, before))
        return last_s + (BETWEEN_NUMBERS_S if little and uid in self._not_before_s else BETWEEN_S) - now

    def _settles_s(self, uid: str, said: list[str], is_taken_up: bool) -> float:
        """When an object's first status is to be written."""
        now = self._clock()
        last, since_s, first_s = self._first.get(uid, (said, now, now))
        self._first[uid] = (said, since_s if said == last and is_taken_up else now, first_s)
        return min(self._first[uid][1] + SETTLE_S, first_s + SETTLED_S)

    async def _tell(
        self, key: Key, body: Body, turned: Iterable[Mapping[str, Any]], warnings: Mapping[str, str]
    ) -> None:
        for each in turned:
            if each["type"] not in warnings:
                continue
            bad = warnings[each["type"]] == each["status"]
            reason = each["reason"] if bad or each["status"] == "True" else f"Not{each['type']}"
            try:
                await self._cluster.event(
                    key.kind, body, reason=reason, note=each["message"], action="Reconcile", warning=bad
                )
            except ApiError as error:
                logger.warning("an event was not told", extra={"object": key.name, "cause": error.message})


def _is_said(status: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether all of it stands there, and nothing of what is said no more (a default of the schema is nothing)."""
    return is_so(status, before) and not any(value for name, value in before.items() if name not in status)


def _without(names: frozenset[str], status: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if name not in names}
