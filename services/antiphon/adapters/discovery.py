"""Which engines are installed here: whatever stands under the entry points `antiphon.tts`, `.asr` and `.vad`.

An engine's class may say what it needs beside antiphon itself:

- `REQUIRES`: names of distributions, the one that runs the model first; its version is reported as the engine's;
- `EXTRA`: the extra of antiphon's that brings them.
"""

import logging
from importlib import metadata
from typing import get_args

from antiphon.contracts.adapters import AsrEngine, EngineEntry, Task, TtsEngine, VadEngine
from antiphon.contracts.errors import AntiphonError, Reason

_log = logging.getLogger(__name__)


def engines() -> dict[tuple[Task, str], EngineEntry]:
    """Every engine that can be used here, by task and name. One that cannot be imported is logged and left out."""
    found: dict[tuple[Task, str], EngineEntry] = {}
    for task in get_args(Task):
        for point in metadata.entry_points(group=f"antiphon.{task}"):
            try:
                entry = _entry(task, point)
            except Exception:  # another package's code: whatever it raises, the other engines stand
                _log.exception("an engine cannot be imported", extra={"engine": point.name, "task": task})
                continue
            if not _missing(entry.factory):
                found[task, point.name] = entry
    return found


def find_engine(task: Task, name: str) -> type[TtsEngine] | type[AsrEngine]:
    """The class of an engine.

    Raises:
        AntiphonError: INVALID_REQUEST when it is unknown or lacks a distribution, saying what is installed and what
            to install; LOAD_FAILED when it cannot be imported.
    """
    points = metadata.entry_points(group=f"antiphon.{task}", name=name)
    if not points:
        installed = ", ".join(sorted(known for of_task, known in engines() if of_task == task))
        message = f"There is no {task} engine {name!r}: installed are {installed or 'none'}."
        raise AntiphonError(Reason.INVALID_REQUEST, message)
    try:
        factory = _entry(task, next(iter(points))).factory
    except Exception as error:
        raise AntiphonError(Reason.LOAD_FAILED, f"Engine {name!r} cannot be imported: {error}.") from error
    if missing := _missing(factory):
        extra = getattr(factory, "EXTRA", "")
        remedy = f"'antiphon[{extra}]'" if extra else " ".join(missing)
        message = f"Engine {name!r} needs {', '.join(missing)}: pip install {remedy}."
        raise AntiphonError(Reason.INVALID_REQUEST, message)
    return factory


def find_vad(name: str = "silero") -> type[VadEngine]:
    """The class of a voice-activity engine.

    Raises:
        AntiphonError: INVALID_REQUEST when it is unknown, with those there are.
    """
    points = metadata.entry_points(group="antiphon.vad")
    if name not in points.names:
        message = f"There is no voice-activity engine {name!r}: installed are {', '.join(sorted(points.names))}."
        raise AntiphonError(Reason.INVALID_REQUEST, message)
    factory: type[VadEngine] = points[name].load()
    return factory


def _entry(task: Task, point: metadata.EntryPoint) -> EngineEntry:
    factory: type[TtsEngine] | type[AsrEngine] = point.load()
    requires: tuple[str, ...] = getattr(factory, "REQUIRES", ())
    extra: str = getattr(factory, "EXTRA", "")
    version = (_version(requires[0]) if requires else None) or (point.dist.version if point.dist else "")
    return EngineEntry(point.name, task, factory, version, (extra,) if extra else ())


def _missing(factory: type) -> list[str]:
    return [name for name in getattr(factory, "REQUIRES", ()) if _version(name) is None]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
