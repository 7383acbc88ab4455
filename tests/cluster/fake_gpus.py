"""A device plugin that pretends NVIDIA GPUs: `fake_gpus.py RESOURCE COUNT [RESOURCE COUNT …]`, beside a kubelet.

Where kubelet looks for plugins is fixed, whatever its root is: /var/lib/kubelet/device-plugins.
"""

import concurrent.futures
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

sys.path.insert(0, str(Path(__file__).parent))
PLUGINS = Path("/var/lib/kubelet/device-plugins")
KUBELET = PLUGINS / "kubelet.sock"
messages, services = grpc.protos_and_services("fake_gpus.proto")


class FakeGpus(services.DevicePluginServicer):
    """So many healthy devices of one resource; a container learns which are its own as from NVIDIA's plugin."""

    def __init__(self, resource: str, count: int) -> None:
        self.resource = resource
        self.devices = [messages.Device(ID=f"GPU-{index:08d}", health="Healthy") for index in range(count)]
        self.socket = PLUGINS / (resource.replace("/", "-") + ".sock")

    def GetDevicePluginOptions(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return messages.DevicePluginOptions()

    def ListAndWatch(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        yield messages.ListAndWatchResponse(devices=self.devices)
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait()

    def Allocate(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        response = messages.AllocateResponse()
        for container in request.container_requests:
            response.container_responses.add(envs={"NVIDIA_VISIBLE_DEVICES": ",".join(container.devices_ids)})
        return response

    def serve(self) -> grpc.Server:
        """Listen, and tell kubelet so."""
        self.socket.unlink(missing_ok=True)
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        services.add_DevicePluginServicer_to_server(self, server)
        server.add_insecure_port(f"unix:{self.socket}")
        server.start()
        request = messages.RegisterRequest(version="v1beta1", endpoint=self.socket.name, resource_name=self.resource)
        with grpc.insecure_channel(f"unix:{KUBELET}") as channel:
            services.RegistrationStub(channel).Register(request, timeout=5)
        return server


def kubelet_identity() -> tuple[int, int] | None:
    """Changes when kubelet restarts: it makes a new socket and forgets every plugin."""
    try:
        status = KUBELET.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def main(plugins: list[FakeGpus]) -> None:
    known, servers = None, []
    while True:
        now = kubelet_identity()
        if now and now != known:
            for server in servers:
                server.stop(0)
            try:
                servers = [plugin.serve() for plugin in plugins]
                known = now
            except grpc.RpcError as error:
                print(f"kubelet does not answer yet: {error}", flush=True)
        time.sleep(0.2)


if __name__ == "__main__":
    main([FakeGpus(name, int(count)) for name, count in zip(sys.argv[1::2], sys.argv[2::2], strict=True)])
