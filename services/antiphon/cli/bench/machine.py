"""What the figures were measured on."""

import os
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

_PACKAGES = ("antiphon", "aiohttp", "ctranslate2", "faster-whisper", "grpcio", "onnxruntime", "piper-tts")


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine at a moment."""

    measured_at: str
    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str
    load: float
    """The load average of the last minute, before the first measurement: above 0.5 others were at work."""
    packages: dict[str, str]

    @classmethod
    def describe(cls) -> "Machine":
        """This one, now."""
        return cls(
            datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            _processor(),
            os.cpu_count() or 1,
            round(psutil.virtual_memory().total / 2**30, 1),
            f"{platform.system()} {platform.release()}",
            platform.python_version(),
            round(os.getloadavg()[0], 2),
            {name: version for name in _PACKAGES if (version := _version(name))},
        )

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        return (
            f"{self.processor}, {self.cores} cores, {self.memory_gib:g} GiB; {self.system}; Python {self.python}; "
            f"{packages}; load {self.load:g} before it began; {self.measured_at}"
        )


class Neighbours:
    """How much of the machine others take while the bench measures, from its making on."""

    def __init__(self) -> None:
        self._begun_s = time.monotonic()
        self._others_s = _others_s()

    @property
    def busy(self) -> float:
        """The share of one core, in per cent, of all that is neither this process nor one that it started."""
        return 100 * max(0.0, _others_s() - self._others_s) / (time.monotonic() - self._begun_s)


def _others_s() -> float:
    """CPU time of all processes of the machine but ours."""
    own = psutil.Process()
    ours = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    everyone = psutil.cpu_times()
    busy: float = everyone.user + everyone.nice + everyone.system
    return busy - sum(times.user + times.system for times in ours)


def _processor() -> str:
    """The name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
