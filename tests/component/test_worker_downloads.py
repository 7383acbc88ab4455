"""Weights on their way to workers: once a cache, resumed, told with their bytes, refused when they are others."""

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from worker_site import own, site

from antiphon.adapters.weights import weights_digest
from antiphon.contracts.models import Artifact, ModelSpec
from antiphon.testing.mirror import Mirror

pytestmark = [pytest.mark.component, pytest.mark.timeout(180)]

SIZE_BYTES = 3_000_000
WEIGHTS = "model.bin"


@pytest.fixture
async def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mirror]:
    repository = tmp_path / "hub" / "acme" / "voice"
    repository.mkdir(parents=True)
    (repository / WEIGHTS).write_bytes(os.urandom(SIZE_BYTES))
    (repository / "config.json").write_text("{}")
    async with Mirror(tmp_path / "hub", token="sesame") as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_TOKEN", "sesame")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield made


def model(name: str = "joe", uri: str = "hf://acme/voice", **artifact: str) -> ModelSpec:
    return ModelSpec(name=name, task="tts", engine="mock", artifact=Artifact(uri=uri, **artifact))


def sent(mirror: Mirror) -> list[int]:
    """From which byte on the weights were asked for, each time."""
    return [asked.from_byte for asked in mirror.asked if asked.path.endswith(WEIGHTS)]


async def test_workers_that_share_a_cache_fetch_once_and_all_tell_how_far_it_is(mirror: Mirror, tmp_path: Path) -> None:
    spec, shared = model(), {"CACHE": tmp_path / "cache"}
    mirror.bytes_per_s, mirror.break_after = 3_000_000, 1_000_000
    async with site() as made, made.worker("w1", **shared), made.worker("w2", **shared):
        made.writer.set_models([own(spec)])
        for worker in ("w1", "w2"):
            made.place(worker, spec)
        for worker in ("w1", "w2"):
            half = await made.has(worker, spec, lambda held: held.fetched_bytes > 500_000)
            assert half.files == "fetching" and half.state == "loading" and half.size_bytes >= SIZE_BYTES
            assert 0 < half.progress < 1
        for worker in ("w1", "w2"):
            whole = await made.warm(worker, spec)
            assert whole.files == "cached" and whole.digest.startswith("sha256:")
    assert len(sent(mirror)) == 2 and 0 < sent(mirror)[1] <= 1_100_000  # broken off once, and gone on there


async def test_what_a_killed_worker_began_another_one_ends(mirror: Mirror, tmp_path: Path) -> None:
    spec, shared = model(), {"CACHE": tmp_path / "cache"}
    mirror.bytes_per_s = 2_000_000
    async with site() as made:
        made.writer.set_models([own(spec)])
        made.place("w1", spec)
        made.place("w2", spec)
        async with made.worker("w1", **shared) as process:
            await made.has("w1", spec, lambda held: held.fetched_bytes > 1_200_000)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        mirror.bytes_per_s = 0
        async with made.worker("w2", **shared):
            await made.warm("w2", spec)
    assert sent(mirror)[-1] >= 1_000_000


async def test_weights_of_another_digest_are_refused_by_name(mirror: Mirror, tmp_path: Path) -> None:
    found, expected = weights_digest(mirror.root / "acme" / "voice"), "sha256:" + "0" * 64
    wrong, right = model(digest=expected), model("ann", digest=found)
    async with site() as made, made.worker_here("w1", cache=tmp_path / "cache"):
        made.writer.set_models([own(wrong), own(right)])
        made.place("w1", wrong, right)
        refused = await made.has("w1", wrong, lambda held: held.state == "failed")
        assert refused.reason == "LOAD_FAILED" and f"expected {expected}, got {found}" in refused.message
        await made.warm("w1", right)


async def test_a_place_that_cannot_be_reached_is_rewritten(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = model(uri="hf://far.away/voice")
    rewrites: list[dict[str, Any]] = [
        {"prefix": "hf://", "replacement": "file:///nowhere/"},
        {"prefix": "hf://far.away/", "replacement": "hf://acme/"},
    ]
    monkeypatch.setenv("ANTIPHON_WORKER_REWRITES", json.dumps(rewrites))
    async with site() as made, made.worker_here("w1", cache=tmp_path / "cache"):
        made.writer.set_models([own(spec)])
        made.place("w1", spec)
        assert (await made.warm("w1", spec)).files == "cached"
    assert sent(mirror) == [0]
