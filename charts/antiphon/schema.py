"""The part of `values.schema.json` that is the orchestrator's own: what may stand under `assistants`, `default`, ...

`python charts/antiphon/schema.py` writes it again from the models of the configuration file; the rest of the schema is
written by hand and left as it is.
"""

import json
from pathlib import Path
from typing import Any

from antiphon.orchestrator.config import OrchestratorConfig, ServerConfig

SCHEMA = Path(__file__).parent / "values.schema.json"
THE_CHARTS_OWN = ("host", "port", "reuse_port", "metrics_port", "id", "keys", "drain_grace_s")
"""Of the section `server`: set by the templates."""
_NOT_VALIDATION = ("default", "title", "discriminator")


def definitions() -> dict[str, Any]:
    """`$defs` of the schema, by the names of the models."""
    whole = OrchestratorConfig.model_json_schema()
    found = {
        name: whole["$defs"][name]
        for name in whole["$defs"]
        if name not in ("Artifact", "Memory", "ModelSpec", "RegistryConfig", "Residency", "WorkersConfig")
    }
    server = ServerConfig.model_json_schema()
    for name in THE_CHARTS_OWN:
        del server["properties"][name]
    found["ServerConfig"] = {key: value for key, value in server.items() if key != "$defs"}
    return {name: _bare(part) for name, part in sorted(found.items())}


def complete(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with these definitions."""
    return {**schema, "$defs": definitions()}


def _bare(part: Any) -> Any:
    """A schema without what validates nothing; a property may well be called `default`."""
    if isinstance(part, list):
        return [_bare(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {
        key: {name: _bare(each) for name, each in value.items()} if key == "properties" else _bare(value)
        for key, value in part.items()
        if key not in _NOT_VALIDATION
    }


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(complete(json.loads(SCHEMA.read_text())), indent=2) + "\n")
