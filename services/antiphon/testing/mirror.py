"""A mirror of the Hugging Face hub for a folder of this machine: `python -m antiphon.testing.mirror --root DIR`.

`DIR/owner/repo` is served as the repository `owner/repo` at the revision `main`, `DIR/owner/repo@v2` as the same one at
`v2`. Set HF_ENDPOINT to its address. It speaks what antiphon asks a hub for: the list of a revision's files with their
checksums, and the files, whole or from a byte on. A connection can be broken once, and answers can be slowed down.
"""

import argparse
import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

_PIECE_BYTES = 65_536
_SMALL_BYTES = 1_000_000
"""The hub knows larger files by SHA-256, smaller ones by the id of their Git blob."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a file."""

    path: str
    from_byte: int
    sent_bytes: int
    is_broken: bool


class Mirror:
    """Serves while it is entered.

    Args:
        root: The folder of repositories.
        host: The address to listen on.
        port: 0: any free one.
        break_after: The first file that is longer breaks off once, after so many bytes; 0: none does.
        bytes_per_s: How fast a file is sent; 0: as fast as it can be.
        token: What callers must show as a bearer token; empty: nothing.
    """

    def __init__(
        self,
        root: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        break_after: int = 0,
        bytes_per_s: int = 0,
        token: str = "",
    ) -> None:
        self.root = root
        self.url = ""
        self.break_after = break_after
        self.bytes_per_s = bytes_per_s
        self.token = token
        self.asked: list[Asked] = []
        self._address = host, port
        self._listings: dict[Path, tuple[object, dict[str, Any]]] = {}
        application = web.Application()
        application.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._list)
        application.router.add_get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._file)
        self._runner = web.AppRunner(application)

    async def __aenter__(self) -> Self:
        """Listen."""
        host, port = self._address
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what is being sent breaks off."""
        await self._runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        folder = await self._repository(request)
        return web.json_response(await self._listing(folder))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        folder = await self._repository(request)
        path = (folder / request.match_info["path"]).resolve()
        if not path.is_relative_to(folder) or not path.is_file():
            raise web.HTTPNotFound
        size, start = path.stat().st_size, request.http_range.start or 0
        if start >= size:
            raise web.HTTPRequestRangeNotSatisfiable
        headers = {"Content-Length": str(size - start), "ETag": f'"{(await self._listing(folder))["sha"]}"'}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        sent, is_broken = 0, False
        try:
            for piece in _pieces(path, start):
                await response.write(piece)
                sent += len(piece)
                if is_broken := bool(self.break_after and sent >= self.break_after and size > self.break_after):
                    self.break_after = 0
                    assert request.transport is not None
                    request.transport.close()
                    break
                if self.bytes_per_s:
                    await asyncio.sleep(len(piece) / self.bytes_per_s)
        finally:
            self._note(Asked(request.path, start, sent, is_broken))
        return response

    def _note(self, asked: Asked) -> None:
        self.asked.append(asked)
        how = ", broken off" if asked.is_broken else ""
        print(f"{asked.path} from byte {asked.from_byte}: {asked.sent_bytes} bytes sent{how}", flush=True)

    async def _repository(self, request: web.Request) -> Path:
        """The folder that is asked for, by revision or commit."""
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            raise web.HTTPUnauthorized
        owner, name, revision = (request.match_info[part] for part in ("owner", "name", "revision"))
        home = (self.root / owner).resolve()
        for folder in sorted([*home.glob(name), *home.glob(f"{name}@*")]):
            known = folder.name.partition("@")[2] or "main"
            if folder.is_dir() and revision in (known, (await self._listing(folder))["sha"]):
                return folder
        raise web.HTTPNotFound

    async def _listing(self, folder: Path) -> dict[str, Any]:
        """What the hub says of a revision."""
        return await asyncio.to_thread(self._read, folder)

    def _read(self, folder: Path) -> dict[str, Any]:
        """The same; blocking. Files are read again only when one has changed."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        state = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        known = self._listings.get(folder)
        if known is None or known[0] != state:
            siblings = [_sibling(path, folder) for path in files]
            commit = hashlib.sha1(repr((folder.name, siblings)).encode(), usedforsecurity=False).hexdigest()
            known = self._listings[folder] = state, {"sha": commit, "siblings": siblings}
        return known[1]


def _sibling(path: Path, folder: Path) -> dict[str, Any]:
    size = path.stat().st_size
    blob, content = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False), hashlib.sha256()
    for piece in _pieces(path, 0):
        blob.update(piece)
        content.update(piece)
    told: dict[str, Any] = {"rfilename": path.relative_to(folder).as_posix(), "size": size, "blobId": blob.hexdigest()}
    if size > _SMALL_BYTES:
        told["lfs"] = {"sha256": content.hexdigest(), "size": size}
    return told


def _pieces(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(_PIECE_BYTES):
            yield piece


async def _serve(arguments: argparse.Namespace) -> None:
    mirror = Mirror(
        arguments.root,
        host=arguments.host,
        port=arguments.port,
        break_after=arguments.break_after,
        bytes_per_s=arguments.bytes_per_s,
        token=arguments.token,
    )
    async with mirror:
        print(f"Mirror of {arguments.root} at {mirror.url} (Ctrl-C ends it)", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m antiphon.testing.mirror", description=__doc__)
    parser.add_argument(
        "--root", type=Path, required=True, help="a folder with owner/repo or owner/repo@revision in it"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8091, help="0: any free port")
    parser.add_argument("--break-after", type=int, default=0, help="break the first longer file once, after N bytes")
    parser.add_argument("--bytes-per-s", type=int, default=0, help="send no faster (default: as fast as it can be)")
    parser.add_argument("--token", default="", help="ask callers for this bearer token")
    try:
        asyncio.run(_serve(parser.parse_args()))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
