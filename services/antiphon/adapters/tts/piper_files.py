"""The files of a Piper voice: `NAME.onnx`, `NAME.onnx.json` beside it, and perhaps a MODEL_CARD."""

import json
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphon.contracts.errors import AntiphonError, Reason


@dataclass(frozen=True, slots=True)
class VoiceFiles:
    """One voice, and what its files say without being loaded."""

    path: Path
    """The network."""
    config: Mapping[str, Any]
    """The JSON file."""

    @classmethod
    def find(cls, files: Path | None, name: str) -> "VoiceFiles":
        """The voice under `files`, or in that file; `name` picks one where there are several.

        Raises:
            AntiphonError: INVALID_REQUEST for no files at all, LOAD_FAILED when they hold no voice, or too many.
        """
        if files is None:
            raise AntiphonError(Reason.INVALID_REQUEST, "A Piper voice needs weights: give the model an artifact.")
        found = [files] if files.is_file() else sorted(files.glob(name or "*.onnx"))
        found = [path for path in found if Path(f"{path}.json").is_file()]
        if len(found) != 1:
            names = ", ".join(path.name for path in found)
            fault = f"several voices: set `file` to one of {names}" if found else "no voice (.onnx beside .onnx.json)"
            raise AntiphonError(Reason.LOAD_FAILED, f"{files} holds {fault}.")
        return cls(found[0], _read_config(found[0]))

    @property
    def rate_hz(self) -> int:
        """The rate it speaks at."""
        return int(self.config["audio"]["sample_rate"])

    @property
    def speakers(self) -> Mapping[str, int]:
        """Their numbers in the network, by name; empty for a voice of one speaker."""
        return self.config.get("speaker_id_map") or {}

    @property
    def voices(self) -> tuple[str, ...]:
        """The speakers' names; a single one is named in the file's name: `joe` in `en_US-joe-medium`."""
        if self.speakers:
            return tuple(sorted(self.speakers, key=lambda name: self.speakers[name]))
        parts = self.path.stem.split("-")
        return (parts[1] if len(parts) == 3 else self.path.stem,)

    @property
    def language(self) -> str:
        """BCP 47."""
        code: str = self.config.get("language", {}).get("code") or self.config["espeak"]["voice"]
        language, _, region = code.replace("_", "-").partition("-")
        return f"{language}-{region.upper()}" if region else language

    @property
    def licence(self) -> str:
        """As the model card says; empty where it says nothing."""
        card = self.path.with_name("MODEL_CARD")
        text = card.read_text("utf-8", "replace") if card.is_file() else ""
        stated = re.search(r"(?mi)^\W*licen[cs]e\W*:\s*(.+)$", text)
        return stated.group(1).strip() if stated else ""

    @property
    def size_mib(self) -> int:
        """The network's size."""
        return self.path.stat().st_size // 2**20

    def mentions(self, name: bytes) -> bool:
        """Whether something in the network is named so; names stand before the weights, so this reads little."""
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(name) >= 0


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config: dict[str, Any] = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
        int(config["audio"]["sample_rate"]), config["phoneme_id_map"]["^"], config["espeak"]["voice"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AntiphonError(Reason.LOAD_FAILED, f"{path.name}.json is not a Piper voice's: {error!r}.") from error
    return config
