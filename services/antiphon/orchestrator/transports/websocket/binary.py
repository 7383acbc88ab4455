"""The `antiphon.v1` subprotocol's binary frames: a header of 16 bytes, then audio in the session's format.

The header, in network byte order: u8 version, u8 kind, u16 flags (0), u32 generation, u64 sample position.
"""

import struct
from dataclasses import dataclass

from antiphon.conversation.engine import ClientError

SUBPROTOCOL = "antiphon.v1"
VERSION = 1
USER_AUDIO = 1
REPLY_AUDIO = 2

_HEADER = struct.Struct("!BBHIQ")
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True, slots=True)
class AudioFrame:
    """One binary message."""

    kind: int
    generation: int
    """Of a reply: rises with every reply, so that frames of an older one can be told apart. Of the user: 0."""
    position_samples: int
    """Of the first sample, from the start of the reply's message. Of the user: not read."""
    audio: bytes


def pack(frame: AudioFrame) -> bytes:
    """The frame as it travels."""
    return _HEADER.pack(VERSION, frame.kind, 0, frame.generation, frame.position_samples) + frame.audio


def unpack(message: bytes) -> AudioFrame:
    """The frame in a message. Raises `ClientError` for one that is too short, or of another version."""
    if len(message) < HEADER_BYTES:
        raise ClientError("invalid_value", f"A binary message begins with a header of {HEADER_BYTES} bytes.")
    version, kind, _flags, generation, position = _HEADER.unpack_from(message)
    if version != VERSION:
        raise ClientError("invalid_value", f"Binary messages of version {version} are not known; send {VERSION}.")
    return AudioFrame(kind, generation, position, message[HEADER_BYTES:])
