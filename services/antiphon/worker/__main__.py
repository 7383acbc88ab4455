"""`python -m antiphon.worker`: a worker, told by its environment."""

from antiphon.worker.config import WorkerConfig
from antiphon.worker.server import run

if __name__ == "__main__":
    run(WorkerConfig())
