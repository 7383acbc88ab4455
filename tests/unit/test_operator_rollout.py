"""How a revision takes over: by steps, never without the other, back by itself, and on where it was."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.contracts.resources import RevisionStatus, VoiceModel
from antiphon.contracts.resources.voice_model import Rollout
from antiphon.registry.placing import Host, Plan, Shortage, place
from antiphon.registry.records import Lease, ResidentModel, WorkerRecord
from antiphon.registry.roster import Worker
from antiphon_operator.reconcile.model import (
    Report,
    Seen,
    asks_of,
    record_of,
    reports_of,
    revisions_of,
    seen,
    sight_of,
    target_of,
)
from antiphon_operator.reconcile.rollout import WATCH_S, Course, Sight, advance

pytestmark = [pytest.mark.unit, pytest.mark.timeout(20)]  # many examples, on a machine that may be busy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD = RevisionStatus(revision="old", digest=f"sha256:{1:064x}")
NEW = RevisionStatus(revision="new", digest=f"sha256:{2:064x}")
OTHER = RevisionStatus(revision="other", digest=f"sha256:{3:064x}")
ONCE = Rollout()
CAREFUL = Rollout.model_validate(
    {
        "steps": [{"weight": 10, "pauseSeconds": 60}, {"weight": 50, "pauseSeconds": 60}, {"weight": 100}],
        "gate": {"maxErrorPercent": 5, "maxFirstAudioMs": 300, "minStreams": 20},
    }
)
SERVED = Sight(places=2, active_warm=2)


def on(sight: Sight = SERVED, course: Course | None = None, rollout: Rollout = ONCE, after_s: float = 0.0) -> Course:
    return advance(course or Course(OLD), NEW, rollout, sight, NOW + timedelta(seconds=after_s))


def walk(sight: Sight, rollout: Rollout, seconds: int, course: Course | None = None) -> list[tuple[int, int]]:
    """Step and weight at each change, looked at every second."""
    course = course or on()
    trail = []
    for second in range(seconds):
        course = advance(course, NEW, rollout, sight, NOW + timedelta(seconds=second))
        here = (course.candidate.step, course.candidate.weight) if course.candidate else (-1, 100)
        if not trail or trail[-1] != here:
            trail.append(here)
    return trail


def test_a_new_revision_is_loaded_before_it_gets_any_session() -> None:
    course = on()
    assert course.candidate is not None and course.candidate.weight == 0 and course.active == OLD
    assert on(course=course, after_s=3600).candidate == course.candidate  # for as long as it takes


def test_once_it_is_warm_everywhere_it_takes_over() -> None:
    assert walk(replace(SERVED, warm=2), ONCE, 5) == [(0, 100), (-1, 100)]


def test_the_steps_are_gone_one_after_the_other_with_their_pauses() -> None:
    assert walk(replace(SERVED, warm=2), CAREFUL, 130) == [(0, 10), (1, 50), (2, 100), (-1, 100)]
    assert walk(replace(SERVED, warm=2), CAREFUL, 59) == [(0, 10)]


def test_it_gets_no_more_sessions_than_the_workers_that_hold_it_can_take() -> None:
    sight = Sight(places=4, active_warm=4, warm=1)
    assert walk(sight, ONCE, 5)[-1] == (0, 25)
    course = on(sight, on(sight))
    waiting = on(sight, course, after_s=60)
    assert waiting.candidate == course.candidate and waiting.look_s == WATCH_S
    course = on(replace(sight, warm=3), course)
    assert course.candidate is not None and course.candidate.weight == 75


def test_a_weight_never_falls_when_a_worker_dies() -> None:
    course = on(replace(SERVED, warm=2), on(), CAREFUL)
    assert on(replace(SERVED, warm=0), course, CAREFUL, 600).candidate == course.candidate


@pytest.mark.parametrize(
    ("seen_of_it", "said"),
    [
        ({"failure": "w1 says: no such file."}, "w1 says: no such file."),
        ({"warm": 2, "served": 18, "failed": 2}, "2 of its 20 streams failed (10 %); its gate allows 5 %."),
        ({"warm": 2, "served": 30, "first_audio_ms": 480.0}, "after 480 ms; its gate allows 300 ms."),
    ],
)
def test_what_fails_is_rolled_back_by_itself(seen_of_it: dict[str, Any], said: str) -> None:
    begun = on()
    if "warm" in seen_of_it:
        begun = on(replace(SERVED, warm=2), begun, CAREFUL)
    course = on(replace(SERVED, **seen_of_it), begun, CAREFUL, 1)
    assert (course.active, course.candidate, course.refused) == (OLD, None, NEW.digest)
    assert said in course.message and course.reason == "RolledBack"


def test_what_some_workers_can_load_and_others_cannot_is_rolled_back_once_that_has_lasted() -> None:
    half = replace(SERVED, warm=1, failure="w2: it broke.")
    course = on(half, on())
    assert course.candidate is not None and course.candidate.weight == 50
    assert on(half, course, after_s=100).candidate == course.candidate
    assert on(half, course, after_s=130).refused == NEW.digest
    assert on(replace(half, failure=""), course, after_s=1000).candidate is not None


def test_files_that_cannot_be_had_are_waited_for_a_while() -> None:
    away = replace(SERVED, failure="w1 says: the hub does not answer.", may_recover=True)
    course = on(away, on(), after_s=59)
    assert course.candidate is not None and course.refused is None
    assert on(away, course, after_s=60).refused == NEW.digest
    assert on(replace(SERVED, warm=2), course, after_s=59).candidate is not None


def test_too_few_streams_are_no_verdict() -> None:
    course = on(replace(SERVED, warm=2, served=0, failed=19), on(replace(SERVED, warm=2), on(), CAREFUL), CAREFUL)
    assert course.refused is None


def test_a_refused_revision_is_left_alone_until_the_spec_names_another() -> None:
    refused = replace(Course(OLD), refused=NEW.digest, message="why")
    course = on(replace(SERVED, warm=2), refused, after_s=9999)
    assert course.candidate is None and course.refused == NEW.digest and course.message == "why"
    other = advance(refused, OTHER, ONCE, SERVED, NOW)
    assert other.refused is None and other.candidate is not None and other.candidate.digest == OTHER.digest
    assert advance(refused, OLD, ONCE, SERVED, NOW) == Course(OLD)


def test_a_spec_that_is_set_back_ends_the_rollout() -> None:
    course = on(replace(SERVED, warm=2), on(), CAREFUL)
    assert advance(course, OLD, CAREFUL, SERVED, NOW) == Course(OLD)


def test_what_nobody_holds_is_replaced_at_once() -> None:
    assert on(Sight(places=2)).active == NEW


def test_nothing_is_decided_while_the_workers_cannot_be_seen() -> None:
    blind = Sight(is_settled=False)
    assert on(blind).active == OLD and on(blind).candidate is None
    course = on(replace(SERVED, warm=2), on(), CAREFUL)
    assert on(blind, course, CAREFUL, 9999).candidate == course.candidate


def test_one_worker_without_room_is_left_to_the_new_revision() -> None:
    tight = Sight(places=1, active_warm=1, has_room=False, lack=Shortage.NO_ROOM, is_beside=False)
    course = on(tight, on(tight))
    assert course.candidate is not None and course.candidate.weight == 100  # its sessions wait for it
    placed = replace(tight, has_room=True, lack=None, active_warm=0)
    assert on(placed, course, after_s=99).candidate == course.candidate
    assert on(replace(placed, warm=1), course, after_s=100).active == NEW
    failed = on(replace(placed, failure="w says: no."), course)
    assert failed.active == OLD and failed.refused == NEW.digest
    nowhere = on(tight, course)  # though the old one may leave for it
    assert nowhere.active == OLD and nowhere.refused == NEW.digest and "raise memoryBudgetMiB" in nowhere.message


def test_what_no_worker_can_hold_takes_no_session() -> None:
    large = Sight(places=1, active_warm=1, has_room=False, lack=Shortage.TOO_LARGE, is_beside=False)
    course = on(large, on(large), after_s=999)
    assert course.candidate is not None and course.candidate.weight == 0
    assert "sessions stay with the one before" in course.message and "correct memory.weightsMiB" in course.message


def test_workers_that_are_lost_make_no_untried_revision_the_active_one() -> None:
    lost = Sight(places=0, has_room=False, lack=Shortage.NO_WORKER, is_beside=True)
    course = on(lost, on(), after_s=99)
    assert course.active == OLD and course.candidate is not None and course.candidate.weight == 0
    quarter = on(Sight(places=4, active_warm=4, warm=1), on())
    assert quarter.candidate is not None and quarter.candidate.weight == 25
    assert on(lost, quarter, after_s=99).candidate == quarter.candidate


def test_what_a_revision_lacks_for_more_workers_is_said() -> None:
    sight = Sight(places=4, active_warm=3, warm=1, lack=Shortage.NO_ROOM, is_beside=False)
    course = on(sight, on(replace(sight, lack=None), on()), after_s=60)
    assert course.candidate is not None and course.candidate.weight == 25
    assert "1 of 4 workers hold it" in course.message and "raise memoryBudgetMiB" in course.message


def test_sessions_go_back_to_what_somebody_holds() -> None:
    alone = replace(SERVED, active_warm=0, warm=2)  # where there was no room for both, the old one has left
    course = on(alone, on(alone, on()), CAREFUL)
    failing = replace(alone, failed=20)
    for back in (on(failing, course, CAREFUL), advance(course, OLD, CAREFUL, alone, NOW)):
        assert back.active == OLD and back.candidate is not None and back.candidate.weight == 1 and not back.refused
        assert "until then new serves" in back.message
    back = on(failing, course, CAREFUL)
    assert on(replace(failing, active_warm=1), back, CAREFUL).refused == NEW.digest
    assert advance(back, OLD, CAREFUL, replace(alone, active_warm=1), NOW) == Course(OLD)


def test_on_demand_sessions_go_back_at_once() -> None:
    """Nobody has to load the old one again: it would wait for a call, and every call would get the new one."""
    candidate = on(replace(SERVED, warm=2), on()).candidate
    holding = {worker: ResidentModel(name="joe", revision=NEW.digest, state="warm", failed=10) for worker in "ab"}
    reports = [Report(worker, model, serves=True) for worker, model in holding.items()]
    sight = sight_of(Seen(), seen(reports, NEW.digest), (), ("a", "b"), on_demand=True, is_settled=True, lack=None)
    course = on(sight, Course(OLD, candidate))
    assert (course.active, course.candidate, course.refused) == (OLD, None, NEW.digest)
    assert advance(Course(OLD, candidate), OLD, ONCE, sight, NOW) == Course(OLD)


def test_a_third_revision_follows_the_one_that_serves() -> None:
    course = on(replace(SERVED, warm=2), on(), CAREFUL)
    third = advance(course, OTHER, CAREFUL, replace(SERVED, warm=2), NOW)
    assert third.active == OLD and third.candidate is not None and third.candidate.digest == OTHER.digest
    third = advance(course, OTHER, CAREFUL, replace(SERVED, active_warm=0, warm=2), NOW)
    assert third.active == NEW and third.candidate is not None and third.candidate.digest == OTHER.digest
    blind = Sight(is_settled=False)
    for target in (OLD, OTHER):
        assert advance(course, target, CAREFUL, blind, NOW).candidate == course.candidate


# --- all of it, with placement and workers that do as they are told ---------------------------------------------------


@dataclass
class Play:
    """One model on some workers: each second they are told, load what they should, and are looked at."""

    count: int
    budget_mib: int
    spec: dict[str, Any] = field(default_factory=dict)
    breaks: str = ""
    """The digest of a revision that cannot be loaded."""
    model: VoiceModel = field(init=False)
    plan: Plan = field(init=False)
    holds: dict[str, list[str]] = field(init=False)
    second: int = 0
    bad: str = ""
    """The digest of a revision that breaks its streams off."""

    def __post_init__(self) -> None:
        self.holds = {f"w{number}": [] for number in range(self.count)}
        self.plan = Plan({}, {}, {})
        self.write({})

    def write(self, config: dict[str, str], **status: Any) -> None:
        """What a person asks for, beside what the operator keeps."""
        spec = {
            "task": "tts",
            "engine": "mock",
            "memory": {"weightsMiB": 40},
            "residency": {"policy": "Pinned", "minReplicas": self.count},
            "engineConfig": [{"name": name, "value": value} for name, value in config.items()],
            **self.spec,
        }
        self.model = VoiceModel.model_validate({"metadata": {"name": "joe"}, "spec": spec, "status": status})

    def change(self, config: dict[str, str]) -> None:
        self.write(config, **self.model.status.model_dump(mode="json", exclude_none=True))

    def workers(self) -> list[Worker]:
        failed = ResidentModel(name="joe", revision=self.breaks, state="failed", message="broken.", files="cached")

        def lease(name: str) -> Lease:
            held = [
                ResidentModel(name="joe", revision=digest, state="warm", failed=20 if digest == self.bad else 0)
                for digest in self.holds[name]
            ]
            wanted = self.breaks and any(ref.digest == self.breaks for ref in self.wanted(name))
            return Lease(worker=name, incarnation="i", models=(*held, failed) if wanted else tuple(held))

        return [Worker(name, WorkerRecord(address="a:1"), lease(name)) for name in self.holds]

    def wanted(self, worker: str) -> Any:
        return self.plan.want[worker].hold if worker in self.plan.want else ()

    def pass_second(self) -> None:
        """The operator looks once; then the workers do what they were told, one load each."""
        self.second += 1
        reports = reports_of(self.workers()).get("joe", [])
        status, target = self.model.status, target_of(self.model)
        active = status.active or target
        other = status.candidate.digest if status.candidate is not None else target.digest
        sight = sight_of(
            seen(reports, active.digest),
            seen(reports, other),
            self.plan.holders.get(("joe", active.digest), ()),
            self.plan.holders.get(("joe", other), ()),
            on_demand=False,
            is_settled=True,
            lack=self.plan.short.get(("joe", other)),
        )
        now = NOW + timedelta(seconds=self.second)
        course = advance(Course(active, status.candidate, status.refused), target, self.model.spec.rollout, sight, now)
        said = {"active": course.active, "candidate": course.candidate, "refused": course.refused}
        self.model = self.model.model_copy(update={"status": status.model_copy(update=said)})
        assert self.second == 1 or self.served() or (self.count == 1 and self.budget_mib < 80), "a caller would wait"
        self.place(sight)
        self.load()

    def place(self, sight: Sight) -> None:
        told = {name: tuple((ref.name, ref.digest) for ref in self.wanted(name)) for name in self.holds}
        hosts = [
            Host(name, frozenset({"mock"}), memory_mib=self.budget_mib, held=told[name]) for name in sorted(self.holds)
        ]
        following = sight if self.model.status.candidate is not None else None
        self.plan = place(asks_of(self.model, following, None, {}), hosts)

    def load(self) -> None:
        for name, held in self.holds.items():
            wanted = [ref.digest for ref in self.wanted(name)]
            missing = [digest for digest in wanted if digest not in held and digest != self.breaks]
            if not missing:
                continue
            while len(held) * 40 + 40 > self.budget_mib:
                held.remove(next(digest for digest in held if digest not in wanted))
            held.append(missing[0])

    def served(self) -> bool:
        """Whether somebody holds one of the revisions that sessions may get."""
        record = record_of(self.model)
        taking = {each.digest for each in record.revisions if each.weight} or {record.digest}
        return any(taking & set(held) for held in self.holds.values())


def play(count: int, budget_mib: int, **about: Any) -> Play:
    stage = Play(count, budget_mib, **about)
    for _ in range(count + 2):
        stage.pass_second()
    assert all(len(held) == 1 for held in stage.holds.values())
    return stage


@given(st.integers(1, 6), st.sampled_from([40, 80, 200]), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_rollout_ends_and_somebody_serves_all_the_while(
    count: int, budget_mib: int, broken: bool, careful: bool
) -> None:
    steps = [{"weight": 20, "pauseSeconds": 2}, {"weight": 60, "pauseSeconds": 1}, {"weight": 100}]
    spec: dict[str, Any] = {"rollout": {"steps": steps}} if careful else {}
    stage = play(count, budget_mib, spec=spec)
    before = stage.model.status.active
    stage.change({"ms_per_word": "120"})
    target = target_of(stage.model).digest
    if broken:
        stage.breaks = target
    in_place = count == 1 and budget_mib < 80
    weight = 0
    for _ in range(60):
        stage.pass_second()
        candidate = stage.model.status.candidate
        assert stage.served() or in_place
        if candidate is not None:
            assert candidate.weight >= weight, "sessions never go back and forth"
            weight = candidate.weight
    assert before is not None and stage.model.status.candidate is None
    end = before.digest if broken else target
    assert stage.model.status.active is not None and stage.model.status.active.digest == end
    assert (stage.model.status.refused == target) == broken
    assert all(end in held for held in stage.holds.values())


@given(
    st.integers(1, 5),
    st.sampled_from([40, 80, 200]),
    st.lists(st.tuples(st.sampled_from(["", "110", "120"]), st.integers(0, 12)), min_size=1, max_size=6),
    st.sampled_from(["", "110", "120"]),
)
@settings(max_examples=100, deadline=None)
def test_whatever_is_asked_for_meanwhile_somebody_serves(
    count: int, budget_mib: int, changes: list[tuple[str, int]], bad: str
) -> None:
    steps = [{"weight": 20, "pauseSeconds": 2}, {"weight": 100, "pauseSeconds": 4}]
    stage = play(count, budget_mib, spec={"rollout": {"steps": steps}})
    if bad:
        stage.change({"ms_per_word": bad})
        stage.bad = target_of(stage.model).digest
    for asked, seconds in changes:
        stage.change({"ms_per_word": asked} if asked else {})
        for _ in range(seconds):
            stage.pass_second()
    for _ in range(60):
        stage.pass_second()
    status, target = stage.model.status, target_of(stage.model).digest
    assert status.candidate is None and status.active is not None
    assert status.active.digest == target or (status.refused == target == stage.bad)
    assert all(status.active.digest in held for held in stage.holds.values())


def test_worker_by_worker_the_old_revision_stays_on_the_others() -> None:
    stage = play(4, 40)
    old = stage.holds["w0"][0]
    stage.change({"ms_per_word": "120"})
    seen_old = []
    while any(old in held for held in stage.holds.values()):
        seen_old.append(sum(old in held for held in stage.holds.values()))
        stage.pass_second()
    assert set(seen_old) == {4, 3, 2, 1}, "one after the other"


def test_a_restart_in_the_middle_changes_nothing() -> None:
    stage = play(3, 40)
    stage.change({"ms_per_word": "120"})
    for _ in range(2):
        stage.pass_second()
    again = Play(3, 40)
    again.model, again.plan, again.second = stage.model, stage.plan, stage.second
    again.holds = {name: list(held) for name, held in stage.holds.items()}
    stage.pass_second()
    again.pass_second()
    assert again.model.status == stage.model.status and again.plan == stage.plan


# --- the catalogue ----------------------------------------------------------------------------------------------------


def test_the_catalogue_names_both_revisions_each_with_what_to_load() -> None:
    stage = play(2, 200)
    stage.change({"ms_per_word": "120"})
    stage.pass_second()
    record = record_of(stage.model)
    assert [each.weight for each in record.revisions] == [100, 0]
    assert record.digest == record.revisions[0].digest
    loaded = [record.specification(each.digest) for each in record.revisions]
    assert [spec.engine_config if spec else None for spec in loaded] == [{}, {"ms_per_word": 120}]


def test_what_leaves_stays_in_the_catalogue_without_weight() -> None:
    stage = play(2, 200)
    [old] = revisions_of(record_of(stage.model))
    stage.change({"ms_per_word": "120"})
    for _ in range(10):
        stage.pass_second()
    record = record_of(stage.model, leaving=[old])
    assert [(each.digest, each.weight) for each in record.revisions] == [(old.digest, 0), (record.digest, 100)]
    assert not record_of(stage.model).revisions
