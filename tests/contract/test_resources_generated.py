"""What is generated from the resources' models is what the repository holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from antiphon.contracts.resources.definitions import DEFINITIONS, Definition
from antiphon.contracts.resources.generate import files

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("path", "text"), files().items(), ids=files())
def test_files_are_as_generated(path: str, text: str) -> None:
    assert (ROOT / path).read_text() == text, f"{path} differs from the models: make generate"


def test_nothing_generated_is_left_behind() -> None:
    found = [*ROOT.glob("crds/*.yaml"), *ROOT.glob("charts/antiphon-crds/templates/*"), *ROOT.glob("docs/reference/*")]
    made = {path for path in found if "enerated by `make generate`" in path.read_text()}
    assert {str(path.relative_to(ROOT)) for path in made} == set(files())


def values(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every value below a schema."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from values(field, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            yield f"{path}[]", schema[inner]
            yield from values(schema[inner], f"{path}[]")


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.kind)
def test_schema_is_described_and_bounded(definition: Definition) -> None:
    schema = definition.rendered()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    found = dict(values(schema))
    assert len(found) > 60
    for path, value in found.items():
        if path == ".metadata":
            continue
        assert value.get("description") or path.endswith("[]"), f"{path} has no description"
        assert not {"$ref", "nullable", "oneOf", "allOf"} & set(value), path
        kind = value.get("type", "quantity")
        assert kind in ("object", "array", "string", "integer", "boolean", "quantity"), f"{path}: {kind}"
        if kind == "string" and path not in (".apiVersion", ".kind"):
            assert "maxLength" in value or "enum" in value, path
        if kind == "array":
            assert "maxItems" in value and "x-kubernetes-list-type" in value, path
        if "additionalProperties" in value:
            assert "maxProperties" in value, path


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.kind)
def test_status_fills_in_nothing_and_refuses_nothing(definition: Definition) -> None:
    schema = definition.rendered()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for path, value in values(schema["properties"]["status"]):
        assert not {"default", "x-kubernetes-validations"} & set(value), path


def test_short_names_are_nobody_elses() -> None:
    short = {definition.short for definition in DEFINITIONS}
    builtin = (
        "cm cs ep ev limits no ns pvc po rc quota sa svc ds deploy rs sts hpa cj ing ingc netpol pdb pc sc crd pv csr"
    )
    assert short == {"vmod", "wpool"} and not short & set(builtin.split())


def test_the_chart_keeps_its_definitions() -> None:
    for definition in DEFINITIONS:
        charted = yaml.safe_load((ROOT / f"charts/antiphon-crds/templates/{definition.plural}.yaml").read_text())
        assert charted["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        assert charted["spec"] == definition.rendered()["spec"]
