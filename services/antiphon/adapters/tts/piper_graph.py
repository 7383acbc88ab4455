"""A Piper voice's network cut in two, so that it can be decoded window by window.

A Piper voice is VITS: an encoder (text, durations and flow) makes latent frames of all the phonemes at once, a decoder
(HiFi-GAN) makes samples of them. Encoding is quick, decoding is where the time goes; and the decoder is a stack of
convolutions, so a window of latent frames decodes to exactly the same samples as the whole, when it is given as many
frames around it as the convolutions can see. How many these are is computed from the decoder's own graph.

Source: Kim et al. 2021, "Conditional Variational Autoencoder with Adversarial Learning for End-to-End Text-to-Speech";
Kong et al. 2020, "HiFi-GAN".
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_DECODER = "/dec/"
_DURATIONS = "Ceil"


@dataclass(frozen=True, slots=True)
class SplitGraph:
    """The two halves, as serialised ONNX, and how they fit."""

    encoder: bytes
    """Outputs: the latent frames, (1, channels, frames); then `conditions`; then `durations`, if any."""
    decoder: bytes
    """Inputs: the latent frames and `conditions`. Output: samples, with `hop_samples` for each frame."""
    latent: str
    conditions: tuple[str, ...]
    """What the decoder needs beside the latent frames, the same at every frame: a speaker's embedding."""
    durations: str
    """Frames of each phoneme id, (1, 1, ids); empty: the voice does not tell."""
    hop_samples: int
    context_frames: int
    """Latent frames on each side that a sample depends on."""


def split(path: Path) -> SplitGraph | None:
    """A voice's network in two halves; None when it has no decoder that can be cut off."""
    import onnx

    model = onnx.load(str(path))
    decoder = [node for node in model.graph.node if node.name.startswith(_DECODER)]
    crossing = _crossing(model.graph, decoder)
    latent = next((node.input[0] for node in decoder if node.op_type == "Conv" and node.input[0] in crossing), None)
    if latent is None:
        return None
    hop_samples, context_frames = _geometry(decoder, latent)
    conditions = tuple(name for name in crossing if name != latent)
    durations = _only_output(model.graph, _DURATIONS)
    inputs = [value.name for value in model.graph.input]
    encoded = [latent, *conditions, *([durations] if durations else [])]
    return SplitGraph(
        _extract(model, inputs, encoded),
        _extract(model, [latent, *conditions], [model.graph.output[0].name]),
        latent,
        conditions,
        durations,
        hop_samples,
        context_frames,
    )


def _crossing(graph: "GraphProto", decoder: "list[NodeProto]") -> list[str]:
    """What enters the decoder from outside, without weights and constants, in order of first use."""
    inside = {name for node in decoder for name in node.output}
    fixed = {tensor.name for tensor in graph.initializer}
    fixed |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return list(dict.fromkeys(n for node in decoder for n in node.input if n and n not in inside and n not in fixed))


def _only_output(graph: "GraphProto", op_type: str) -> str:
    names = [name for node in graph.node if node.op_type == op_type for name in node.output]
    return names[0] if len(names) == 1 else ""


def _extract(model: "ModelProto", inputs: Iterable[str], outputs: Iterable[str]) -> bytes:
    import onnx
    from onnx.utils import Extractor

    known = {value.name for value in (*model.graph.input, *model.graph.output, *model.graph.value_info)}
    inputs, outputs = list(inputs), list(outputs)
    unknown = [name for name in (*inputs, *outputs) if name not in known]
    model.graph.value_info.extend(onnx.ValueInfoProto(name=name, type=_float_tensor()) for name in unknown)
    part: bytes = Extractor(model).extract_model(inputs, outputs).SerializeToString()
    return part


def _float_tensor() -> Any:
    import onnx

    return onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=onnx.TensorProto.FLOAT))


def _geometry(decoder: "list[NodeProto]", latent: str) -> tuple[int, int]:
    """Samples for each latent frame, and how many frames to each side a sample sees.

    Each tensor of the decoder has a rate (steps for each latent frame) and a reach (latent frames to each side);
    a convolution of kernel k and dilation d adds d(k - 1)/2 steps, a transposed one of stride s makes s steps of one
    and adds at most k/s steps.
    """
    seen: dict[str, tuple[int, float]] = {latent: (1, 0.0)}
    rate, reach = 1, 0.0
    for node in decoder:
        known = [seen[name] for name in node.input if name in seen]
        if not known:
            continue
        rate, reach = max(known)[0], max(entry[1] for entry in known)
        if node.op_type == "Conv":
            reach += _attribute(node, "dilations", 1) * (_attribute(node, "kernel_shape", 1) - 1) / 2 / rate
        elif node.op_type == "ConvTranspose":
            stride = _attribute(node, "strides", 1)
            reach += _attribute(node, "kernel_shape", 1) / stride / rate
            rate *= stride
        seen.update(dict.fromkeys(node.output, (rate, reach)))
    return rate, math.ceil(reach)


def _attribute(node: "NodeProto", name: str, default: int) -> int:
    return next((attribute.ints[0] for attribute in node.attribute if attribute.name == name), default)
