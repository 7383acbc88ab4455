"""What a worker computes on, as its lease says it."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

CPU = "cpu"
_DRIVER, _NODES = Path("/proc/driver/nvidia"), Path("/dev")


def device(driver: Path = _DRIVER, nodes: Path = _NODES) -> str:
    """The names of the NVIDIA GPUs that this process may use, such as `2 x NVIDIA L4`; `cpu` where there is none.

    A GPU is this process's when its device node is: a container may see what the driver says of others.
    """
    found = Counter(_usable(driver, nodes))
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in sorted(found.items())) or CPU


def _usable(driver: Path, nodes: Path) -> Iterator[str]:
    for information in driver.glob("gpus/*/information"):
        try:
            told = dict(re.findall(r"^([^:\n]+):[ \t]*(.*)$", information.read_text("utf-8", "replace"), re.MULTILINE))
        except OSError:
            continue
        if (nodes / f"nvidia{told.get('Device Minor', '').strip()}").exists():
            yield told.get("Model", "").strip() or "GPU"
