"""`antiphon-operator`: watches, campaigns, leads, and ends in order."""

import argparse
import asyncio
import contextlib
import logging
import signal
import sys

import kopf
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from antiphon.telemetry.logs import configure_logging
from antiphon.telemetry.metrics import metrics_server
from antiphon_operator.config import OperatorConfig
from antiphon_operator.election import Election
from antiphon_operator.handlers import listen
from antiphon_operator.health import health_server
from antiphon_operator.kube import ApiError, Cluster, connect
from antiphon_operator.leading import Leader
from antiphon_operator.metrics import OperatorMetrics
from antiphon_operator.queueing import WorkQueue
from antiphon_operator.world import MODEL, POOL, World

OUT_OF_TOUCH_S = 10.0
"""Without a word from the API server for so long, the operator is not ready."""
WATCHES_END_S = 3.0

logger = logging.getLogger(__name__)


def main() -> None:
    """Run the operator until it is told to go."""
    parser = argparse.ArgumentParser(
        prog="antiphon-operator",
        description="Keeps what VoiceModel and WorkerPool ask for true: workers, and the registry by which calls go.",
        epilog=_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    try:
        config = OperatorConfig()
    except ValidationError as error:
        told = "; ".join(f"ANTIPHON_OPERATOR_{_name(each['loc'])}: {each['msg']}" for each in error.errors())
        parser.exit(2, f"antiphon-operator: {told}\n")
    configure_logging(as_json=config.log_json, level=config.log_level)
    # What kopf says of each event is for those who work on kopf; of each try in an outage, the election says it once.
    for name, level in (("kopf", logging.WARNING), ("kopf._cogs.clients", logging.CRITICAL)):
        logging.getLogger(name).setLevel(level)
    try:
        asyncio.run(serve(config))
    except ApiError as error:
        sys.exit(f"antiphon-operator: {error}")


async def serve(config: OperatorConfig) -> None:
    """Run the operator until SIGTERM or SIGINT.

    Raises:
        ApiError: there is no cluster to work on.
    """
    client = await connect()
    queue = WorkQueue()
    world = World(queue.touch)
    metrics = OperatorMetrics(CollectorRegistry())
    election = Election(
        Cluster(client), namespace=config.lease_namespace, name=config.lease_name, identity=config.identity
    )
    leader = Leader(config, world, queue, Cluster(client, metrics, lambda: election.holds), metrics)
    logger.info("starting", extra={"identity": election.identity, "namespaces": list(config.namespaces) or "all"})
    try:
        # Before it waits for anything: who waits lives, and is not to be started again and again.
        async with health_server(config.host, config.health_port, trouble=_Readiness(election, leader)) as health:
            with metrics_server(metrics.registry, config.host, config.metrics_port) as metrics_port:
                logger.info("serving", extra={"health_port": health, "metrics_port": metrics_port})
                await _wait_for_resources(config, Cluster(client))
                await _until_told(config, world, election, leader)
    finally:
        await client.close()  # type: ignore[no-untyped-call]


async def _until_told(config: OperatorConfig, world: World, election: Election, leader: Leader) -> None:
    stop, watches_end, watching = asyncio.Event(), asyncio.Event(), asyncio.Event()
    campaign = asyncio.create_task(election.campaign(leader.lead), name="campaign")
    watches = asyncio.create_task(
        kopf.operator(
            registry=listen(world),
            # Its own would be made of the user's name, and a pod's user has none.
            identity=election.identity,  # type: ignore[arg-type]
            standalone=True,
            clusterwide=not config.namespaces,
            namespaces=config.namespaces,
            stop_flag=watches_end,
            ready_flag=watching,
        ),
        name="watches",
    )
    stopped = asyncio.create_task(stop.wait(), name="stopped")
    begun = asyncio.create_task(watching.wait(), name="watching")
    await asyncio.wait({begun, watches}, return_when=asyncio.FIRST_COMPLETED)
    begun.cancel()
    # After kopf has set its own: leadership is given back before the watches end, not after.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await asyncio.wait({campaign, watches, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        campaign.cancel()
        stopped.cancel()
        await asyncio.wait({campaign, stopped})
        watches_end.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WATCHES_END_S):
                await asyncio.wait({watches})
    logger.info("ending")
    for task in (campaign, watches):
        if task.done() and not task.cancelled():
            task.result()


async def _wait_for_resources(config: OperatorConfig, cluster: Cluster) -> None:
    """Until the API server knows our kinds: a watch on one that it does not know would never begin."""
    told = ""
    while cause := await _unserved(config.namespaces or ("",), cluster):
        if cause != told:
            logger.warning("waiting for the API server to serve WorkerPool and VoiceModel", extra={"cause": cause})
        told = cause
        await asyncio.sleep(1)


async def _unserved(namespaces: tuple[str, ...], cluster: Cluster) -> str:
    """Why our kinds cannot be listed, in any of the namespaces; empty: they can."""
    cause = ""
    for namespace in namespaces:
        try:
            for kind in (POOL, MODEL):
                await cluster.list(kind, namespace)
            return ""
        except ApiError as error:
            cause = "install the chart antiphon-crds" if error.gone else error.message
    return cause


class _Readiness:
    """Why the operator is not ready; called from the thread that answers probes."""

    def __init__(self, election: Election, leader: Leader) -> None:
        self._election, self._leader = election, leader
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> str:
        contact_s = self._election.contact_s
        if contact_s is None or self._loop.time() - contact_s > OUT_OF_TOUCH_S:
            return "the API server does not answer"
        if self._election.leads and not self._leader.compared.is_set():
            return "comparing with the API server"
        return ""


def _settings() -> str:
    lines = ["It is told by its environment:"]
    for name, field in OperatorConfig.model_fields.items():
        lines.append(f"  ANTIPHON_OPERATOR_{name.upper()}  {' '.join((field.description or '').split())}")
    lines.append("The cluster is the one that KUBECONFIG names, or the one that it runs in.")
    return "\n".join(lines)


def _name(location: tuple[int | str, ...]) -> str:
    return "__".join(str(part) for part in location).upper()
