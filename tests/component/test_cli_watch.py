"""What the registry says, watched from the command line."""

import asyncio
import json
from pathlib import Path

import pytest

from antiphon.cli.running import Running
from antiphon.cli.tables import model_rows, show
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.registry.records import ModelRecord
from antiphon.registry.writer import RegistryWriter

pytestmark = pytest.mark.component


async def test_every_change_is_a_line_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[list[str]] = []

    async def until_told(lines: int) -> None:
        while len(told) < lines:
            told.extend([row["model"] for row in json.loads(line)] for line in capsys.readouterr().out.splitlines())
            await asyncio.sleep(0.02)

    async with asyncio.timeout(20), EmbeddedValkey() as valkey:
        writer = RegistryWriter(valkey.url, "default")
        writer.set_models([ModelRecord(name="joe", task="tts", engine="mock")])
        writing = asyncio.create_task(writer.run())
        watching = asyncio.create_task(
            show(Running(tmp_path, valkey.url, "default"), model_rows, watch=True, as_json=True)
        )
        await until_told(1)
        writer.set_models([ModelRecord(name=name, task="tts", engine="mock") for name in ("joe", "ann")])
        while told[-1] != ["ann", "joe"]:
            await until_told(len(told) + 1)
        for task in (watching, writing):
            task.cancel()
        await asyncio.wait((watching, writing))
    assert all(one != other for one, other in zip(told, told[1:], strict=False)), "a line is a change"
