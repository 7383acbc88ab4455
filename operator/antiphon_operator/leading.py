"""What the leader does: compares everything, then works on what is touched, and compares again every 30 s."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from antiphon.contracts.errors import AntiphonError
from antiphon_operator.config import OperatorConfig
from antiphon_operator.context import Context
from antiphon_operator.kube import ApiError, Cluster
from antiphon_operator.metrics import OperatorMetrics
from antiphon_operator.models import reconcile_model, reconcile_registry
from antiphon_operator.pools import reconcile_pool
from antiphon_operator.queueing import Key, WorkQueue
from antiphon_operator.status import StatusWriter
from antiphon_operator.sync import Registries
from antiphon_operator.world import KINDS, World

COMPARE_S = 30.0
RETRY_S = 0.5
AT_ONCE = 16
"""Objects that are worked on together."""

logger = logging.getLogger(__name__)

Reconcile = Callable[[Context, str, str], Awaitable[None]]
RECONCILE: Mapping[str, Reconcile] = {
    "Registry": reconcile_registry,
    "WorkerPool": reconcile_pool,
    "VoiceModel": reconcile_model,
}


class Leader:
    """Keeps everything true while it leads.

    Args:
        config: The operator's.
        world: What the watches tell.
        queue: What the world touches.
        cluster: The API server.
        metrics: Told of every look at an object.
    """

    def __init__(
        self, config: OperatorConfig, world: World, queue: WorkQueue, cluster: Cluster, metrics: OperatorMetrics
    ) -> None:
        self._config = config
        self._world = world
        self._queue = queue
        self._cluster = cluster
        self._metrics = metrics
        self.compared = asyncio.Event()
        """Set once everything was compared in this term."""
        self._causes: dict[str, str] = {}

    async def lead(self, term: int) -> None:
        """Lead until cancelled.

        Args:
            term: How often the leadership changed hands: the registry's epoch is higher.

        Returns when another writer has claimed a registry: whoever leads is somebody else.
        """
        self.compared.clear()
        self._metrics.leader.set(1)
        try:
            await self._compare()
            self.compared.set()
            await self._lead(term)
        except* AntiphonError as group:
            logger.error(
                "leading no more: another writer has claimed a registry", extra={"cause": str(group.exceptions[0])}
            )
        finally:
            self._metrics.leader.set(0)
            self.compared.clear()

    async def _lead(self, term: int) -> None:
        clock = asyncio.get_running_loop().time
        async with Registries(self._config.redis_url.get_secret_value(), term, self._queue) as registries:
            await self._work(
                Context(
                    config=self._config,
                    world=self._world,
                    cluster=self._cluster,
                    queue=self._queue,
                    registries=registries,
                    statuses=StatusWriter(self._cluster, self._world, self._queue, clock),
                    clock=clock,
                )
            )

    async def _work(self, context: Context) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._compare_again(), name="compare")
            for number in range(AT_ONCE):
                tasks.create_task(self._drain(context), name=f"reconcile-{number}")

    # --- the whole ----------------------------------------------------------------------------------------------------

    async def _compare_again(self) -> None:
        while True:
            await asyncio.sleep(COMPARE_S)
            await self._compare()

    async def _compare(self) -> None:
        """Read all that there is, and have every object looked at."""
        while True:
            if await self._compared():
                break
            await asyncio.sleep(RETRY_S)
        for key in self._world.keys():
            self._queue.add(key)

    async def _compared(self) -> bool:
        """Whether it was read. A namespace that may not be read (any more) holds up none of the others."""
        places = self._config.namespaces or ("",)
        with self._metrics.comparisons.time():
            told = await asyncio.gather(*map(self._read, places))
        troubles = {place: error for place, error in zip(places, told, strict=True) if error is not None}
        causes = {place: error.message for place, error in troubles.items()}
        if causes != self._causes:
            for place, cause in causes.items():
                logger.warning("cannot compare with the API server", extra={"namespace": place, "cause": cause})
        self._causes = causes
        return len(troubles) < len(places) and all(error.status == 403 for error in troubles.values())

    async def _read(self, namespace: str) -> ApiError | None:
        """Read a namespace (empty: all) as a whole. Returns why it cannot be read: what is known of it stands then."""
        answers = await asyncio.gather(*(self._cluster.list(kind, namespace) for kind in KINDS), return_exceptions=True)
        lists = []
        for answer in answers:
            if isinstance(answer, ApiError):
                return answer
            if isinstance(answer, BaseException):
                raise answer
            lists.append(answer)
        for kind, (bodies, version) in zip(KINDS, lists, strict=True):
            self._world.replace(kind, bodies, version, namespace)
        self._world.mark_read(namespace)
        return None

    # --- one object ---------------------------------------------------------------------------------------------------

    async def _drain(self, context: Context) -> None:
        while True:
            key = await self._queue.take()
            failed = True
            try:
                failed = not await self._reconcile(context, key)
            finally:
                self._queue.finish(key, failed=failed)
                self._metrics.queued.set(len(self._queue))

    async def _reconcile(self, context: Context, key: Key) -> bool:
        """Whether it went well; a bad object, or a bug at one, stops no other."""
        fields = {"kind": key.kind, "namespace": key.namespace, "object": key.name}
        result = "failed"
        try:
            with self._metrics.reconcile_time.labels(key.kind).time():
                if key.kind in RECONCILE:
                    await RECONCILE[key.kind](context, key.namespace, key.name)
            result = "done"
        except ApiError as error:
            logger.warning("could not be reconciled", extra={**fields, "status": error.status, "cause": error.message})
        except Exception:
            logger.exception("could not be reconciled", extra=fields)
        finally:
            self._metrics.reconciles.labels(key.kind, result).inc()
        return result == "done"
