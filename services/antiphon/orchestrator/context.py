"""What every route of the orchestrator is handed: one frozen record, built once by `app.serve`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from antiphon.contracts.adapters import Task, VadEngine
from antiphon.conversation.ports import Clock, LoopClock, Ports, Recogniser, Responder, Synthesiser
from antiphon.orchestrator.admission import Admission
from antiphon.orchestrator.config import OrchestratorConfig
from antiphon.orchestrator.metrics import OrchestratorMetrics
from antiphon.orchestrator.names import Names
from antiphon.orchestrator.sessions import SessionKeeper
from antiphon.registry.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Context:
    """The orchestrator's parts. Nothing here belongs to one session."""

    config: OrchestratorConfig
    recogniser: Recogniser
    synthesiser: Synthesiser
    responders: Mapping[str, Responder]
    """One for each assistant, by the assistant's own name."""
    vad: VadEngine
    snapshot: Callable[[], Snapshot]
    """What the registry says now."""
    admission: Admission
    metrics: OrchestratorMetrics
    sessions: SessionKeeper
    clock: Clock = field(default_factory=LoopClock)

    @property
    def names(self) -> Names:
        """What the names that callers use stand for."""
        return Names(self.config.aliases, self.config.model_defaults(), self.snapshot)

    def fallback(self, task: Task, model: str) -> str:
        """The model that stands in for this one where no conversation says so: empty, or what an assistant names.

        The default assistant before the others, which are asked by name.
        """
        names, default = self.names, self.config.default_assistant
        for _, assistant in sorted(self.config.assistants.items(), key=lambda each: (each[0] != default, each[0])):
            voice = assistant.voice
            own, fallback = (
                (voice.model, voice.fallback)
                if task == "tts"
                else (assistant.recogniser, assistant.recogniser_fallback)
            )
            if fallback and names.model(task, own) == model:
                return fallback
        return ""

    def ports(self, assistant: str) -> Ports:
        """What a conversation with this assistant needs."""
        return Ports(self.recogniser, self.synthesiser, self.responders[assistant], self.clock)
