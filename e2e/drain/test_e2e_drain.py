"""`kubectl drain` in the middle of an answer: the sentence is spoken to its end, then the pod goes."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import Installation

from antiphon.audio.files import read_audio
from antiphon.testing.speech import require_recordings

pytestmark = pytest.mark.e2e


WORKERS_ONLY = (
    "--pod-selector=app.kubernetes.io/name=antiphon-worker",
    "--delete-emptydir-data",
    "--ignore-daemonsets",
    "--timeout=120s",
)


@contextlib.contextmanager
def answering(command: list[str], environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A conversation whose answer has begun to be spoken."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as talk:
        try:
            assert talk.stdout is not None
            told = ""
            while "weather" not in told.partition("antiphon ")[2]:
                told += (character := talk.stdout.read(1))
                assert character, f"it ended early:\n{told}"
            yield talk
        finally:
            talk.kill()


def test_an_answer_outlives_the_drain_of_its_node(installation: Installation, tmp_path: Path) -> None:
    installation.kubectl("wait", "--for=condition=Ready", "voicemodel", "--all", "--timeout=8m")
    (voice,) = installation.pods("gpu-voices")
    node = voice["spec"]["nodeName"]
    whole, through = tmp_path / "whole.wav", tmp_path / "through.wav"
    recording = require_recordings(least_words=6, most_words=12)[0]
    with installation.caller() as caller:
        caller.antiphon("talk", "--input", recording.path, "--output", whole)
        command = caller.command("talk", "--input", recording.path, "--output", through)
        with answering(command, caller.environment) as talk:
            began = time.monotonic()
            try:
                installation.kubectl("drain", node, *WORKERS_ONLY)
            finally:
                installation.kubectl("uncordon", node)
            print(f"drained in {time.monotonic() - began:.1f} s")
            assert talk.wait(60) == 0
    spoken, expected = (len(read_audio(path, 16_000)) / 16_000 for path in (through, whole))
    assert spoken > expected - 0.5, f"{spoken:.1f} s of {expected:.1f} s were heard"
    installation.kubectl("wait", "--for=condition=Ready", "voicemodel", "--all", "--timeout=5m")
