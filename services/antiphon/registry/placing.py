"""Who should hold what: a pure function of the models, the workers and what was decided before.

What stands, stands: a model leaves a worker when it may not be there any more (another pool, no engine, too many of
them), or when something that comes before it has no room anywhere else. So a new worker or a new model moves nothing
that need not move, and whoever computes it again from its own answer gets that answer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Literal

from antiphon.registry.fitness import preference
from antiphon.registry.records import ModelRef, Want

MAY_LIMIT = 1000
"""As many models may be loaded on demand on one worker as a `Want` has room for."""

_ROUNDS = 20
"""Two are enough but for contrived cases."""

Policy = Literal["Pinned", "Preload", "OnDemand"]
_CLASSES: dict[str, int] = {"Pinned": 0, "Preload": 1, "OnDemand": 2}


@dataclass(frozen=True, slots=True)
class Ask:
    """One revision of a model, and on how many workers it should be."""

    name: str
    engine: str
    digest: str = ""
    """Of the revision; empty: the catalogue's."""
    policy: Policy = "OnDemand"
    memory_mib: int = 0
    """What it takes of a worker's budget; 0: not known, and counted as nothing."""
    minimum: int = 0
    """As many workers hold it, even where something less important must leave for it."""
    maximum: int | None = None
    """As many hold it where there is room; None: every worker that can."""
    priority: int = 0
    """Among models of one policy, the higher comes first."""
    pools: frozenset[str] | None = None
    """Only workers of these; None: of any."""
    order: int = 0
    """Among revisions of one model, the lower comes first."""
    on_demand: bool = True
    """Whether a worker that does not hold it may load it for a caller."""

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the others."""
        return self.name, self.digest


@dataclass(frozen=True, slots=True)
class Host:
    """A worker that can be asked to hold models."""

    name: str
    engines: frozenset[str]
    pool: str = ""
    memory_mib: int = 0
    """Its budget; 0: no limit."""
    resident_cap: int = 0
    """How many models it holds at most; 0: no limit."""
    held: tuple[tuple[str, str], ...] = ()
    """What it was last asked to hold, by name and digest."""


class Shortage(StrEnum):
    """Why fewer workers than wanted hold a model."""

    NO_WORKER = "NoWorker"
    """There is none at all."""
    NO_POOL = "NoPool"
    """None in the pools that the model asks for."""
    NO_ENGINE = "NoEngine"
    """None of these has the engine."""
    TOO_LARGE = "TooLarge"
    """It is larger than the budget of any of them."""
    TOO_FEW = "TooFewWorkers"
    """All that can hold it do, and they are fewer than wanted."""
    NO_ROOM = "NoRoom"
    """What comes before it takes the room."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Who should hold what."""

    want: Mapping[str, Want]
    """By worker; every worker has one."""
    holders: Mapping[tuple[str, str], tuple[str, ...]]
    """By name and digest: the workers that should hold it."""
    short: Mapping[tuple[str, str], Shortage]
    """By name and digest: why it is not on as many workers as it has to be."""


def place(asks: Iterable[Ask], hosts: Iterable[Host]) -> Plan:
    """Who should hold what.

    First what each model needs at least, Pinned before Preload, the higher priority first; then, where there is room,
    as many as it may have, in the same order; both again for as long as the second makes room for the first. Never over
    a worker's budget or number of models.
    """
    ranked = sorted(asks, key=_rank)
    plan = _Planning({host.name: host for host in sorted(hosts, key=lambda host: host.name)}, ranked)
    plan.keep()
    for _ in range(_ROUNDS):
        moves = plan.moves
        for ask in ranked:
            plan.raise_to_minimum(ask)
        for ask in ranked:
            plan.fill(ask)
        if moves == plan.moves or not plan.short:
            break
    return plan.result()


def _rank(ask: Ask) -> tuple[int, int, str, int, str]:
    return _CLASSES[ask.policy], -ask.priority, ask.name, ask.order, ask.digest


@dataclass(slots=True)
class _Planning:
    """A plan while it is made."""

    hosts: Mapping[str, Host]
    ranked: Sequence[Ask]
    on: dict[str, dict[tuple[str, str], Ask]] = field(default_factory=dict)
    """By worker: what it is to hold."""
    of: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """By model: who is to hold it."""
    ranks: dict[tuple[str, str], int] = field(default_factory=dict)
    refs: dict[tuple[str, str], ModelRef] = field(default_factory=dict)
    used_mib: dict[str, int] = field(default_factory=dict)
    short: dict[tuple[str, str], Shortage] = field(default_factory=dict)
    moves: int = 0

    def __post_init__(self) -> None:
        self.on = {name: {} for name in self.hosts}
        self.used_mib = dict.fromkeys(self.hosts, 0)
        self.of = {ask.key: set() for ask in self.ranked}
        self.refs = {ask.key: ModelRef(name=ask.name, digest=ask.digest) for ask in self.ranked}
        self.ranks = {ask.key: rank for rank, ask in enumerate(self.ranked)}

    # --- steps --------------------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """Leave what stands where it may stand: the least that each model needs first, then what is beyond it."""
        stood: dict[tuple[str, str], list[Host]] = {}
        for host in self.hosts.values():
            for key in host.held:
                stood.setdefault(key, []).append(host)
        for limit in (lambda ask: ask.minimum, _most):
            for ask in self.ranked:
                self._keep(ask, stood.get(ask.key, ()), limit(ask))

    def raise_to_minimum(self, ask: Ask) -> None:
        """Bring it to the least that it needs, and let what comes after it make room."""
        self.short.pop(ask.key, None)
        self._spread(ask, ask.minimum)
        while len(self.of[ask.key]) < ask.minimum:
            host = self._cleared(ask)
            if host is None:
                free = [host for host in self.hosts.values() if ask.key not in self.on[host.name]]
                self.short[ask.key] = obstacle(ask, self.hosts.values()) or (
                    Shortage.NO_ROOM if any(_able(ask, host) for host in free) else Shortage.TOO_FEW
                )
                return
            self._put(ask, host)

    def fill(self, ask: Ask) -> None:
        """Bring it to as many as it may have, into what room there is."""
        self._spread(ask, _most(ask))

    def result(self) -> Plan:
        """The plan as it stands."""
        holders = {key: tuple(sorted(names)) for key, names in self.of.items()}
        return Plan({name: self._want(host) for name, host in self.hosts.items()}, holders, dict(self.short))

    # --- parts --------------------------------------------------------------------------------------------------------

    def _keep(self, ask: Ask, stood: Sequence[Host], most: float) -> None:
        if len(stood) > most:
            stood = sorted(stood, key=lambda host: -preference(ask.name, host.name))
        for host in stood:
            if len(self.of[ask.key]) >= most:
                return
            if ask.key not in self.on[host.name] and _able(ask, host) and self._fits(ask, host):
                self._put(ask, host)

    def _spread(self, ask: Ask, most: float) -> None:
        """Onto workers with room for it: first those with the fewest models; of equals, as a hash prefers."""
        if len(self.of[ask.key]) >= most:
            return
        roomy = [host for host in self.hosts.values() if self._free(ask, host) and self._fits(ask, host)]
        if len(self.of[ask.key]) + len(roomy) > most:
            roomy.sort(key=lambda host: (len(self.on[host.name]), -preference(ask.name, host.name)))
        for host in roomy:
            if len(self.of[ask.key]) < most:
                self._put(ask, host)

    def _cleared(self, ask: Ask) -> Host | None:
        """A worker in which room was made for it: where the least that matters must leave."""
        ways = [(host, victims) for host in self.hosts.values() if (victims := self._victims(ask, host)) is not None]
        if not ways:
            return None
        host, victims = min(ways, key=lambda way: self._damage(ask, *way))
        for victim in victims:
            self._drop(victim, host)
        return host

    def _victims(self, ask: Ask, host: Host) -> list[Ask] | None:
        """What would have to leave, the least important first; None: it cannot have room here."""
        if not self._free(ask, host) or not _able(ask, host):
            return None
        victims: list[Ask] = []
        for held in sorted(self.on[host.name].values(), key=lambda held: self._worth(ask, held)):
            if self._fits(ask, host, victims):
                break
            if self._is_spare(held) or self.ranks[held.key] > self.ranks[ask.key]:
                victims.append(held)
        if not self._fits(ask, host, victims):
            return None
        for spared in reversed(victims):
            if self._fits(ask, host, others := [victim for victim in victims if victim is not spared]):
                victims = others
        return victims

    def _worth(self, ask: Ask, held: Ask) -> tuple[bool, bool, int]:
        """The order in which models leave: what is beyond need, then the model's own other revision, then the least."""
        return not self._is_spare(held), held.name != ask.name, -self.ranks[held.key]

    def _damage(self, ask: Ask, host: Host, victims: list[Ask]) -> tuple[int, int, int, float]:
        needed = sum(not self._is_spare(victim) for victim in victims)
        others = sum(victim.name != ask.name for victim in victims)
        return needed, others, len(victims), -preference(ask.name, host.name)

    def _is_spare(self, held: Ask) -> bool:
        return len(self.of[held.key]) > held.minimum

    def _free(self, ask: Ask, host: Host) -> bool:
        return ask.key not in self.on[host.name] and _able(ask, host)

    def _fits(self, ask: Ask, host: Host, without: Sequence[Ask] = ()) -> bool:
        if host.resident_cap and len(self.on[host.name]) - len(without) >= host.resident_cap:
            return False
        used_mib = self.used_mib[host.name] - sum(gone.memory_mib for gone in without)
        return not host.memory_mib or used_mib + ask.memory_mib <= host.memory_mib

    def _put(self, ask: Ask, host: Host) -> None:
        self.moves += 1
        self.on[host.name][ask.key] = ask
        self.of[ask.key].add(host.name)
        self.used_mib[host.name] += ask.memory_mib

    def _drop(self, ask: Ask, host: Host) -> None:
        self.moves += 1
        del self.on[host.name][ask.key]
        self.of[ask.key].remove(host.name)
        self.used_mib[host.name] -= ask.memory_mib

    def _want(self, host: Host) -> Want:
        held = self.on[host.name]
        hold = sorted(held, key=self.ranks.__getitem__)
        may = (ask.key for ask in self.ranked if ask.on_demand and ask.key not in held and _able(ask, host))
        return Want(
            hold=tuple(self.refs[key] for key in hold), may=tuple(self.refs[key] for key in islice(may, MAY_LIMIT))
        )


def obstacle(ask: Ask, hosts: Iterable[Host]) -> Shortage | None:
    """Why no worker at all could hold it, even if it were alone; None: one could."""
    narrowing: tuple[tuple[Shortage, Callable[[Host], bool]], ...] = (
        (Shortage.NO_WORKER, lambda host: True),
        (Shortage.NO_POOL, lambda host: ask.pools is None or host.pool in ask.pools),
        (Shortage.NO_ENGINE, lambda host: ask.engine in host.engines),
        (Shortage.TOO_LARGE, lambda host: not host.memory_mib or ask.memory_mib <= host.memory_mib),
    )
    left = list(hosts)
    for shortage, admits in narrowing:
        left = [host for host in left if admits(host)]
        if not left:
            return shortage
    return None


def _most(ask: Ask) -> float:
    return float("inf") if ask.maximum is None else max(ask.maximum, ask.minimum)


def _able(ask: Ask, host: Host) -> bool:
    """Whether it could be there if it were alone."""
    return (
        (ask.pools is None or host.pool in ask.pools)
        and ask.engine in host.engines
        and (not host.memory_mib or ask.memory_mib <= host.memory_mib)
    )
