"""`antiphon up` as a person runs it: a process of its own, looked at and talked to by the other commands."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from antiphon.testing.speech import require_recordings

pytestmark = pytest.mark.component

CONFIG = """
models:
  - {name: sine, task: tts, engine: mock, residency: {policy: Pinned}, engineConfig: {ms_per_word: 100}}
  - {name: script, task: asr, engine: mock, residency: {policy: Pinned}, engineConfig: {texts: [good morning]}}
"""
START_S = 60
ANTIPHON = [sys.executable, "-m", "antiphon.cli.main"]


@dataclass
class Up:
    process: subprocess.Popen[bytes]
    output: Path
    data_dir: Path
    url: str = ""

    def told(self) -> str:
        return self.output.read_text()

    def run(self, *arguments: str) -> str:
        environment = {
            **os.environ,
            "ANTIPHON_URL": self.url,
            "ANTIPHON_DATA_DIR": str(self.data_dir),
            "ANTIPHON_DEBUG": "1",
        }
        ran = subprocess.run([*ANTIPHON, *arguments], env=environment, capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


def until(condition: Callable[[], object], what: str, limit_s: float = START_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def start(folder: Path, *options: str) -> Up:
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    output = folder / "output"
    command = [*ANTIPHON, "up", "--port", "0", "--config", str(config), "--data-dir", str(folder / "data"), *options]
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    return Up(process, output, folder / "data")


def logs(up: Up) -> str:
    return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in (up.data_dir / "logs").glob("*.log"))


def wait_ready(up: Up) -> None:
    def ready() -> "re.Match[str] | None":
        assert up.process.poll() is None, up.told() + logs(up)
        return re.search(r"ready at (\S+)", up.told())

    until(ready, "it does not get ready")
    found = ready()
    assert found is not None
    up.url = found.group(1)


def end(up: Up) -> None:
    if up.process.poll() is None:
        up.process.kill()
        up.process.wait()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = start(tmp_path_factory.mktemp("up"))
    try:
        wait_ready(running)
        yield running
    finally:
        end(running)


def test_it_says_what_it_serves_and_what_to_type(up: Up) -> None:
    told = up.told()
    assert "sine (tts, mock)" in told
    assert f"antiphon talk --url {up.url}" in told
    assert "Ctrl-C ends it." in told


def test_models_and_workers_are_listed(up: Up) -> None:
    models = {row["model"]: row for row in json.loads(up.run("models", "--json"))}
    assert models["sine"]["loaded"] == models["script"]["loaded"] == "1/1"
    (worker,) = json.loads(up.run("workers", "--json"))
    assert worker["state"] == "serving"
    assert worker["address"].startswith("127.0.0.1:")
    assert "sine" in up.run("models")
    assert "worker-1" in up.run("workers")


def test_it_speaks_into_a_file(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "said.wav"
    up.run("say", "one two three four", "--output", str(file))
    with wave.open(str(file)) as sound:
        assert len(sound.readframes(10_000_000)) / 2 / sound.getframerate() >= 0.4


def test_it_writes_down_a_recording(up: Up) -> None:
    recording = require_recordings(least_words=3, most_words=8)[0]
    assert up.run("transcribe", str(recording.path)) == "good morning\n"


def test_it_answers_what_is_typed(up: Up, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    told = up.run("talk", "--text", "one two three", "--output", str(reply))
    assert "one two three" in told
    with wave.open(str(reply)) as sound:
        assert sound.getnframes() / sound.getframerate() >= 0.3


def test_a_worker_that_is_killed_comes_back(up: Up, tmp_path: Path) -> None:
    parent = psutil.Process(up.process.pid)
    worker = next(child for child in parent.children() if child.cmdline()[-1] == "worker")
    worker.kill()
    until(lambda: "worker-1 ended (killed by signal 9)" in up.told(), "nobody was told")
    file = tmp_path / "said.wav"

    def speaks() -> bool:
        environment = {**os.environ, "ANTIPHON_URL": up.url}
        return subprocess.run([*ANTIPHON, "say", "one", "--output", str(file)], env=environment).returncode == 0

    until(speaks, "it does not speak again")


def test_a_registry_that_is_killed_comes_back(up: Up) -> None:
    children = psutil.Process(up.process.pid).children()
    next(child for child in children if "valkey" in child.name()).kill()
    until(lambda: "The registry ended (status -9)" in up.told(), "nobody was told")

    def listed() -> bool:
        return [row["state"] for row in json.loads(up.run("workers", "--json"))] == ["serving"]

    until(listed, "the registry is not filled again")


def test_it_ends_clean_and_leaves_nothing_behind(up: Up) -> None:
    children = psutil.Process(up.process.pid).children(recursive=True)
    assert len(children) >= 3
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(30) == 0, up.told()
    gone, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    assert not (up.data_dir / "running.json").exists()


def test_children_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    running = start(tmp_path)
    try:
        wait_ready(running)
        children = psutil.Process(running.process.pid).children(recursive=True)
        running.process.kill()
        running.process.wait()
        _, alive = psutil.wait_procs(children, timeout=5)
        assert alive == []
    finally:
        end(running)


def test_what_cannot_be_served_ends_with_the_reason(tmp_path: Path) -> None:
    running = start(tmp_path, "--host", "0.0.0.0")
    try:
        assert running.process.wait(START_S) == 1
        assert "key" in running.told().lower()
        assert "Traceback" not in running.told()
    finally:
        end(running)


def test_a_registry_that_does_not_answer_ends_it_with_a_sentence(tmp_path: Path, unused_tcp_port: int) -> None:
    up = start(tmp_path, "--redis", f"redis://user:sesame@127.0.0.1:{unused_tcp_port}/0")
    try:
        assert up.process.wait(timeout=START_S) == 1
    finally:
        up.process.kill()
    assert f"antiphon: The registry at redis://127.0.0.1:{unused_tcp_port}/0 does not answer: Error" in up.told()
    assert "sesame" not in up.told() + logs(up)
