"""A person talks with an installation, and hears an answer."""

from pathlib import Path

import pytest
from installation import Installation

from antiphon.audio.files import read_audio
from antiphon.testing.speech import require_recordings

pytestmark = pytest.mark.e2e


def words(text: str) -> set[str]:
    return {word.strip(".,!?…").lower() for word in text.split()}


def test_real_speech_is_heard_and_answered_by_voice(installation: Installation, tmp_path: Path) -> None:
    installation.kubectl("wait", "--for=condition=Ready", "voicemodel", "--all", "--timeout=8m")
    recording = require_recordings(least_words=6, most_words=12)[0]
    answer = tmp_path / "answer.wav"
    with installation.caller() as caller:
        told = caller.antiphon("talk", "--input", recording.path, "--output", answer)
        heard = caller.antiphon("transcribe", answer)
    print(f"said: {recording.transcript}\n{told}\nheard in the answer: {heard}")
    assert len(words(recording.transcript) & words(told)) >= len(words(recording.transcript)) // 2, told
    assert {"weather", "fine", "tomorrow"} <= words(heard), heard
    assert len(read_audio(answer, 16_000)) > 2 * 16_000


def test_workers_have_a_gpu_each_and_restricted_pods(installation: Installation) -> None:
    for pool in ("gpu-voices", "gpu-ears"):
        (pod,) = installation.pods(pool)
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        if installation.target.is_ours:  # elsewhere there may be nothing behind the number that a node offers
            given = installation.kubectl("exec", pod["metadata"]["name"], "--", "printenv", "NVIDIA_VISIBLE_DEVICES")
            assert given.startswith("GPU-")


def test_helm_test_holds_a_conversation(installation: Installation) -> None:
    told = installation.target.helm("test", "antiphon", "-n", installation.namespace, "--logs", "--timeout=5m")
    assert "It was heard, and answered by voice." in told
