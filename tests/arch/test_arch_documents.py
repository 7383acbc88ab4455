"""What the documents say exists, exists: links, paths, make targets, commands, flags, chart values, metrics."""

import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup

from antiphon.cli.main import app

pytestmark = pytest.mark.arch

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    if (ROOT / line).is_file()
]
TARGETS = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
TOP_LEVEL = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"out", ".cache", ".venv"}
CHARTS = {f"charts/{path.parent.name}": yaml.safe_load(path.read_text()) for path in ROOT.glob("charts/*/values.yaml")}
OURS = typer.main.get_command(app)
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def fenced(document: Path, languages: str = "sh|bash|console") -> list[str]:
    """The lines of a document's code blocks, each with those that it goes on in."""
    blocks = re.findall(rf"^```(?:{languages})\n(.*?)^```", document.read_text(), re.M | re.S)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def inline(document: Path) -> list[str]:
    """What a document marks as code within its sentences."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def commands(document: Path) -> Iterator[list[str]]:
    """The commands of a document, word by word, without variables before and redirections behind."""
    for line in fenced(document):
        for part in re.split(r"\s[|&]\s|\s&&\s|\$\(|;\s", line):
            if part.count("'") % 2 or part.count('"') % 2:  # cut within quotes, which are not a command's words
                continue
            words = shlex.split(part.rstrip("&) "), comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            if words:
                yield words


@each_document
def test_links_resolve(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not re.match(r"[a-z]+:", target):
            name, _, heading = target.partition("#")
            file = (document.parent / name).resolve() if name else document
            assert file.exists(), f"{document.relative_to(ROOT)} links to {target}"
            assert not heading or heading in _headings(file), f"{document.relative_to(ROOT)} links to {target}"


def _headings(document: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@each_document
def test_paths_exist(document: Path) -> None:
    for code in inline(document):
        path = re.fullmatch(r"([\w.*-]+/[\w./*-]*)", code)
        if path is None or path[1].split("/")[0] not in TOP_LEVEL | {".github", ".ci"}:
            continue
        found = list(ROOT.glob(path[1].rstrip("/"))) + list(document.parent.glob(path[1].rstrip("/")))
        assert found, f"{document.relative_to(ROOT)} names {path[1]}"


def test_the_architecture_names_modules_of_the_operator() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    paragraph = page.split("The operator, module by module")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+\.py)`", paragraph))
    assert len(named) > 20
    assert named <= {path.name for path in (ROOT / "operator/antiphon_operator").rglob("*.py")}


def test_every_end_to_end_case_is_told() -> None:
    cases = {path.parent.name for path in ROOT.glob("e2e/*/test_*.py")}
    assert cases == set(re.findall(r"^\| `(\w+)` \|", (ROOT / "e2e/README.md").read_text(), re.M))


@each_document
def test_make_targets_exist(document: Path) -> None:
    said = [*fenced(document), *inline(document)]
    named = {target for code in said for target in re.findall(r"^make ([a-z][a-z0-9-]*)", code)}
    assert named <= TARGETS, f"{document.relative_to(ROOT)}: make {named - TARGETS}"


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert {"run", "test"} <= TARGETS and all(f"make {target} " in listed for target in TARGETS)


@each_document
def test_our_commands_exist_with_their_flags(document: Path) -> None:
    said = [*commands(document), *(shlex.split(code) for code in inline(document) if re.match(r"antiphon [a-z]", code))]
    for words in said:
        words = words[words.index("--") + 1 :] if words[0] == "kubectl" and "--" in words else words
        if Path(words[0]).name == "antiphon":
            _check(words[1:], f"{document.relative_to(ROOT)}: {shlex.join(words)}")


def _check(words: Sequence[str], said: str) -> None:
    assert isinstance(OURS, TyperGroup)
    if not words or words[0].startswith("-"):
        return
    command = OURS.commands.get(words[0])
    assert command is not None, said
    if command.context_settings.get("ignore_unknown_options"):  # it hands them on to a parser of its own
        return
    known = {"--help"} | {option for parameter in command.params for option in parameter.opts}
    for word in words[1:]:
        assert not word.startswith("--") or word.partition("=")[0] in known, said


def test_the_readme_says_how_to_begin() -> None:
    named = {words[1] for words in commands(ROOT / "README.md") if Path(words[0]).name == "antiphon"}
    assert {"up", "talk"} <= named


@each_document
def test_charts_files_and_modules_of_commands_exist(document: Path) -> None:
    for words in commands(document):
        told = f"{document.relative_to(ROOT)}: {shlex.join(words)}"
        for flag, value in zip(words, words[1:], strict=False):
            if flag == "-f" and value != "-" or words[0].startswith("python") and value.endswith(".py"):
                assert list(ROOT.glob(re.sub(r"\$\w+", "*", value))), told
            if flag == "-m" and words[0].startswith("python"):
                assert find_spec(value) is not None, told
        charts = [word for word in words if word.startswith("charts/")]
        assert set(charts) <= set(CHARTS), told
        if words[0] == "helm" and charts:
            for path in _set(words):
                assert _is_value(path, CHARTS[charts[0]]), f"{told}: {path} is no value"


def _set(words: Sequence[str]) -> Iterator[str]:
    """The values that a helm command sets."""
    for flag, value in zip(words, words[1:], strict=False):
        if flag == "--set":
            yield from (pair.partition("=")[0] for pair in re.split(r",(?![^{]*\})", value))


def _is_value(path: str, values: Any) -> bool:
    for name in path.split("."):
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


@each_document
def test_values_in_sentences_are_the_chart_s(document: Path) -> None:
    values = CHARTS["charts/antiphon"]
    for code in inline(document):
        path = re.fullmatch(r"(?:--set )?(\w+(?:\.\w+)+)(?:=\S+)?", code)
        if path and path[1].split(".")[0] in {
            "operator",
            "orchestrator",
            "valkey",
            "monitoring",
            "networkPolicy",
            "llm",
        }:
            assert _is_value(path[1], values), f"{document.relative_to(ROOT)}: {path[1]}"


def test_every_metric_is_in_the_page_and_no_other() -> None:
    sources = [path for package in ("services", "operator") for path in (ROOT / package).rglob("*.py")]
    made = re.compile(r'(?:(Counter|Gauge|Info)(?:MetricFamily)?|self\._histogram|Histogram)\(\s*"(antiphon_[a-z_]+)"')
    found = {match.groups() for path in sources for match in made.finditer(path.read_text())}
    names = {f"{name}_total" if kind == "Counter" else name for kind, name in found if kind != "Info"}
    told = set(re.findall(r"antiphon_[a-z_]+", (ROOT / "docs/operations.md").read_text())) - {"antiphon_operator/"}
    assert len(names) > 20
    assert names <= told, f"not in the page: {sorted(names - told)}"
    assert {name.removesuffix("_bucket") for name in told} <= names | {"antiphon_operator"}


@pytest.mark.parametrize("example", sorted((ROOT / "docs/examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid_configuration(example: Path) -> None:
    from antiphon.orchestrator.config import load_config

    assert yaml.safe_load(example.read_text())
    assert load_config(example).assistants
