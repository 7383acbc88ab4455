"""`python -m antiphon.worker`: a worker, told by its environment."""

import signal
import sys

if __name__ == "__main__":
    # A container's first process ignores what it has no handler for: told to go while it still imports, it would stay
    # for the whole grace of its pod.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    from antiphon.worker.config import WorkerConfig
    from antiphon.worker.server import run

    run(WorkerConfig())
