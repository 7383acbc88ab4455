"""Fifty people talk while a node with two workers is drained: one goes, the other takes over, no word is lost.

A node that is the only one cannot take the evicted pod's successor while it is drained, so the disruption budget keeps
the second worker there, and `kubectl drain` gives up: which is what it is for.
"""

import asyncio
import os
from typing import Any

import pytest
from cluster_processes import wait_for
from image_builder import version
from installation import Installation
from target import CommandError

from antiphon.testing.crowd import crowd

pytestmark = pytest.mark.e2e

PEOPLE = int(os.environ.get("ANTIPHON_STREAMS", "50"))
WORKERS_ONLY = ("--pod-selector=antiphon.dev/pool=tones", "--delete-emptydir-data", "--ignore-daemonsets")
POOL: dict[str, Any] = {
    "apiVersion": "antiphon.dev/v1alpha1",
    "kind": "WorkerPool",
    "metadata": {"name": "tones"},
    "spec": {
        "replicas": 2,
        "image": f"antiphon-worker-mock:{version()}",
        "streamsPerWorker": 100,
        "drainTimeoutSeconds": 30,
        "template": {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}},
    },
}
MODEL: dict[str, Any] = {
    "apiVersion": "antiphon.dev/v1alpha1",
    "kind": "VoiceModel",
    "metadata": {"name": "tones"},
    "spec": {
        "task": "tts",
        "engine": "mock",
        "residency": {"policy": "Pinned", "minReplicas": 2},
        "engineConfig": [{"name": "ms_per_word", "value": "120"}, {"name": "real_time_factor", "value": "0.3"}],
    },
}


def workers(installation: Installation) -> set[str]:
    return {pod["metadata"]["name"] for pod in installation.pods("tones")}


async def test_fifty_people_talk_through_the_drain_of_a_node(installation: Installation) -> None:
    installation.target.apply(installation.namespace, POOL, MODEL)
    ready = ("wait", "--for=condition=Ready", "wpool/tones", "voicemodel/tones", "--timeout=3m")
    try:
        installation.kubectl(*ready)
        before, node = workers(installation), installation.pods("tones")[0]["spec"]["nodeName"]

        def drain() -> None:
            try:
                with pytest.raises(CommandError, match="disruption budget"):
                    installation.kubectl("drain", node, *WORKERS_ONLY, "--timeout=20s")
            finally:
                installation.kubectl("uncordon", node)
            wait_for(lambda: bool(workers(installation) - before), "the successor", 60, 0.5)
            installation.kubectl(*ready)

        with installation.caller() as caller:
            async with crowd(caller.url, PEOPLE, key=caller.key, assistant="numbers", before_s=2.0) as report:
                await asyncio.to_thread(drain)
    finally:
        installation.kubectl("delete", "voicemodel/tones", "wpool/tones", "--ignore-not-found")
    print(f"drain a real node: {report}")
    assert not report.lost
    assert set(report.ended) == {"completed"}
    assert report.turns >= 2 * PEOPLE
    assert max(report.repeated) == 0
