"""A node whose pods are processes of this machine: what a worker does in a pod, without images or root.

A pod that is scheduled here becomes `python -m antiphon.worker` (or what `commands` says of its image) with the
environment that the pod asks for, on a loopback address of its own. It is probed, told to end with the pod's grace,
started again when it ends by itself, and its status is what a kubelet would say. Files of Secrets lie in a folder of
this test: paths in the environment that begin with a mount's are rewritten to it. What is not done: images, cgroups,
users, DNS, volumes other than Secrets and empty folders.
"""

import asyncio
import base64
import contextlib
import datetime
import itertools
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import grpc
from cluster_processes import wait_for
from control_plane import ControlPlane, fake_node
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kubernetes.aio import client as api
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio import watch
from kubernetes.aio.client.exceptions import ApiException

WORKER = (sys.executable, "-m", "antiphon.worker")
HEARTBEAT_S = 5.0
PROBE_S = 0.1
RESTART_S = 1.0
OUT_OF_REACH = (ApiException, aiohttp.ClientError, OSError, TimeoutError)
"""What a call to the API server may end with; nodes live on."""

Body = dict[str, Any]


class ProcessNode:
    """One such node of a control plane; a context manager.

    Args:
        plane: Where it registers.
        folder: Logs and files of the pods.
        name: The node's.
        gpus: How many `nvidia.com/gpu` it offers.
        commands: Part of an image's name -> what is run for it; a worker otherwise.
        env: Set in every pod, over what the pod asks for.
    """

    _networks = itertools.count(1)

    def __init__(
        self,
        plane: ControlPlane,
        folder: Path,
        name: str = "processes",
        gpus: int = 0,
        commands: Mapping[str, Sequence[str]] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._plane = plane
        self._folder = folder
        self._gpus = gpus
        self._commands = commands or {}
        self._env = dict(env or {})
        self._network = next(self._networks)
        self._hosts = itertools.count(1)
        self._pods: dict[str, _PodProcess] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"node-{name}", daemon=True)
        self._main: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        capacity = {"cpu": "64", "memory": "256Gi", "pods": "250"}
        node = fake_node(self.name, capacity | ({"nvidia.com/gpu": str(self._gpus)} if self._gpus else {}), {})
        node["metadata"]["annotations"] = {}
        self._plane.apply({key: value for key, value in node.items() if key != "status"})
        self._thread.start()
        wait_for(self._is_ready, f"the node {self.name}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        def cancel() -> None:
            if self._main is not None:
                self._main.cancel()

        self._loop.call_soon_threadsafe(cancel)
        self._thread.join(20)

    def pid(self, pod: str) -> int:
        """Of the process of a pod, by the pod's name; KeyError without one."""
        for process in list(self._pods.values()):
            if process.pod_name == pod and process.pid is not None:
                return process.pid
        raise KeyError(pod)

    def kill(self, pod: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a pod's process a signal."""
        os.kill(self.pid(pod), how)

    def running(self) -> list[str]:
        """The names of the pods whose processes run."""
        return sorted(process.pod_name for process in list(self._pods.values()) if process.pid is not None)

    def addresses(self, **labels: str) -> list[str]:
        """Of the pods with these labels that are ready and not about to end: what a Service would send to."""
        pods = [process for process in list(self._pods.values()) if process.is_ready]
        return sorted(pod.address for pod in pods if labels.items() <= pod.labels.items())

    def _is_ready(self) -> bool:
        told = self._plane.get("node", self.name)["status"].get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in told)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._serve())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._main)
        self._loop.close()

    async def _serve(self) -> None:
        configuration = api.Configuration()
        await kubernetes_config.load_kube_config(str(self._plane.kubeconfig), client_configuration=configuration)
        async with api.ApiClient(configuration) as connection:
            core = api.CoreV1Api(connection)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat(core, api.CoordinationV1Api(connection)))
                tasks.create_task(self._follow(core, tasks))

    async def _beat(self, core: api.CoreV1Api, leases: api.CoordinationV1Api) -> None:
        capacity = {"cpu": "64", "memory": "256Gi", "pods": "250"}
        capacity |= {"nvidia.com/gpu": str(self._gpus)} if self._gpus else {}
        while True:
            now = _now()
            ready = {"type": "Ready", "status": "True", "reason": "Processes", "message": "", "lastHeartbeatTime": now}
            status = {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}
            spec = {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": _now(micro=True)}
            with contextlib.suppress(*OUT_OF_REACH):
                await core.patch_node_status(self.name, {"status": status})
                place = (self.name, "kube-node-lease")
                try:
                    await leases.patch_namespaced_lease(*place, {"spec": spec})
                except ApiException:
                    body = {"metadata": {"name": self.name}, "spec": spec}
                    await leases.create_namespaced_lease("kube-node-lease", body)
            await asyncio.sleep(HEARTBEAT_S)

    async def _follow(self, core: api.CoreV1Api, tasks: asyncio.TaskGroup) -> None:
        selector = f"spec.nodeName={self.name}"
        while True:
            try:
                listed = await core.list_pod_for_all_namespaces(field_selector=selector)
                for pod in listed.items:
                    self._take(core, tasks, core.api_client.sanitize_for_serialization(pod))
                present = {pod.metadata.uid for pod in listed.items}
                for uid in [uid for uid in self._pods if uid not in present]:
                    self._pods.pop(uid).send(signal.SIGKILL)
                stream = watch.Watch().stream(
                    core.list_pod_for_all_namespaces,
                    field_selector=selector,
                    resource_version=listed.metadata.resource_version,
                    timeout_seconds=60,
                )
                async for event in stream:
                    if event["type"] == "DELETED":
                        if gone := self._pods.pop(event["raw_object"]["metadata"]["uid"], None):
                            gone.send(signal.SIGKILL)
                    else:
                        self._take(core, tasks, event["raw_object"])
            except OUT_OF_REACH:
                await asyncio.sleep(0.3)

    def _take(self, core: api.CoreV1Api, tasks: asyncio.TaskGroup, pod: Body) -> None:
        uid = pod["metadata"]["uid"]
        process = self._pods.get(uid)
        if process is None:
            host = next(self._hosts)
            # Of this process's own: nodes of several test runs may stand side by side.
            address = f"127.{1 + os.getpid() % 250}.{self._network}.{host}"
            process = self._pods[uid] = _PodProcess(core, pod, address, self._folder, self._command(pod), self._env)
            tasks.create_task(process.run(), name=f"pod-{process.pod_name}")
        if pod["metadata"].get("deletionTimestamp"):
            process.end(float(pod["metadata"].get("deletionGracePeriodSeconds") or 0))

    def _command(self, pod: Body) -> Sequence[str]:
        image = pod["spec"]["containers"][0]["image"]
        return next((command for part, command in self._commands.items() if part in image), WORKER)


class _PodProcess:
    """One pod as a process, from its scheduling to its deletion."""

    def __init__(
        self, core: api.CoreV1Api, pod: Body, address: str, folder: Path, command: Sequence[str], env: dict[str, str]
    ) -> None:
        self.pod_name = str(pod["metadata"]["name"])
        self._core = core
        self._pod = pod
        self._namespace = pod["metadata"]["namespace"]
        self.address = address
        self.is_ready = False
        self._folder = folder / self.pod_name
        self._command = command
        self._extra = env
        self._process: asyncio.subprocess.Process | None = None
        self._end = asyncio.Event()
        self._grace_s = 0.0
        self._restarts = 0
        self._told: Body = {}

    @property
    def labels(self) -> dict[str, str]:
        return self._pod["metadata"].get("labels") or {}

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal; quiet when it has ended."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def end(self, grace_s: float) -> None:
        """Have it end within its grace."""
        self._grace_s = grace_s
        self._end.set()
        self.is_ready = False

    async def run(self) -> None:
        """Keep it running until it has to end, then let the pod go; cancelled, the process is killed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            while not self._end.is_set():
                await self._live()
        finally:
            self.send(signal.SIGKILL)
            if self._process is not None:
                await self._process.wait()
        await self._let_go()

    async def _live(self) -> None:
        """One life of the process, and the time until the next."""
        self._process = await self._start()
        async with asyncio.TaskGroup() as tasks:
            probing = tasks.create_task(self._probe())
            ending = tasks.create_task(self._end.wait())
            ended = tasks.create_task(self._process.wait())
            await asyncio.wait({ended, ending}, return_when=asyncio.FIRST_COMPLETED)
            if self._end.is_set():
                self.send(signal.SIGTERM)
                await asyncio.wait({ended}, timeout=self._grace_s)
                self.send(signal.SIGKILL)
            await ended
            probing.cancel()
            ending.cancel()
        if not self._end.is_set():
            self._restarts += 1
            await self._tell({"waiting": {"reason": "CrashLoopBackOff"}}, ready=False)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESTART_S):
                    await self._end.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        environment = await self._environment()
        with (self._folder / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                "setpriv", "--pdeathsig", "KILL", "--", *self._command, env=environment, stdout=log, stderr=log
            )
        await self._tell({"running": {"startedAt": _now()}}, ready=False)
        return process

    async def _probe(self) -> None:
        """Ready as its readiness probe says: gRPC health, or an HTTP answer."""
        probe = self._container.get("readinessProbe", {})
        port = probe["grpc"]["port"] if "grpc" in probe else 0
        # Not grpc.aio: it wants one event loop a process, and this is the second.
        with grpc.insecure_channel(f"{self.address}:{port}") as channel:
            while True:
                if "httpGet" in probe:
                    ready = await self._answers_http(probe["httpGet"])
                else:
                    ready = await asyncio.to_thread(_is_serving, channel)
                if ready != self.is_ready:
                    await self._tell({"running": {"startedAt": _now()}}, ready=ready)
                await asyncio.sleep(PROBE_S)

    async def _answers_http(self, probe: Body) -> bool:
        ports = {port.get("name"): port["containerPort"] for port in self._container.get("ports", [])}
        url = f"http://{self.address}:{ports.get(probe['port'], probe['port'])}{probe.get('path', '/')}"
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with aiohttp.request("GET", url, timeout=aiohttp.ClientTimeout(1.0)) as answer:
                return answer.status < 400
        return False

    @property
    def _container(self) -> Body:
        container: Body = self._pod["spec"]["containers"][0]
        return container

    async def _tell(self, state: Body, *, ready: bool) -> None:
        self.is_ready = ready
        now, yes = _now(), "True" if ready else "False"
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": now} for kind in ("PodScheduled", "Initialized")
        ]
        conditions += [
            {"type": kind, "status": yes, "lastTransitionTime": now} for kind in ("ContainersReady", "Ready")
        ]
        container = {
            "name": self._container["name"],
            "image": self._container["image"],
            "imageID": "",
            "ready": ready,
            "started": "running" in state,
            "restartCount": self._restarts,
            "state": state,
        }
        told = {
            "phase": "Running",
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "hostIP": "127.0.0.1",
            "startTime": now,
            "conditions": conditions,
            "containerStatuses": [container],
        }
        with contextlib.suppress(*OUT_OF_REACH):
            await self._core.patch_namespaced_pod_status(self.pod_name, self._namespace, {"status": told})

    async def _let_go(self) -> None:
        while True:
            try:
                options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._pod["metadata"]["uid"]}}
                await self._core.delete_namespaced_pod(self.pod_name, self._namespace, body=options)
                return
            except ApiException as error:
                if error.status in (404, 409):
                    return
            except OUT_OF_REACH:
                pass
            await asyncio.sleep(0.5)

    # --- what the pod asks for ----------------------------------------------------------------------------------------

    async def _environment(self) -> dict[str, str]:
        files = await self._files()
        found = {key: value for key, value in os.environ.items() if not key.startswith("ANTIPHON_")}
        for source in self._container.get("envFrom", []):
            if "secretRef" in source:
                found |= await self._secret(source["secretRef"]["name"])
        for variable in self._container.get("env", []):
            found[variable["name"]] = await self._value(variable)
        for name, value in found.items():
            for mount, local in files.items():
                if value == mount or value.startswith(mount.rstrip("/") + "/"):
                    found[name] = str(local) + value[len(mount.rstrip("/")) :]
        return found | self._extra

    async def _value(self, variable: Body) -> str:
        source = variable.get("valueFrom")
        if source is None:
            said = str(variable.get("value", ""))
            return self.address if said == "0.0.0.0" else said  # all addresses of a pod are its own one
        if "fieldRef" in source:
            fields = {
                "metadata.name": self.pod_name,
                "metadata.namespace": self._namespace,
                "status.podIP": self.address,
                "spec.nodeName": self._pod["spec"].get("nodeName", ""),
            }
            return fields[source["fieldRef"]["fieldPath"]]
        reference = source["secretKeyRef"]
        return (await self._secret(reference["name"]))[reference["key"]]

    async def _secret(self, name: str) -> dict[str, str]:
        while True:
            try:
                secret = await self._core.read_namespaced_secret(name, self._namespace)
                return {key: base64.b64decode(value).decode() for key, value in (secret.data or {}).items()}
            except OUT_OF_REACH:
                await asyncio.sleep(0.3)  # as a kubelet waits for it

    async def _files(self) -> dict[str, Path]:
        """Mount path -> folder of this machine."""
        volumes = {volume["name"]: volume for volume in self._pod["spec"].get("volumes", [])}
        found = {}
        for mount in self._container.get("volumeMounts", []):
            local = self._folder / mount["name"]
            local.mkdir(parents=True, exist_ok=True)
            if secret := volumes.get(mount["name"], {}).get("secret"):
                for key, value in (await self._secret(secret["secretName"])).items():
                    (local / key).write_text(value)
            found[mount["mountPath"]] = local
        return found


def _is_serving(channel: grpc.Channel) -> bool:
    with contextlib.suppress(grpc.RpcError):
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1.0)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False


def _now(*, micro: bool = False) -> str:
    now = datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="microseconds" if micro else "seconds").replace("+00:00", "Z")
