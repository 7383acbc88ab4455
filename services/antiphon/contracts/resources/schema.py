"""The structural schema that a CRD carries, from a resource's Python model."""

from typing import Any

from antiphon.contracts.resources.base import JsonSchema, Part

_INT32 = 2**31 - 1
_KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "anyOf",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
)


def structural(resource: type[Part]) -> JsonSchema:
    """The `openAPIV3Schema` of a resource: references inlined, nothing nullable, every list, map and string bounded.

    Raises:
        ValueError: A field has no description or no bound, or is of a type that a CRD cannot have.
    """
    found = resource.model_json_schema(by_alias=True)
    schema = _inlined(found, found.get("$defs", {}))
    properties = {name: _rendered(field, name) for name, field in schema["properties"].items() if name != "metadata"}
    for name in ("apiVersion", "kind"):
        properties[name] = {"description": properties[name]["description"], "type": "string"}
    properties["metadata"] = {"type": "object"}
    properties["status"] = _as_found(properties["status"])
    return {
        "description": _one_line(schema["description"]),
        "type": "object",
        "required": ["metadata", "spec"],
        "properties": properties,
        "x-kubernetes-validations": schema["x-kubernetes-validations"],
    }


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    """The schema with each reference replaced by what it names; what stands beside a reference counts more."""
    if isinstance(schema, list):
        return [_inlined(each, parts) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**parts[schema["$ref"].removeprefix("#/$defs/")], **beside}
    return {key: _inlined(value, parts) for key, value in schema.items() if key != "$defs"}


def _rendered(schema: JsonSchema, path: str) -> JsonSchema:
    """One value's schema as a CRD has it."""
    schema = _present(schema)
    found = {key: schema[key] for key in _KEPT if key in schema}
    if "const" in schema:
        found |= {"type": "string", "enum": [schema["const"]]}
    if "description" in found:
        found["description"] = _one_line(found["description"])
    if schema.get("x-kubernetes-int-or-string"):
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        return found
    kind = found.get("type")
    if kind == "object":
        _render_object(schema, found, path)
    elif kind == "array":
        found.setdefault("x-kubernetes-list-type", "atomic")
        found["items"] = _rendered(schema["items"], f"{path}[]")
        _require(found, path, "maxItems")
    elif kind == "integer":
        found["format"] = "int32" if found.get("maximum", _INT32 + 1) <= _INT32 else "int64"
    elif kind == "string":
        _require(found, path, *(() if "enum" in found else ("maxLength",)))
    elif kind != "boolean":
        raise ValueError(f"{path}: a CRD cannot have the type {kind}.")
    if found.get("default", 0) in ("", [], {}) and kind != "object":
        del found["default"]
    return found


def _render_object(schema: JsonSchema, found: JsonSchema, path: str) -> None:
    """What of `found` is an object's own: its fields, or what all its entries are."""
    if found.get("x-kubernetes-preserve-unknown-fields"):
        return
    if "properties" not in schema:
        found["additionalProperties"] = _rendered(schema["additionalProperties"], f"{path}.*")
        _require(found, path, "maxProperties")
        return
    if "required" in schema:
        found["required"] = schema["required"]
    found["properties"] = {name: _rendered(each, f"{path}.{name}") for name, each in schema["properties"].items()}
    for name, each in found["properties"].items():
        _require(each, f"{path}.{name}", "description")
    if "default" in found:  # in full: its rules are held against it as it stands
        fields = found["properties"].items()
        found["default"] = {name: each["default"] for name, each in fields if "default" in each}


def _present(schema: JsonSchema) -> JsonSchema:
    """The schema of a value when it is there: a CRD leaves a field out where Python says None."""
    if "anyOf" not in schema or schema.get("x-kubernetes-int-or-string"):
        return schema
    options = [each for each in schema["anyOf"] if each.get("type") != "null"]
    if len(options) != 1:
        raise ValueError(f"A CRD cannot have a choice of types: {options}.")
    beside = {key: value for key, value in schema.items() if key != "anyOf" and value is not None}
    return {**options[0], **beside}


def _as_found(schema: Any) -> Any:
    """A status's schema: nothing is filled in, and nothing refused that a spec may once have said."""
    if isinstance(schema, list):
        return [_as_found(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _as_found(value) for key, value in schema.items() if key not in ("default", "x-kubernetes-validations")
    }


def _require(schema: JsonSchema, path: str, *keys: str) -> None:
    for key in keys:
        if not schema.get(key):
            raise ValueError(f"{path}: {key} is missing.")


def _one_line(text: str) -> str:
    return " ".join(text.split())
