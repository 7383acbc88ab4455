"""Where recordings of human speech are looked for, and what is said when there are none."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from antiphon.audio.files import write_wav
from antiphon.testing import speech
from antiphon.testing.speech import NoSpeech, find_root, recordings, require_recordings

pytestmark = pytest.mark.unit

LINES = """; a comment
activated: Activated.
agent-pass: Please enter your  password.
beep: [a tone]
digits/1: 1
absent: No file for this one.
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sounds, words = tmp_path / speech._SOUNDS, tmp_path / speech._TRANSCRIPTS
    for name in ("activated", "agent-pass", "beep", "digits/1"):
        (sounds / name).parent.mkdir(parents=True, exist_ok=True)
        write_wav(sounds / f"{name}.wav", np.zeros(800, dtype=np.float32), 8_000)
    words.parent.mkdir(parents=True)
    words.write_bytes(gzip.compress(LINES.encode()))
    monkeypatch.setenv("ANTIPHON_SPEECH", str(tmp_path))
    return tmp_path


def test_prompts_of_plain_words_are_given(root: Path) -> None:
    assert find_root({"ANTIPHON_SPEECH": str(root)}) == root
    assert [(one.name, one.transcript) for one in recordings()] == [
        ("activated", "Activated."),
        ("agent-pass", "Please enter your password."),
    ]
    assert [one.name for one in recordings(least_words=2)] == ["agent-pass"]
    assert len(recordings()[0].samples(16_000)) == pytest.approx(1600, abs=2)


def test_without_recordings_a_test_is_skipped_and_fails_on_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_SPEECH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="python -m antiphon.testing.speech"):
        require_recordings()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(NoSpeech, match="apt-get install"):
        require_recordings()
