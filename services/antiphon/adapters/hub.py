"""What there is to fetch: repositories of the Hugging Face hub, and Piper's index of voices, which stands there."""

import difflib
import json
import logging
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from antiphon.adapters.download import Remote, is_complete
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import Artifact
from antiphon.contracts.urls import without_secrets

_log = logging.getLogger(__name__)

_PIPER_REPOSITORY = "rhasspy/piper-voices"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[\w.-]+/[\w.-]+(/[\w./ -]+)?")
_NOT_WEIGHTS = re.compile(r"(^|/)(\..*|README\.md|.*\.(png|jpg|jpeg|gif|svg|md5))$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Listing:
    """What is to be fetched."""

    remotes: tuple[Remote, ...]
    """Empty: all of it is here."""
    folder: Path
    path: Path
    """What the engine is given."""


async def find_repository(
    client: httpx.AsyncClient, endpoint: str, where: str, artifact: Artifact, cache: Path, offline: bool
) -> Listing:
    """The files of a repository, or of a folder in it, at a revision.

    A revision that is a commit is never asked for again; any other may move, and stands for the last commit that was
    seen while the hub cannot be reached.
    """
    if not _NAME.fullmatch(where) or ".." in where:
        raise AntiphonError(Reason.INVALID_REQUEST, f"The uri {artifact.uri} names no repository: hf://owner/repo.")
    owner, name, *rest = where.split("/", 2)
    inner = rest[0].strip("/") if rest else ""
    revision = artifact.revision or "main"
    home = cache / "hf" / f"{owner}--{name}"
    seen = home / f"{quote(revision, safe='')}.commit"
    last = revision if _COMMIT.fullmatch(revision) else (seen.read_text() if seen.is_file() else "")
    known = Listing((), *_places(home, last, inner)) if last else None
    if known and is_complete(known.folder) and (offline or last == revision):
        return known
    url = f"{endpoint}/api/models/{owner}/{name}/revision/{quote(revision, safe='')}?blobs=true"
    try:
        found = await _ask(client, url, artifact, cache, offline, needs={"sha", "siblings"})
    except _Unreachable as error:
        if known and is_complete(known.folder):
            _log.warning("hub not reached, taking the last commit seen", extra={"uri": artifact.uri, "commit": last})
            return known
        raise error.reported from error
    commit = str(found["sha"])
    home.mkdir(parents=True, exist_ok=True)
    seen.write_text(commit)
    base = f"{endpoint}/{owner}/{name}/resolve/{commit}"
    files = [file for file in found["siblings"] if _wanted(file["rfilename"], inner)]
    if not files:
        raise AntiphonError(Reason.LOAD_FAILED, f"There are no weights in {artifact.uri} at revision {revision}.")
    folder, path = _places(home, commit, inner)
    return Listing(tuple(_repository_file(base, file) for file in files), folder, path)


async def find_voice(
    client: httpx.AsyncClient, endpoint: str, voice: str, artifact: Artifact, cache: Path, offline: bool
) -> Listing:
    """The files of a voice of Piper's index. A voice that is here is not looked up again.

    Raises:
        AntiphonError: INVALID_REQUEST for a voice that the index has not, with those that are called alike.
    """
    revision = artifact.revision or "main"
    folder = cache / "piper" / quote(revision, safe="") / quote(voice, safe="")
    if is_complete(folder):
        return Listing((), folder, folder)
    base = f"{endpoint}/{_PIPER_REPOSITORY}/resolve/{quote(revision, safe='')}"
    try:
        index = await _ask(client, f"{base}/voices.json", artifact, cache, offline)
    except _Unreachable as error:
        raise error.reported from error
    if voice not in index:
        alike = difflib.get_close_matches(voice, index, n=5, cutoff=0.4)
        hint = f": alike are {', '.join(alike)}" if alike else ""
        raise AntiphonError(Reason.INVALID_REQUEST, f"Piper's index has no voice {voice!r}{hint}.")
    files: dict[str, Any] = index[voice]["files"]
    remotes = (
        Remote(f"{base}/{quote(path)}", Path(path).name, int(file["size_bytes"]), f"md5:{file['md5_digest']}")
        for path, file in files.items()
    )
    return Listing(tuple(remotes), folder, folder)


def unreachable(uri: str, cache: Path, url: str) -> AntiphonError:
    """What a person is told who is offline and has not the weights."""
    parts = urlsplit(without_secrets(url))
    return AntiphonError(
        Reason.LOAD_FAILED,
        f"The weights {without_secrets(uri)} are not in {cache} and {parts.scheme}://{parts.netloc} cannot be reached: "
        "go online once, set HF_ENDPOINT to a mirror, or give the model a file:// artifact.",
    )


class _Unreachable(Exception):
    def __init__(self, reported: AntiphonError) -> None:
        super().__init__(str(reported))
        self.reported = reported


async def _ask(
    client: httpx.AsyncClient,
    url: str,
    artifact: Artifact,
    cache: Path,
    offline: bool,
    needs: AbstractSet[str] = frozenset(),
) -> dict[str, Any]:
    """The JSON object at `url`, which has the keys that are needed."""
    at = without_secrets(url)
    try:
        if offline:
            raise httpx.ConnectError("HF_HUB_OFFLINE forbids to ask")
        response = await client.get(url)
    except httpx.TransportError as error:
        raise _Unreachable(unreachable(artifact.uri, cache, url)) from error
    if response.is_server_error:
        raise _Unreachable(AntiphonError(Reason.LOAD_FAILED, f"{at} answers {response.status_code}: try again later."))
    if response.is_error:
        hint = "set HF_TOKEN" if response.status_code in (401, 403) else "check the name and the revision"
        message = f"The weights {artifact.uri} cannot be had, {at} answers {response.status_code}: {hint}."
        raise AntiphonError(Reason.LOAD_FAILED, message)
    try:
        found: dict[str, Any] = json.loads(response.content)
        if not isinstance(found, dict) or needs - found.keys():
            raise ValueError("not what was asked for")
    except ValueError as error:
        raise AntiphonError(Reason.LOAD_FAILED, f"{at} does not answer as the hub does: check HF_ENDPOINT.") from error
    return found


def _places(home: Path, commit: str, inner: str) -> tuple[Path, Path]:
    """The folder that is fetched into, and in it what the engine is given."""
    folder = home / (f"{commit}-{quote(inner, safe='')}" if inner else commit)
    return folder, folder / inner


def _wanted(name: str, inner: str) -> bool:
    return (not inner or name.startswith(f"{inner}/") or name == inner) and not _NOT_WEIGHTS.search(name)


def _repository_file(base: str, file: dict[str, Any]) -> Remote:
    """A file with the best checksum that the hub has of it: large ones by SHA-256, small ones by their Git blob."""
    large = file.get("lfs") or {}
    checksum = f"sha256:{large['sha256']}" if "sha256" in large else f"git:{file['blobId']}" if "blobId" in file else ""
    name = str(file["rfilename"])
    if name.startswith("/") or ".." in Path(name).parts:
        raise AntiphonError(Reason.LOAD_FAILED, f"The repository holds a file that would leave its folder: {name!r}.")
    return Remote(f"{base}/{quote(name)}", name, int(large.get("size") or file.get("size") or 0), checksum)
