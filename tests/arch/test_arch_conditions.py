"""Every condition that the operator says is in the page for operators, with each of its reasons; and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from antiphon.registry.placing import Shortage

pytestmark = pytest.mark.arch

ROOT = Path(__file__).parents[2]
OPERATOR = ROOT / "operator/antiphon_operator"
PAGE = ROOT / "docs/operations.md"
SOURCES = {
    "VoiceModel": [OPERATOR / "reconcile/model_status.py", OPERATOR / "models.py"],
    "WorkerPool": [OPERATOR / "reconcile/pool_status.py", OPERATOR / "pools.py"],
}

Said = tuple[str, str, str]
"""A condition's type, its status, and its reason."""


@pytest.mark.parametrize("kind", SOURCES)
def test_every_condition_is_in_the_page_with_all_of_its_reasons(kind: str) -> None:
    in_code = {said for source in SOURCES[kind] for said in _in_code(source)}
    in_page = set(_in_page(kind))
    assert len(in_code) > 20
    assert sorted(in_code - in_page) == [], f"not in {PAGE.name}"
    assert sorted(in_page - in_code) == [], f"in {PAGE.name}, and said by nobody"


def _in_page(kind: str) -> Iterator[Said]:
    """What the page's table of one kind has: condition (empty: as above), status, reasons, and what they mean."""
    section = PAGE.read_text().split(f"### Conditions of a {kind}\n")[1].split("\n#")[0]
    condition = ""
    for row in re.findall(r"^\|(.+)\|$", section, re.M):
        named, status, reasons, told = (cell.strip() for cell in re.split(r"(?<!\\)\|", row))
        if named == "Condition" or set(named) == {"-"}:
            continue
        condition = named.strip("`") or condition
        assert told.endswith("."), row
        for reason in re.findall(r"`([^`]+)`", reasons):
            yield condition, status, reason


def _in_code(source: Path) -> Iterator[Said]:
    for function in ast.walk(ast.parse(source.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            names = dict(_constants(function))
            for call in ast.walk(function):
                if isinstance(call, ast.Call):
                    yield from _findings(call, names)


def _constants(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    """Names that a function gives to texts, as in `kind = "Ready"`."""
    for each in ast.walk(function):
        if isinstance(each, ast.Assign):
            target, value = each.targets[0], each.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=True))
            for name, text in pairs:
                if isinstance(name, ast.Name) and isinstance(text, ast.Constant):
                    yield name.id, str(text.value)


def _findings(call: ast.Call, names: dict[str, str]) -> Iterator[Said]:
    called = ast.unparse(call.func)
    if called == "refused":
        reason = _text(call.args[0], names)
        assert reason is not None, ast.unparse(call)
        yield "Accepted", "False", reason
    elif called in ("Finding", "Finding.of"):
        condition, status = _text(call.args[0], names), _text(call.args[1], names)
        if ast.unparse(call.args[2]) in ("reason", "old['reason']"):  # handed on: of `refused`, or what stood there
            return
        assert condition and status, ast.unparse(call)
        for reason in _reasons(call.args[2]):
            yield condition, status, reason


def _text(node: ast.expr, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return names.get(node.id) if isinstance(node, ast.Name) else None


def _reasons(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    written = ast.unparse(node)
    if written == "picture.shortage.value":
        return [shortage.value for shortage in Shortage]
    if written == "course.reason":
        return _of_a_course()
    assert written == "f'{kind}Refused'", f"a reason that this test cannot read: {written}"
    return ["<Kind>Refused"]


def _of_a_course() -> list[str]:
    """Where a rollout can be; what stands after it is said of itself."""
    tree = ast.parse((OPERATOR / "reconcile/rollout.py").read_text())
    told = {
        word.value.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Course"
        for word in call.keywords
        if word.arg == "reason" and isinstance(word.value, ast.Constant)
    }
    assert told
    return sorted(str(reason) for reason in told - {"Complete", "RolledBack"})
