import asyncio
import json
from pathlib import Path

import pytest

from antiphon.cli.registrar import keep
from antiphon.contracts.errors import AntiphonError
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.registry.lease import LeaseKeeper
from antiphon.registry.records import Lease
from antiphon.registry.snapshot import RegistryReader

pytestmark = pytest.mark.component


def voice(**spec: object) -> dict[str, object]:
    said = {"task": "tts", "engine": "mock", "residency": {"policy": "Pinned"}, **spec}
    return {"apiVersion": "antiphon.dev/v1alpha1", "kind": "VoiceModel", "metadata": {"name": "hum"}, "spec": said}


async def test_a_worker_that_announces_itself_is_given_the_models(tmp_path: Path) -> None:
    file = tmp_path / "hum.yaml"
    file.write_text(json.dumps(voice()))

    async with EmbeddedValkey() as valkey, asyncio.TaskGroup() as tasks:
        reader = RegistryReader(valkey.url, "box")
        lease = Lease(worker="w1", incarnation="one", address="127.0.0.1:9", engines={"mock": "1"})
        keeper = LeaseKeeper(valkey.url, "box", "w1", lambda: lease)
        running = [tasks.create_task(work) for work in (keep(file, valkey.url, "box"), reader.run(), keeper.run())]
        async with asyncio.timeout(10):
            snapshot = reader.snapshot
            while not (known := snapshot.workers.get("w1")) or known.want is None:
                snapshot = await reader.changed(snapshot.version)
        for task in running:
            task.cancel()
    assert [held.name for held in known.want.hold] == ["hum"]
    model = snapshot.model("tts", "hum")
    assert model is not None and model.engine == "mock"


async def test_manifests_without_a_model_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    pool = {
        "apiVersion": "antiphon.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "p"},
        "spec": {"image": "a:1"},
    }
    file.write_text(json.dumps(pool))
    with pytest.raises(AntiphonError, match="no VoiceModel"):
        await keep(file, "redis://127.0.0.1:1/0", "box")


async def test_a_name_that_is_used_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(json.dumps(voice()))
    (tmp_path / "b.yaml").write_text(json.dumps(voice(engine="piper")))
    with pytest.raises(AntiphonError, match="used twice in .*: hum"):
        await keep(tmp_path, "redis://127.0.0.1:1/0", "box")
