"""Python reads manifests as the API server does: of many that are right or nearly so, both take the same ones."""

import json
import random
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from cluster_binaries import program
from control_plane import ControlPlane
from pydantic import ValidationError

from antiphon.contracts.resources import API_VERSION
from antiphon.contracts.resources.manifests import read_manifest

pytestmark = pytest.mark.cluster

SEED = 1
A_DIGEST = "sha256:" + "0" * 62 + "aa"
DIGESTS = (A_DIGEST, A_DIGEST.upper(), "sha256:00", "0" * 64)
URIS = (
    "hf://a/b", "hf://a/b/c d", "hf://a", "hf://a/b/", "hf:///b", "HF://a/b", "piper://joe", "piper://a/b", "piper://",
    "https://h/f", "https://h", "https://h/", "https:///f", "http://h/f", "httpx://h/f", "file:///a", "file://a", "file:///",
    "package://a/b", "package://a-b/c", "package://a/", "package://a/../b", "s3://a/b", "a", "", "hf://a/b\n", "hf://ä/b",
)  # fmt: skip
WORDS = ("joe", "Joe", "a.b", "a-", "-a", "a_b", "", "x" * 40, "x" * 64, "ä", "a\n", "1st", "A_1", "a/b", "HF_ENDPOINT")
NUMBERS = (-1, 0, 1, 2, 100, 101, 1000, 100_000, 2**31, 1.0, 1.5, "1", True)
QUANTITIES = (
    "1",
    1,
    "500m",
    "1.5",
    ".5",
    "1e3",
    "4Gi",
    "4GB",
    "-1",
    "+1",
    "0",
    "1Ki",
    "1u",
    "",
    "1 Gi",
    1.5,
    True,
    "12E",
    "1.",
)
IMAGES = (
    "a:1", "a", "a:latest", "a/b:1", "h:5000/a", "h:5000/a:1", f"a@{A_DIGEST}", f"a:1@{A_DIGEST}", "a@sha256:0",
    "a b:1", "", ":1", "a:", "a:1\n", "a:-1", "a/b@" + A_DIGEST.upper(),
)  # fmt: skip


def any_model(choose: random.Random) -> dict[str, Any]:
    """A VoiceModel of which at most a few fields are not what they should be."""

    def maybe(**fields: Any) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if choose.random() < 0.3}

    residency = maybe(
        policy=choose.choice(("Pinned", "Preload", "OnDemand", "Always")),
        minReplicas=choose.choice(NUMBERS),
        maxReplicas=choose.choice(NUMBERS),
        idleTTLSeconds=choose.choice(NUMBERS),
        priority=choose.choice(NUMBERS),
    )
    steps = [
        {"weight": choose.choice((10, 50, 100, 100, 100, 0)), **maybe(pauseSeconds=choose.choice((0, 1, -1)))}
        for _ in range(choose.randrange(4))
    ]
    gate = maybe(maxErrorPercent=choose.choice(NUMBERS), maxFirstAudioMs=choose.choice(NUMBERS))
    spec = {"task": choose.choice(("tts", "asr")), "engine": choose.choice(("piper", "mock", choose.choice(WORDS)))}
    spec |= maybe(
        aliases=choose.choices(WORDS, k=choose.randrange(3)),
        artifact={"uri": choose.choice(URIS), **maybe(digest=choose.choice(DIGESTS), revision=choose.choice(WORDS))},
        capabilities=maybe(
            languages=[choose.choice(("en", "en-GB", "en_GB", "e"))], voices=choose.choices(WORDS, k=2), cloning=True
        ),
        memory=maybe(weightsMiB=choose.choice(NUMBERS)),
        residency=residency,
        rollout=maybe(steps=steps, gate=gate),
        poolSelector={"matchLabels": {choose.choice(WORDS): choose.choice(WORDS)}},
        engineConfig=[{"name": choose.choice(("a", "b")), "value": choose.choice(("1", 1))} for _ in range(2)],
    )
    return {"kind": "VoiceModel", "spec": spec}


def any_pool(choose: random.Random) -> dict[str, Any]:
    """A WorkerPool of which at most a few fields are not what they should be."""

    def maybe(**fields: Any) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if choose.random() < 0.3}

    gpu = maybe(
        resourceName=choose.choice(
            ("nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-1g.10gb", "a/b", *WORDS)
        ),
        count=choose.choice(NUMBERS),
        memoryMiB=choose.choice((0, 1000)),
        sharing=choose.choice(("None", "MIG", "MPS", "TimeSlicing", "none")),
        product=choose.choice(WORDS),
    )
    cache = maybe(
        kind=choose.choice(("EmptyDir", "Ephemeral", "Claim")),
        claimName=choose.choice(WORDS),
        sizeMiB=choose.choice(NUMBERS),
        storageClassName=choose.choice(WORDS),
    )
    key = {"name": choose.choice(WORDS), "key": "k"}
    variable = {
        "name": choose.choice(WORDS),
        **maybe(value="1", valueFrom=maybe(secretKeyRef=key, configMapKeyRef=key)),
    }
    toleration = maybe(
        key="a",
        operator=choose.choice(("Exists", "Equal")),
        value=choose.choice(WORDS),
        effect=choose.choice(("NoExecute", "NoSchedule")),
        tolerationSeconds=choose.choice(NUMBERS),
    )
    amounts = [
        {name: choose.choice(QUANTITIES) for name in choose.sample(("cpu", "memory", "nvidia.com/gpu"), k=1)}
        for _ in "12"
    ]
    template = maybe(
        nodeSelector={choose.choice(WORDS): choose.choice(WORDS)},
        tolerations=[toleration],
        env=[variable, *choose.choice(([], [{"name": "A_1"}]))],
        resources=maybe(requests=amounts[0], limits=amounts[1]),
    )
    rewrites = [{"prefix": choose.choice(("a", "b")), "replacement": choose.choice(URIS)} for _ in "12"]
    spec = maybe(
        replicas=choose.choice(NUMBERS),
        memoryBudgetMiB=choose.choice(NUMBERS),
        gpu=gpu,
        cache=cache,
        maxSurge=choose.choice(NUMBERS),
        downloads=maybe(hubEndpoint=choose.choice(URIS), secretName=choose.choice(WORDS), rewrites=rewrites),
        template=template,
    )
    return {
        "kind": "WorkerPool",
        "spec": {"image": choose.choice(("a:1", "a:1", "a:1", choose.choice(IMAGES))), **spec},
    }


@pytest.mark.parametrize("make", [any_model, any_pool])
def test_python_takes_what_the_api_server_takes(
    control_plane: ControlPlane, make: Callable[[random.Random], dict[str, Any]]
) -> None:
    choose = random.Random(SEED)
    written = [
        {"apiVersion": API_VERSION, "metadata": {"name": f"any-{number}"}, **make(choose)} for number in range(500)
    ]
    taken = taken_by_the_api_server(control_plane, written)
    assert 50 < len(taken) < 450
    assert [each for each in written if (each["metadata"]["name"] in taken) != taken_by_python(each)] == []


def taken_by_the_api_server(control_plane: ControlPlane, documents: list[dict[str, Any]]) -> set[str]:
    """The names of those that it would take."""
    asked = ("create", "--dry-run=server", "--output=name", "--filename=-")
    command = [program("kubectl"), f"--kubeconfig={control_plane.kubeconfig}", *asked]
    whole = "\n---\n".join(map(json.dumps, documents))
    done = subprocess.run(command, input=whole, capture_output=True, text=True, timeout=120)
    return {line.split("/")[1] for line in done.stdout.splitlines()}


def taken_by_python(document: dict[str, Any]) -> bool:
    try:
        read_manifest(document)
    except ValidationError:
        return False
    return True
