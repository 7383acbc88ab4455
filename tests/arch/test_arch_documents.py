"""What the documents say exists, exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.arch

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fenced(document: Path, language: str) -> list[str]:
    """The lines of a document's code blocks of one language."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_resolve(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not re.match(r"[a-z]+:|#", target):
            file = (document.parent / target.split("#")[0]).resolve()
            assert file.exists(), f"{document.relative_to(ROOT)} links to {target}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    for document in DOCUMENTS:
        named = set(
            re.findall(r"(?:^|`|\s)make ([a-z0-9-]+)(?=[`\s#]|$)", "\n".join(fenced(document, "(?:sh|bash|console)")))
        )
        assert named <= targets, f"{document.name}: make {named - targets}"
    assert {"run", "test"} <= targets


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    targets = re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.M)
    assert targets and all(f"make {target} " in listed for target in targets)


def test_commands_in_the_readme_exist() -> None:
    commands = [shlex.split(line, comments=True) for line in fenced(ROOT / "README.md", "sh")]
    named = {words[1] for words in commands if words and Path(words[0]).name == "antiphon"}
    assert named
    told = subprocess.run(
        [sys.executable, "-m", "antiphon.cli.main", "--help"], check=True, capture_output=True, text=True
    ).stdout
    assert [name for name in named if not re.search(rf"\b{name}\b", told)] == []


@pytest.mark.parametrize("example", sorted((ROOT / "docs/examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid_configuration(example: Path) -> None:
    from antiphon.orchestrator.config import load_config

    assert yaml.safe_load(example.read_text())
    assert load_config(example).assistants
