"""Files fetched into a folder: one process at a time, resumed, verified, there all at once or not at all."""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.urls import without_secrets

_log = logging.getLogger(__name__)

# Beside the folder, so that it holds nothing but what was fetched: a model's digest is that of all files in it.
_COMPLETE = ".complete.json"
_LOCK = ".lock"
_PIECE_BYTES = 2**20
_TRIES = 5
_BACKOFF_S = 0.5
_LOCK_POLL_S = 0.2
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a model's weights is here."""

    done_bytes: int
    total_bytes: int
    """0: not known."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file to be fetched."""

    url: str
    name: str
    """Its path in the folder."""
    size_bytes: int = 0
    """0: not known."""
    checksum: str = ""
    """`sha256:`, `md5:` or `git:` (a Git blob's id) and hex digits; empty: taken as it comes."""
    unpack: bool = False
    """A tar archive, whose content goes into the folder in its place."""


async def download(
    client: httpx.AsyncClient,
    remotes: Sequence[Remote],
    folder: Path,
    progress: Callable[[Progress], None],
    *,
    offline: bool = False,
) -> None:
    """Make `folder` hold the files. Returns at once when it does already.

    Raises:
        AntiphonError: LOAD_FAILED when the server refuses, or sends something else than the checksum says.
        httpx.TransportError: The server cannot be reached (any more), or `offline` forbids to try.
    """
    if is_complete(folder):
        return
    if offline:
        raise httpx.ConnectError("HF_HUB_OFFLINE forbids to fetch")
    _make(folder)
    total_bytes = sum(remote.size_bytes for remote in remotes)

    def wait() -> None:
        progress(Progress(_bytes_in(folder), total_bytes))

    async with _locked(_beside(folder, _LOCK), wait):
        if is_complete(folder):
            return
        for name in _damaged(folder, _recorded(folder) or {}):
            _drop(folder / name)
        tally = _Tally(total_bytes, progress)
        for remote in remotes:
            target = folder / remote.name
            if not target.is_file():
                await _fetch(client, remote, target, tally)
                tally.settle(0 if remote.unpack else target.stat().st_size)
            else:
                tally.settle(target.stat().st_size)
        names = await _unpack(folder, remotes)
        _beside(folder, _COMPLETE).write_text(json.dumps({name: (folder / name).stat().st_size for name in names}))


def is_complete(folder: Path) -> bool:
    """Whether all of a download stands in `folder`, as large as it was."""
    sizes = _recorded(folder)
    return sizes is not None and not _damaged(folder, sizes)


def _recorded(folder: Path) -> dict[str, int] | None:
    """The sizes of the files of a download that was complete once; None: it never was."""
    try:
        sizes: dict[str, int] = json.loads(_beside(folder, _COMPLETE).read_text())
    except (OSError, ValueError):
        return None
    return sizes


def _damaged(folder: Path, sizes: Mapping[str, int]) -> list[str]:
    """Those files that are not as large as they were, or not there."""
    paths = {name: folder / name for name in sizes}
    return [name for name, path in paths.items() if not path.is_file() or path.stat().st_size != sizes[name]]


class _Tally:
    """Bytes of all files together."""

    def __init__(self, total_bytes: int, progress: Callable[[Progress], None]) -> None:
        self._total_bytes = total_bytes
        self._settled_bytes = 0
        self._progress = progress

    def now(self, file_bytes: int, of_bytes: int = 0) -> None:
        """So much of the current file; `of_bytes`: its size, where only the server knows it."""
        self._progress(Progress(self._settled_bytes + file_bytes, self._total_bytes or of_bytes))

    def settle(self, file_bytes: int) -> None:
        """The current file is here."""
        self._settled_bytes += file_bytes


async def _fetch(client: httpx.AsyncClient, remote: Remote, target: Path, tally: _Tally) -> None:
    """One file, with patience: a transfer that broke goes on where it was, as long as it gets on at all."""
    begun = _Begun(target.with_name(target.name + ".part"))
    part = begun.path
    _make(target.parent)
    failures = 0
    while True:
        before = _size(part)
        try:
            await _transfer(client, remote, begun, tally)
            break
        except (httpx.TransportError, _TryAgain) as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= _TRIES:
                if isinstance(error, _TryAgain):
                    raise _refused(remote, str(error)) from error
                raise
            _log.info("transfer broke, resuming", extra={"file": remote.name, "bytes": _size(part)})
            await asyncio.sleep(_BACKOFF_S * 2 ** (failures - 1))
    found = await asyncio.to_thread(_checksum, part, remote.checksum)
    if found != remote.checksum:
        _drop(part)
        raise _refused(remote, f"expected {remote.checksum}, got {found}")
    os.replace(part, target)


@dataclass(slots=True)
class _Begun:
    """What is there of a file."""

    path: Path
    version: str = ""
    """The server's, while this process fetches it; empty: it has none, or the part is of an earlier process."""


async def _transfer(client: httpx.AsyncClient, remote: Remote, begun: _Begun, tally: _Tally) -> None:
    """One request, appended to what is there.

    Where no checksum would tell an old half from a new one, it goes on only if the server says that it is the same
    version, else from the start.
    """
    part = begun.path
    have = _size(part) if remote.checksum or begun.version else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if not remote.checksum:
            headers["If-Range"] = begun.version
    async with client.stream("GET", remote.url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if have == remote.size_bytes:
                return  # nothing is missing
            _drop(part)
            raise _TryAgain("it changed while it was fetched")
        if response.status_code in _AGAIN:
            raise _TryAgain(f"the server says {response.status_code}")
        if response.is_error:
            raise _refused(remote, f"the server says {response.status_code}")
        begun.version = _version(response.headers)
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        have = have if resumed else 0
        size = have + int(response.headers.get("Content-Length", 0))
        with part.open("ab" if resumed else "wb") as file:
            async for piece in response.aiter_bytes(_PIECE_BYTES):
                await asyncio.to_thread(file.write, piece)
                have += len(piece)
                tally.now(have, size)


def _version(headers: httpx.Headers) -> str:
    """By what the server tells this version of a file from any other; empty: it does not."""
    etag: str = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


class _TryAgain(Exception):
    """The server may think better of it."""


def _refused(remote: Remote, why: str) -> AntiphonError:
    return AntiphonError(Reason.LOAD_FAILED, f"The file {without_secrets(remote.url)} cannot be had: {why}.")


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def _drop(path: Path) -> None:
    path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _checksum(path: Path, like: str) -> str:
    """The file's checksum of the same kind."""
    kind = like.partition(":")[0]
    if not kind:
        return ""
    # A Git blob's id covers its size too: git hash-object.
    start = f"blob {path.stat().st_size}\0".encode() if kind == "git" else b""
    digest = hashlib.new("sha1" if kind == "git" else kind, start, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return f"{kind}:{digest.hexdigest()}"


async def _unpack(folder: Path, remotes: Sequence[Remote]) -> list[str]:
    """`_unpacked` in a thread. Who gives it up still waits for it: nobody else may write there before it is over."""
    running, given_up = asyncio.create_task(asyncio.to_thread(_unpacked, folder, remotes)), None
    while not running.done():
        try:
            await asyncio.wait((running,))
        except asyncio.CancelledError as error:
            given_up = error
    if given_up is not None:
        running.exception()  # nobody asks for it any more
        raise given_up
    return running.result()


def _unpacked(folder: Path, remotes: Sequence[Remote]) -> list[str]:
    """The names of the files that are now in the folder, archives replaced by what they hold."""
    names = [remote.name for remote in remotes if not remote.unpack]
    for remote in remotes:
        if not remote.unpack:
            continue
        path = folder / remote.name
        try:
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
                names += [member.name for member in archive.getmembers() if member.isfile()]
        except Exception as error:  # each kind of compression has its own
            if isinstance(error, OSError) and error.errno is not None:
                raise  # not the archive: the disk
            _drop(path)  # the next try fetches it anew
            raise _refused(remote, f"it is no archive that can be unpacked ({error})") from error
        path.unlink()
    return names


def _bytes_in(folder: Path) -> int:
    """What somebody else has fetched by now."""
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a part that was finished just now
            found += path.stat().st_size if path.is_file() else 0
    return found


@asynccontextmanager
async def _locked(path: Path, waiting: Callable[[], None]) -> AsyncIterator[None]:
    """Hold a lock between processes and tasks; one that dies lets go of it. Calls `waiting` while another holds it."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                await asyncio.sleep(_LOCK_POLL_S)
        yield
