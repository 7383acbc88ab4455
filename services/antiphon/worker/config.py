"""All that a worker is told: from the environment (`ANTIPHON_WORKER_...`) or from whoever starts it."""

import json
import logging
import os
import socket
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from antiphon.contracts.models import Artifact, ModelSpec, used_twice


class Rewrite(BaseModel):
    """Where weights come from in a cluster that cannot reach the place that a model names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: str = Field(min_length=1, max_length=1024)
    """Of an artifact's uri."""
    replacement: str = Field(min_length=1, max_length=1024)
    """What stands in its place; the rest of the uri stays."""

    def applied(self, artifact: Artifact) -> Artifact | None:
        """The artifact at its other place; None when its uri begins otherwise."""
        if not artifact.uri.startswith(self.prefix):
            return None
        return artifact.model_copy(update={"uri": self.replacement + artifact.uri.removeprefix(self.prefix)})


class WorkerConfig(BaseSettings):
    """One worker. Frozen; loaded once, handed down."""

    model_config = SettingsConfigDict(
        env_prefix="ANTIPHON_WORKER_", env_nested_delimiter="__", env_parse_none_str="none", frozen=True
    )

    worker_id: str = Field(default_factory=socket.gethostname, min_length=1, max_length=253)
    """Unique in the namespace; a pod's name. The host's name otherwise."""
    host: str = "127.0.0.1"
    """The address to listen on. Beyond loopback a `token_file` is needed."""
    advertise_host: str = ""
    """The address that others reach it by; empty: `host`, or the host's own name when that is a wildcard."""
    port: int = Field(default=7001, ge=0, le=65535)
    """gRPC; 0: any free one."""
    metrics_port: int | None = Field(default=9101, ge=0, le=65535)
    """`/metrics`; 0: any free one, None: none."""
    models: Annotated[tuple[ModelSpec, ...], NoDecode] = ()
    """What may be loaded: specs, JSON, or the path of a YAML file with a list of them (or a key `models`).

    Given, it is the worker's own catalogue, and nobody places models on it; empty, the registry says what there is
    and what of it this worker should hold.
    """
    redis_url: str | None = None
    """The registry; None: the worker announces itself nowhere, and `models` are all that it serves."""
    namespace: str = Field(default="default", min_length=1, max_length=63)
    """Of the registry's keys."""
    token_file: Path | None = None
    """The bearer token that callers must show."""
    cache: Path = Path.home() / ".cache" / "antiphon"
    """Where fetched weights are kept. Workers of one machine may share it: what one fetches the others wait for."""
    rewrites: Annotated[tuple[Rewrite, ...], NoDecode] = ()
    """Other places for weights; the longest prefix that an artifact's uri begins with. In the environment: JSON."""

    max_streams: int = Field(default=16, ge=1, le=10_000)
    """Synthesis and recognition together; one more is refused with WORKER_FULL."""
    synthesis_threads: int = Field(default=2, ge=1, le=64)
    """Hops of synthesis that compute at once."""
    recognition_threads: int = Field(default=2, ge=1, le=64)
    """Transcripts that are computed at once."""
    load_threads: int = Field(default=1, ge=1, le=8)
    """Models that are loaded at once, apart from inference."""
    memory_budget_mib: int = Field(default=0, ge=0)
    """What models may take together; 0: no limit."""
    resident_cap: int = Field(default=0, ge=0)
    """How many models may be held; 0: no limit."""
    load_wait_s: float = Field(default=20.0, ge=0, le=600)
    """How long a stream waits for its model to load before it is told MODEL_LOADING."""

    loudness_lufs: float | None = Field(default=-18.0, ge=-40, le=-8)
    """How loud every voice is made, measured at warm-up; None (`none`): as it comes. -18 leaves speech its peaks."""
    max_text_chars: int = Field(default=20_000, ge=1)
    """Code points in one synthesis: about 20 minutes of speech."""
    max_utterance_s: float = Field(default=120.0, gt=0)
    max_stream_s: float = Field(default=1800.0, gt=0)
    """Wall-clock time of one stream, pauses included: so that every stream ends."""
    drain_timeout_s: float = Field(default=60.0, ge=0)
    """How long running streams may take to finish after SIGTERM; below the pod's grace."""
    log_json: bool = False
    log_level: str = "INFO"

    @field_validator("models", mode="before")
    @classmethod
    def _read_models(cls, value: Any) -> Any:
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            value = json.loads(value)
        elif isinstance(value, str | os.PathLike):
            value = _read_yaml(Path(value))
        if not isinstance(value, dict):
            return value
        if "models" not in value:
            raise ValueError("there is no list of models and no key `models`")
        return value["models"]

    @field_validator("models")
    @classmethod
    def _names_are_unique(cls, value: tuple[ModelSpec, ...], info: ValidationInfo) -> tuple[ModelSpec, ...]:
        if twice := used_twice(value):
            raise ValueError(f"these model names or aliases are used twice: {', '.join(twice)}")
        return value

    @field_validator("rewrites", mode="before")
    @classmethod
    def _read_rewrites(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("log_level")
    @classmethod
    def _is_level(cls, value: str) -> str:
        if value.upper() not in (known := logging.getLevelNamesMapping()):
            raise ValueError(f"'{value}' is no level: choose one of {', '.join(known)}")
        return value

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the worker."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def _read_yaml(path: Path) -> Any:
    """What the file says. Raises `ValueError`, as validators do, when it cannot be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or ()
    except OSError as error:
        raise ValueError(f"the file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"the file {path} is not YAML: {error}") from None
