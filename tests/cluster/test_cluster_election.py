"""Who leads when operators end, are killed, or lose the API server."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from cluster_operator import lead, leader, operator, writes
from cluster_processes import Daemon, wait_for
from control_plane import ControlPlane

pytestmark = pytest.mark.cluster

HANDED_OVER_S = 2.0
KILLED_S = 8.0
BACK_S = 4.0


@pytest.fixture
def two(own_control_plane: ControlPlane) -> Iterator[tuple[Daemon, Daemon]]:
    """The leader and its standby."""
    plane = own_control_plane
    plane.add_gpu_nodes(1)
    pair = [operator(plane, plane.folder, name) for name in ("one", "two")]
    lead(plane, *pair)
    # The standby's watches stand.
    wait_for(lambda: all("serving" in each.log.read_text() for each in pair), "both operators", 20)
    time.sleep(1)
    pair.sort(key=lambda each: each.name != leader(plane))
    yield pair[0], pair[1]
    for each in pair:
        each.stop(signal.SIGKILL)


def acts_after(plane: ControlPlane, name: str) -> float:
    """Seconds until a new pool has its Deployment."""
    began = time.monotonic()
    pool = {"apiVersion": "antiphon.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": name}}
    plane.apply({**pool, "spec": {"image": "localhost/antiphon-worker:1"}})
    wait_for(lambda: plane.succeeds("get", "deployment", name), "the deployment", 30)
    return time.monotonic() - began


def test_a_leader_that_is_told_to_go_hands_over(own_control_plane: ControlPlane, two: tuple[Daemon, Daemon]) -> None:
    first, second = two
    assert first.pid is not None
    os.kill(first.pid, signal.SIGTERM)
    after_s = acts_after(own_control_plane, "after-the-handover")
    print(f"acts {after_s:.2f} s after the leader was told to go")
    assert after_s <= HANDED_OVER_S
    wait_for(lambda: leader(own_control_plane) == second.name, "the Lease", 5)
    assert own_control_plane.get("lease", "antiphon-operator")["spec"]["leaseTransitions"] >= 1


def test_a_killed_leader_is_replaced(own_control_plane: ControlPlane, two: tuple[Daemon, Daemon]) -> None:
    first, second = two
    first.stop(signal.SIGKILL)
    after_s = acts_after(own_control_plane, "after-the-kill")
    print(f"acts {after_s:.2f} s after the kill")
    assert leader(own_control_plane) == second.name
    assert after_s <= KILLED_S


def test_a_standby_writes_nothing(own_control_plane: ControlPlane, two: tuple[Daemon, Daemon]) -> None:
    mark = own_control_plane.audit_mark()
    acts_after(own_control_plane, "by-one-alone")
    wait_for(lambda: any("status" in each for each in writes(own_control_plane, mark)), "a status", 10)
    time.sleep(2)
    written = writes(own_control_plane, mark)
    assert len([each for each in written if "status" not in each]) == 5, written


def test_an_api_server_that_comes_back_is_served_again(
    own_control_plane: ControlPlane, two: tuple[Daemon, Daemon]
) -> None:
    acts_after(own_control_plane, "before")
    mark = own_control_plane.audit_mark()
    own_control_plane.stop_api()
    time.sleep(8)
    own_control_plane.start_api()
    after_s = acts_after(own_control_plane, "after-the-outage")
    print(f"acts {after_s:.2f} s after the outage")
    assert after_s <= BACK_S
    assert own_control_plane.succeeds("get", "deployment", "before")
    assert not [each for each in writes(own_control_plane, mark) if "delete" in each]
