"""A registry and a network in virtual time: late, lost and reordered messages, and a Redis that comes back empty.

The scripts are written here a second time; the component tests hold the real ones against a real server.
"""

import asyncio
import contextlib
import random
import selectors
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ConnectionError, TimeoutError

from antiphon.registry import lease, sessions, writer
from antiphon.registry.client import TIMEOUT_S

Fields = dict[bytes, bytes]


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while everybody waits."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._virtual = loop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everybody waits, and nothing will ever happen"
        self._virtual.advance(max(0.0, timeout))
        return super().select(0)


class SimulatedRedis:
    """The server: what it holds, and the few commands that are used."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.up = True
        self.slow = False
        self.cut: set[str] = set()
        self.frozen: set[str] = set()
        """Parties whose processes are stopped: what they said arrives, what they are told waits."""
        self.thawed = asyncio.Event()
        self.saved: list[tuple[str, str, int]] = []  # accepted saves since it was empty: session, owner, epoch
        self.claimed: set[tuple[int, str]] = set()
        """Epoch and writer of every claim that was accepted, whether or not the writer was told; never emptied."""
        self.appended = asyncio.Event()
        self.empty()

    def empty(self) -> None:
        self.hashes: dict[str, Fields] = {}
        self.strings: dict[str, tuple[bytes, float]] = {}
        self.streams: dict[str, list[tuple[int, Fields]]] = {}
        self.saved.clear()

    def thaw(self) -> None:
        """Every process runs again."""
        self.frozen.clear()
        self.thawed.set()
        self.thawed = asyncio.Event()

    def connect(self, name: str) -> Callable[..., "SimulatedClient"]:
        """Opens clients of one party, whose network can be cut by its name."""

        def opened(url: str, *, namespace: str = "", block_s: float = 0.0) -> SimulatedClient:
            return SimulatedClient(self, name, TIMEOUT_S + block_s)

        return opened

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    # --- commands ---

    def get(self, key: str) -> bytes | None:
        value, until = self.strings.get(key, (b"", 0.0))
        return value if until > self.now() else None

    def pttl(self, key: str) -> int:
        return round((self.strings[key][1] - self.now()) * 1000) if self.get(key) is not None else -2

    def hgetall(self, key: str) -> Fields:
        return dict(self.hashes.get(key, {}))

    def hmget(self, key: str, names: list[str]) -> list[bytes | None]:
        return [self.hashes.get(key, {}).get(name.encode()) for name in names]

    def xrevrange(self, key: str, count: int = 1) -> list[tuple[bytes, Fields]]:
        return [(f"0-{number}".encode(), fields) for number, fields in self.streams.get(key, [])[-count:]]

    def pexpire(self, key: str, ttl_ms: int) -> None:
        """Nothing expires within a simulation's time."""

    def xadd(self, key: str, **fields: str) -> None:
        stream = self.streams.setdefault(key, [])
        encoded = {name.encode(): value.encode() for name, value in fields.items()}
        stream.append((stream[-1][0] + 1 if stream else 1, encoded))
        self.appended.set()
        self.appended = asyncio.Event()

    def after(self, positions: dict[str, str], count: int) -> list[Any]:
        found = []
        for key, position in positions.items():
            after = int(position.partition("-")[2])
            entries = [(f"0-{n}".encode(), fields) for n, fields in self.streams.get(key, []) if n > after][:count]
            if entries:
                found.append((key.encode(), entries))
        return found

    def eval(self, script: str, count: int, *told: Any) -> Any:
        keys, arguments = told[:count], [str(argument) for argument in told[count:]]
        return _SCRIPTS[script](self, list(keys), arguments)

    def _hget(self, key: str, name: str, default: str = "") -> str:
        return self.hashes.get(key, {}).get(name.encode(), default.encode()).decode()

    def _hset(self, key: str, **fields: str) -> None:
        self.hashes.setdefault(key, {}).update({name.encode(): value.encode() for name, value in fields.items()})

    # --- scripts ---

    def renew(self, keys: list[str], arguments: list[str]) -> int:
        worker, incarnation, said, ttl_ms, _ = arguments
        held = self.get(keys[0])
        if held is not None and f'"incarnation":"{incarnation}"'.encode() not in held:
            return 0
        self.strings[keys[0]] = (said.encode(), self.now() + int(ttl_ms) / 1000)
        self.xadd(keys[1], worker=worker, lease=said)
        return 1

    def release(self, keys: list[str], arguments: list[str]) -> int:
        worker, incarnation, _ = arguments
        held = self.get(keys[0])
        if held is None or f'"incarnation":"{incarnation}"'.encode() not in held:
            return 0
        del self.strings[keys[0]]
        self.xadd(keys[1], worker=worker, lease="")
        return 1

    def claim_registry(self, keys: list[str], arguments: list[str]) -> bytes:
        nonce, floor, form, _, sequence, seen, *records = arguments
        meta, epoch = keys[0], int(self._hget(keys[0], "epoch", "0"))
        if epoch != int(seen):
            return b"changed"
        own = self._hget(meta, "nonce")[:32] == nonce[:32]
        epoch = max(epoch + (not own), int(floor) + 1)
        for key in keys[2:]:
            self.hashes.pop(key, None)
        self._hset(meta, nonce=nonce, epoch=str(epoch), format=form, sequence=sequence)
        for kind, name, value in _threes(records):
            self._hset(_hash_of(kind, keys), **{name: value})
        self.xadd(keys[1], nonce=nonce, kind="reset", name="", value="")
        self.claimed.add((epoch, nonce[:32]))
        return str(epoch).encode()

    def write_registry(self, keys: list[str], arguments: list[str]) -> bytes:
        nonce, epoch, _, _, sequence, _, *records = arguments
        if int(self._hget(keys[0], "epoch", "0")) > int(epoch):
            return b"deposed"
        if self._hget(keys[0], "nonce") != nonce:
            return b"lost"
        if int(self._hget(keys[0], "sequence")) >= int(sequence):
            return b"late"
        self._hset(keys[0], sequence=sequence)
        for kind, name, value in _threes(records):
            if value:
                self._hset(_hash_of(kind, keys), **{name: value})
            else:
                self.hashes.get(_hash_of(kind, keys), {}).pop(name.encode(), None)
            self.xadd(keys[1], nonce=nonce, kind=kind, name=name, value=value)
        return b"written"

    def claim_session(self, keys: list[str], arguments: list[str]) -> Any:
        session, owner, _, _ = arguments
        record = self._hget(keys[0], "record")
        if not record:
            return None
        before = self._hget(keys[0], "epoch", "0")
        released, epoch = int(self._hget(keys[0], "released") == before), str(int(before) + 1)
        self._hset(keys[0], owner=owner, epoch=epoch)
        self.xadd(keys[1], session=session, owner=owner, epoch=epoch)
        return [epoch.encode(), record.encode(), released]

    def save_session(self, keys: list[str], arguments: list[str]) -> int:
        owner, epoch, record, _, released = arguments
        stands, held_by = int(self._hget(keys[0], "epoch", "0")), self._hget(keys[0], "owner")
        if stands > int(epoch) or (stands == int(epoch) and held_by != owner):
            return 0
        self._hset(keys[0], owner=owner, epoch=epoch, record=record, released=epoch if released == "1" else "")
        self.saved.append((keys[0], owner, int(epoch)))
        return 1


def _threes(records: list[str]) -> list[tuple[str, str, str]]:
    return list(zip(records[::3], records[1::3], records[2::3], strict=True))


def _hash_of(kind: str, keys: list[str]) -> str:
    return next(key for key in keys[2:] if key.endswith(f":{kind}"))


_SCRIPTS: dict[str, Callable[[SimulatedRedis, list[str], list[str]], Any]] = {
    lease._RENEW: SimulatedRedis.renew,
    lease._RELEASE: SimulatedRedis.release,
    writer._CLAIM: SimulatedRedis.claim_registry,
    writer._WRITE: SimulatedRedis.write_registry,
    sessions._CLAIM: SimulatedRedis.claim_session,
    sessions._SAVE: SimulatedRedis.save_session,
}


@dataclass(eq=False)
class SimulatedClient:
    """What a party has of redis-py's client."""

    server: SimulatedRedis
    name: str
    timeout_s: float

    async def eval(self, *told: Any) -> Any:
        return await self._call(lambda: self.server.eval(*told))

    async def hgetall(self, key: str) -> Any:
        return await self._call(lambda: self.server.hgetall(key))

    async def hmget(self, key: str, names: list[str]) -> Any:
        return await self._call(lambda: self.server.hmget(key, names))

    async def xrevrange(self, key: str, count: int) -> Any:
        return await self._call(lambda: self.server.xrevrange(key, count))

    async def xadd(self, key: str, fields: dict[str, Any], **_: Any) -> None:
        told = {name: str(value) for name, value in fields.items()}
        await self._call(lambda: self.server.xadd(key, **told))

    async def xread(self, positions: dict[str, str], count: int, block: int) -> Any:
        async def blocked() -> list[Any]:
            with contextlib.suppress(asyncio.TimeoutError):
                async with asyncio.timeout(block / 1000):
                    while not (found := self.server.after(positions, count)):
                        await self.server.appended.wait()
                    return found
            return []

        await self._call(lambda: None)
        found = await blocked()
        await self._running()
        self._reachable()
        await asyncio.sleep(self._delay_s())
        return found

    def pipeline(self, transaction: bool) -> "SimulatedPipeline":
        return SimulatedPipeline(self)

    async def aclose(self) -> None:
        return

    async def _call(self, run: Callable[[], Any]) -> Any:
        try:
            await self._running()
            return await self._exchange(run)
        finally:
            await self._running()

    async def _running(self) -> None:
        while self.name in self.server.frozen:
            await self.server.thawed.wait()

    async def _exchange(self, run: Callable[[], Any]) -> Any:
        if not self.server.up:
            raise ConnectionError
        delay_s = self._delay_s()
        if self.name in self.server.cut or delay_s > TIMEOUT_S:
            if self.name not in self.server.cut:  # it arrives, and nobody waits for the answer any more
                asyncio.get_running_loop().call_later(delay_s, lambda: self.server.up and run())
            await asyncio.sleep(TIMEOUT_S)
            raise TimeoutError
        await asyncio.sleep(delay_s)
        self._reachable()
        answer = run()
        await asyncio.sleep(min(self._delay_s(), TIMEOUT_S / 2))
        self._reachable()
        return answer

    def _reachable(self) -> None:
        if not self.server.up or self.name in self.server.cut:
            raise ConnectionError

    def _delay_s(self) -> float:
        return self.server.rng.uniform(0.0, 0.9) if self.server.slow else self.server.rng.uniform(0.0, 0.02)


class SimulatedPipeline:
    """Commands that are answered together."""

    def __init__(self, client: SimulatedClient) -> None:
        self._client = client
        self._commands: list[Callable[[], Any]] = []

    async def __aenter__(self) -> "SimulatedPipeline":
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def __getattr__(self, name: str) -> Callable[..., None]:
        def queue(*told: Any, **options: Any) -> None:
            self._commands.append(lambda: getattr(self._client.server, name)(*told, **options))

        return queue

    async def execute(self) -> list[Any]:
        return await self._client._call(lambda: [command() for command in self._commands])
