"""What the names that callers use stand for: aliases, `default`, the catalogue's models and their voices."""

from collections.abc import Callable

from antiphon.contracts.adapters import Task
from antiphon.orchestrator.config import DEFAULT, AliasesConfig
from antiphon.registry.snapshot import Snapshot


class Names:
    """Looks names up in the configuration and in what the registry says now."""

    def __init__(
        self, aliases: AliasesConfig, defaults: dict[Task, str | None], snapshot: Callable[[], Snapshot]
    ) -> None:
        self._aliases = aliases
        self._defaults = defaults
        self._snapshot = snapshot

    def model(self, task: Task, name: str) -> str | None:
        """The catalogue's own name for a model, by name, alias or `default`; None when it has none such."""
        name = self._aliases.models.get(name, name)
        catalogue = self._snapshot()
        if name == DEFAULT:
            models = catalogue.models_of(task)
            name = self._defaults[task] or (models[0].name if models else "")
        record = catalogue.model(task, name)
        return record.name if record is not None else None

    def voice(self, name: str, model: str) -> tuple[str, str] | None:
        """The model and the voice of it that a name means; None when there is no such voice.

        First a voice of `model` (a name, an alias or `default`), its first for the name `default`; then another
        speaking model by name, with its first voice.
        """
        name = self._aliases.voices.get(name, name)
        current = self.model("tts", model)
        if current is not None and name in ("", DEFAULT):
            return current, ""
        if current is not None and name in self.voices(current):
            return current, name
        other = self.model("tts", name)
        return (other, "") if other is not None else None

    def voices(self, model: str) -> tuple[str, ...]:
        """The voices of a speaking model of the catalogue, as far as they are known."""
        record = self._snapshot().model("tts", model)
        return record.capabilities.voices if record is not None and record.capabilities is not None else ()
