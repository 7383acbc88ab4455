"""The example of docs/adding-an-engine.md, installed as a package of its own, is found and conforms."""

import importlib
import tomllib
from pathlib import Path

import pytest

from antiphon.adapters.discovery import engines, find_engine
from antiphon.contracts.errors import AntiphonError
from antiphon.testing.conformance import TtsConformance

pytestmark = pytest.mark.contract

EXAMPLE = Path(__file__).parents[2] / "docs/examples/beep"


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages, made of the example's pyproject.toml as an installer would make it."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    for source in EXAMPLE.glob("antiphon_*.py"):
        (site / source.name).write_text(source.read_text())
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return site


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()


def test_it_is_found_with_its_version() -> None:
    entry = engines()["tts", "beep"]
    assert entry.version == "0.1.0"
    assert entry.factory is find_engine("tts", "beep")


def test_it_is_named_when_another_is_not_found() -> None:
    with pytest.raises(AntiphonError, match="installed are beep, mock"):
        find_engine("tts", "parrot")


def test_an_engine_that_cannot_be_imported_harms_no_other(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = next(site.glob("*.dist-info")) / "entry_points.txt"
    whole = points.read_text()
    try:
        points.write_text(whole + "broken = no_such_module:Engine\n")
        importlib.invalidate_caches()
        found = engines()
        assert ("tts", "beep") in found and ("tts", "mock") in found and ("tts", "broken") not in found
        assert "an engine cannot be imported" in caplog.text
        with pytest.raises(AntiphonError, match="'broken' cannot be imported"):
            find_engine("tts", "broken")
    finally:
        points.write_text(whole)


class TestBeep(TtsConformance):
    settings = {"pitchHz": 330}

    @classmethod
    def setup_class(cls) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(EXAMPLE))
            cls.engine = importlib.import_module("antiphon_beep").BeepTts
        super().setup_class()


def test_the_guide_shows_the_example_as_it_is() -> None:
    guide = (EXAMPLE.parents[1] / "adding-an-engine.md").read_text()
    assert 'beep = "antiphon_beep:BeepTts"' in guide
    assert 'beep = "antiphon_beep:BeepTts"' in (EXAMPLE / "pyproject.toml").read_text()
    test = (EXAMPLE / "test_beep.py").read_text()
    assert test[test.index("class TestBeep") :].strip() in guide
