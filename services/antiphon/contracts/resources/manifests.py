"""Manifests that people write, read as strictly as the API server reads them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.resources.base import API_VERSION
from antiphon.contracts.resources.voice_model import VoiceModel
from antiphon.contracts.resources.worker_pool import WorkerPool

_KINDS: dict[str, type[VoiceModel] | type[WorkerPool]] = {"VoiceModel": VoiceModel, "WorkerPool": WorkerPool}
_SUFFIXES = (".yaml", ".yml", ".json")
_METADATA = ("name", "namespace", "labels", "annotations")


def read_manifests(path: Path) -> list[VoiceModel | WorkerPool]:
    """Our resources in a file, or in the YAML and JSON files of a folder (not of folders in it). Blocking.

    Documents of other groups are passed over: a file may hold Secrets and Deployments beside ours.

    Raises:
        AntiphonError: INVALID_REQUEST, with the file, the document and the field, and what to change.
    """
    files = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES) if path.is_dir() else [path]
    return [resource for file in files for resource in _in_file(file)]


def read_manifest(document: dict[str, Any]) -> VoiceModel | WorkerPool:
    """One document: a number is a number, no field is unknown, every rule holds.

    Raises:
        ValidationError: It is not so.
        KeyError: It is of no kind of ours.
    """
    metadata = document.get("metadata")
    if isinstance(metadata, dict):  # whatever else Kubernetes knows of objects may stand there
        document = {**document, "metadata": {key: value for key, value in metadata.items() if key in _METADATA}}
    text = json.dumps(_as_json(document), default=str)
    return _KINDS[document["kind"]].model_validate_json(text, strict=True, extra="forbid")


def _as_json(value: Any) -> Any:
    """The value as JSON has it, to which 1.0 is a whole number."""
    if isinstance(value, dict):
        return {key: _as_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _in_file(file: Path) -> Iterator[VoiceModel | WorkerPool]:
    try:
        documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise _refusal(f"Cannot read {file}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _refusal(f"{file} is not YAML: {error}") from None
    for number, document in enumerate(documents, start=1):
        if document is None:
            continue
        if not isinstance(document, dict) or "kind" not in document:
            raise _refusal(f"{file}, document {number}: it is no manifest: apiVersion and kind are missing.")
        if document.get("apiVersion") == API_VERSION:
            yield _in_document(file, number, document)


def _in_document(file: Path, number: int, document: dict[str, Any]) -> VoiceModel | WorkerPool:
    place = f"{file}, document {number}"
    if document["kind"] not in _KINDS:
        raise _refusal(f"{place}: {API_VERSION} has no kind {document['kind']!r}; there is {', '.join(_KINDS)}.")
    try:
        return read_manifest(document)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        raise _refusal(f"{place}: {' '.join(_fault(fault['loc'], fault['msg']) for fault in faults)}") from None


def _fault(place: tuple[int | str, ...], message: str) -> str:
    """One fault: the field as manifests write it, and what to change."""
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    sentence = message.removeprefix("Value error, ").rstrip(".") + "."
    return f"{field}: {sentence}" if field else sentence


def _refusal(sentence: str) -> AntiphonError:
    return AntiphonError(Reason.INVALID_REQUEST, sentence)
