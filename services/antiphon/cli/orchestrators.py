"""The orchestrators of one machine: one, or several that share a port."""

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import yaml

from antiphon.cli.children import Child
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.config import OrchestratorConfig

ANTIPHON = (sys.executable, "-m", "antiphon.cli.main")
START_S = 60.0
_POLL_S = 0.1


class Orchestrators:
    """Processes that serve one configuration at one address, each with an id and a status of its own.

    Args:
        config: What they serve. Several of them need its port to be a number that `shared_port` keeps.
        count: How many.
        folder: For their configuration files.
        logs: For their logs, which are begun anew.
        warn: Told, in a sentence, when one ends unasked.
    """

    def __init__(
        self, config: OrchestratorConfig, count: int, folder: Path, logs: Path, warn: Callable[[str], None]
    ) -> None:
        self.url = ""
        """Where they listen; empty before one does."""
        self.status_urls: dict[str, str] = {}
        """By name: the address of each one's `/readyz` and `/metrics`."""
        self._listening = asyncio.Event()
        names = ["orchestrator"] if count == 1 else [f"orchestrator-{number}" for number in range(1, count + 1)]
        self.children = [self._child(name, config, folder, logs, warn, shares=count > 1) for name in names]

    async def listening(self) -> None:
        """Wait until each of them listens. Raises `AntiphonError(TIMEOUT)` when one does not."""
        try:
            async with asyncio.timeout(START_S):
                await self._listening.wait()
        except TimeoutError:
            message = f"The orchestrator did not listen within {START_S:.0f} s: its log says where it stands."
            raise AntiphonError(Reason.TIMEOUT, message) from None

    async def ready(self) -> None:
        """Wait until each of them would serve a call. Raises `AntiphonError(NO_WORKER)` when one has nobody to call."""
        async with aiohttp.ClientSession() as http:
            for name in list(self.status_urls):
                await self._answers(http, name)

    def _child(
        self,
        name: str,
        config: OrchestratorConfig,
        folder: Path,
        logs: Path,
        warn: Callable[[str], None],
        *,
        shares: bool,
    ) -> Child:
        if shares:
            update = {"id": name, "reuse_port": True, "metrics_port": 0}
            config = config.model_copy(update={"server": config.server.model_copy(update=update)})
        file, log = folder / f"{name}.yaml", logs / f"{name}.log"
        file.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True, exclude_none=True)))
        log.write_bytes(b"")
        return Child(
            name,
            [*ANTIPHON, "orchestrator", "--config", str(file)],
            environment={},
            log=log,
            warn=warn,
            announce=lambda line: self._announced(name, line),
        )

    def _announced(self, name: str, line: str) -> None:
        """Take an orchestrator's first words: its addresses."""
        if line.startswith("http"):
            self.url = line
        elif line.startswith("status "):
            self.status_urls[name] = line.removeprefix("status ")
            if len(self.status_urls) == len(self.children):
                self._listening.set()

    async def _answers(self, http: aiohttp.ClientSession, name: str) -> None:
        told = ""
        for _ in range(round(START_S / _POLL_S)):
            try:
                async with http.get(f"{self.status_urls[name]}/readyz") as response:
                    if response.status == 200:
                        return
                    told = (await response.json())["error"]["message"]
            except aiohttp.ClientError as error:
                told = str(error)
            await asyncio.sleep(_POLL_S)
        raise AntiphonError(Reason.NO_WORKER, f"The {name} does not get ready: {told}")


@contextmanager
def shared_port(host: str, port: int) -> Iterator[int]:
    """A port, kept for several processes of this user that all listen on it; 0: any free one.

    No connection comes to whoever only keeps it. Raises `AntiphonError(INVALID_REQUEST)` when the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise AntiphonError(Reason.INVALID_REQUEST, f"Cannot listen on {host}: {error.strerror}.") from None
    with socket.socket(family, kind, protocol) as kept:
        try:
            with socket.socket(family, kind, protocol) as alone:  # unlike the next one, refused where others share it
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind(address)
                alone.listen()
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            kept.bind(address)
        except OSError as error:
            message = f"Cannot listen on {host}:{port}: {error.strerror}. Is another server there?"
            raise AntiphonError(Reason.INVALID_REQUEST, message) from None
        yield kept.getsockname()[1]
