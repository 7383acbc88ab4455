"""What holds for every engine, and how it is measured."""

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from antiphon.contracts.adapters import Capabilities, HearingRequest, SpeechRequest, WordTime
from antiphon.contracts.errors import AntiphonError, Reason

CANCEL_S = 2.0
"""Within which a cancelled call ends."""
JOIN_S = 60.0
"""Within which any call ends."""
_CYCLES = 3
_BAD_LANGUAGE = "tlh"


class EngineConformance:
    """What holds for speaking and hearing alike."""

    engine: ClassVar[type[Any]]
    settings: ClassVar[Mapping[str, Any]] = {}

    files: ClassVar[Path | None]
    capabilities: ClassVar[Capabilities]
    loaded: ClassVar[Any]

    @classmethod
    def weights(cls) -> Path | None:
        """Where the weights are; override for an engine that needs some."""
        return None

    @classmethod
    def setup_class(cls) -> None:
        """One engine for all tests of the class; described before it is loaded."""
        cls.files = cls.weights()
        cls.capabilities = cls.engine.describe(cls.files, cls.settings)
        cls.loaded = cls.engine()
        cls.loaded.load(cls.files, cls.settings)

    @classmethod
    def teardown_class(cls) -> None:
        """Closes it."""
        cls.loaded.close()

    def test_it_describes_itself(self) -> None:
        """Sensibly, and the same once it is loaded."""
        assert 8_000 <= self.capabilities.sample_rate_hz <= 48_000
        assert self.capabilities.memory_mib >= 0
        assert self.engine.describe(self.files, self.settings) == self.capabilities

    def test_unknown_settings_are_refused(self) -> None:
        """By name: nothing is accepted and ignored."""
        with pytest.raises(AntiphonError, match="noSuchSetting") as error:
            self.engine.describe(self.files, {**self.settings, "noSuchSetting": 1})
        assert error.value.reason is Reason.INVALID_REQUEST

    def test_weights_that_are_not_there_are_an_error(self, tmp_path: Path) -> None:
        """Not a crash, and not silence later."""
        if self.files is None:
            pytest.skip("this engine needs no weights")
        with pytest.raises(AntiphonError) as error:
            self.engine().load(tmp_path, self.settings)
        assert error.value.reason is Reason.LOAD_FAILED

    def test_a_language_that_it_has_not_is_refused(self) -> None:
        """At `open`, before anything is computed."""
        if not self.capabilities.languages:
            pytest.skip("this model takes any language")
        request = (
            SpeechRequest(language=_BAD_LANGUAGE) if self.capabilities.task == "tts" else HearingRequest(_BAD_LANGUAGE)
        )
        with pytest.raises(AntiphonError) as error:
            self.loaded.open(request)
        assert error.value.reason is Reason.INVALID_REQUEST

    def test_closing_frees_and_can_be_repeated(self) -> None:
        """Loaded, used and closed again and again, it leaves no thread and no memory behind."""
        marks = []
        for _ in range(_CYCLES):
            engine = self.engine()
            engine.load(self.files, self.settings)
            self.use(engine)
            engine.close()
            engine.close()
            marks.append((_threads(), _resident_mib()))
        assert marks[-1][0] <= marks[0][0], f"threads grew: {marks}"
        allowed = max(32, self.capabilities.memory_mib // 2)
        assert marks[-1][1] - marks[0][1] <= allowed, f"memory grew beyond {allowed} MiB: {marks}"

    def use(self, engine: Any) -> None:
        """Do once what the engine is for."""
        raise NotImplementedError


def check_words(words: Sequence[WordTime], text: str, samples: int) -> None:
    """In order, in the text of their clause or transcript, and in audio of so many samples."""
    assert all(0 <= word.start_samples <= word.end_samples <= samples for word in words), "a word beyond the audio"
    assert all(0 <= word.probability <= 1 for word in words)
    for word in words:
        assert text[word.text_start : word.text_end].strip(), "a word without text"
    for before, after in zip(words, words[1:], strict=False):
        assert before.text_end <= after.text_start, "words overlap in the text, or are not in its order"
        assert before.start_samples <= after.start_samples, "times go back"


def _threads() -> int:
    """Threads of this process, those of libraries too where the system tells."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()


def _resident_mib() -> int:
    """Memory in use; 0 where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return 0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 // 2**20
