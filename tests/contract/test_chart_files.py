"""Charts, images and what starts antiphon elsewhere name only what exists, and say the same as one another."""

import copy
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from antiphon.contracts.resources import VoiceModel, WorkerPool
from antiphon.contracts.resources.manifests import read_manifests
from antiphon.orchestrator.config import OrchestratorConfig

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/antiphon"
DOCKERFILES = sorted((ROOT / "services/docker").glob("*.Dockerfile"))
VERSION = "0.1.0"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
AS_IN_A_POD = {"resources", "nodeSelector", "tolerations", "affinity", "priorityClassName", "annotations"}
NAMED_BY_THEIR_PARENT = {"image", "enabled", "pullPolicy", "size", "port", "interval", "minReplicas", "maxReplicas"}


def paths(values: dict[str, Any], above: str = "") -> Iterator[str]:
    """Every value of the chart that is no group of others, as in `orchestrator.service.port`."""
    for name, value in values.items():
        if isinstance(value, dict) and value and name not in AS_IN_A_POD:
            yield from paths(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def in_values(path: str) -> bool:
    found: Any = VALUES
    for name in path.split("."):
        if not isinstance(found, dict) or (found and name not in found):
            return False
        found = found.get(name, {})
    return True


def test_schema_and_values_name_the_same() -> None:
    def compare(schema: dict[str, Any], values: dict[str, Any], place: str) -> None:
        assert schema.get("additionalProperties") is False, place
        assert set(schema["properties"]) - {"global"} == set(values), place
        for name, value in values.items():
            part = schema["properties"][name]
            if isinstance(value, dict) and "properties" in part and name not in AS_IN_A_POD:
                compare(part, value, f"{place}.{name}")

    compare(SCHEMA, VALUES, "values")


def test_schema_of_the_configuration_is_that_of_the_orchestrator() -> None:
    definitions = runpy.run_path(str(CHART / "schema.py"))["definitions"]()
    assert SCHEMA["$defs"] == definitions, "run python charts/antiphon/schema.py"


def test_templates_use_every_value_and_no_other() -> None:
    text = "\n".join(file.read_text() for file in (CHART / "templates").rglob("*.*"))
    used = {found.rstrip(".") for found in re.findall(r"\.Values\.([A-Za-z][A-Za-z0-9.]*)", text)}
    assert [path for path in used if not in_values(path)] == []
    # A group that is handed on as a whole (`with .Values.x`, or to a named template) is used with all that is in it.
    whole = {path for path in used if isinstance(_at(path), dict)}
    unused = [
        path for path in paths(VALUES) if path not in used and not any(path.startswith(f"{group}.") for group in whole)
    ]
    assert unused == []


def _at(path: str) -> Any:
    found: Any = VALUES
    for name in path.split("."):
        found = found.get(name, "") if isinstance(found, dict) else ""
    return found


def test_every_value_is_described() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for above, line in zip(lines, lines[1:], strict=False):
        key = re.match(r" *([A-Za-z]+):", line)
        known = AS_IN_A_POD | NAMED_BY_THEIR_PARENT | {"requests", "limits"}
        group = key is not None and line.rstrip().endswith(":")
        if key and not group and key[1] not in known:
            assert above.strip().startswith("#"), line


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.stem)
def test_images_are_made_alike(file: Path) -> None:
    text, pattern = file.read_text(), DOCKERFILES[0].read_text()
    shared = text[text.index("ARG BASE") : text.index("FROM tools AS dependencies")]
    assert shared in pattern, "what is the same in every image is built once"
    final = text[text.rindex("\nFROM ") :]
    assert "FROM ${BASE}" in final and "USER 10001:10001" in final and "ENTRYPOINT" in final
    assert ":latest" not in text and "http" not in text
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
        assert all((ROOT / name).exists() for name in source.split()), source
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name in ("services/antiphon", "pyproject.toml", "uv.lock", "README.md", "LICENSE"):
        assert f"!{name}" in ignored


def test_only_one_image_carries_gpl() -> None:
    extras = {file.stem: re.findall(r"--extra ([a-z]+)", file.read_text()) for file in DOCKERFILES}
    assert [name for name, asked in extras.items() if "piper" in asked] == ["worker-piper"]
    assert "GPL-3.0" in (ROOT / "services/docker/worker-piper.Dockerfile").read_text()


def images() -> set[str]:
    return {f"antiphon-{file.stem}" for file in DOCKERFILES}


def samples() -> list[VoiceModel | WorkerPool]:
    return [resource for file in sorted((ROOT / "crds/samples").rglob("*.yaml")) for resource in read_manifests(file)]


def test_samples_are_valid_and_fit_together() -> None:
    found = samples()
    names = [(type(each), each.metadata.name) for each in found]
    assert len(names) == len(set(names)) and len(names) >= 16
    pools = [each for each in found if isinstance(each, WorkerPool)]
    for pool in pools:
        name, _, tag = pool.spec.image.partition(":")
        assert name in images() and tag in (VERSION, f"{VERSION}-cuda")
    for model in (each for each in found if isinstance(each, VoiceModel)):
        wanted = model.spec.pool_selector.match_labels.items()
        assert any(wanted <= pool.metadata.labels.items() for pool in pools), model.metadata.name
    assert {pool.spec.gpu.sharing for pool in pools if pool.spec.gpu} == {"None", "MIG", "MPS", "TimeSlicing"}


def test_compose_names_what_exists() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        image, _, tag = service["image"].rpartition(":")
        assert tag not in ("", "latest"), name
        if "build" in service:
            assert image in images() and tag.startswith(VERSION)
            assert (ROOT / service["build"]["dockerfile"]).stem == image.removeprefix("antiphon-")
        for config in service.get("configs", ()):
            assert (ROOT / compose["configs"][config["source"]]["file"]).is_file()
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        copied = [secret for secret in service.get("secrets", ()) if "environment" in compose["secrets"][secret]]
        assert not (copied and service.get("read_only")), f"Compose copies no secret into the read-only {name}"
    files = {name: ROOT / told["file"] for name, told in compose["configs"].items()}
    config = OrchestratorConfig.model_validate(yaml.safe_load(files["antiphon"].read_text()))
    assert {str(key.file) for key in config.server.keys} == {"/run/secrets/api-key"}
    assert {each.spec.task for each in read_manifests(files["models"]) if isinstance(each, VoiceModel)} == {
        "tts",
        "asr",
    }
    shares = {profile for service in compose["services"].values() for profile in service.get("profiles", ())}
    assert shares == {"cpu", "gpu"}


def patched(config: dict[str, Any], patches: list[dict[str, Any]]) -> dict[str, Any]:
    """The configuration with JSON patches; KeyError or IndexError where one names what is not there."""
    config = copy.deepcopy(config)
    for patch in patches:
        *way, last = patch["path"].strip("/").split("/")
        found: Any = config
        for step in way:
            found = found[int(step)] if isinstance(found, list) else found[step]
        key: Any = int(last) if isinstance(found, list) else last
        if patch["op"] != "add":
            found[key]
        if patch["op"] == "remove":
            del found[key]
        else:
            found[key] = patch["value"]
    return config


@pytest.mark.parametrize("profile", ["", "mock", "gpu"])
def test_skaffold_names_what_exists(profile: str) -> None:
    config = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    patches = next((each["patches"] for each in config["profiles"] if each["name"] == profile), [])
    assert patches or not profile
    config = patched(config, patches)
    assert "local" not in config["build"], "whether images are pushed depends on the cluster"
    built = {artifact["image"] for artifact in config["build"]["artifacts"]}
    for artifact in config["build"]["artifacts"]:
        assert (ROOT / artifact["docker"]["dockerfile"]).stem == artifact["image"].removeprefix("antiphon-")
        for rule in artifact.get("sync", {}).get("manual", ()):
            assert list(ROOT.glob(rule["src"])), rule
    for release in config["deploy"]["helm"]["releases"]:
        assert (ROOT / release["chartPath"] / "Chart.yaml").is_file()
    values = config["deploy"]["helm"]["releases"][1]
    named = {*values["setValueTemplates"], *paths(values["overrides"])}
    assert [path for path in named if not in_values(path)] == []
    needed = set(re.findall(r"IMAGE_FULLY_QUALIFIED_(\w+)", str(values["setValueTemplates"])))
    for file in config.get("manifests", {}).get("rawYaml", ()):
        pools = [each for each in read_manifests(ROOT / file) if isinstance(each, WorkerPool)]
        needed |= {pool.spec.image.partition(":")[0].replace("-", "_") for pool in pools}
    assert needed == {image.replace("-", "_") for image in built}
