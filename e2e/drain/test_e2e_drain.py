"""`kubectl drain` in the middle of an answer: the sentence is spoken to its end, then the pod goes."""

import subprocess
import time
from pathlib import Path

import pytest
from installation import REPLY, Installation

from antiphon.audio.files import read_audio
from antiphon.testing.speech import require_recordings

pytestmark = pytest.mark.e2e


def test_an_answer_outlives_the_drain_of_its_node(installation: Installation, tmp_path: Path) -> None:
    installation.kubectl("wait", "--for=condition=Ready", "voicemodel", "--all", "--timeout=8m")
    (voice,) = installation.pods("gpu-voices")
    node = voice["spec"]["nodeName"]
    whole, through = tmp_path / "whole.wav", tmp_path / "through.wav"
    recording = require_recordings(least_words=6, most_words=12)[0]
    with installation.caller() as caller:
        caller.antiphon("talk", "--input", recording.path, "--output", whole)
        command = caller.command("talk", "--input", recording.path, "--output", through)
        talk = subprocess.Popen(command, env=caller.environment, stdout=subprocess.PIPE, text=True)
        try:
            assert talk.stdout is not None
            for line in talk.stdout:
                if REPLY.split()[1] in line:
                    break
            began = time.monotonic()
            installation.kubectl(
                "drain",
                node,
                "--pod-selector=app.kubernetes.io/name=antiphon-worker",
                "--delete-emptydir-data",
                "--ignore-daemonsets",
                "--timeout=120s",
            )
            print(f"drained in {time.monotonic() - began:.1f} s")
            assert talk.wait(60) == 0
        finally:
            talk.kill()
            talk.wait()
            installation.kubectl("uncordon", node)
    spoken, expected = (len(read_audio(path, 16_000)) / 16_000 for path in (through, whole))
    assert spoken > expected - 0.5, f"{spoken:.1f} s of {expected:.1f} s were heard"
    installation.kubectl("wait", "--for=condition=Ready", "voicemodel", "--all", "--timeout=5m")
