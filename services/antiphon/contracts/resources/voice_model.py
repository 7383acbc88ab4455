"""VoiceModel: what is served, by which engine, from which weights, held how, replaced how."""

import json
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from antiphon.contracts import models
from antiphon.contracts.adapters import Capabilities
from antiphon.contracts.resources.base import (
    NAME_LIMIT,
    Condition,
    ListOf,
    Metadata,
    Part,
    Rule,
    matching,
)
from antiphon.contracts.resources.values import Labels, MiB, Seconds

_NAME = "[a-z0-9]([a-z0-9._-]*[a-z0-9])?"
_SCHEMES = ("hf://", "piper://", "https://", "http://", "file://", "package://")

ModelName = Annotated[
    str,
    Field(min_length=1, max_length=NAME_LIMIT),
    matching(
        _NAME, "Write a name of lower-case letters, digits, '-', '_' and '.', with a letter or digit at both ends."
    ),
]
Digest = Annotated[
    str,
    Field(min_length=1, max_length=80),
    matching("sha256:[0-9a-f]{64}", "Write the digest as sha256: and 64 lower-case hexadecimal digits."),
]
Language = Annotated[
    str,
    Field(min_length=1, max_length=35),
    matching("[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", "Write a language as BCP 47 does: en, en-GB, pt-BR."),
]


def _scheme_rule(cel: str, message: str, prefix: str, holds: Any) -> Rule:
    """A rule for uris that begin with `prefix`."""
    return Rule(
        f"!self.startsWith('{prefix}') || {cel}", message, lambda uri: not uri.startswith(prefix) or bool(holds(uri))
    )


def _shaped(prefix: str, pattern: str, message: str) -> Rule:
    shape = matching(f"{prefix}{pattern}", message)
    return _scheme_rule(shape.cel, message, prefix, shape.holds)


ArtifactUri = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Rule(
        " || ".join(f"self.startsWith('{scheme}')" for scheme in _SCHEMES),
        "Begin the uri with hf://, piper://, https://, file:// or package://: from elsewhere nothing can be fetched.",
        lambda uri: uri.startswith(_SCHEMES),
    ),
    _shaped(
        "hf://",
        "[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+(/[A-Za-z0-9_./ -]+)?",
        "Write a hub's repository as hf://owner/repository, or hf://owner/repository/folder.",
    ),
    _shaped("piper://", "[A-Za-z0-9_+-]+", "Write a Piper voice by its name alone, as in piper://en_US-joe-medium."),
    _shaped("file://", "/.+", "Write a file's path in full, as in file:///models/joe: three slashes."),
    _shaped(
        "package://",
        "[A-Za-z_][A-Za-z0-9_]*/.+",
        "Write a package's folder as package://module/folder: the module as Python imports it.",
    ),
    _shaped("http", "s?://[^/ ?#]+/[^ ]+", "Write the address of one file, as in https://host/folder/weights.tar.gz."),
    Rule(
        "!self.contains('..')", "Write the uri without '..': it must not leave its place.", lambda uri: ".." not in uri
    ),
]


class Artifact(Part):
    """Where the weights are, and which of them."""

    uri: ArtifactUri
    """`hf://owner/repository[/folder]` (a hub's repository), `piper://voice` (of Piper's index), `https://host/file` (a
    tar archive is unpacked; `http://` needs a digest), `file:///path` (in the worker's image or a mounted volume), or
    `package://module/folder` (in an installed wheel).
    """
    revision: str = Field(default="", max_length=128)
    """Which revision of them: a commit, tag or branch of the hub, or a name of your own. A change of it is a new
    revision of the model, which is loaded beside the old one and takes over by `rollout`.
    """
    digest: Digest | None = None
    """`sha256:` and 64 hexadecimal digits, of the file, or of the sorted list of the files' digests, one a line.
    Weights with another digest are refused. Left out: they are taken as they come.
    """

    RULES = (
        Rule(
            "!self.uri.startsWith('http://') || has(self.digest)",
            "Give the weights' digest, or fetch them by https://: http:// alone lets others change them on the way.",
            lambda artifact: not artifact.uri.startswith("http://") or artifact.digest is not None,
        ),
        Rule(
            "!has(self.digest) || !has(oldSelf.digest) || self.uri != oldSelf.uri"
            " || !has(self.revision) || self.revision == ''"
            " || (self.digest == oldSelf.digest) == (has(oldSelf.revision) && self.revision == oldSelf.revision)",
            "Change revision and digest together: another revision has other weights, and other weights are another "
            "revision.",
        ),
    )


class ModelCapabilities(Part):
    """What the model can do, as callers are told before a worker has loaded it. A loaded model speaks for itself."""

    languages: Annotated[tuple[Language, ...], ListOf("set")] = Field(default=(), max_length=200)
    """BCP 47, as in en or en-GB. Left out: any."""
    voices: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], ListOf("set")] = Field(
        default=(), max_length=1000
    )
    """The voices that can be asked for; of a speech model."""
    sample_rate_hz: int = Field(default=24_000, ge=8_000, le=48_000)
    """The rate it speaks at, or hears at, in samples a second."""
    streaming: bool = False
    """Whether it answers before it was given all of its input."""
    cloning: bool = False
    """Whether it speaks in a voice that it is given a recording of."""
    emotion: bool = False
    """Whether it takes instructions on how to speak."""


class ModelMemory(Part):
    """What the model takes of a worker's memory budget."""

    weights_mib: MiB = 0
    """MiB that the loaded weights take. 0: the engine's own estimate, known once a worker has loaded it."""
    per_stream_mib: MiB = 0
    """MiB that each running stream takes on top."""


class ModelResidency(Part):
    """By how many workers, and when, the model is held in memory."""

    policy: Literal["Pinned", "Preload", "OnDemand"] = "OnDemand"
    """`Pinned`: loaded at once and never given up. `Preload`: loaded at once, given up for a pinned model or one of a
    higher priority. `OnDemand`: loaded at the first call.
    """
    min_replicas: int | None = Field(default=None, ge=0, le=1000)
    """On how many workers it is placed, at least. Left out: 1, or 0 when OnDemand."""
    max_replicas: int | None = Field(default=None, ge=1, le=1000)
    """On how many workers it is placed, at most. Left out: on all that have the engine and the room."""
    idle_ttl_seconds: Seconds | None = Field(default=None)
    """A worker that loaded it for a caller gives it up after this long without a stream, in seconds; where it is placed
    it stays. Left out: 600. Not for a pinned model.
    """
    priority: int = Field(default=0, ge=-1000, le=1000)
    """Who is placed first where there is not room for all: the higher number."""

    RULES = (
        Rule(
            "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            "Set maxReplicas to minReplicas or more.",
            lambda it: it.min_replicas is None or it.max_replicas is None or it.min_replicas <= it.max_replicas,
        ),
        Rule(
            "self.policy != 'Pinned' || !has(self.minReplicas) || self.minReplicas >= 1",
            "Set minReplicas to 1 or more for a Pinned model, or choose the policy OnDemand.",
            lambda it: it.policy != "Pinned" or it.min_replicas is None or it.min_replicas >= 1,
        ),
        Rule(
            "self.policy != 'OnDemand'"
            " || (!has(self.minReplicas) || self.minReplicas == 0) && !has(self.maxReplicas) && self.priority == 0",
            "Leave out minReplicas, maxReplicas and priority for an OnDemand model, or choose the policy Preload: "
            "demand decides who holds it.",
            lambda it: it.policy != "OnDemand" or not (it.min_replicas or it.max_replicas or it.priority),
        ),
        Rule(
            "self.policy != 'Pinned' || !has(self.idleTTLSeconds)",
            "Leave out idleTTLSeconds for a Pinned model: it is never given up.",
            lambda it: it.policy != "Pinned" or it.idle_ttl_seconds is None,
        ),
    )

    @property
    def floor(self) -> int:
        """How many workers must hold it."""
        if self.min_replicas is not None:
            return self.min_replicas
        return 0 if self.policy == "OnDemand" else 1


class RolloutStep(Part):
    """One stage of a new revision's way to all sessions."""

    weight: int = Field(ge=1, le=100)
    """The share of new sessions that the new revision gets, in percent."""
    pause_seconds: Seconds = 0
    """How long this stage lasts at least, in seconds; its gate is looked at throughout."""


class RolloutGate(Part):
    """What a new revision must keep to; past it, the old one takes all sessions again."""

    max_error_percent: int = Field(default=10, ge=0, le=100)
    """Failed streams of the new revision, in percent of all that it took."""
    max_first_audio_ms: int | None = Field(default=None, ge=1, le=60_000)
    """Milliseconds to the first audio of a reply, as the workers measure them; of a voice. Left out: not asked."""
    min_streams: int = Field(default=10, ge=1, le=100_000)
    """Judged from so many streams on."""


Steps = Annotated[
    tuple[RolloutStep, ...],
    Field(min_length=1, max_length=10),
    Rule(
        "self.map(step, step.weight).isSorted()",
        "Order the steps by weight: a step must not have less than the one before it.",
        lambda steps: all(before.weight <= after.weight for before, after in zip(steps, steps[1:], strict=False)),
    ),
    Rule(
        "self[size(self) - 1].weight == 100",
        "End the steps with weight 100: the new revision takes all sessions in the end.",
        lambda steps: steps[-1].weight == 100,
    ),
]


class Rollout(Part):
    """How a new revision takes over from the old one."""

    steps: Steps = (RolloutStep(weight=100),)
    """The stages, one after the other, the last with weight 100. Sessions are divided by a hash of their names: a
    session stays with its revision.
    """
    gate: RolloutGate = RolloutGate()
    """What the new revision must keep to at each stage."""


class PoolSelector(Part):
    """Which pools' workers may hold the model."""

    match_labels: Labels = Field(default_factory=dict)
    """Labels that a WorkerPool must have, all of them. None: any pool of the namespace whose image has the engine."""


class Setting(Part):
    """One setting of an engine."""

    name: str = Field(min_length=1, max_length=64)
    """As the engine calls it; its page lists them."""
    value: str = Field(max_length=1024)
    """Read as JSON where it is JSON (`1.2`, `true`, `["a"]`), else taken as it stands."""

    @property
    def parsed(self) -> Any:
        """What the engine is given."""
        try:
            return json.loads(self.value)
        except ValueError:
            return self.value


Settings = Annotated[tuple[Setting, ...], Field(max_length=32), ListOf("map", ("name",))]


class VoiceModelSpec(Part):
    """What is to be served."""

    task: Annotated[
        Literal["tts", "asr"],
        Rule("self == oldSelf", "The task cannot change: make a VoiceModel of another name for the other task."),
    ]
    """`tts` speaks text, `asr` recognises speech."""
    engine: Annotated[
        str,
        Field(min_length=1, max_length=64),
        matching("[a-z0-9]([a-z0-9-]*[a-z0-9])?", "Write an engine's name, such as piper or faster-whisper."),
        Rule(
            "self == oldSelf", "The engine cannot change: make a VoiceModel of another name, and move the alias to it."
        ),
    ]
    """The software that runs it: piper, faster-whisper, or what else the workers' image has."""
    aliases: Annotated[tuple[ModelName, ...], Field(max_length=16), ListOf("set")] = ()
    """Other names that callers may use; each belongs to one model of the namespace."""
    artifact: Artifact | None = None
    """Where the weights are. Left out: the engine has its own."""
    capabilities: ModelCapabilities | None = None
    """What callers are told of it before a worker has loaded it."""
    memory: ModelMemory = ModelMemory()
    """What it takes of a worker's memory budget."""
    residency: ModelResidency = ModelResidency()
    """By how many workers, and when, it is held in memory."""
    rollout: Rollout = Rollout()
    """How a new revision takes over from the old one."""
    pool_selector: PoolSelector = PoolSelector()
    """Which pools' workers may hold it."""
    engine_config: Settings = ()
    """Settings of the engine. A change of one is a new revision of the model."""

    RULES = (
        Rule(
            "self.task == 'tts' || !has(self.rollout) || !has(self.rollout.gate.maxFirstAudioMs)",
            "Leave out rollout.gate.maxFirstAudioMs: only a model with the task tts has a first audio.",
            lambda spec: spec.task == "tts" or spec.rollout.gate.max_first_audio_ms is None,
        ),
        Rule(
            "self.task == 'tts' || !has(self.capabilities) || (!self.capabilities.cloning && !self.capabilities.emotion"
            " && (!has(self.capabilities.voices) || size(self.capabilities.voices) == 0))",
            "Leave out voices, cloning and emotion: only a model with the task tts has them.",
            lambda spec: (
                spec.task == "tts"
                or spec.capabilities is None
                or not (spec.capabilities.cloning or spec.capabilities.emotion or spec.capabilities.voices)
            ),
        ),
    )


class RevisionStatus(Part):
    """One revision of a model: its name, and all that is needed to load it again."""

    revision: str = Field(max_length=128)
    """As people call it: `artifact.revision`, else the digest's first 12 digits."""
    digest: Digest
    """What it is named by: of task, engine, artifact and engine settings."""
    artifact: Artifact | None = None
    """Its weights."""
    memory: ModelMemory = ModelMemory()
    """What it takes of a worker's memory budget."""
    engine_config: Settings = ()
    """Its settings of the engine."""


class CandidateStatus(RevisionStatus):
    """A revision on its way to all sessions."""

    step: int = Field(default=0, ge=0, le=10)
    """Which of `rollout.steps` it is at, the first is 0."""
    weight: int = Field(default=0, ge=0, le=100)
    """The share of new sessions that it gets, in percent; 0 until it is loaded."""
    since: str = Field(json_schema_extra={"format": "date-time"}, max_length=40)
    """When it came to this step."""


class VoiceModelStatus(Part):
    """What is true of the model now."""

    observed_generation: int = Field(default=0, ge=0)
    """The generation of the spec that this status is about."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), ListOf("map", ("type",))] = ()
    """Accepted, ArtifactCached, Scheduled, Resident, Ready, Progressing and Degraded."""
    active: RevisionStatus | None = None
    """The revision that sessions get."""
    candidate: CandidateStatus | None = None
    """The revision that is to follow it."""
    refused: Digest | None = None
    """The revision that was rolled back; it is not tried again until the spec names another."""
    wanted_workers: int = Field(default=0, ge=0)
    """How many workers should hold the active revision."""
    resident_workers: int = Field(default=0, ge=0)
    """How many workers do."""
    resident: str = Field(default="", max_length=16)
    """Both, as in 2/3."""
    streams: int = Field(default=0, ge=0)
    """How many streams run on it, on all its revisions."""


class VoiceModel(Part):
    """A voice, or a recogniser, that callers ask for by name. Kept loaded, replaced and rolled back without a cut."""

    api_version: Literal["antiphon.dev/v1alpha1"] = "antiphon.dev/v1alpha1"
    """The version of this schema."""
    kind: Literal["VoiceModel"] = "VoiceModel"
    """What this object is."""
    metadata: Metadata
    """Name, namespace and labels."""
    spec: VoiceModelSpec
    """What is to be served."""
    status: VoiceModelStatus = VoiceModelStatus()
    """What is true of it now. Written by the operator alone."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.metadata.name.size() <= {NAME_LIMIT}",
            f"Choose a name of at most {NAME_LIMIT} characters.",
            lambda model: len(model.metadata.name) <= NAME_LIMIT,
        ),
        Rule(
            "!has(self.spec.aliases) || !(self.metadata.name in self.spec.aliases)",
            "Leave the model's own name out of its aliases.",
            lambda model: model.metadata.name not in model.spec.aliases,
        ),
    )

    def specification(self, revision: RevisionStatus | None = None) -> models.ModelSpec:
        """What a worker is told to load: for the spec as it stands, or for an earlier revision of it."""
        said = self.spec if revision is None else revision
        memory = models.Memory.model_validate(said.memory.model_dump())
        residency: dict[str, Any] = {"policy": self.spec.residency.policy}
        if self.spec.residency.idle_ttl_seconds is not None:
            residency["idle_ttl_seconds"] = self.spec.residency.idle_ttl_seconds
        return models.ModelSpec(
            name=self.metadata.name,
            task=self.spec.task,
            engine=self.spec.engine,
            aliases=self.spec.aliases,
            artifact=_artifact(said.artifact),
            memory=memory,
            residency=models.Residency.model_validate(residency),
            engine_config={setting.name: setting.parsed for setting in said.engine_config},
        )

    @cached_property
    def revision_digest(self) -> str:
        """The name of the revision that the spec names; worked out once, for it is asked for again and again."""
        return models.revision_digest(self.specification())

    @property
    def capabilities(self) -> Capabilities | None:
        """What callers are told before a worker has loaded it; None when nothing is said."""
        said = self.spec.capabilities
        if said is None:
            return None
        return Capabilities(
            task=self.spec.task,
            sample_rate_hz=said.sample_rate_hz,
            languages=said.languages,
            voices=said.voices,
            streaming_input=said.streaming,
            streaming_output=said.streaming and self.spec.task == "tts",
            cloning=said.cloning,
            emotion=said.emotion,
            memory_mib=self.spec.memory.weights_mib,
        )


def _artifact(said: Artifact | None) -> models.Artifact | None:
    if said is None:
        return None
    return models.Artifact(uri=said.uri, revision=said.revision, digest=said.digest or "")
