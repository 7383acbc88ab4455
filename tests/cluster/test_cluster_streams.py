"""Fifty conversations with real workers, and what an operator, a person or an accident does to them meanwhile.

Every word is a tone of its own number, so that each listener knows which are missing. The table at the end says what
was done, how often, what was lost, what was refused and what came late (`make test-cluster ARGS="-s -k streams"`).
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cluster_operator import leader, operator
from cluster_processes import Daemon, wait_for
from cluster_registry import Valkey, registry, secrets
from control_plane import ControlPlane
from process_node import ProcessNode
from tcp_service import tcp_service

from antiphon.testing.crowd import CLAUSE_WORDS, Report, crowd

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STREAMS = int(os.environ.get("ANTIPHON_STREAMS", "50"))
LIVE_S = 6.0
"""What nobody waits for longer than, on a machine that may be busy; the aim is 2 s."""
NAMESPACE = "voices"
TOKEN = "known-to-workers-and-orchestrators"
BIN = Path(sys.executable).parent
TONES = {"ms_per_word": "120", "real_time_factor": "0.3"}
"""Of the mock voice: words of 120 ms, made three times as fast as they sound."""


@dataclass
class Stage:
    """All of it: an API server, two operators, a registry, two nodes, a pool of workers, orchestrators."""

    plane: ControlPlane
    registry: Valkey
    nodes: list[ProcessNode]
    operators: list[Daemon]
    new_operator: Callable[[], Daemon]
    url: str = ""
    """Of the orchestrators."""
    table: list[tuple[str, Report]] = field(default_factory=list)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.plane.kubectl("-n", NAMESPACE, *arguments, stdin=stdin)

    def patch(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        self.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def has_condition(self, kind: str, name: str, condition: str, status: str = "True") -> bool:
        """Whether the condition stands, of the object as it was last written."""
        body = self.plane.get("-n", NAMESPACE, kind, name)
        generation = body["metadata"]["generation"]
        return any(
            each["type"] == condition and each["status"] == status and each.get("observedGeneration") == generation
            for each in body.get("status", {}).get("conditions", [])
        )

    def report(self) -> str:
        """What a person needs to see when something did not come."""
        told = [self.plane.report()]
        for kind in ("voicemodel", "wpool") if self.plane.succeeds("get", "--raw", "/readyz") else ():
            body = self.plane.get("-n", NAMESPACE, kind, "tones")
            told.append(
                f"{kind} generation {body['metadata']['generation']}: {json.dumps(body.get('status'), indent=1)}"
            )
        told += [f"{each.name} alive={each.alive()}:\n{each.tail()}" for each in self.operators]
        return "\n".join(told)

    def orchestrators(self) -> list[str]:
        return [host for node in self.nodes for host in node.addresses(app="orchestrator")]

    def orchestrator_pods(self) -> list[str]:
        """Those whose processes run, be it that they drain."""
        return [pod for node in self.nodes for pod in node.running() if pod.startswith("orchestrator-")]

    def workers(self) -> list[tuple[ProcessNode, str]]:
        """Where each worker's pod runs, and its name."""
        return [(node, pod) for node in self.nodes for pod in node.running() if pod.startswith("tones-")]

    def leader(self) -> Daemon:
        """The operator that leads."""
        holder = leader(self.plane)
        return next(each for each in self.operators if each.name == holder)


@pytest.fixture(scope="module")
def stage(cluster_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("streams")
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane(folder / "plane"))
        plane.create_namespace(NAMESPACE)
        valkey = stack.enter_context(registry(folder))
        config = folder / "orchestrator.yaml"
        token = folder / "token"
        token.write_text(TOKEN)
        config.write_text(json.dumps(_orchestrator(valkey.url, token)))
        # A worker's pod reaches the registry by the Secret; an orchestrator's command is given its own address.
        shell = f'exec {BIN}/antiphon orchestrator --config {config} --host "$POD_IP" --port 8080'
        commands = {"orchestrator": ("sh", "-c", shell)}
        nodes = [
            stack.enter_context(ProcessNode(plane, folder / name, name, gpus=8, commands=commands))
            for name in ("left", "right")
        ]
        operators: list[Daemon] = []

        def new_operator() -> Daemon:
            name = f"operator-{len(operators)}"
            made = operator(plane, folder, name, valkey.url, ANTIPHON_OPERATOR_NAMESPACES=NAMESPACE)
            made.start()
            operators.append(made)
            stack.callback(made.stop, signal.SIGKILL)
            return made

        new_operator(), new_operator()
        plane.apply(*secrets(NAMESPACE, valkey.url, TOKEN), POOL, _model(TONES), _orchestrators())
        stage = Stage(plane, valkey, nodes, operators, new_operator)
        try:
            wait_for(lambda: stage.has_condition("voicemodel", "tones", "Ready"), "the voice", 90)
            wait_for(lambda: len(stage.orchestrators()) == 2, "two orchestrators", 60)
            yield stage
        except TimeoutError as error:
            pytest.fail(f"{error}\n{stage.report()}", pytrace=False)
        finally:
            print(_table(stage))


def _orchestrator(registry: str, token: Path) -> dict[str, Any]:
    return {
        "assistants": {"default": {"voice": {"model": "tones"}}},
        "server": {"drain_grace_s": 8, "max_sessions": 200},
        "registry": {"url": registry, "namespace": NAMESPACE},
        "workers": {"token_file": str(token)},
    }


POOL = {
    "apiVersion": "antiphon.dev/v1alpha1",
    "kind": "WorkerPool",
    "metadata": {"name": "tones", "namespace": NAMESPACE},
    "spec": {
        "replicas": 4,
        "image": "antiphon-worker-mock:1",
        "gpu": {"count": 1},
        "streamsPerWorker": 100,
        "drainTimeoutSeconds": 20,
    },
}


def _model(engine_config: dict[str, str], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "antiphon.dev/v1alpha1",
        "kind": "VoiceModel",
        "metadata": {"name": "tones", "namespace": NAMESPACE},
        "spec": {
            "task": "tts",
            "engine": "mock",
            "residency": {"policy": "Pinned", "minReplicas": 4, "maxReplicas": 4},
            "engineConfig": [{"name": name, "value": value} for name, value in engine_config.items()],
            **spec,
        },
    }


def _orchestrators() -> dict[str, Any]:
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    container = {
        "name": "orchestrator",
        "image": "antiphon-orchestrator:1",
        "env": [address, name],
        "readinessProbe": {"httpGet": {"port": 8080, "path": "/readyz?exclude=models"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "orchestrator", "namespace": NAMESPACE},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "orchestrator"}},
            "template": {
                "metadata": {"labels": {"app": "orchestrator"}},
                "spec": {"terminationGracePeriodSeconds": 30, "containers": [container]},
            },
        },
    }


# --- what is done ---------------------------------------------------------------------------------------------------


async def swap_the_model(stage: Stage) -> None:
    stage.plane.apply(
        _model(TONES | {"chunk_ms": "80"}, rollout={"steps": [{"weight": 30, "pauseSeconds": 3}, {"weight": 100}]})
    )
    before = active(stage)
    await until(lambda: active(stage) != before and stage.has_condition("voicemodel", "tones", "Ready"), "the swap", 60)


async def swap_to_a_revision_that_fails_its_gate(stage: Stage) -> None:
    """Who talks keeps their revision: it is newcomers who meet the bad one, and hear every word all the same."""
    before = active(stage)
    steps = [{"weight": 50, "pauseSeconds": 30}, {"weight": 100}]
    gate = {"maxErrorPercent": 10, "minStreams": 3}
    stage.plane.apply(_model(TONES | {"fail_every": "2"}, rollout={"steps": steps, "gate": gate}))
    takes_half = lambda: model(stage)["status"].get("candidate", {}).get("weight") == 50  # noqa: E731
    await until(takes_half, "the candidate's half", 60)
    async with crowd(stage.url, 10) as newcomers:
        await until(lambda: stage.has_condition("voicemodel", "tones", "Degraded"), "the rollback", 60)
    print(f"\nnewcomers: {newcomers}")
    assert not newcomers.lost
    assert active(stage) == before
    stage.plane.apply(_model(TONES | {"chunk_ms": "80"}))
    await until(lambda: not stage.has_condition("voicemodel", "tones", "Degraded"), "the old words", 30)


async def roll_the_pool(stage: Stage) -> None:
    image = stage.plane.get("-n", NAMESPACE, "wpool", "tones")["spec"]["image"]
    stage.patch("wpool", "tones", {"image": image[:-1] + str(int(image[-1]) + 1)})
    await until(lambda: stage.has_condition("wpool", "tones", "Progressing", "False"), "the rollout", 120)


async def scale_down(stage: Stage) -> None:
    await asyncio.to_thread(stage.kubectl, "scale", "wpool/tones", "--replicas=3")
    await until(lambda: len(stage.workers()) == 3, "three workers", 60)


async def scale_up(stage: Stage) -> None:
    await asyncio.to_thread(stage.kubectl, "scale", "wpool/tones", "--replicas=4")
    await until(lambda: stage.has_condition("wpool", "tones", "Ready"), "four workers", 60)


async def drain_a_node(stage: Stage) -> None:
    """Its workers, one after another as the disruption budget lets them; then it takes pods again."""
    drain = ("drain", "left", "--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=antiphon.dev/pool=tones")
    await asyncio.to_thread(stage.plane.kubectl, *drain, "--timeout=120s")
    await until(lambda: stage.has_condition("wpool", "tones", "Ready"), "the other node", 60)
    await asyncio.to_thread(stage.plane.kubectl, "uncordon", "left")


async def kill_the_operator(stage: Stage) -> None:
    killed = await asyncio.to_thread(stage.leader)
    killed.stop(signal.SIGKILL)
    await until(lambda: leader(stage.plane) not in ("", killed.name), "the next leader", 20)
    killed.start()


async def both_operators_gone_for_30_s(stage: Stage) -> None:
    for each in stage.operators:
        each.stop(signal.SIGKILL)
    await asyncio.sleep(30)
    for each in stage.operators[-2:]:
        each.start()


async def upgrade_the_operator(stage: Stage) -> None:
    """A new one beside the old two, which then go."""
    old = [each for each in stage.operators if each.alive()]
    for each in old:
        new = await asyncio.to_thread(stage.new_operator)
        await until(lambda new=new: "serving" in new.log.read_text(), "the new operator", 30)  # type: ignore[misc]
        await asyncio.to_thread(each.stop)


async def stop_the_api_server_for_20_s(stage: Stage) -> None:
    await asyncio.to_thread(stage.plane.stop_api)
    await asyncio.sleep(20)
    await asyncio.to_thread(stage.plane.start_api)


async def kill_and_empty_the_registry(stage: Stage) -> None:
    await asyncio.to_thread(stage.registry.stop, signal.SIGKILL)
    await asyncio.sleep(5)
    stage.registry.start()


async def kill_a_worker(stage: Stage) -> None:
    node, pod = stage.workers()[0]
    node.kill(pod)


async def roll_the_orchestrators(stage: Stage) -> None:
    await asyncio.to_thread(
        stage.kubectl, "set", "image", "deployment/orchestrator", "orchestrator=antiphon-orchestrator:2"
    )
    await asyncio.to_thread(stage.kubectl, "rollout", "status", "deployment/orchestrator", "--timeout=120s")


async def scale_the_orchestrators_down(stage: Stage) -> None:
    await asyncio.to_thread(stage.kubectl, "scale", "deployment/orchestrator", "--replicas=1")
    await until(lambda: len(stage.orchestrator_pods()) == 1, "the end of one orchestrator", 60)
    await asyncio.to_thread(stage.kubectl, "scale", "deployment/orchestrator", "--replicas=2")
    await until(lambda: len(stage.orchestrators()) == 2, "two orchestrators", 60)


def active(stage: Stage) -> str:
    """The revision that new sessions get."""
    return str(model(stage).get("status", {}).get("active", {}).get("digest", ""))


def model(stage: Stage) -> dict[str, Any]:
    return stage.plane.get("-n", NAMESPACE, "voicemodel", "tones")


async def until(condition: Callable[[], bool], what: str, within_s: float) -> None:
    await asyncio.to_thread(wait_for, condition, what, within_s, 0.2)


Deed = Callable[[Stage], Awaitable[None]]
GENTLE: tuple[Deed, ...] = (
    swap_the_model,
    roll_the_pool,
    scale_down,
    scale_up,
    drain_a_node,
    kill_the_operator,
    both_operators_gone_for_30_s,
    upgrade_the_operator,
    stop_the_api_server_for_20_s,
    kill_and_empty_the_registry,
)
"""No listener may notice these at all."""
HARSH: tuple[Deed, ...] = (
    swap_to_a_revision_that_fails_its_gate,
    kill_a_worker,
    roll_the_orchestrators,
    scale_the_orchestrators_down,
)
"""What is lost with a process or refused by a revision is said again from the clause that was being heard."""


@pytest.fixture
async def service(stage: Stage) -> AsyncIterator[str]:
    async with tcp_service(stage.orchestrators, 8080) as address:
        stage.url = f"http://{address}"
        yield stage.url


@pytest.mark.parametrize("deed", GENTLE + HARSH, ids=lambda deed: deed.__name__)
async def test_fifty_conversations(stage: Stage, service: str, deed: Deed) -> None:
    await until(lambda: stage.has_condition("voicemodel", "tones", "Ready"), "the voice", 60)
    try:
        async with crowd(service, STREAMS, before_s=2.0) as report:
            await deed(stage)
    except* TimeoutError as group:
        pytest.fail(f"{group.exceptions[0]}\n{stage.report()}", pytrace=False)
    stage.table.append((deed.__name__.replace("_", " "), report))
    print(f"\n{deed.__name__}: {report}")
    assert not report.lost
    assert set(report.ended) == {"completed"}
    assert report.turns >= 2 * STREAMS
    assert report.longest_gap_s < LIVE_S
    assert max(report.repeated) <= (CLAUSE_WORDS if deed in HARSH else 0)


async def test_with_one_worker_new_turns_wait_and_are_told(stage: Stage, service: str) -> None:
    """Nobody is there to take over while the pool's only worker is replaced: replies come late, and none is refused."""
    await asyncio.to_thread(stage.kubectl, "scale", "wpool/tones", "--replicas=1")
    await until(lambda: len(stage.workers()) == 1 and stage.has_condition("wpool", "tones", "Ready"), "one worker", 60)
    async with crowd(service, 5, before_s=2.0) as report:
        await roll_the_pool(stage)
    stage.table.append(("roll a pool of one worker (5 people)", report))
    print(f"\nroll a pool of one worker: {report}")
    assert not report.lost
    assert set(report.ended) == {"completed"}
    assert report.told["antiphon.model.loading"]
    assert max(report.repeated) == 0


def _table(stage: Stage) -> str:
    head = "| done while 50 people talk | turns | words lost | heard twice | longest silence | longest wait | refused |"
    rows = [
        f"| {name} | {report.turns} | {len(report.lost)} | {sum(report.repeated)} | {report.longest_gap_s:.2f} s | "
        f"{report.longest_wait_s:.2f} s | {', '.join(f'{code} {n}' for code, n in report.refused.items()) or '-'} |"
        for name, report in stage.table
    ]
    return "\n".join(["", head, "| --- |" + " ---: |" * 5 + " --- |", *rows])
