"""Where the registry is: one server, or whichever server is the master now, as Sentinels or a cluster's nodes say.

All keys of a namespace lie in one slot, so that a cluster, too, is one server at a time: the one that has the slot.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qs, quote, urlencode

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError, RedisError

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.registry.keys import Keys

SENTINEL_PORT = 26_379
REDIS_PORT = 6_379

_URL = re.compile(
    r"(?P<tls>redis|rediss)\+(?P<kind>sentinel|cluster)://(?:(?P<user>[^@/]*)@)?(?P<hosts>[^/?#@]+)"
    r"(?:/(?P<path>[^?#]*))?(?:\?(?P<query>[^#]*))?"
)
_OWN_OPTIONS = ("sentinel_username", "sentinel_password")

Host = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Seeds:
    """Those who know who is the master."""

    kind: Literal["sentinel", "cluster"]
    hosts: tuple[Host, ...]
    service: str = ""
    """Sentinel's name of the master."""
    user: str = ""
    """With the password behind a colon, as a URL has them; empty: none is asked for."""
    tls: bool = False
    query: str = ""
    """Further options of the connections, such as `ssl_ca_certs`."""

    async def master(self, namespace: str, timeout_s: float) -> Host:
        """Where the namespace's keys can be written now: the first answer of any seed, asked one after the other.

        Raises `ConnectionError` when none knows.
        """
        for host in self.hosts:
            client = redis.Redis.from_url(self._url(host), retry=Retry(NoBackoff(), 0), protocol=2)
            try:
                async with asyncio.timeout(timeout_s):
                    found = await self._ask(client, host, namespace)
                if found is not None:
                    return found
            except (RedisError, OSError):
                continue  # the next one may know
            finally:
                await client.aclose()
        raise ConnectionError(f"None of the {len(self.hosts)} {self.kind} hosts knows a master.")

    async def _ask(self, client: Any, host: Host, namespace: str) -> Host | None:
        if self.kind == "sentinel":
            told = await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
            return (_text(told[0]), int(told[1])) if told else None
        slot = key_slot(Keys(namespace).meta.encode())
        for first, last, (name, port, *_), *_ in await client.execute_command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                # A node that does not know its own name: as we reached it.
                return _text(name or host[0].strip("[]")), int(port)
        return None

    def _url(self, host: Host) -> str:
        scheme = "rediss" if self.tls else "redis"
        user = f"{self.user}@" if self.user else ""
        return f"{scheme}://{user}{host[0]}:{host[1]}/" + (f"?{self.query}" if self.query else "")


@dataclass(frozen=True, slots=True)
class Address:
    """A registry's URL, taken apart."""

    url: str
    """As redis-py takes it; with seeds, its host is replaced by the master's at each connection."""
    seeds: Seeds | None = None


def parse(url: str) -> Address:
    """The address in a URL of any of our schemes.

    `redis://`, `rediss://` and `unix://` are redis-py's own. `redis+sentinel://host:port,host:port/service/db` asks
    Sentinels (their user and password: `?sentinel_username=&sentinel_password=`), `redis+cluster://host:port,...` the
    nodes of a cluster; with `rediss+` both speak TLS.

    Raises:
        AntiphonError: `INVALID_REQUEST` for a URL of these that says too little or too much.
    """
    if "+" not in url.partition("://")[0]:
        return Address(url)
    found = _URL.fullmatch(url)
    if found is None:
        raise _wrong("it is not redis+sentinel://host:port,.../service/db nor redis+cluster://host:port,...")
    kind, tls, user = found["kind"], found["tls"] == "rediss", found["user"] or ""
    port = SENTINEL_PORT if kind == "sentinel" else REDIS_PORT
    hosts = tuple(_host(host, port) for host in found["hosts"].split(","))
    service, _, database = (found["path"] or "").partition("/")
    if kind == "cluster" and (service or database):
        raise _wrong("a cluster has no service and one database only")
    if kind == "sentinel" and not service:
        raise _wrong("it names no service: redis+sentinel://host:port/SERVICE")
    if database and not database.isdigit():
        raise _wrong("its database is not a number")
    options = {name: values[-1] for name, values in parse_qs(found["query"] or "").items()}
    sentinel_user = ":".join(quote(options.pop(name, ""), safe="") for name in _OWN_OPTIONS)
    query = urlencode(options)
    asked_as = user if kind == "cluster" else sentinel_user.strip(":") and sentinel_user
    seeds = Seeds("cluster" if kind == "cluster" else "sentinel", hosts, service, asked_as, tls, query)
    at = f"{user}@" if user else ""
    told = f"{found['tls']}://{at}{hosts[0][0]}:{hosts[0][1]}/{database or 0}" + (f"?{query}" if query else "")
    return Address(told, seeds)


def _host(told: str, port: int) -> Host:
    name, colon, number = told.rpartition(":")
    if not colon:
        return told, port
    if not name or not number.isdecimal() or int(number) > 65_535:
        raise _wrong(f"{told!r} is not host:port")
    return name, int(number)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _wrong(why: str) -> AntiphonError:
    return AntiphonError(Reason.INVALID_REQUEST, f"The registry's URL is not one that works: {why}.")
