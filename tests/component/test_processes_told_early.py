"""A process that is told to go while it still begins, as the first process of a container would be."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.component


def handles(process: "subprocess.Popen[bytes]", number: signal.Signals) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="a process' signal handlers are read from /proc")
@pytest.mark.parametrize(
    "command",
    [("antiphon.worker",), ("antiphon_operator",), ("antiphon.cli.main", "orchestrator", "--port", "0")],
    ids=lambda command: command[0],
)
def test_it_ends_at_once(command: tuple[str, ...]) -> None:
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not handles(process, signal.SIGTERM):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.001)
        process.terminate()
        assert process.wait(5) in (0, 143)
    finally:
        process.kill()
        process.wait()
