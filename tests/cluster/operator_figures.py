"""What the operator's work costs and how long it takes, by the audit log and a watch: `make bench-operator`.

Each figure stands beside its aim and what it must reach at least. A control plane of its own, kwok's nodes, the
operator as its real process; where workers are needed they are processes too. Prints a table, and writes it with the
raw numbers to out/bench/operator.md and operator.json.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import redis.asyncio as redis
from cluster_binaries import build
from cluster_operator import AGENT, leader, operator
from cluster_processes import Daemon, wait_for
from cluster_registry import Valkey, registry, secrets
from control_plane import ControlPlane
from kubernetes.aio import client as api
from kubernetes.aio import config as kubernetes_config
from process_node import ProcessNode

from antiphon.registry.keys import Keys

ROOT = Path(__file__).parents[2]
NAMESPACE = "figures"
CHILDREN = ("deployments", "services", "serviceaccounts", "poddisruptionbudgets", "networkpolicies")
GROUPS = {
    **dict.fromkeys(("workerpools", "voicemodels"), "antiphon.dev/v1alpha1"),
    **dict.fromkeys(("pods", "services", "serviceaccounts"), "v1"),
    "deployments": "apps/v1",
    "poddisruptionbudgets": "policy/v1",
    "networkpolicies": "networking.k8s.io/v1",
}
EVENT = re.compile(rb'\{"type":"(\w+)","object":\{.*?"metadata":\{.*?"name":"([^"]+)"')
FOREVER = aiohttp.ClientTimeout(total=None)
POOLS, MODELS, GONE_PODS = 100, 1000, 40
IDLE_S = 60.0


@dataclass(frozen=True)
class Figure:
    """One measurement, in `unit`, with what is aimed at and what it must reach at least."""

    name: str
    value: float
    unit: str
    aim: float
    least: float
    note: str = ""
    load: float = 0.0
    """The machine's load average over a minute, the higher of before and after."""
    others: float = 0.0
    """How many cores other processes took meanwhile."""

    @property
    def reached(self) -> str:
        """`aim`, `at least`, or `missed`."""
        return "aim" if self.value <= self.aim else "at least" if self.value <= self.least else "missed"

    def row(self) -> str:
        """Of the table."""
        value = f"{self.value:.3g} {self.unit}" if self.value < 1000 else f"{self.value:.0f} {self.unit}"
        goal = f"{self.aim:g} / {self.least:g} | {self.reached}"
        return f"| {self.name} | {value.strip()} | {goal} | {self.others:.1f} | {self.load:.1f} | {self.note} |"


@dataclass
class Stage:
    """The control plane, the registry and the operators of one run."""

    plane: ControlPlane
    folder: Path
    valkey: Valkey
    stack: ExitStack
    operators: list[Daemon] = field(default_factory=list)

    def start_operator(self) -> Daemon:
        """One more operator; running once it serves."""
        name = f"operator-{len(self.operators)}"
        made = operator(self.plane, self.folder, name, self.valkey.url)
        made.start()
        self.operators.append(made)
        self.stack.callback(made.stop, signal.SIGKILL)
        return made

    def leader(self) -> Daemon | None:
        """The operator that leads, if one of those that live does."""
        holder = leader(self.plane)
        return next((each for each in self.operators if each.alive() and each.name == holder), None)

    def wait_for_leader(self) -> Daemon:
        """Once there is one."""
        wait_for(lambda: self.leader() is not None, "a leader", 30, 0.1)
        found = self.leader()
        assert found is not None
        return found

    def writes(self, since: int) -> int:
        """What the operators have written since a mark of the audit log, their own Lease apart."""
        entries = self.plane.audit(since, agent=AGENT, writes=True)
        return sum(entry.resource not in ("leases", "events") for entry in entries)


class Machine:
    """What runs on it beside this run."""

    def __init__(self) -> None:
        self._began_s, self._all_s, self._own_s = time.monotonic(), self._busy_s(), self._of_this_run_s()
        self._load = os.getloadavg()[0]

    @property
    def load(self) -> float:
        """The load average over a minute, the higher of then and now."""
        return max(self._load, os.getloadavg()[0])

    @property
    def others(self) -> float:
        """How many cores other processes have taken since."""
        others_s = (self._busy_s() - self._all_s) - (self._of_this_run_s() - self._own_s)
        return max(0.0, others_s / (time.monotonic() - self._began_s))

    @staticmethod
    def _busy_s() -> float:
        told = psutil.cpu_times()
        return float(sum(told) - told.idle - getattr(told, "iowait", 0.0) - getattr(told, "guest", 0.0))

    @staticmethod
    def _of_this_run_s() -> float:
        own = psutil.Process()
        # What children of ours that have ended took is in the parent's time.
        return sum(sum(each.cpu_times()[:4]) for each in (own, *own.children()))


def pool(number: int, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "antiphon.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": f"pool-{number}", "namespace": NAMESPACE},
        "spec": {"replicas": 1, "image": "antiphon-worker-mock:1", **spec},
    }


def model(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "antiphon.dev/v1alpha1",
        "kind": "VoiceModel",
        "metadata": {"name": f"voice-{number}", "namespace": NAMESPACE},
        "spec": {"task": "tts", "engine": "mock", "residency": {"policy": "OnDemand"}},
    }


class Objects:
    """What the API server has, as a client sees it that leaves the machine to what is measured."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    def _path(self, plural: str, name: str = "") -> str:
        group = GROUPS[plural]
        root = "apis" if "/" in group else "api"
        return f"{self._url}/{root}/{group}/namespaces/{NAMESPACE}/{plural}{name and f'/{name}'}"

    async def create(self, plural: str, body: dict[str, Any]) -> None:
        async with self._session.post(self._path(plural), json=body) as answer:
            answer.raise_for_status()

    async def delete(self, plural: str, name: str) -> None:
        async with self._session.delete(self._path(plural, name)) as answer:
            answer.raise_for_status()

    async def exists(self, plural: str, name: str) -> bool:
        async with self._session.get(self._path(plural, name)) as answer:
            return answer.ok

    async def create_all(self, plural: str, bodies: list[dict[str, Any]]) -> None:
        slots = asyncio.Semaphore(16)

        async def one(body: dict[str, Any]) -> None:
            async with slots:
                await self.create(plural, body)

        async with asyncio.TaskGroup() as tasks:
            for body in bodies:
                tasks.create_task(one(body))

    @asynccontextmanager
    async def follow(self, plural: str, told: Callable[[str, str, bytes], None]) -> AsyncIterator[None]:
        """Call `told` with type, name and line of every event of a kind until the block ends."""

        async def follow() -> None:
            # The API server ends a watch that falls behind; a new one begins with all that there is.
            while True:
                async with self._session.get(self._path(plural), params={"watch": "1"}, timeout=FOREVER) as answer:
                    answer.raise_for_status()
                    began.set()
                    async for line in answer.content:
                        if found := EVENT.match(line):
                            told(found[1].decode(), found[2].decode(), line)

        began = asyncio.Event()
        task = asyncio.create_task(follow())
        begun = asyncio.create_task(began.wait())
        try:
            await asyncio.wait({task, begun}, return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            begun.cancel()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @asynccontextmanager
    async def names(self, plural: str) -> AsyncIterator[set[str]]:
        """The names of a kind, kept true by a watch until the block ends."""
        names: set[str] = set()

        def told(change: str, name: str, _: bytes) -> None:
            names.discard(name) if change == "DELETED" else names.add(name)

        async with self.follow(plural, told):
            yield names


async def until(condition: Callable[[], bool], what: str, within_s: float) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within_s:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def hundred_pools(stage: Stage, objects: Objects) -> list[Figure]:
    """100 pools with all of their children."""
    wanted = {f"pool-{number}" for number in range(POOLS)}
    async with contextlib.AsyncExitStack() as watches:
        tables = [await watches.enter_async_context(objects.names(kind)) for kind in CHILDREN]
        began = time.monotonic()
        await objects.create_all("workerpools", [pool(number) for number in range(POOLS)])
        await until(lambda: all(wanted <= table for table in tables), "the children of 100 pools", 60)
        took_s = time.monotonic() - began
    await _settle(stage)
    return [Figure("100 pools with all children", took_s, "s", 2, 5)]


async def first_writes(stage: Stage, objects: Objects) -> list[Figure]:
    """What is written for a pool when it is first seen; without replicas, whose life would change its status."""
    mark = stage.plane.audit_mark()
    await objects.create_all("workerpools", [pool(number, replicas=0) for number in range(100, 120)])
    await asyncio.sleep(2)
    await _settle(stage)
    beyond = stage.writes(mark) / 20 - len(CHILDREN)
    return [Figure("writes for a new pool, beyond its children", beyond, "", 1, 2, f"{len(CHILDREN)} children")]


async def restart_and_idle(stage: Stage, objects: Objects) -> list[Figure]:
    """What an operator writes when it starts over objects that are as they should be, and when nothing happens."""
    for each in stage.operators:
        each.stop()
    mark = stage.plane.audit_mark()
    for each in stage.operators:
        each.start()
    stage.wait_for_leader()
    await asyncio.sleep(8)
    restart = stage.writes(mark)
    mark = stage.plane.audit_mark()
    await asyncio.sleep(IDLE_S)
    return [
        Figure("writes at a restart", restart, "", 0, 0),
        Figure("writes in an idle minute", stage.writes(mark) * 60 / IDLE_S, "", 0, 0),
    ]


async def thousand_models(stage: Stage, objects: Objects) -> list[Figure]:
    """1,000 VoiceModels, each with a status and in the registry's catalogue; the operator's memory then."""
    client = redis.from_url(stage.valkey.url)
    keys = Keys(NAMESPACE)
    said: set[str] = set()

    def told(change: str, name: str, line: bytes) -> None:
        if b'"conditions":[{' in line:
            said.add(name)

    async with objects.follow("voicemodels", told):
        began = time.monotonic()
        await objects.create_all("voicemodels", [model(number) for number in range(MODELS)])
        while len(said) < MODELS or int(await client.hlen(keys.models)) < MODELS:
            if time.monotonic() - began > 120:
                raise TimeoutError(f"1,000 VoiceModels: {len(said)} have a status after 120 s")
            await asyncio.sleep(0.1)
        took_s = time.monotonic() - began
    await client.aclose()
    memory_mib = psutil.Process(stage.wait_for_leader().pid).memory_info().rss / 2**20
    return [
        Figure("1,000 VoiceModels, each with status and registered", took_s, "s", 10, 20),
        Figure("the operator's memory with them", memory_mib, "MiB", 150, 250),
    ]


async def hand_over(stage: Stage, objects: Objects, how: signal.Signals, number: int) -> float:
    """Seconds from a signal to the leader until a pool that was made meanwhile has its Deployment."""
    ended = stage.wait_for_leader()
    async with objects.names("deployments") as deployments:
        await asyncio.sleep(0.5)
        began = time.monotonic()
        os.kill(ended.pid or 0, how)
        await objects.create("workerpools", pool(number))
        await until(lambda: f"pool-{number}" in deployments, "the next leader", 60)
        took_s = time.monotonic() - began
    await asyncio.to_thread(ended.stop)
    served = ended.log.read_text().count("serving")
    ended.start()
    await until(lambda: ended.log.read_text().count("serving") > served, "the operator to serve again", 60)
    await asyncio.sleep(1)
    return took_s


async def hand_overs(stage: Stage, objects: Objects) -> list[Figure]:
    """How long nobody acts when the leader ends."""
    killed = [await hand_over(stage, objects, signal.SIGKILL, 200 + run) for run in range(3)]
    told = [await hand_over(stage, objects, signal.SIGTERM, 210 + run) for run in range(3)]
    note = "worst of 3"
    return [
        Figure("leader killed (SIGKILL): the next one acts after", max(killed), "s", 5, 8, note),
        Figure("leader told to go (SIGTERM): the next one acts after", max(told), "s", 0.5, 1, note),
    ]


async def outage(stage: Stage, objects: Objects) -> list[Figure]:
    """How long after an outage of the API server of 20 s a new pool is acted upon."""
    await asyncio.to_thread(stage.plane.stop_api)
    await asyncio.sleep(20)
    await asyncio.to_thread(stage.plane.start_api)
    began = time.monotonic()
    await objects.create("workerpools", pool(300))
    while not await objects.exists("deployments", "pool-300"):
        if time.monotonic() - began > 60:
            raise TimeoutError("after the outage: not within 60 s")
        await asyncio.sleep(0.05)
    return [Figure("API server back after 20 s: acted upon", time.monotonic() - began, "s", 2, 4)]


async def gone_pods(stage: Stage, objects: Objects) -> list[Figure]:
    """From a Pod's being told to go, as a watch sees it, to its being out of routing."""
    client = redis.from_url(stage.valkey.url)
    keys = Keys(NAMESPACE)
    await objects.create("workerpools", pool(400, replicas=GONE_PODS))

    async def members() -> dict[str, Any]:
        found = await client.hgetall(keys.workers)
        return {name.decode(): json.loads(value) for name, value in found.items() if name.startswith(b"pool-400")}

    began = time.monotonic()
    while len(await members()) < GONE_PODS:
        if time.monotonic() - began > 60:
            raise TimeoutError(f"{len(await members())} of {GONE_PODS} members after 60 s")
        await asyncio.sleep(0.1)
    told_s: dict[str, float] = {}

    def told(change: str, name: str, line: bytes) -> None:
        if change == "DELETED" or b'"deletionTimestamp":' in line:
            told_s.setdefault(name, time.monotonic())

    late_ms: list[float] = []
    position = "$"
    async with objects.follow("pods", told):
        for name in list(await members()):
            deleting = asyncio.create_task(objects.delete("pods", name))
            while True:
                entries = await client.xread({keys.changes: position}, block=5000)
                assert entries, f"{name} is still routed to after 5 s"
                heard_s = time.monotonic()
                position, changes = entries[0][1][-1][0], [fields for _, fields in entries[0][1]]
                if any(_leaves(change, name) for change in changes):
                    break
            await deleting
            await until(lambda name=name: name in told_s, "the watch", 5)  # type: ignore[misc]
            late_ms.append(max(0.0, heard_s - told_s[name]) * 1000)
    await client.aclose()
    p99 = float(np.percentile(late_ms, 99))
    note = f"p99 of {len(late_ms)}; median {np.median(late_ms):.1f} ms"
    return [Figure("a Pod told to go: out of routing", p99, "ms", 50, 3500, note)]


def _leaves(change: dict[bytes, bytes], name: str) -> bool:
    if change.get(b"kind") != b"workers" or change.get(b"name") != name.encode():
        return False
    return not change[b"value"] or bool(json.loads(change[b"value"])["draining"])


async def emptied(stage: Stage, objects: Objects) -> list[Figure]:
    """From FLUSHALL to a catalogue, a member and its lease standing again."""
    plane = stage.plane
    plane.apply(*secrets(NAMESPACE, stage.valkey.url))
    with ProcessNode(plane, stage.folder / "pods", env={"ANTIPHON_WORKER_METRICS_PORT": "0"}) as node:
        on_node = {"nodeSelector": {"kubernetes.io/hostname": node.name}}
        await objects.create("workerpools", pool(500, template=on_node))
        await objects.create("voicemodels", model(5000))
        client = redis.from_url(stage.valkey.url)
        keys = Keys(NAMESPACE)

        async def routable() -> bool:
            leases = [key async for key in client.scan_iter("*lease:pool-500*")]
            members = [name for name in await client.hkeys(keys.workers) if name.startswith(b"pool-500")]
            return bool(leases and members and await client.hlen(keys.models) and await client.exists(keys.meta))

        async def wait_routable(within_s: float) -> float:
            began = time.monotonic()
            while not await routable():
                if time.monotonic() - began > within_s:
                    raise TimeoutError(f"a worker that can be routed to: not within {within_s:g} s")
                await asyncio.sleep(0.02)
            return time.monotonic() - began

        await wait_routable(60)
        took_s = []
        for _ in range(5):
            await client.flushall()
            took_s.append(await wait_routable(30))
            await asyncio.sleep(2)
        await client.aclose()
    return [Figure("registry emptied: routable again", max(took_s), "s", 2, 3, "worst of 5")]


async def _settle(stage: Stage) -> None:
    """Wait until the operators have written nothing for 3 s."""
    quiet_since, mark = time.monotonic(), stage.plane.audit_mark()
    while time.monotonic() - quiet_since < 3:
        await asyncio.sleep(0.2)
        if stage.writes(mark):
            quiet_since, mark = time.monotonic(), stage.plane.audit_mark()


# The outage comes last: for a minute after it Kubernetes' own controllers make no Pods.
SUITES = (hundred_pools, first_writes, restart_and_idle, hand_overs, gone_pods, thousand_models, emptied, outage)


async def measure(stage: Stage) -> list[Figure]:
    configuration = api.Configuration()
    await kubernetes_config.load_kube_config(str(stage.plane.kubeconfig), client_configuration=configuration)
    trust = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    trust.load_cert_chain(configuration.cert_file, configuration.key_file)
    figures: list[Figure] = []
    chosen = sys.argv[1:] or [suite.__name__ for suite in SUITES]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), read_bufsize=2**21) as session:
        objects = Objects(str(configuration.host), session)
        for suite in SUITES:
            if suite.__name__ in chosen:
                machine = Machine()
                try:
                    found = await suite(stage, objects)
                except (TimeoutError, AssertionError, aiohttp.ClientError) as error:
                    print(f"{suite.__name__} failed: {error}", flush=True)
                    continue
                found = [replace(figure, load=machine.load, others=machine.others) for figure in found]
                figures += found
                for figure in found:
                    print(figure.row(), flush=True)
    return figures


def main() -> int:
    """Measure everything, or the suites that are named; 1 when one failed or missed what it must reach."""
    build("kube-apiserver", "etcd", "kwok")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="antiphon-figures-")))
        plane = stack.enter_context(ControlPlane(folder / "plane"))
        plane.add_gpu_nodes(4)
        plane.create_namespace(NAMESPACE)
        stage = Stage(plane, folder, stack.enter_context(registry(folder)), stack)
        stage.start_operator()
        stage.wait_for_leader()
        standby = stage.start_operator()
        wait_for(lambda: "serving" in standby.tail(), "the standby", 30)
        figures = asyncio.run(measure(stage))
    report = [
        "| | measured | aim / at least | reached | others' cores | load | |",
        "| --- | ---: | --- | --- | ---: | ---: | --- |",
    ]
    report += [figure.row() for figure in figures]
    out = ROOT / "out" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    (out / "operator.md").write_text("\n".join(report) + "\n")
    (out / "operator.json").write_text(json.dumps([vars(figure) for figure in figures], indent=2))
    print("\n".join(["", *report]))
    expected = sys.argv[1:] or [suite.__name__ for suite in SUITES]
    return int(any(figure.reached == "missed" for figure in figures) or len(figures) < len(expected))


if __name__ == "__main__":
    sys.exit(main())
