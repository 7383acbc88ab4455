"""Child processes that are kept alive, heard when they fail, and never outlive their parent."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.registry.embedded import die_with_parent

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_S = 30.0
"""A child that lived this long has recovered: its next failure is its first."""
STARTS = 3
"""A child that was killed so often before it did any work will not start."""
_REFUSED = 1
"""The exit status of a child that says why it will not work: that does not pass by itself."""


class Child:
    """One command as a process, restarted with growing delays when it ends by itself.

    Args:
        name: What it is called, and what its log file is called.
        command: A program and its arguments.
        environment: What it is told beside our own environment.
        log: The file for its log; begun anew at each start of ours.
        warn: Told, in a sentence, of every end that was not asked for.
        announce: Called with each line that the child prints.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        warn: Callable[[str], None],
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.log = log
        self.settled = False
        """Set by the owner once the child has done its work: from then on it is restarted for ever."""
        self._command = command
        self._environment = environment
        self._warn = warn
        self._announce = announce
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Of the running process; None while there is none."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def supervise(self) -> None:
        """Keep it running until `stop`; cancelling this kills it.

        Raises:
            AntiphonError: INTERNAL when it does not start, with the last thing that it said.
        """
        failures = 0
        while not self._stopping:
            begun_s = asyncio.get_running_loop().time()
            status = await self._run()
            if self._stopping:
                return
            steady = asyncio.get_running_loop().time() - begun_s > STEADY_S
            failures = 1 if steady else failures + 1
            if not self.settled and (status == _REFUSED or failures >= STARTS):
                raise AntiphonError(Reason.INTERNAL, f"The {self.name} does not start: {self._last_words()}")
            delay_s = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
            self._warn(f"The {self.name} ended ({_told(status)}); it starts again in {delay_s:g} s. Log: {self.log}")
            await asyncio.sleep(delay_s)

    async def stop(self, grace_s: float, *, urge_s: float | None = None) -> None:
        """End it: ask, wait for `grace_s`, then insist. Idempotent.

        Args:
            grace_s: How long it may take.
            urge_s: Asked a second time after so long; an orchestrator then cuts off what it waits for.
        """
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        asked_s = asyncio.get_running_loop().time()
        for patience_s in (urge_s, grace_s):
            if patience_s is not None and process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(asked_s + patience_s):
                        await process.wait()
        if process.returncode is None:
            self._warn(f"The {self.name} did not end within {grace_s:g} s and was killed.")
            process.kill()
            await process.wait()

    async def _run(self) -> int:
        with self.log.open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                env={**os.environ, **self._environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for the parent, which ends them in order
                preexec_fn=die_with_parent(),
            )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                self._announce(line.decode(errors="replace").rstrip())
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        words = lines[-1].removeprefix("antiphon: ") if lines else "it said nothing."
        return f"{words} (log: {self.log})"


def _told(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
