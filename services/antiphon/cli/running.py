"""Where the antiphon of this machine is: noted by `antiphon up`, read by the commands that look inside."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from antiphon.contracts.errors import AntiphonError, Reason


@dataclass(frozen=True, slots=True)
class Running:
    """A registry and the folder in which it is noted."""

    data_dir: Path
    registry: str
    namespace: str

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note it for as long as the block lasts; the newest note stands."""
        file = self.data_dir / "running.json"
        note = json.dumps({"registry": self.registry, "namespace": self.namespace})
        file.write_text(note)
        file.chmod(0o600)
        try:
            yield
        finally:
            if file.exists() and file.read_text() == note:
                file.unlink()

    @classmethod
    def find(cls, data_dir: Path) -> "Running":
        """The one that is noted there. Raises `AntiphonError(NO_WORKER)` when none is."""
        try:
            note = json.loads((data_dir / "running.json").read_text())
            return cls(data_dir, note["registry"], note["namespace"])
        except (OSError, ValueError, KeyError):
            raise AntiphonError(
                Reason.NO_WORKER, "No antiphon runs here: start it with `antiphon up`, or name a registry with --redis."
            ) from None
