"""Child processes: restarted, heard, and never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from antiphon.cli import children
from antiphon.cli.children import Child
from antiphon.contracts.errors import AntiphonError

pytestmark = pytest.mark.component


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


SLEEPS = python("print('up', flush=True); import time; time.sleep(60)")
STUBBORN = python(
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
)


class Watched:
    """A child and all that was said of it."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.warnings: list[str] = []
        self.lines: list[str] = []
        log = folder / "child.log"
        log.touch()
        self.child = Child(
            "child", command, environment={}, log=log, warn=self.warnings.append, announce=self.lines.append
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_child_that_dies_is_restarted_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "BACKOFF_S", (0.01,))
    watched = Watched(SLEEPS, tmp_path)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watched.child.supervise())
        await watched.until(lambda: len(watched.lines) == 1)
        first = watched.child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await watched.until(lambda: len(watched.lines) == 2)
        assert watched.child.pid != first
        assert "killed by signal 9" in watched.warnings[0]
        await watched.child.stop(5)
    assert watched.child.pid is None
    assert len(watched.warnings) == 1


async def test_a_child_that_crashes_before_it_works_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "BACKOFF_S", (0.01,))
    watched = Watched(python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), tmp_path)
    with pytest.raises(AntiphonError, match="does not start"):
        await watched.child.supervise()
    assert len(watched.warnings) == children.STARTS - 1


async def test_a_child_that_refuses_ends_it_with_its_last_words(tmp_path: Path) -> None:
    command = python("import sys; sys.exit('antiphon: Port 80 is taken.')")
    watched = Watched(command, tmp_path)
    with pytest.raises(AntiphonError, match="does not start: Port 80 is taken"):
        await watched.child.supervise()
    assert watched.warnings == []


async def test_a_child_that_will_not_end_is_killed(tmp_path: Path) -> None:
    watched = Watched(STUBBORN, tmp_path)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watched.child.supervise())
        await watched.until(lambda: watched.lines == ["up"])
        await watched.child.stop(0.1)
    assert "was killed" in watched.warnings[0]


async def test_a_child_that_waits_is_asked_a_second_time(tmp_path: Path) -> None:
    waits = python(
        "import signal, sys, time; told = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0) if told else told.append(1)); print('up', flush=True)\n"
        "while True: time.sleep(60)"
    )
    watched = Watched(waits, tmp_path)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watched.child.supervise())
        await watched.until(lambda: watched.lines == ["up"])
        await watched.child.stop(30, urge_s=0.5)
    assert watched.child.pid is None
    assert watched.warnings == []


async def test_cancelling_the_supervision_kills_the_child(tmp_path: Path) -> None:
    watched = Watched(STUBBORN, tmp_path)
    supervision = asyncio.create_task(watched.child.supervise())
    await watched.until(lambda: watched.lines == ["up"])
    pid = watched.child.pid
    assert pid is not None
    supervision.cancel()
    await asyncio.gather(supervision, return_exceptions=True)
    await watched.until(lambda: not alive(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
async def test_children_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio
from pathlib import Path
from antiphon.cli.children import Child
child = Child("child", {SLEEPS!r}, environment={{}}, log=Path({str(tmp_path / "log")!r}), warn=print,
              announce=lambda _: print(child.pid, flush=True))
asyncio.run(child.supervise())
"""
    parent = await asyncio.create_subprocess_exec(*python(program), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 20))
    assert alive(pid)
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(5):
        while alive(pid):
            await asyncio.sleep(0.01)
