"""Whether a model can do what is asked, and which revision of it a session gets: pure, and before any worker counts."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from antiphon.contracts.adapters import Capabilities, Task
from antiphon.registry.records import ModelRecord


class Refusal(StrEnum):
    """Why a model or a worker was not considered; machines read it, `demand` records carry it."""

    MODEL_UNKNOWN = "model_unknown"
    ENGINE = "engine"
    LANGUAGE = "language"
    VOICE = "voice"
    SAMPLE_RATE = "sample_rate"
    STREAMING = "streaming"
    CLONING = "cloning"
    EMOTION = "emotion"
    NOT_ALIVE = "not_alive"
    DRAINING = "draining"
    WIRE_VERSION = "wire_version"
    ENGINE_MISSING = "engine_missing"
    FULL = "full"
    FAILED = "failed"
    NOT_PLACED = "not_placed"
    NO_MEMORY = "no_memory"


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What is wanted; what is left empty does not matter.

    A model whose capabilities are not known yet is taken at its name.
    """

    task: Task
    model: str
    """A name or an alias of the catalogue."""
    engine: str = ""
    language: str = ""
    """BCP 47; a language without a region asks for any of its regions, and the other way round."""
    voice: str = ""
    sample_rate_hz: int = 0
    """At least: what is slower has nothing to say above its own band."""
    streaming: bool = False
    """Sound (or words) while there is still text (or sound) to come."""
    cloning: bool = False
    emotion: bool = False
    session_id: str = ""
    """Decides which revision is taken; empty: chance does."""
    digest: str = ""
    """The revision that served this session before: it keeps it for as long as that has any weight."""
    avoid: tuple[str, ...] = ()
    """Revisions that have failed in this stream: looked for last."""


def misfit(request: RouteRequest, model: ModelRecord) -> Refusal | None:
    """Why this model cannot serve the request; None: it can."""
    if model.task != request.task:
        return Refusal.MODEL_UNKNOWN
    if request.engine and request.engine != model.engine:
        return Refusal.ENGINE
    can = model.capabilities
    if can is None:
        return None
    return next((refusal for refusal, lacks in _DEMANDS if lacks(request, can)), None)


_DEMANDS: tuple[tuple[Refusal, Callable[[RouteRequest, Capabilities], bool]], ...] = (
    (Refusal.LANGUAGE, lambda want, can: bool(want.language and can.languages) and not _speaks(want.language, can)),
    (Refusal.VOICE, lambda want, can: bool(want.voice and can.voices) and want.voice not in can.voices),
    (Refusal.SAMPLE_RATE, lambda want, can: can.sample_rate_hz < want.sample_rate_hz),
    (Refusal.STREAMING, lambda want, can: want.streaming and not (can.streaming_input and can.streaming_output)),
    (Refusal.CLONING, lambda want, can: want.cloning and not can.cloning),
    (Refusal.EMOTION, lambda want, can: want.emotion and not can.emotion),
)


def _speaks(language: str, can: Capabilities) -> bool:
    wanted = language.lower()
    known = [each.lower() for each in can.languages]
    return wanted in known or any(
        each.partition("-")[0] == wanted.partition("-")[0] and "" in (each.partition("-")[2], wanted.partition("-")[2])
        for each in known
    )


def revisions(request: RouteRequest, model: ModelRecord, rng: random.Random) -> list[str]:
    """The digests to look for, the session's own first; the others are for when nobody can serve that one.

    The newest revision takes the sessions whose hash lies below its share of the weights, the one before it the next
    stretch, and so on: when the newest one's weight grows, sessions go over to it and none comes back.
    """
    if not model.revisions:
        return [model.digest]
    newest_first = [revision for revision in reversed(model.revisions) if revision.weight > 0]
    whole = sum(revision.weight for revision in newest_first)
    place = (_hash(request.session_id, model.name) if request.session_id else rng.random()) * whole
    own, reached = "", 0
    for revision in newest_first:
        reached += revision.weight
        if place < reached:
            own = revision.digest
            break
    if any(revision.digest == request.digest for revision in newest_first):
        own = request.digest
    order = [digest for digest in dict.fromkeys((own, *(revision.digest for revision in newest_first))) if digest]
    return sorted(order, key=lambda digest: digest in request.avoid)


def preference(model: str, worker: str) -> float:
    """0 to 1: how much this worker is the one for a model, the same in every process.

    Rendezvous hashing (Thaler and Ravishankar, "A name-based mapping scheme for rendezvous", 1996).
    """
    return _hash(worker, model)


def _hash(one: str, other: str) -> float:
    digest = blake2b(f"{one}\0{other}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
