"""Daemons of a test cluster as plain processes: started with a log file, ended for certain."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STOP_S = 10.0
_STARTER = ThreadPoolExecutor(1, "daemons")
"""Starts every process: the kernel's "parent" of pdeathsig is the thread that started it, which must not end before."""


def free_ports(count: int) -> list[int]:
    """Free TCP ports of 127.0.0.1, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in sockets]


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60.0, every_s: float = 0.05) -> None:
    """Return once the condition holds; raise TimeoutError with `what` when it does not in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(every_s)


def wait_for_the_end() -> None:
    """Return at Ctrl-C, SIGTERM or SIGHUP; call `end_by_interrupt` first of all."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def end_by_interrupt() -> None:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, so that what was started is ended."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


class Daemon:
    """One process with its log. It ends with the process that started it, however that one ends."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.log = log
        self.env = env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self.alive() and self._process else None

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.alive():
            return
        self._process = _STARTER.submit(self._open).result()

    def _open(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | (self.env or {}),
                start_new_session=True,
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it has; what ignores the signal is killed."""
        if self._process is None:
            return
        if self.alive():
            self._process.send_signal(how)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def must_live(self) -> bool:
        """True while it runs; raises RuntimeError with the end of its log when it has ended."""
        if not self.alive():
            raise RuntimeError(f"{self.name} ended:\n{self.tail()}")
        return True
