"""The shape of the repository: what must not creep in, and what must stay true."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

pytestmark = pytest.mark.arch

ROOT = Path(__file__).parents[2]
CATEGORIES = {"unit", "contract", "component", "arch", "cluster"}


def tracked(*patterns: str) -> list[Path]:
    """Files that git knows or would take, by glob."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


def test_layers_hold() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def test_nothing_shadows_the_standard_library() -> None:
    forbidden = [ROOT / "operator/__init__.py", *(ROOT / "tests").rglob("__init__.py"), *ROOT.glob("__init__.py")]
    assert [path for path in forbidden if path.exists()] == []


def test_every_test_module_names_its_category() -> None:
    modules = tracked("tests/**/test_*.py")
    assert modules
    for path in modules:
        marks = set(re.findall(r"^pytestmark\b.*?pytest\.mark\.(\w+)", path.read_text(), re.M)) & CATEGORIES
        assert len(marks) == 1, f"{path.relative_to(ROOT)} needs one of `pytestmark = pytest.mark.{CATEGORIES}`"


def test_test_modules_have_names_of_their_own() -> None:
    names = [path.name for path in tracked("tests/**/test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_there_is_no_drawer_for_everything() -> None:
    drawers = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert [path for path in tracked("services/**/*.py", "operator/**/*.py") if path.name in drawers] == []


def test_every_package_says_what_it_is() -> None:
    for path in tracked("services/**/__init__.py", "operator/**/__init__.py"):
        told = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert len(told.split()) > 1, f"{path.relative_to(ROOT)} has no docstring"


def test_the_environment_holds_no_torch() -> None:
    installed = {distribution.metadata["Name"].lower() for distribution in distributions()}
    locked = {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert {"torch", "torchaudio", "triton"} & (installed | locked) == set()


def test_the_lock_names_no_private_registry() -> None:
    sources = set(re.findall(r'registry = "([^"]+)"', (ROOT / "uv.lock").read_text()))
    assert sources == {"https://pypi.org/simple"}


def test_the_generated_wire_is_current(tmp_path: Path) -> None:
    services = ROOT / "services"
    protos = sorted(path.relative_to(services) for path in (services / "antiphon/contracts/v1").glob("*.proto"))
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", ".", *outputs, *protos], cwd=services, check=True)
    for fresh in tmp_path.rglob("*_pb2*"):
        committed = services / fresh.relative_to(tmp_path)
        assert committed.read_text() == fresh.read_text(), f"{committed.name} differs: make generate"


def test_the_checks_before_a_commit_are_those_of_ci() -> None:
    assert "entry: make lint" in (ROOT / ".pre-commit-config.yaml").read_text()
    assert "make lint" in (ROOT / ".ci/run").read_text()
