"""Leases: what a thousand workers that say every second how they are cost the registry and each of its readers."""

import asyncio
import resource
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

import psutil

from antiphon.cli.bench.figures import Figure
from antiphon.cli.bench.stage import Sample, Stage, Suite, Trial
from antiphon.cli.bench.suites.routing import lease, models
from antiphon.registry.client import open_client
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.registry.keys import BEAT_S
from antiphon.registry.lease import LeaseKeeper
from antiphon.registry.records import Lease, WorkerRecord
from antiphon.registry.snapshot import RegistryReader
from antiphon.registry.writer import RegistryWriter

_NAMESPACE = "bench"
_FILES = 4096
_SETTLE_S = 30.0


def plan(runs: int) -> Sequence[Trial]:
    """A tenth of the workers, then all of them."""
    return [{"workers": count, "seconds": max(3, runs // 2)} for count in (100, 1000)]


async def measure(stage: Stage, trial: Trial) -> Sample:
    """CPU time and bytes of a registry of the suite's own, and of one reader, while all workers beat."""
    _allow_files()
    heard, over = threading.Event(), threading.Event()
    async with EmbeddedValkey() as valkey, _beating(valkey.url, trial["workers"]):
        reading = asyncio.to_thread(_read, valkey.url, trial["workers"], heard, over)
        reader = asyncio.create_task(reading, name="registry-reader-thread")
        process, client = psutil.Process(valkey.pid), open_client(valkey.url)
        try:
            await asyncio.to_thread(heard.wait, _SETTLE_S)
            before, cpu_before = await client.info("stats"), _cpu_s(process)
            await asyncio.sleep(trial["seconds"])
            after, cpu_after = await client.info("stats"), _cpu_s(process)
        finally:
            over.set()
            await client.aclose()
        reader_busy, snapshots = await reader
        return {
            **trial,
            "registry": 100 * (cpu_after - cpu_before) / trial["seconds"],
            "reader": reader_busy,
            "snapshots": snapshots,
            "in": _rate(before, after, "total_net_input_bytes", trial["seconds"]),
            "out": _rate(before, after, "total_net_output_bytes", trial["seconds"]),
        }


def report(samples: Sequence[Sample]) -> Sequence[Figure]:
    """Shares of a core and traffic, by the number of workers."""
    return [
        figure
        for sample in samples
        for figure in (
            Figure(f"registry, {sample['workers']} workers", (sample["registry"],), "%"),
            Figure(f"one reader, {sample['workers']} workers", (sample["reader"],), "%"),
            Figure(f"into the registry, {sample['workers']} workers", (sample["in"] / 1024,), "KiB/s"),
            Figure(f"out of it to one reader, {sample['workers']} workers", (sample["out"] / 1024,), "KiB/s"),
            Figure(f"snapshots a second, {sample['workers']} workers", (sample["snapshots"],), "1/s"),
        )
    ]


@asynccontextmanager
async def _beating(url: str, count: int) -> AsyncIterator[None]:
    """The operator's part, and that many workers' keepers, their beats spread over a second."""
    random = Random(count)
    said = [lease(number, random) for number in range(count)]
    writer = RegistryWriter(url, _NAMESPACE)
    writer.set_models(models().values())
    for each in said:
        writer.put_worker(each.worker, WorkerRecord(address=each.address))
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(writer.run(), name="registry-writer")]
        running += [tasks.create_task(_keep(url, each, random.random() * BEAT_S), name="lease") for each in said]
        try:
            yield
        finally:
            for task in running:
                task.cancel()


async def _keep(url: str, said: Lease, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await LeaseKeeper(url, _NAMESPACE, said.worker, lambda: said).run()


def _read(url: str, count: int, heard: threading.Event, over: threading.Event) -> tuple[float, float]:
    """Follow the registry in a thread of its own.

    Returns its share of a core, in per cent, and its snapshots a second, from when it has heard of all workers.
    """

    async def follow() -> tuple[float, float]:
        reader = RegistryReader(url, _NAMESPACE)
        following = asyncio.create_task(reader.run(), name="registry-reader")
        try:
            snapshot = reader.snapshot
            async with asyncio.timeout(_SETTLE_S):
                while sum(worker.serving for worker in snapshot.workers.values()) < count:
                    snapshot = await reader.changed(snapshot.version)
            began, cpu_s, version = time.monotonic(), time.thread_time(), snapshot.version
            heard.set()
            await asyncio.to_thread(over.wait)
            past_s = time.monotonic() - began
            return 100 * (time.thread_time() - cpu_s) / past_s, (reader.snapshot.version - version) / past_s
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    return asyncio.run(follow())


def _allow_files() -> None:
    """A thousand workers have a thousand connections: more files than a shell may have by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (_FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard), hard)
        )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _rate(before: dict[str, float], after: dict[str, float], name: str, seconds: float) -> float:
    return (after[name] - before[name]) / seconds


SUITE = Suite("leases", "A thousand workers' leases", plan, measure, report)
