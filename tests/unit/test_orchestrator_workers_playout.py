"""Where a reply's audio stands when workers change."""

import pytest

from antiphon.orchestrator.workers.playout import Playout

pytestmark = pytest.mark.unit


def first(samples: int = 1000) -> Playout:
    playout = Playout()
    playout.begin(0, anew=True)
    playout.hand_out(samples)
    playout.begin(1, anew=False)
    playout.hand_out(500)
    return playout


def test_with_one_worker_positions_are_the_replys() -> None:
    playout = first()
    playout.played(700)
    playout.played(600)
    assert playout.position_samples == 700 and playout.handed_out_samples == 1500


def test_a_clause_that_was_not_heard_is_replaced_whole() -> None:
    playout = first()
    playout.played(400)
    playout.begin(1, anew=True)
    assert playout.handed_out_samples == 1000 and playout.position_samples == 0
    playout.played(1200)
    assert playout.position_samples == 200


def test_a_clause_that_was_half_heard_begins_where_hearing_stopped() -> None:
    playout = first()
    playout.played(1200)
    playout.begin(1, anew=True)
    assert playout.handed_out_samples == 1200
    playout.hand_out(500)
    playout.played(1300)
    assert playout.position_samples == 100 and playout.handed_out_samples == 1700


def test_after_a_whole_clause_the_next_worker_follows_on() -> None:
    playout = first()
    playout.played(1200)
    playout.begin(2, anew=True)
    assert playout.handed_out_samples == 1500
    playout.played(1600)
    assert playout.position_samples == 100


def test_a_second_failure_in_the_same_clause() -> None:
    playout = first()
    playout.played(1200)
    playout.begin(1, anew=True)
    playout.hand_out(500)
    playout.played(1250)
    playout.begin(1, anew=True)
    assert playout.handed_out_samples == 1250 and playout.position_samples == 0
