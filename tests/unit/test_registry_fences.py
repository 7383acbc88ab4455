"""Whether the model check would notice: each fence of the registry's scripts is taken away, and something must break.

A smaller model than that of the whole protocol, in which little but writers and processes of one name happens, so that
a few hundred steps hold what is rare there: messages that overtake each other, writers that depose each other while
the registry is emptied, and two processes under one id. With all fences it holds; without any one of them it does not.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import registry_simulation
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from registry_simulation import SimulatedRedis, VirtualLoop

from antiphon.contracts.errors import AntiphonError
from antiphon.registry import lease, writer
from antiphon.registry.lease import LeaseKeeper
from antiphon.registry.records import Lease, ModelRecord
from antiphon.registry.snapshot import RegistryReader
from antiphon.registry.writer import RegistryWriter

pytestmark = [pytest.mark.unit, pytest.mark.timeout(60)]

WELL_S = 8.0
SOON_S = st.floats(0.0, 0.6)


class Stragglers(random.Random):
    """Of messages that take long, some take seconds: what is sent after them arrives before."""

    def uniform(self, a: float, b: float) -> float:
        drawn = super().uniform(a, b)
        return drawn if drawn < 0.6 else 4 * drawn


class NotedWriter(RegistryWriter):
    """Remembers the epoch of its first claim, 0 before it."""

    first_epoch = 0

    async def _claim(self, desired: dict[tuple[str, str], str]) -> None:
        await super()._claim(desired)
        self.first_epoch = self.first_epoch or self.epoch


@dataclass
class Claimant:
    """A writer; its number is its author's."""

    writer: NotedWriter
    task: "asyncio.Task[None]"
    revision: int = 0

    @property
    def alive(self) -> bool:
        return not self.task.done()


@dataclass
class Twin:
    """One of the processes that call themselves by one id."""

    party: str
    keeper: LeaseKeeper
    task: "asyncio.Task[None]"


class Fences(RuleBasedStateMachine):
    """Writers who depose each other, and processes under one id, around one simulated Redis and a reader."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.redis = SimulatedRedis(Stragglers(1))
        self.claimants: list[Claimant] = []
        self.twins: list[Twin] = []
        self.emptied = False
        self.reader: RegistryReader | None = None
        self.reading: asyncio.Task[None] | None = None

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.redis.rng = Stragglers(seed)
        self.within(self._begin)

    def _begin(self) -> None:
        self.reader = RegistryReader("redis://", "ns", connect=self.redis.connect("reader"))
        self.reading = self.loop.create_task(self.reader.run())
        self._claim()
        self._start()

    # --- writers ---

    @rule(seconds=SOON_S, empty=st.booleans())
    def depose(self, seconds: float, empty: bool) -> None:
        """A new writer comes; soon after, the registry is emptied, perhaps."""
        if len(self.claimants) < 5:
            self.within(self._claim)
            self.wait(seconds)
            if empty:
                self.flush()

    def _claim(self) -> None:
        number = len(self.claimants)
        made = NotedWriter("redis://", "ns", epoch_floor=10 * number, connect=self.redis.connect(f"writer{number}"))
        made.set_models([_model(number, 0)])
        task = self.loop.create_task(made.run())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.claimants.append(Claimant(made, task))

    @rule(which=st.integers(0, 4), changes=st.lists(SOON_S, min_size=1, max_size=6), slow=st.booleans())
    def change(self, which: int, changes: list[float], slow: bool) -> None:
        """A writer, deposed or not, says one thing after another."""
        number = which % len(self.claimants)
        claimant = self.claimants[number]
        self.redis.slow = self.redis.slow or slow
        for seconds in changes:
            claimant.revision += 1
            self.within(lambda: claimant.writer.set_models([_model(number, claimant.revision)]))
            self.wait(seconds)

    # --- processes under one id ---

    @rule()
    def start(self) -> None:
        """Another process starts under the id, whoever else lives."""
        if len(self.twins) < 3:
            self.within(self._start)

    def _start(self) -> None:
        party = f"i{len(self.twins)}"

        def said() -> Lease:
            return Lease(worker="w", incarnation=party, address="h:1")

        keeper = LeaseKeeper("redis://", "ns", "w", said, connect=self.redis.connect(party))
        self.twins.append(Twin(party, keeper, self.loop.create_task(keeper.run())))

    # --- faults and time ---

    @rule(which=st.integers(0, 9))
    def cut(self, which: int) -> None:
        parties = [*(f"writer{number}" for number in range(len(self.claimants))), *(twin.party for twin in self.twins)]
        self.redis.cut.add(parties[which % len(parties)])

    @rule()
    def heal(self) -> None:
        self.redis.cut.clear()
        self.redis.slow = False

    @rule()
    def slow(self) -> None:
        self.redis.slow = True

    @rule()
    def flush(self) -> None:
        self.emptied = True
        self.within(self.redis.empty)

    @rule(seconds=st.floats(0.1, 5))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def within(self, work: Callable[[], Any]) -> None:
        async def do() -> None:
            work()

        self.loop.run_until_complete(do())

    # --- what must hold in the end ---

    def teardown(self) -> None:
        try:
            if self.reader is not None:
                self.heal()
                self.wait(WELL_S)
                self._one_process_holds_the_id()
                self._the_newest_writer_is_left_and_its_last_word_stands(self.reader)
        finally:
            tasks = [each.task for each in (*self.claimants, *self.twins)]
            tasks += [self.reading] if self.reading is not None else []
            self.within(lambda: [task.cancel() for task in tasks])
            self.loop.run_until_complete(asyncio.wait(tasks) if tasks else asyncio.sleep(0))
            self.loop.close()

    def _one_process_holds_the_id(self) -> None:
        holders = [twin for twin in self.twins if twin.keeper.held and not twin.task.done()]
        # A late word of one that ended, into a registry that was emptied, may send the other away: then none is left.
        assert len(holders) == 1 or (self.emptied and not holders), "they take turns"

    def _the_newest_writer_is_left_and_its_last_word_stands(self, reader: RegistryReader) -> None:
        living = [number for number, claimant in enumerate(self.claimants) if claimant.alive]
        assert len(living) == 1, "one goes on, the others know that they were deposed"
        [left] = living
        assert all(isinstance(each.task.exception(), AntiphonError) for each in self.claimants if not each.alive)
        newest = max(claimant.writer.first_epoch for claimant in self.claimants)
        assert self.claimants[left].writer.first_epoch == newest, "one that was deposed has won"
        assert reader.snapshot.models == {"joe": _model(left, self.claimants[left].revision)}


def _model(author: int, revision: int) -> ModelRecord:
    return ModelRecord(name="joe", task="tts", engine="e", aliases=(f"by-{author}", f"revision-{revision}"))


def check(examples: int, *, derandomized: bool = False) -> None:
    """Raises `AssertionError` when it finds something."""
    Fences.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=20,
        deadline=None,
        database=None,
        derandomize=derandomized,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    Fences.TestCase("runTest").runTest()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL)
    yield


def test_with_all_its_fences_it_holds() -> None:
    check(60)


# --- and without one of them ------------------------------------------------------------------------------------------

Script = Callable[[SimulatedRedis, list[str], list[str]], Any]


def forgets_the_sequence(script: Script) -> Script:
    """What comes late, after something that was sent later, is written all the same."""

    def run(server: SimulatedRedis, keys: list[str], arguments: list[str]) -> Any:
        if server._hget(keys[0], "sequence"):
            server._hset(keys[0], sequence="0")
        return script(server, keys, arguments)

    return run


def forgets_the_holder(script: Script) -> Script:
    """A lease is given to whoever asks."""

    def run(server: SimulatedRedis, keys: list[str], arguments: list[str]) -> Any:
        server.strings.pop(keys[0], None)
        return script(server, keys, arguments)

    return run


def forgets_the_epoch(script: Script) -> Script:
    """A writer is not told that it was deposed, only that what stands is not its own."""

    def run(server: SimulatedRedis, keys: list[str], arguments: list[str]) -> Any:
        return script(server, keys, [arguments[0], str(2**53), *arguments[2:]])

    return run


def restores_whatever_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that finds the registry emptied writes it anew, also over one that came after it."""
    never = property(lambda _: False, lambda _, value: None)
    monkeypatch.setattr(RegistryWriter, "_restoring", never, raising=False)


def without(monkeypatch: pytest.MonkeyPatch, script: str, changed: Callable[[Script], Script]) -> None:
    monkeypatch.setitem(registry_simulation._SCRIPTS, script, changed(registry_simulation._SCRIPTS[script]))


def finds_something() -> None:
    with pytest.raises(AssertionError):
        check(500, derandomized=True)


def test_without_the_fence_against_late_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, writer._WRITE, forgets_the_sequence)
    finds_something()


def test_without_the_fence_between_two_processes_of_one_id(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, lease._RENEW, forgets_the_holder)
    finds_something()


def test_without_the_fence_against_restoring_over_a_newer_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    restores_whatever_stands(monkeypatch)
    finds_something()


def test_without_both_ways_to_learn_that_one_was_deposed(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, writer._WRITE, forgets_the_epoch)  # alone it is told at the next question
    restores_whatever_stands(monkeypatch)
    finds_something()
