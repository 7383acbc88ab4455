"""Who leads: a campaign over a coordination Lease.

The leader renews once a second and stops leading when it could not for `DEADLINE_S`; a standby takes over when it has
seen the same record for longer than the Lease says. All times are taken on the process's own monotonic clock, so no
two clocks are compared. The Lease counts how often it changed hands: that number begins the registry's epoch.
"""

import asyncio
import contextlib
import datetime
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from antiphon_operator.kube import ApiError, Cluster
from antiphon_operator.world import Body

LEASE_S = 4
"""A leader that was not heard of for so long is gone."""
DEADLINE_S = 3.0
"""A leader that could not renew for so long leads no more; what it has under way ends before the Lease does."""
RENEW_S = 1.0
RETRY_S = 0.25
YIELD_S = 5.0
"""Who gave the Lease back of its own accord lets others lead for so long."""
REQUEST_S = 2.0
"""An API server that is slow costs nobody the lead; one that does not answer costs it the longest that may be."""
RELEASE_S = 0.5

logger = logging.getLogger(__name__)


class Election:
    """One candidate.

    Args:
        cluster: Where the Lease is; a client's slots of its own, so that no other request delays it.
        namespace: Of the Lease.
        name: Of the Lease.
        identity: What people read in the Lease; something is added that tells processes apart.
    """

    def __init__(self, cluster: Cluster, *, namespace: str, name: str, identity: str) -> None:
        self._cluster = cluster
        self._namespace, self._name = namespace, name
        self.identity = f"{identity}_{uuid.uuid4().hex[:8]}"
        self.leads = False
        self.contact_s: float | None = None
        """When the API server last answered, on the loop's clock."""
        self._lease: Body | None = None
        self._seen: tuple[Any, ...] = ()
        self._seen_s = 0.0
        self._renewed_s = 0.0
        self._trouble = ""

    async def campaign(self, lead: Callable[[int], Awaitable[None]]) -> None:
        """Lead whenever elected, until cancelled; the Lease is given back then, and when `lead` ends by itself.

        Args:
            lead: Called with the number of times that the Lease changed hands; cancelled when it is lost.

        Raises:
            Exception: what `lead` raises.
        """
        try:
            while True:
                term = await self._win()
                logger.info("leading", extra={"identity": self.identity, "term": term})
                if await self._while_held(lead(term)):
                    await self._release()
                    await asyncio.sleep(YIELD_S)
                else:
                    logger.warning("leading no more: the lease was lost", extra={"identity": self.identity})
        finally:
            if self.leads:
                await self._release()

    async def _release(self) -> None:
        self.leads = False
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(RELEASE_S):
                await self._write("", 1)

    async def _win(self) -> int:
        while True:
            try:
                async with asyncio.timeout(REQUEST_S):
                    if await self._acquire():
                        self.leads = True
                        self._say("")
                        return self._transitions
                self._say("")
            except (ApiError, TimeoutError) as error:
                self._say(str(error) or "The API server does not answer in time.")
            await asyncio.sleep(RETRY_S)

    async def _while_held(self, leading: Awaitable[None]) -> bool:
        """Whether it ended by itself, and not because the Lease was lost."""
        work = asyncio.ensure_future(leading)
        hold = asyncio.create_task(self._hold(), name="election-hold")
        try:
            await asyncio.wait({work, hold}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, hold):
                task.cancel()
            await asyncio.wait({work, hold})
        if not work.cancelled():
            work.result()
            return True
        self.leads = False
        return False

    async def _hold(self) -> None:
        """Renews; returns when the Lease is another's, or could not be renewed in time."""
        while True:
            await asyncio.sleep(RENEW_S)
            while not await self._renew():
                self._say("The Lease cannot be renewed.")
                if not self.leads or _now() >= self._renewed_s + DEADLINE_S:
                    return
                await asyncio.sleep(RETRY_S)
            self._say("")

    async def _renew(self) -> bool:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._write(self.identity, LEASE_S)
                return True
        except ApiError as error:
            if error.conflict or error.gone:
                return await self._look_again()
            return False
        except TimeoutError:
            return False

    async def _look_again(self) -> bool:
        """Somebody changed the Lease: whether it is still ours."""
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(self._patience_s):
                held = await self._acquire()
                self.leads = held
                return held
        return False

    async def _acquire(self) -> bool:
        lease = await self._cluster.get("Lease", self._namespace, self._name)
        self.contact_s = _now()
        self._lease = lease
        if lease is None:
            await self._write(self.identity, LEASE_S)
            return True
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        record = (holder, spec.get("renewTime"), lease["metadata"].get("resourceVersion"))
        if record != self._seen:
            self._seen, self._seen_s = record, _now()
        if holder not in ("", self.identity) and _now() < self._seen_s + (spec.get("leaseDurationSeconds") or LEASE_S):
            return False
        await self._write(self.identity, LEASE_S)
        return True

    async def _write(self, holder: str, duration_s: int) -> None:
        began_s, now = _now(), datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        now = now.replace("+00:00", "Z")
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        before: dict[str, Any] = {}
        if self._lease is not None:
            metadata, before = dict(self._lease["metadata"]), self._lease.get("spec") or {}
        kept = before.get("holderIdentity") == holder
        taken = bool(holder) and not kept and self._lease is not None
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": duration_s,
            "acquireTime": before.get("acquireTime", now) if kept else now,
            "renewTime": now,
            "leaseTransitions": self._transitions + taken,
        }
        write = self._cluster.create if self._lease is None else self._cluster.update
        self._lease = await write("Lease", {"metadata": metadata, "spec": spec})
        self._renewed_s = self.contact_s = began_s

    def _say(self, trouble: str) -> None:
        """Once when it begins, and once when it is over."""
        if bool(trouble) != bool(self._trouble):
            message = "the API server is out of reach" if trouble else "the API server is in reach again"
            logger.warning(message, extra={"cause": trouble or self._trouble})
        self._trouble = trouble

    @property
    def holds(self) -> bool:
        """Whether nobody else can lead yet: for as long as the Lease says, whatever has become of this process."""
        return self.leads and _now() < self._renewed_s + LEASE_S

    @property
    def _patience_s(self) -> float:
        """How long the leader may wait for an answer about its Lease: never beyond its deadline."""
        return max(0.05, min(REQUEST_S, self._renewed_s + DEADLINE_S - _now()))

    @property
    def _transitions(self) -> int:
        return int(((self._lease or {}).get("spec") or {}).get("leaseTransitions") or 0)


def _now() -> float:
    return asyncio.get_running_loop().time()
