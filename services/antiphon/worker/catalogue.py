"""What a worker may be asked for: one slot for each model and revision, and those that are on their way out."""

from collections.abc import Iterable, Iterator

from antiphon.contracts.adapters import Task
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec
from antiphon.worker.slots import CatalogueEntry, Slot, Stay

_STAYS: dict[str, Stay] = {"Pinned": "held", "Preload": "preloaded", "OnDemand": "cached"}


def own_entries(specs: Iterable[ModelSpec]) -> list[CatalogueEntry]:
    """The entries of a worker that nobody places: each model stays as its own residency policy says."""
    return [CatalogueEntry(spec, stay=_STAYS[spec.residency.policy]) for spec in specs]


class Catalogue:
    """The slots of one worker. Nothing that is not in it is ever loaded."""

    def __init__(self, entries: Iterable[CatalogueEntry] = ()) -> None:
        self._slots: dict[tuple[str, str], Slot] = {}
        self._names: dict[str, Slot] = {}
        self._gone: list[Slot] = []
        self.replace(entries)

    def __iter__(self) -> Iterator[Slot]:
        """Every slot, those that have left the catalogue and still hold a model among them."""
        return iter([*self._slots.values(), *self._gone])

    def own(self) -> list[Slot]:
        """The slots of each model's own revision."""
        return [slot for name, slot in self._names.items() if name == slot.spec.name]

    def find(self, name: str, digest: str = "") -> Slot:
        """The slot of that revision of a model (name or alias), else the model's own.

        Raises `AntiphonError(MODEL_UNKNOWN)`.
        """
        slot = self._names.get(name)
        if slot is None:
            raise AntiphonError(
                Reason.MODEL_UNKNOWN, f"No model is called {name[:64]!r} here: name one of {self.known()}."
            )
        if slot.is_revision(digest):
            return slot
        same = (each for each in self._slots.values() if each.spec.name == slot.spec.name)
        return next((each for each in same if each.is_revision(digest)), slot)

    def known(self, task: Task | None = None) -> str:
        """The names of its models for a task, or of all, for people."""
        names = {slot.spec.name for slot in self._slots.values() if task in (None, slot.spec.task)}
        return ", ".join(sorted(names)) or "(none is configured)"

    def replace(self, entries: Iterable[CatalogueEntry]) -> list[Slot]:
        """Make these the whole catalogue; returns the slots that have left it. Of a model's revisions its own is first.

        A model that is loaded as before keeps its slot, whatever else was said of it; one that was on its way out has
        it again. One that is to be loaded otherwise gets a new slot, beside the old one until that is empty.
        """
        old, known = list(self._slots.values()), list(self)
        self._slots = {}
        for entry in entries:
            if entry.key in self._slots:
                continue  # one revision under two names
            slot = _last_of(entry, known)
            if slot is None:
                slot = Slot(entry)
            else:
                known.remove(slot)
                slot.stay_on(entry)
            self._slots[entry.key] = slot
        left = [slot for slot in old if slot in known]
        for slot in left:
            slot.is_gone = True
        self._gone = known
        # Of several revisions, the first is the model's own.
        slots = reversed(self._slots.values())
        self._names = {name: slot for slot in slots for name in (*slot.spec.aliases, slot.spec.name)}
        return left

    def forget(self, slot: Slot) -> None:
        """Let go of a slot that has left the catalogue, once nothing is in it."""
        if slot.is_gone and slot.is_empty and slot in self._gone:
            self._gone.remove(slot)


def _last_of(entry: CatalogueEntry, slots: Iterable[Slot]) -> Slot | None:
    """The slot that holds what the entry asks for; it may have been called otherwise before."""
    return next((slot for slot in slots if slot.entry.key == entry.key), None)
