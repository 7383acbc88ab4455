"""How a new revision of a model takes over: pure, and all that must not be forgotten is in the model's status.

A revision that the spec names anew becomes the candidate. It is loaded beside the active one where there is room, else
on one worker after the other while the active one stays on the rest. Once it is warm somewhere (it has then said, or
heard, its test sentence) it takes sessions step by step, never more than the share of workers that hold it; in the end
it is the active one. What passes the gate, or cannot be loaded, is refused: all sessions go back, and it is not tried
again before the spec names another. Sessions go back only to what somebody holds: where the active revision has left
for want of room, it is loaded again first.

Where the only worker has no room for both, the order is: the candidate gets all new sessions, which wait for it; the
active one goes with its last stream; the candidate is loaded. If that fails, the active one is loaded again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from antiphon.contracts.resources import CandidateStatus, RevisionStatus
from antiphon.contracts.resources.voice_model import Rollout, RolloutGate
from antiphon.registry.placing import Shortage

FETCH_S = 60.0
"""A candidate whose files cannot be had has so long: a hub may be away for a moment, and nobody waits for it yet."""
STUCK_S = 120.0
"""After its step's pause: a candidate that some worker still cannot load is given up."""
WATCH_S = 1.0
"""How often a candidate's figures are looked at."""
LACKS: Mapping[Shortage, str] = {
    Shortage.TOO_LARGE: (
        "It is larger than the memory budget of any worker that has its engine: raise memoryBudgetMiB of a pool, or"
        " correct memory.weightsMiB."
    ),
    Shortage.NO_ROOM: (
        "What comes before it takes the room of all workers that could hold it: raise memoryBudgetMiB, residentCap or"
        " replicas of a pool, or the model's priority."
    ),
}
"""Why a revision has no place where there are workers for it, and what to do."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a rollout now."""

    is_settled: bool = True
    """Whether the workers can be seen at all: else nothing is decided."""
    on_demand: bool = False
    """Whether nobody has to hold the model: who calls has it loaded."""
    places: int = 0
    """How many workers should hold the model, in one revision or the other."""
    active_warm: int = 0
    """How many workers hold the active revision, ready for calls."""
    warm: int = 0
    """How many workers hold the candidate, ready for calls."""
    has_room: bool = True
    """Whether the candidate found a place on any worker."""
    lack: Shortage | None = None
    """Why it found places on fewer workers than it is to be on now; None: it found them all."""
    is_beside: bool = True
    """Whether it found one on as many as the active one, which left none for it."""
    failure: str = ""
    """Why some worker could not load the candidate, in a sentence."""
    may_recover: bool = False
    """Whether only its files could not be had: the worker goes on trying."""
    served: int = 0
    """Streams that the candidate served to their end."""
    failed: int = 0
    """Streams that it broke off."""
    first_audio_ms: float = 0.0
    """The slowest worker's; 0: none has spoken yet."""


@dataclass(frozen=True, slots=True)
class Course:
    """Where a model is on its way from one revision to another."""

    active: RevisionStatus
    candidate: CandidateStatus | None = None
    refused: str | None = None
    """The digest of a revision that was rolled back."""
    reason: str = "Complete"
    """One word: where it is."""
    message: str = ""
    """The same in a sentence."""
    look_s: float | None = None
    """After how long something may be decided that nothing else would give reason to."""


def advance(course: Course, target: RevisionStatus, rollout: Rollout, sight: Sight, now: datetime) -> Course:
    """Where it is to be next.

    Args:
        course: Where it was.
        target: What the spec names.
        rollout: Its steps and their gate.
        sight: What is seen; of the candidate that `course` has.
        now: The time, of the same clock as the candidate's `since`.
    """
    active, candidate = course.active, course.candidate
    if target.digest == course.refused:
        return Course(active, None, course.refused, "RolledBack", course.message)
    if candidate is None and target.digest == active.digest:
        return Course(target)
    if not sight.is_settled:
        message = "The workers cannot be seen: nothing is decided."
        return Course(active, candidate, reason="Waiting", message=message, look_s=WATCH_S)
    if target.digest == active.digest:
        return _back(course, Course(target), sight)
    if candidate is None or candidate.digest != target.digest:
        return _begin(course, target, sight, now)
    candidate = _candidate(target, candidate.step, candidate.weight, candidate.since)
    if why := _fault(rollout.gate, candidate, sight, now) or _stuck(candidate, rollout, sight, now):
        message = f"Revision {target.revision} was rolled back: {why}"
        return _back(course, Course(active, None, target.digest, "RolledBack", message), sight)
    if not candidate.weight:
        return _load(active, candidate, rollout, sight, now)
    return _shift(active, candidate, rollout, sight, now)


def spread(candidate: CandidateStatus, rollout: Rollout, sight: Sight) -> tuple[int, int]:
    """On how many workers the candidate has to be now, and the active revision at least.

    The candidate may take the place of the active one on one worker more than hold it already, up to its step's share.
    """
    goal = rollout.steps[min(candidate.step, len(rollout.steps) - 1)].weight if candidate.weight else 0
    share = -(-sight.places * goal // 100)
    wave = max(1, min(share, sight.warm + 1))
    floor = 0 if candidate.weight == 100 else 1
    return wave, max(floor, sight.places - wave)


def _begin(course: Course, target: RevisionStatus, sight: Sight, now: datetime) -> Course:
    active = course.active
    if not sight.active_warm and course.candidate is not None and sight.warm:
        active = _revision(course.candidate)  # it alone serves: it is what the next one follows
    elif not sight.active_warm:
        return Course(target, message=f"Nobody held revision {active.revision}: {target.revision} is the active one.")
    return _loading(active, _candidate(target, 0, 0, _stamp(now)))


def _back(course: Course, done: Course, sight: Sight) -> Course:
    """All sessions to the active revision: at once, or, while only the candidate serves, as soon as it is loaded.

    On demand it is at once: nobody but a session that gets it has it loaded.
    """
    active, candidate = done.active, course.candidate
    if candidate is None or sight.active_warm or not sight.warm or sight.places <= 1 or sight.on_demand:
        return done
    message = (
        f"Revision {active.revision} is loaded again, to take all sessions: until then {candidate.revision} serves."
    )
    yielding = _candidate(candidate, candidate.step, 1, candidate.since)
    return Course(active, yielding, reason="Shifting", message=message, look_s=WATCH_S)


def _fault(gate: RolloutGate, candidate: CandidateStatus, sight: Sight, now: datetime) -> str:
    """Why the candidate must not go on, in a sentence; empty: it may."""
    if sight.failure and not sight.warm:
        tried_s = (now - datetime.fromisoformat(candidate.since)).total_seconds()
        may_wait = sight.may_recover and not candidate.weight and tried_s < FETCH_S
        return "" if may_wait else sight.failure
    if candidate.weight == 100 and not sight.has_room and sight.places:
        return f"there is no room for it, not even in the place of the one before. {_lacks(sight)}".rstrip()
    streams = sight.served + sight.failed
    if not candidate.weight or streams < gate.min_streams:
        return ""
    percent = 100 * sight.failed / streams
    if percent > gate.max_error_percent:
        return (
            f"{sight.failed} of its {streams} streams failed ({percent:.0f} %); its gate allows"
            f" {gate.max_error_percent} %."
        )
    limit_ms = gate.max_first_audio_ms
    if limit_ms is not None and sight.first_audio_ms > limit_ms:
        return f"its first audio came after {sight.first_audio_ms:.0f} ms; its gate allows {limit_ms} ms."
    return ""


def _stuck(candidate: CandidateStatus, rollout: Rollout, sight: Sight, now: datetime) -> str:
    """Why a candidate that is warm on some workers gets no further, once that has lasted; empty: it does, or may."""
    return sight.failure if candidate.weight and _left_s(candidate, rollout, now) < -STUCK_S else ""


def _load(active: RevisionStatus, candidate: CandidateStatus, rollout: Rollout, sight: Sight, now: datetime) -> Course:
    if sight.warm:
        begun = _candidate(candidate, 0, _reachable(rollout.steps[0].weight, sight), _stamp(now))
        return _told(active, begun, rollout, sight, now)
    if not sight.has_room and sight.lack is Shortage.NO_ROOM and sight.places == 1:
        last = len(rollout.steps) - 1
        return _told(active, _candidate(candidate, last, 100, _stamp(now)), rollout, sight, now)
    return _loading(active, candidate, _lacks(sight))


def _shift(active: RevisionStatus, candidate: CandidateStatus, rollout: Rollout, sight: Sight, now: datetime) -> Course:
    step = min(candidate.step, len(rollout.steps) - 1)
    goal = rollout.steps[step].weight
    weight = max(candidate.weight, _reachable(goal, sight))
    if weight > candidate.weight:
        return _told(active, _candidate(candidate, step, weight, _stamp(now)), rollout, sight, now)
    if weight < goal or not sight.warm or _left_s(candidate, rollout, now) > 0:
        return _told(active, candidate, rollout, sight, now)
    if goal == 100:
        return Course(_revision(candidate), reason="Complete", message=f"Revision {candidate.revision} has taken over.")
    reached = _reachable(rollout.steps[step + 1].weight, sight)
    return _told(active, _candidate(candidate, step + 1, max(weight, reached), _stamp(now)), rollout, sight, now)


def _reachable(goal: int, sight: Sight) -> int:
    """The share of sessions that the workers with the candidate can take, on the way to the goal."""
    if not sight.warm:
        return 0
    if sight.warm >= sight.places:
        return goal
    if not sight.is_beside and sight.warm >= max(1, sight.places - 1):
        return goal  # no other worker can have it while the active revision is to stay on one
    return min(goal, max(1, 100 * sight.warm // sight.places))


def _left_s(candidate: CandidateStatus, rollout: Rollout, now: datetime) -> float:
    pause = timedelta(seconds=rollout.steps[min(candidate.step, len(rollout.steps) - 1)].pause_seconds)
    return (datetime.fromisoformat(candidate.since) + pause - now).total_seconds()


def _told(active: RevisionStatus, candidate: CandidateStatus, rollout: Rollout, sight: Sight, now: datetime) -> Course:
    count = len(rollout.steps)
    message = (
        f"Revision {candidate.revision} takes {candidate.weight} % of new sessions (step {candidate.step + 1} of"
        f" {count}); {sight.warm} of {max(sight.places, 1)} workers hold it."
    )
    if candidate.weight < rollout.steps[min(candidate.step, count - 1)].weight and (why := _lacks(sight)):
        message = f"{message} It finds room on no more of them. {why}"
    left_s = _left_s(candidate, rollout, now)
    look_s = min(WATCH_S, left_s) if left_s > 0 else WATCH_S
    return Course(active, candidate, reason="Shifting", message=message, look_s=look_s)


def _loading(active: RevisionStatus, candidate: CandidateStatus, why_not: str = "") -> Course:
    message = f"Revision {candidate.revision} is being loaded; sessions stay with the one before."
    if why_not:
        message = f"Revision {candidate.revision} waits for room; sessions stay with the one before. {why_not}"
    return Course(active, candidate, reason="Loading", message=message, look_s=WATCH_S)


def _lacks(sight: Sight) -> str:
    return LACKS.get(sight.lack, "") if sight.lack is not None else ""


def _candidate(revision: RevisionStatus, step: int, weight: int, since: str) -> CandidateStatus:
    return CandidateStatus(
        revision=revision.revision,
        digest=revision.digest,
        artifact=revision.artifact,
        memory=revision.memory,
        engine_config=revision.engine_config,
        step=step,
        weight=weight,
        since=since,
    )


def _revision(candidate: CandidateStatus) -> RevisionStatus:
    return RevisionStatus(
        revision=candidate.revision,
        digest=candidate.digest,
        artifact=candidate.artifact,
        memory=candidate.memory,
        engine_config=candidate.engine_config,
    )


def _stamp(now: datetime) -> str:
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
