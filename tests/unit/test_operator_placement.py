"""Who should hold what: never too much, what matters first, and nothing moves without a reason."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.registry.placing import Ask, Host, Plan, Shortage, place

pytestmark = [pytest.mark.unit, pytest.mark.timeout(20)]  # many examples, on a machine that may be busy

ENGINES = ("mock", "piper")
POOLS = ("a", "b")


@st.composite
def an_ask(draw: st.DrawFn, name: str) -> Ask:
    policy = draw(st.sampled_from(["Pinned", "Preload", "OnDemand"]))
    minimum = 0 if policy == "OnDemand" else draw(st.integers(policy == "Pinned", 3))
    most = 0 if policy == "OnDemand" else draw(st.one_of(st.none(), st.integers(minimum, 4)))
    return Ask(
        name,
        draw(st.sampled_from(ENGINES)),
        policy=policy,
        memory_mib=draw(st.sampled_from([0, 10, 30, 60])),
        minimum=minimum,
        maximum=most,
        priority=draw(st.integers(0, 3)),
        pools=draw(st.sampled_from([None, frozenset({"a"}), frozenset({"b"}), frozenset()])),
    )


@st.composite
def a_host(draw: st.DrawFn, name: str) -> Host:
    return Host(
        name,
        draw(st.sampled_from([frozenset(ENGINES), frozenset({"mock"}), frozenset({"piper"})])),
        pool=draw(st.sampled_from(POOLS)),
        memory_mib=draw(st.sampled_from([0, 50, 100])),
        resident_cap=draw(st.sampled_from([0, 1, 3])),
    )


@st.composite
def some_asks(draw: st.DrawFn) -> list[Ask]:
    return [draw(an_ask(f"m{number}")) for number in range(draw(st.integers(0, 7)))]


@st.composite
def some_hosts(draw: st.DrawFn) -> list[Host]:
    return [draw(a_host(f"w{number}")) for number in range(draw(st.integers(0, 5)))]


def held(plan: Plan, worker: str) -> tuple[tuple[str, str], ...]:
    return tuple((ref.name, ref.digest) for ref in plan.want[worker].hold)


def after(plan: Plan, hosts: list[Host]) -> list[Host]:
    """The workers, once they were told."""
    return [replace(host, held=held(plan, host.name) if host.name in plan.want else ()) for host in hosts]


def able(ask: Ask, host: Host) -> bool:
    return (
        ask.engine in host.engines
        and (ask.pools is None or host.pool in ask.pools)
        and (not host.memory_mib or ask.memory_mib <= host.memory_mib)
    )


@given(some_asks(), some_hosts(), st.data())
@settings(max_examples=80, deadline=None)
def test_no_worker_is_asked_for_more_than_it_takes_or_for_what_it_cannot(
    asks: list[Ask], hosts: list[Host], data: st.DataObject
) -> None:
    keys = [(ask.name, "") for ask in asks] + [("gone", "")]
    hosts = [replace(host, held=tuple(data.draw(st.sets(st.sampled_from(keys))))) for host in hosts]
    plan, known = place(asks, hosts), {ask.name: ask for ask in asks}
    for host in hosts:
        hold = [known[ref.name] for ref in plan.want[host.name].hold]
        assert not host.memory_mib or sum(ask.memory_mib for ask in hold) <= host.memory_mib
        assert not host.resident_cap or len(hold) <= host.resident_cap
        both = [*hold, *(known[ref.name] for ref in plan.want[host.name].may)]
        assert all(able(ask, host) for ask in both) and len(both) == len({ask.name for ask in both})
    for ask in asks:
        count = len(plan.holders[ask.key])
        assert count == sum(ask.key in held(plan, host.name) for host in hosts)
        assert ask.maximum is None or count <= ask.maximum
        assert (ask.key in plan.short) == (count < ask.minimum)


@given(some_asks(), some_hosts(), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_order_in_which_things_are_told_does_not_matter(asks: list[Ask], hosts: list[Host], chance: object) -> None:
    plan = place(asks, hosts)
    mixed, moved = list(asks), list(hosts)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    chance.shuffle(moved)  # type: ignore[attr-defined]
    assert place(mixed, moved) == plan


@given(some_asks(), some_hosts())
@settings(max_examples=80, deadline=None)
def test_what_was_decided_is_decided_again(asks: list[Ask], hosts: list[Host]) -> None:
    plan = place(asks, hosts)
    assert place(asks, after(plan, hosts)) == plan


@given(some_asks(), some_hosts(), a_host("new"))
@settings(max_examples=80, deadline=None)
def test_a_new_worker_moves_nothing_but_for_what_had_no_place(asks: list[Ask], hosts: list[Host], new: Host) -> None:
    plan = place(asks, hosts)
    grown = place(asks, [*after(plan, hosts), new])
    if any(not set(held(plan, host.name)) <= set(held(grown, host.name)) for host in hosts):
        # It made room for one that had lacked a place, being on the new worker too.
        assert any(len(grown.holders[key]) > len(plan.holders[key]) for key in plan.short)


@given(some_asks(), some_hosts(), an_ask("new"))
@settings(max_examples=80, deadline=None)
def test_a_new_model_moves_nothing_but_what_it_needs_the_room_of(asks: list[Ask], hosts: list[Host], new: Ask) -> None:
    plan = place(asks, hosts)
    grown = place([*asks, new], after(plan, hosts))
    left = [host.name for host in hosts if not set(held(plan, host.name)) <= set(held(grown, host.name))]
    if left:
        assert new.minimum > 0
        assert not any(_has_room(new, host, plan, asks) for host in hosts) or len(grown.holders[new.key]) > 1


def _has_room(ask: Ask, host: Host, plan: Plan, asks: list[Ask]) -> bool:
    known = {each.key: each for each in asks}
    hold = [known[key] for key in held(plan, host.name)]
    if not able(ask, host) or (host.resident_cap and len(hold) >= host.resident_cap):
        return False
    return not host.memory_mib or sum(each.memory_mib for each in hold) + ask.memory_mib <= host.memory_mib


@given(some_asks(), some_hosts())
@settings(max_examples=80, deadline=None)
def test_what_is_pinned_lacks_nothing_that_something_preloaded_has(asks: list[Ask], hosts: list[Host]) -> None:
    plan, known = place(asks, hosts), {ask.key: ask for ask in asks}
    for ask in asks:
        if ask.policy != "Pinned" or ask.key not in plan.short:
            continue
        for host in hosts:
            if not able(ask, host) or host.name in plan.holders[ask.key]:
                continue
            # Even without everything preloaded there would be no room for it here.
            stay = [each for key in held(plan, host.name) if (each := known[key]).policy == "Pinned"]
            crowded = bool(host.resident_cap) and len(stay) >= host.resident_cap
            full = bool(host.memory_mib) and sum(each.memory_mib for each in stay) + ask.memory_mib > host.memory_mib
            assert crowded or full


def host(name: str, **about: object) -> Host:
    return replace(Host(name, frozenset({"mock"}), pool="a", memory_mib=100), **about)  # type: ignore[arg-type]


def pinned(name: str, mib: int = 40, **about: object) -> Ask:
    ask = Ask(name, "mock", policy="Pinned", memory_mib=mib, minimum=1, maximum=1)
    return replace(ask, **about)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ask", "hosts", "shortage"),
    [
        (pinned("x"), [], Shortage.NO_WORKER),
        (pinned("x", pools=frozenset({"b"})), [host("w")], Shortage.NO_POOL),
        (pinned("x", engine="piper"), [host("w")], Shortage.NO_ENGINE),
        (pinned("x", 200), [host("w")], Shortage.TOO_LARGE),
        (pinned("x", minimum=2), [host("w")], Shortage.TOO_FEW),
        (pinned("x", 70), [host("w", held=(("first", ""),))], Shortage.NO_ROOM),
    ],
)
def test_what_cannot_be_placed_says_why(ask: Ask, hosts: list[Host], shortage: Shortage) -> None:
    assert place([pinned("first", priority=9), ask], hosts).short[ask.key] == shortage


def test_the_other_revision_of_a_model_makes_room_first() -> None:
    old = pinned("v", 60, digest="old", minimum=1, maximum=2)
    new = pinned("v", 60, digest="new", minimum=1, maximum=2)
    other = pinned("o", 30, minimum=1, maximum=2)
    hosts = [host(name, held=(("v", "old"), ("o", ""))) for name in ("w1", "w2")]
    plan = place([old, new, other], hosts)
    assert len(plan.holders["v", "old"]) == len(plan.holders["v", "new"]) == 1
    assert plan.holders["o", ""] == ("w1", "w2")


def test_both_revisions_stand_side_by_side_where_there_is_room() -> None:
    old, new = (pinned("v", 40, digest=digest, minimum=1, maximum=2) for digest in ("old", "new"))
    hosts = [host(name, held=(("v", "old"),)) for name in ("w1", "w2")]
    plan = place([old, new], hosts)
    assert plan.holders == {("v", "old"): ("w1", "w2"), ("v", "new"): ("w1", "w2")}


def test_hundreds_of_models_on_tens_of_workers_are_placed_in_a_moment() -> None:
    asks = [Ask(f"m{n}", "mock", policy="Preload", memory_mib=10, minimum=1, maximum=2) for n in range(400)]
    hosts = [host(f"w{n}", memory_mib=220) for n in range(40)]
    plan = place(asks, hosts)
    assert not plan.short
    assert place(asks, after(plan, hosts)) == plan
