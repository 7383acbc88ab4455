"""This machine's microphone and loudspeaker."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from antiphon.audio.pcm import Samples, float_to_pcm, pcm_to_float
from antiphon.cli.playout import Speaker
from antiphon.cli.realtime import RATE_HZ
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.frames import SAMPLE_BYTES, frame_samples

_HEARD_BLOCKS = 250
"""Five seconds of microphone wait at most; beyond, the oldest is lost: a live conversation does not catch up."""

_DEVICE_S = 0.2
"""What a sound device keeps to itself before it sounds."""


class Loudspeaker(Speaker):
    """A speaker that sounds. Its device pulls what is queued; `drop` empties the queue."""

    def __init__(self, *, keeps: bool = False) -> None:
        super().__init__(RATE_HZ, keeps=keeps)
        self._queue = bytearray()

    @classmethod
    @contextmanager
    def opened(cls, *, keeps: bool = False) -> "Iterator[Loudspeaker]":
        """A loudspeaker that plays until the block ends; `keeps`: all that sounded.

        Raises:
            AntiphonError: When this machine has none, or the extra `microphone` is not installed.
        """
        loudspeaker = cls(keeps=keeps)
        with _device("RawOutputStream", callback=loudspeaker._pull):
            yield loudspeaker

    def play(self, item_id: str, samples: Samples, now_s: float) -> None:
        """Queue a piece and sound it."""
        super().play(item_id, samples, now_s)
        self.play_pcm(float_to_pcm(samples))

    def play_pcm(self, pcm: bytes) -> None:
        """Sound s16le PCM at 24 kHz after what is queued."""
        self._queue += pcm

    def drop(self, now_s: float) -> tuple[str, int] | None:
        """Fall silent at once."""
        self._queue.clear()
        return super().drop(now_s)

    async def silent(self) -> None:
        """Wait until all that is queued has sounded."""
        await asyncio.sleep(len(self._queue) / SAMPLE_BYTES / RATE_HZ + _DEVICE_S)

    def _pull(self, out: Any, frames: int, _time: Any, _status: Any) -> None:
        wanted = len(out)
        piece = bytes(self._queue[:wanted])
        del self._queue[: len(piece)]
        out[:] = piece.ljust(wanted, b"\0")


@asynccontextmanager
async def microphone() -> AsyncIterator[AsyncIterator[Samples]]:
    """What this machine's microphone hears: blocks of 20 ms, float32, mono, 24 kHz.

    Raises:
        AntiphonError: When there is none, or the extra `microphone` is not installed.
    """
    loop = asyncio.get_running_loop()
    blocks: deque[bytes] = deque(maxlen=_HEARD_BLOCKS)
    arrived = asyncio.Event()

    def heard(block: Any, _frames: int, _time: Any, _status: Any) -> None:
        blocks.append(bytes(block))
        loop.call_soon_threadsafe(arrived.set)

    async def listen() -> AsyncIterator[Samples]:
        while True:
            while blocks:
                yield pcm_to_float(blocks.popleft())
            arrived.clear()
            await arrived.wait()

    with _device("RawInputStream", callback=heard):
        yield listen()


@contextmanager
def _device(kind: str, **options: Any) -> Iterator[None]:
    try:
        import sounddevice
    except ModuleNotFoundError:
        raise AntiphonError(
            Reason.INVALID_REQUEST,
            "Microphone and loudspeaker need the extra `microphone`: pip install 'antiphon[microphone]', "
            "or use files (--input, --output).",
        ) from None
    except OSError:
        raise AntiphonError(
            Reason.INVALID_REQUEST, "PortAudio is not installed: apt install libportaudio2, or use files (--output)."
        ) from None
    block = frame_samples(RATE_HZ)
    try:
        stream = getattr(sounddevice, kind)(samplerate=RATE_HZ, channels=1, dtype="int16", blocksize=block, **options)
    except sounddevice.PortAudioError as error:
        raise AntiphonError(
            Reason.INVALID_REQUEST, f"No sound device can be opened ({error}): use files (--input, --output)."
        ) from error
    with stream:
        yield
