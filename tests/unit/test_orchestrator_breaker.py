"""Circuit breakers in virtual time: closed, open for longer each time, half-open for one call."""

import pytest

from antiphon.orchestrator.workers.breaker import FORGET_S, LONGEST_PAUSE_S, PROBE_S, Breakers

pytestmark = pytest.mark.unit


class Ward:
    """Breakers on a clock that is set by hand, and one worker."""

    def __init__(self) -> None:
        self.now = 100.0
        self.incarnation: str | None = "first"
        self.breakers = Breakers(lambda: self.now)

    def fail(self) -> None:
        self.breakers.failed("a", "first")

    def is_asked(self, *, last_resort: bool = False) -> bool:
        return "a" not in self.breakers.left_alone(lambda _: self.incarnation, last_resort=last_resort)

    def pause_s(self) -> float:
        """How long it is left alone from now on."""
        begun = self.now
        while not self.is_asked():
            self.now += 0.25
        return self.now - begun


def test_a_worker_that_never_failed_is_asked() -> None:
    ward = Ward()
    ward.breakers.ask("a")
    assert ward.is_asked() and ward.breakers.state("a") == "closed"


def test_each_failure_doubles_the_pause_up_to_a_bound() -> None:
    ward, pauses = Ward(), []
    for _ in range(7):
        ward.fail()
        assert ward.breakers.state("a") == "open"
        pauses.append(ward.pause_s())
        assert ward.breakers.state("a") == "half-open"
        ward.breakers.ask("a")
    assert pauses == [1, 2, 4, 8, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_half_open_lets_one_call_through_until_it_is_decided() -> None:
    ward = Ward()
    ward.fail()
    ward.now += 1
    ward.breakers.ask("a")
    assert not ward.is_asked()
    ward.breakers.answered("a")
    assert ward.is_asked() and ward.breakers.state("a") == "closed"


def test_an_answer_forgets_all_failures() -> None:
    ward = Ward()
    ward.fail()
    ward.now += 1
    ward.fail()
    ward.breakers.answered("a")
    ward.fail()
    assert ward.pause_s() == 1


def test_a_probe_that_was_given_up_makes_room_for_another() -> None:
    ward = Ward()
    ward.fail()
    ward.now += 1
    ward.breakers.ask("a")
    ward.breakers.undecided("a")
    assert ward.is_asked()


def test_a_probe_that_says_nothing_is_forgotten() -> None:
    ward = Ward()
    ward.fail()
    ward.now += 1
    ward.breakers.ask("a")
    ward.now += PROBE_S
    assert ward.is_asked()


def test_calls_that_break_together_are_one_failure() -> None:
    ward = Ward()
    for _ in range(20):
        ward.fail()
    assert ward.pause_s() == 1


def test_with_nobody_else_only_the_first_pause_is_kept() -> None:
    ward = Ward()
    for _ in range(4):
        ward.fail()
        ward.now += 60
    ward.fail()
    assert not ward.is_asked(last_resort=True)
    ward.now += 1
    assert ward.is_asked(last_resort=True) and not ward.is_asked()


def test_a_worker_that_was_started_anew_begins_with_a_closed_one() -> None:
    ward = Ward()
    ward.fail()
    ward.incarnation = None
    assert not ward.is_asked()
    ward.incarnation = "second"
    assert ward.is_asked() and ward.breakers.state("a") == "closed"


def test_workers_that_are_gone_for_good_are_forgotten() -> None:
    ward = Ward()
    gone = [f"pod-{number}" for number in range(100)]
    for worker in ("a", *gone):
        ward.breakers.failed(worker, "first")
    ward.now += FORGET_S + 1
    ward.breakers.left_alone({"a": "first"}.get)
    assert {ward.breakers.state(worker) for worker in gone} == {"closed"}
    assert ward.breakers.state("a") == "half-open"
