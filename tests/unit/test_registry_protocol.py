"""A model check of the registry's protocol: the real parts, in virtual time, among every fault that we can think of.

What must hold, whatever happened before: no connected reader routes to a dead or drained worker longer than a lease
and a beat (and the time that messages take); a deposed writer never wins; of two owners of a session, one answers.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from registry_simulation import SimulatedRedis, VirtualLoop

from antiphon.contracts.errors import AntiphonError
from antiphon.orchestrator import holds
from antiphon.orchestrator import sessions as keeping
from antiphon.orchestrator.config import AssistantConfig
from antiphon.orchestrator.holds import Hold
from antiphon.orchestrator.sessions import SessionKeeper
from antiphon.registry.keys import BEAT_S, LEASE_S, Keys
from antiphon.registry.lease import LeaseKeeper
from antiphon.registry.records import Lease, ModelRecord, RecordReader, ResidentModel
from antiphon.registry.routing import RouteRequest, route
from antiphon.registry.sessions import OWNED_S, ClaimTail, SessionStore
from antiphon.registry.snapshot import RegistryReader
from antiphon.registry.writer import RegistryWriter

pytestmark = [pytest.mark.unit, pytest.mark.timeout(120)]

BOUND_S = LEASE_S + BEAT_S + 0.3
"""A lease, a beat, and what messages take while the network is well."""
WELL_S = 10.0
"""After so long without a new fault everything is as it should be."""
STEP_S = 0.25
JOE = RouteRequest("tts", "joe")
WORKERS, READERS, OWNERS = ("w0", "w1", "w2"), ("r0", "r1"), ("o0", "o1")
workers, readers, owners = st.sampled_from(WORKERS), st.sampled_from(READERS), st.sampled_from(OWNERS)
SESSION = "sess_0123456789"


@dataclass
class Process:
    """One worker's process."""

    incarnation: str
    task: "asyncio.Task[None]"
    draining: bool = False


class Orchestrator:
    """One orchestrator's sessions, and clients who all have the token of one."""

    def __init__(self, party: str, redis: SimulatedRedis) -> None:
        client: Any = redis.connect(party)("redis://")
        keys = Keys("ns")
        store, claims = SessionStore(client, keys, RecordReader()), ClaimTail(client, keys)
        self.party = party
        self.keeper = SessionKeeper(store, party, claims, lambda _: AssistantConfig())
        self.task = asyncio.get_running_loop().create_task(self.keeper.run())
        self.holds: list[Hold] = []
        self._ends: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Give the client who comes the session, if it can be had."""
        try:
            self.take(await self.keeper.resume(SESSION, ""))
        except AntiphonError:
            return

    def take(self, hold: Hold) -> None:
        """A client has the session here."""
        self.holds.append(hold)
        hold.attach(lambda: ({"some": "setting"}, ()), lambda: self._end(hold))

    def let_go(self) -> None:
        """Every client goes."""
        for hold in self.holds:
            self._end(hold)

    def _end(self, hold: Hold) -> None:
        task = asyncio.get_running_loop().create_task(hold.release())
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)


class Protocol(RuleBasedStateMachine):
    """Workers, writers, readers and owners of sessions around one simulated Redis."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.redis = SimulatedRedis(random.Random(1))
        self.processes: dict[str, Process] = {}
        self.not_routable_s: dict[str, float] = dict.fromkeys(WORKERS, 0.0)
        self.connected_s: dict[str, float] = dict.fromkeys(READERS, 0.0)
        self.readers: dict[str, RegistryReader] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.writers: list[tuple[RegistryWriter, asyncio.Task[None]]] = []
        self.revisions: dict[int, int] = {}
        self.epochs: dict[str, int] = dict.fromkeys(READERS, 0)
        self.orchestrators: dict[str, Orchestrator] = {}
        self.unwell_s: dict[str, float] = dict.fromkeys(OWNERS, 0.0)
        self.missing_s = 0.0
        self.started = 0

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.redis.rng = random.Random(seed)
        self.do(self._begin)

    def _begin(self) -> None:
        for name in READERS:
            self.readers[name] = RegistryReader("redis://", "ns", connect=self.redis.connect(name))
            self.tasks.append(self.loop.create_task(self.readers[name].run()))
        for name in OWNERS:
            self._start_orchestrator(name)
        first = self.orchestrators[OWNERS[0]]
        first.take(first.keeper.open(SESSION, "", "default"))
        self._start_writer()
        for name in WORKERS[:2]:
            self._start(name)

    # --- workers ---

    @rule(name=workers)
    def start(self, name: str) -> None:
        """A process starts, perhaps while the lease of another one under its name still stands."""
        if name not in self.processes:
            self.do(lambda: self._start(name))

    def _start(self, name: str) -> None:
        self.started += 1
        incarnation = f"i{self.started}"

        def lease() -> Lease:
            models = (ResidentModel(name="joe", state="warm"),)
            draining = process.draining
            return Lease(
                worker=name,
                incarnation=incarnation,
                address="h:1",
                engines={"e": "1"},
                models=models,
                draining=draining,
            )

        keeper = LeaseKeeper("redis://", "ns", name, lease, connect=self.redis.connect(incarnation))
        process = Process(incarnation, self.loop.create_task(keeper.run()))
        self.processes[name] = process
        self.tasks.append(process.task)

    @rule(name=workers)
    def kill(self, name: str) -> None:
        """SIGKILL: what is on its way arrives, nothing else is said."""
        if process := self.processes.pop(name, None):
            self.redis.cut.add(process.incarnation)
            self.do(process.task.cancel)
            self.not_routable_s[name] = self.loop.time()

    @rule(name=workers)
    def stop(self, name: str) -> None:
        """It ends in good order."""
        if process := self.processes.pop(name, None):
            self.do(process.task.cancel)
            self.not_routable_s[name] = self.loop.time()

    @rule(name=workers)
    def drain(self, name: str) -> None:
        """It takes nothing new, and says so at its next beat."""
        process = self.processes.get(name)
        if process is not None and not process.draining:
            process.draining = True
            self.not_routable_s[name] = self.loop.time()

    # --- writers ---

    @rule()
    def depose(self) -> None:
        """A new writer claims the namespace; the old one does not know yet."""
        self.do(self._start_writer)

    def _start_writer(self) -> None:
        number = len(self.writers)
        connect = self.redis.connect(f"writer{number}")
        writer = RegistryWriter("redis://", "ns", adopt="p", epoch_floor=10 * number, connect=connect)
        writer.set_models([self._model(number, 0)])
        task = self.loop.create_task(writer.run())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.writers.append((writer, task))
        self.tasks.append(task)

    @rule(which=st.integers(0, 3), revision=st.integers(1, 99))
    def change(self, which: int, revision: int) -> None:
        """A writer, deposed or not, changes the catalogue."""
        number = which % len(self.writers)
        self.revisions[number] = revision
        self.do(lambda: self.writers[number][0].set_models([self._model(number, revision)]))

    def _model(self, author: int, revision: int) -> ModelRecord:
        return ModelRecord(name="joe", task="tts", engine="e", aliases=(f"by-{author}", f"revision-{revision}"))

    # --- sessions ---

    @rule(owner=owners)
    def come(self, owner: str) -> None:
        """A client connects to an orchestrator with the session's token; others may still hold theirs elsewhere."""
        if self.orchestrators[owner].party not in self.redis.frozen:
            self.do(lambda: self.tasks.append(self.loop.create_task(self.orchestrators[owner].serve())))

    @rule(owner=owners)
    def go(self, owner: str) -> None:
        """Its clients go."""
        if self.orchestrators[owner].party not in self.redis.frozen:
            self.do(self.orchestrators[owner].let_go)

    @rule(owner=owners)
    def talk(self, owner: str) -> None:
        """Something is said in what it takes for its own."""
        self.do(lambda: [hold.changed(settled=True) for hold in self.orchestrators[owner].holds])

    @rule(owner=owners)
    def kill_orchestrator(self, owner: str) -> None:
        """SIGKILL; another is started."""
        self.do(self.orchestrators[owner].task.cancel)
        self.do(lambda: self._start_orchestrator(owner))

    @rule(owner=owners)
    def freeze(self, owner: str) -> None:
        """Its process is stopped, and does not know when it goes on."""
        self.redis.frozen.add(self.orchestrators[owner].party)

    @rule()
    def thaw(self) -> None:
        """Processes that were stopped go on where they were."""
        self.do(self.redis.thaw)

    def _start_orchestrator(self, owner: str) -> None:
        self.started += 1
        party = f"{owner}.{self.started}"
        self.orchestrators[owner] = Orchestrator(party, self.redis)
        self.tasks.append(self.orchestrators[owner].task)

    # --- faults ---

    @rule(name=st.one_of(readers, owners, workers, st.integers(0, 3)))
    def cut(self, name: str | int) -> None:
        """A party hears and says nothing any more."""
        self.redis.cut.add(self._party(name))

    @rule()
    def heal(self) -> None:
        """Everybody who lives is connected again, and the network is quick."""
        alive = {process.incarnation for process in self.processes.values()}
        if self.redis.slow or self.redis.cut & set(READERS):
            self._fault()
        self.redis.cut = {name for name in self.redis.cut if name[0] == "i" and name not in alive}
        self.redis.slow = False
        self.do(self.redis.thaw)

    @rule()
    def slow(self) -> None:
        """Messages take up to a second, and overtake each other."""
        self.redis.slow = True

    @rule(empty=st.booleans(), seconds=st.floats(0.1, 12))
    def redis_away(self, empty: bool, seconds: float) -> None:
        """Redis ends and comes back, with or without what it held."""
        self.redis.up = False
        self._fault()
        self._pass(seconds)
        if empty:
            self.redis.empty()
        self.redis.up = True
        self._fault()

    @rule()
    def flush(self) -> None:
        """FLUSHALL."""
        self.do(self.redis.empty)

    def _party(self, name: str | int) -> str:
        if isinstance(name, int):
            return f"writer{name % len(self.writers)}"
        if name in self.orchestrators:
            return self.orchestrators[name].party
        return self.processes[name].incarnation if name in self.processes else name

    def _fault(self) -> None:
        """From now on a reader has its time to find out what it could not hear."""
        self.connected_s = dict.fromkeys(READERS, self.loop.time())

    # --- time, and what must hold ---

    @rule(seconds=st.floats(0.05, 6))
    def wait(self, seconds: float) -> None:
        self._pass(seconds)

    @rule(seconds=st.floats(BOUND_S, 2 * BOUND_S))
    def wait_long(self, seconds: float) -> None:
        self._pass(seconds)

    def _pass(self, seconds: float) -> None:
        while seconds > 0:
            self.run(asyncio.sleep(min(STEP_S, seconds)))
            self.check()
            seconds -= STEP_S

    @invariant()
    def check(self) -> None:
        if self.readers:
            for name, reader in self.readers.items():
                self._routes_to_nobody_who_is_gone(name, reader)
                self._believes_the_newest_writer(name, reader)
            self._one_owner_is_believed()
            self.do(self._one_owner_answers)

    def _routes_to_nobody_who_is_gone(self, name: str, reader: RegistryReader) -> None:
        if name in self.redis.cut or self.redis.slow or not self.redis.up:
            return
        for candidate in route(JOE, reader.snapshot, rng=random.Random(0)):
            process = self.processes.get(candidate.worker)
            if process is None or process.draining:
                since = max(self.not_routable_s[candidate.worker], self.connected_s[name])
                assert self.loop.time() - since <= BOUND_S, (name, candidate.worker)

    def _believes_the_newest_writer(self, name: str, reader: RegistryReader) -> None:
        snapshot = reader.snapshot
        assert snapshot.epoch >= self.epochs[name]
        self.epochs[name] = snapshot.epoch
        # Of an emptied registry it may be two: who saw the same epoch before claims the same next one.
        claimed = {writer for epoch, writer in self.redis.claimed if epoch == snapshot.epoch}
        authors = {f"by-{number}" for number, (writer, _) in enumerate(self.writers) if writer._id in claimed}
        for model in snapshot.models.values():
            assert authors & set(model.aliases), (name, snapshot.epoch, authors, model.aliases)

    def _one_owner_is_believed(self) -> None:
        newest: dict[str, tuple[int, str]] = {}
        for session, owner, epoch in self.redis.saved:
            stands, held_by = newest.get(session, (0, owner))
            assert epoch > stands or (epoch == stands and owner == held_by), self.redis.saved
            newest[session] = (epoch, owner)

    def _one_owner_answers(self) -> None:
        """But for those that found Redis out of reach, for calls survive it; an emptied one forgets whose it was."""
        now = self.loop.time()
        if not self.redis.up or not self.redis.hgetall(Keys("ns").session(SESSION)):
            self.missing_s = now
        answer = []
        for name, orchestrator in self.orchestrators.items():
            if not self.redis.up or self.redis.slow or orchestrator.party in self.redis.cut:
                self.unwell_s[name] = now
            if orchestrator.party in self.redis.frozen:
                continue
            cut_off = now - orchestrator.keeper.out_of_reach_s <= OWNED_S
            assert not cut_off or now - self.unwell_s[name] <= OWNED_S + 1.0, name
            answer += [name for hold in orchestrator.holds if hold.live and hold.confirmed and not cut_off]
        assert len(answer) <= 1 or now - self.missing_s <= OWNED_S + 1.0, answer

    def teardown(self) -> None:
        try:
            if self.readers:
                self._all_is_well_in_the_end()
        finally:
            self.do(lambda: [task.cancel() for task in self.tasks])
            self.run(asyncio.wait(self.tasks) if self.tasks else asyncio.sleep(0))
            self.loop.close()

    def _all_is_well_in_the_end(self) -> None:
        self.redis.up = True
        self.heal()
        self._pass(WELL_S)
        left = [number for number, (_, task) in enumerate(self.writers) if not task.done()]
        assert len(left) == 1, "one writer goes on, the others know that they were deposed"
        assert all(isinstance(task.exception(), AntiphonError) for _, task in self.writers if task.done())
        assert self.writers[left[0]][0].epoch == max(epoch for epoch, _ in self.redis.claimed)
        serving = {name for name, process in self.processes.items() if not process.draining and not process.task.done()}
        for reader in self.readers.values():
            assert not reader.snapshot.stale
            assert reader.snapshot.models["joe"] == self._model(left[0], self.revisions.get(left[0], 0))
            assert {candidate.worker for candidate in route(JOE, reader.snapshot, rng=random.Random(0))} == serving
        self.do(self._whoever_has_the_session_answers)

    def _whoever_has_the_session_answers(self) -> None:
        live = [hold for orchestrator in self.orchestrators.values() for hold in orchestrator.holds if hold.live]
        assert len(live) <= 1
        assert all(hold.confirmed for hold in live)

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def do(self, work: Any) -> None:
        async def within() -> None:
            work()

        self.run(within())


def test_the_protocol_holds_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    Protocol.TestCase.settings = settings(
        max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    Protocol.TestCase("runTest").runTest()


def _frozen_while_another_takes_over(protocol: Protocol) -> None:
    protocol.freeze("o0")
    protocol.come("o1")
    protocol.wait(OWNED_S + 1.0)
    protocol.thaw()
    protocol.check()
    protocol.wait(1.0)


def _taken_over_while_it_answers(protocol: Protocol) -> None:
    protocol.come("o1")
    for _ in range(50):
        protocol.wait(0.002)


def _holds(play: Callable[[Protocol], None], seed: int) -> bool:
    protocol = Protocol()
    protocol.begin(seed)
    protocol.wait(WELL_S)
    try:
        play(protocol)
        return True
    except AssertionError:
        return False
    finally:
        protocol.teardown()


@pytest.mark.parametrize(
    "play, half, bound_s",
    [
        (_frozen_while_another_takes_over, holds, float("inf")),  # an owner believes for ever what it was told once
        (_taken_over_while_it_answers, keeping, 0.0),  # a new one does not wait
    ],
)
def test_two_owners_answer_when_half_of_the_fence_is_missing(
    play: Callable[[Protocol], None], half: Any, bound_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(_holds(play, seed) for seed in range(10))
    monkeypatch.setattr(half, "OWNED_S", bound_s)
    assert not all(_holds(play, seed) for seed in range(10))
