"""The orchestrator's configuration file: assistants, defaults, aliases, the server and where the registry is.

One YAML file, validated as a whole; what is unknown is refused with its place and the nearest name that exists.
"""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from antiphon.contracts.adapters import Task
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec
from antiphon.conversation.ports import Tool
from antiphon.conversation.settings import BACKCHANNELS, ConversationSettings, Limits, TurnSettings

DEFAULT = "default"
"""The name by which a caller asks for whatever the configuration says."""


class Section(BaseModel):
    """A part of the file: frozen, and without room for what nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = list(cls.model_fields)
            for key in value:
                if key not in known:
                    close = get_close_matches(str(key), known, n=1)
                    hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
                    raise ValueError(f"unknown key '{key}'; {hint}")
        return value


class Secret(Section):
    """A secret by reference: `{env: NAME}` or `{file: PATH}`; never written in the file itself."""

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Secret":
        if (self.env is None) == (self.file is None):
            raise ValueError("name one source of the secret: {env: NAME} or {file: PATH}")
        return self

    def read(self) -> SecretStr:
        """The secret, without surrounding white space. Raises `AntiphonError(INVALID_REQUEST)` when it is not there."""
        if self.env is not None:
            value, source = os.environ.get(self.env, ""), f"the environment variable {self.env}"
        else:
            assert self.file is not None
            source = f"the file {self.file}"
            try:
                value = self.file.read_text()
            except OSError as error:
                raise AntiphonError(Reason.INVALID_REQUEST, f"Cannot read {source}: {error.strerror}.") from None
        if not value.strip():
            raise AntiphonError(Reason.INVALID_REQUEST, f"A secret is taken from {source}, which is empty or not set.")
        return SecretStr(value.strip())


# --- assistants -----------------------------------------------------------------------------------------------------


class EchoConfig(Section):
    """Says back what it heard."""

    kind: Literal["echo"] = "echo"
    prefix: str = Field(default="", max_length=200)
    """Spoken before the user's own words."""


class ChatConfig(Section):
    """Asks an OpenAI-compatible chat-completions server."""

    kind: Literal["chat"] = "chat"
    url: str = Field(pattern=r"^https?://", max_length=1024)
    """The server's base, such as `http://127.0.0.1:11434/v1`."""
    model: str = Field(min_length=1, max_length=256)
    key: Secret | None = None
    timeout_s: float = Field(default=8.0, gt=0, le=120)
    """To the first token, and between two of them; less than `limits.reply_start_s` for an error that names it."""
    temperature: float | None = Field(default=None, ge=0, le=2)


ResponderConfig = Annotated[EchoConfig | ChatConfig, Field(discriminator="kind")]


class VoiceConfig(Section):
    """Which model speaks, and how."""

    model: str = DEFAULT
    name: str = ""
    """One of the model's voices; empty: its first."""
    speed: float = Field(default=1.0, ge=0.25, le=4.0)
    fallback: str = ""
    """The model that speaks, with its first voice, while no worker holds `model`. Empty: replies wait for it."""


class ToolConfig(Section):
    """A function that every client of this assistant can carry out."""

    type: Literal["function"] = "function"
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})


class TurnsConfig(Section):
    """`TurnSettings`, as people write them."""

    detect: bool = True
    create_response: bool = True
    interrupt_response: bool = True
    threshold: float = Field(default=0.5, gt=0, lt=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=2000)
    silence_duration_ms: int = Field(default=500, ge=100, le=10_000)
    patience_ms: int = Field(default=1500, ge=100, le=20_000)
    pause_after_ms: int = Field(default=160, ge=32, le=2000)
    confirm_ms: int = Field(default=64, ge=32, le=1000)
    stop_after_ms: int = Field(default=700, ge=100, le=10_000)
    duck_db: float = Field(default=-12.0, ge=-60, le=0)
    backchannels: tuple[str, ...] | None = None
    """None: those of the assistant's language."""

    def settings(self, language: str) -> TurnSettings:
        """The turn settings of an assistant that speaks `language` (BCP 47; empty: English)."""
        values = self.model_dump()
        if self.backchannels is None:
            values["backchannels"] = BACKCHANNELS.get((language or "en").split("-")[0].lower(), ())
        return TurnSettings(**values)


class LimitsConfig(Section):
    """`Limits`, as people write them. 0: none."""

    idle_s: float = Field(default=300.0, ge=0)
    session_s: float = Field(default=3600.0, ge=0)
    utterance_s: float = Field(default=60.0, ge=0, le=120)
    warning_s: float = Field(default=10.0, ge=0)
    reply_start_s: float = Field(default=10.0, gt=0)


class AssistantConfig(Section):
    """What a person talks to. All defaults: an echo with the default voice and recogniser."""

    recogniser: str = DEFAULT
    recogniser_fallback: str = ""
    """The model that hears while no worker holds `recogniser`. Empty: what was said waits for it."""
    voice: VoiceConfig = VoiceConfig()
    language: str = ""
    instructions: str = ""
    tools: tuple[ToolConfig, ...] = ()
    apology: str = ConversationSettings(session_id="").apology
    responder: ResponderConfig = EchoConfig()
    turns: TurnsConfig = TurnsConfig()
    limits: LimitsConfig = LimitsConfig()
    resume_s: float = Field(default=300.0, ge=0, le=86_400)
    """How long a session whose client is gone can be resumed; 0: not at all, and nothing of it is kept."""
    keep_transcripts: bool = True
    """Whether what was said is kept for that long; without it a session is resumed with its settings alone."""

    def settings(self, session_id: str) -> ConversationSettings:
        """What a new session with this assistant begins with."""
        return ConversationSettings(
            session_id=session_id,
            recogniser=self.recogniser,
            voice_model=self.voice.model,
            voice=self.voice.name,
            voice_fallback=self.voice.fallback,
            recogniser_fallback=self.recogniser_fallback,
            language=self.language,
            instructions=self.instructions,
            tools=tuple(Tool(tool.name, tool.description, tool.parameters) for tool in self.tools),
            speed=self.voice.speed,
            apology=self.apology,
            turns=self.turns.settings(self.language),
            limits=Limits(**self.limits.model_dump()),
        )


# --- the rest of the file -------------------------------------------------------------------------------------------


class DefaultsConfig(Section):
    """What `default` means. None: the only one there is, else the first by name."""

    assistant: str | None = None
    voice: str | None = None
    """A speaking model's name."""
    recogniser: str | None = None


class AliasesConfig(Section):
    """Other names, such as OpenAI's own, and what they stand for here."""

    models: dict[str, str] = Field(default_factory=dict)
    """To an assistant, or a model, or `default`."""
    voices: dict[str, str] = Field(default_factory=dict)
    """To a voice of the model that speaks."""


class ServerConfig(Section):
    """Where it listens, whom it lets in, and how much it takes."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    """0: any free one."""
    reuse_port: bool = False
    """Share the port with other orchestrators of this machine; the kernel spreads connections over them."""
    metrics_port: int | None = Field(default=None, ge=0, le=65_535)
    """A port of its own for `/healthz`, `/readyz` and `/metrics`, which a shared port gives of any process.
    0: any free one. None: none."""
    id: str = Field(default="", pattern=r"^[a-zA-Z0-9._-]{0,63}$")
    """What this orchestrator is called, in the registry and in its metrics. Empty: the machine's name."""
    keys: tuple[Secret, ...] = ()
    """API keys; each source holds one or more, a line each. None: only on loopback."""
    max_sessions: int = Field(default=100, ge=1)
    max_sessions_per_key: int = Field(default=0, ge=0)
    """0: no bound but `max_sessions`."""
    max_message_bytes: int = Field(default=22 * 2**20, ge=1024)
    """One WebSocket message; the default holds 15 MiB of audio in base64."""
    events_per_s: float = Field(default=200.0, gt=0)
    """Client events of one session, in the long run; audio of 20 ms an event is 50."""
    event_burst: int = Field(default=2000, ge=1)
    """Events that may come at once."""
    send_queue_events: int = Field(default=1000, ge=16)
    """Server events that wait for a client that does not read; beyond, it is closed as too slow."""
    drain_grace_s: float = Field(default=30.0, ge=0)
    """How long running turns may take to end once the process is told to go."""
    max_input_chars: int = Field(default=4096, ge=1)
    """Text of one `/v1/audio/speech` request."""
    max_upload_bytes: int = Field(default=256 * 2**20, ge=1024)
    """One file for `/v1/audio/transcriptions`."""


class RegistryConfig(Section):
    """Where the workers are found."""

    url: str = "redis://127.0.0.1:6379/0"
    namespace: str = Field(default="default", pattern=r"^[a-zA-Z0-9._-]{1,63}$")


class WorkersConfig(Section):
    """How workers are called."""

    token_file: Path | None = None
    """A bearer token, shared with the workers. None: only workers on loopback take the call."""


class OrchestratorConfig(Section):
    """The whole file."""

    assistants: dict[str, AssistantConfig] = Field(default_factory=dict)
    default: DefaultsConfig = DefaultsConfig()
    aliases: AliasesConfig = AliasesConfig()
    models: tuple[ModelSpec, ...] = ()
    """What `antiphon up` serves; a cluster has its catalogue from the operator."""
    server: ServerConfig = ServerConfig()
    registry: RegistryConfig = RegistryConfig()
    workers: WorkersConfig = WorkersConfig()

    @model_validator(mode="after")
    def _default_assistant_exists(self) -> "OrchestratorConfig":
        name = self.default.assistant
        if name is not None and name not in self.assistants:
            raise ValueError(f"default.assistant: there is no assistant '{name}'; {_listed(self.assistants)}")
        return self

    @model_validator(mode="after")
    def _fallbacks_are_other_models(self) -> "OrchestratorConfig":
        for name, assistant in self.assistants.items():
            voice = (assistant.voice.model, assistant.voice.fallback, "voice.fallback")
            ears = (assistant.recogniser, assistant.recogniser_fallback, "recogniser_fallback")
            for model, fallback, key in (voice, ears):
                if fallback and self.aliases.models.get(fallback, fallback) == self.aliases.models.get(model, model):
                    raise ValueError(f"assistants.{name}.{key}: '{fallback}' is the model that it should stand in for")
        return self

    @property
    def default_assistant(self) -> str:
        """The name of the assistant that `default` means."""
        return self.default.assistant or min(self.assistants, default=DEFAULT)

    def assistant(self, name: str) -> tuple[str, AssistantConfig]:
        """The assistant of this name, alias or `default`, with its own name.

        A file without assistants has one, all of defaults. Raises `AntiphonError(MODEL_UNKNOWN)`.
        """
        name = self.aliases.models.get(name, name) or DEFAULT
        if name == DEFAULT and name not in self.assistants:
            name = self.default_assistant
        if name == DEFAULT and not self.assistants:
            return name, AssistantConfig()
        if name not in self.assistants:
            raise AntiphonError(
                Reason.MODEL_UNKNOWN, f"There is no assistant '{name}'; {_listed(self.assistants or {DEFAULT})}."
            )
        return name, self.assistants[name]

    def model_defaults(self) -> dict[Task, str | None]:
        """The model that `default` means for each task; None: the catalogue's only or first one."""
        return {"tts": self.default.voice, "asr": self.default.recogniser}

    def secrets(self) -> Iterator[Secret]:
        """Every reference to a secret in the file."""
        yield from self.server.keys
        for assistant in self.assistants.values():
            if isinstance(assistant.responder, ChatConfig) and assistant.responder.key is not None:
                yield assistant.responder.key


def load_config(path: Path | None = None) -> OrchestratorConfig:
    """The configuration in a YAML file (None: all defaults), with every secret of it in reach.

    Raises `AntiphonError(INVALID_REQUEST)` that names the place and says what to change.
    """
    if path is None:
        return OrchestratorConfig()
    try:
        written = yaml.safe_load(path.read_text())
    except OSError as error:
        raise AntiphonError(Reason.INVALID_REQUEST, f"Cannot read {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AntiphonError(Reason.INVALID_REQUEST, f"{path} is not YAML: {error}") from None
    try:
        config = OrchestratorConfig.model_validate({} if written is None else written)
    except ValidationError as error:
        raise AntiphonError(Reason.INVALID_REQUEST, f"{path}: {_explain(error)}") from None
    for secret in config.secrets():
        secret.read()
    return config


def _explain(error: ValidationError) -> str:
    """Each fault with its place; never the value, which may be a secret written in the wrong place."""
    faults = []
    for fault in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        faults.append(f"{place}: {message}" if place else message)
    return "; ".join(faults)


def _listed(names: "dict[str, Any] | set[str]") -> str:
    return f"there is {', '.join(sorted(names))}" if names else "the file has none"
