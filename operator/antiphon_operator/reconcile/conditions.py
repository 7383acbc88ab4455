"""Conditions: what is found now, joined with what stood there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

MESSAGE_LIMIT = 2000

Answer = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition, without its time."""

    type: str
    status: Answer
    reason: str
    """One word for programs."""
    message: str = ""
    """A sentence for people, with the remedy where there is one."""
    generation: int | None = None
    """Of the spec that it was found at; None: of the present one."""

    @classmethod
    def of(cls, kind: str, holds: bool, reason: str, message: str = "") -> "Finding":
        """One that is known to hold or not to hold."""
        return cls(kind, "True" if holds else "False", reason, message)


def conditions(
    findings: Iterable[Finding], before: Iterable[Mapping[str, Any]], *, generation: int, now: str
) -> list[dict[str, Any]]:
    """The `conditions` of a status, in the order of the findings.

    Args:
        findings: What is so now; what is not among them is gone from the status.
        before: What stood there: a condition whose status did not change keeps its time.
        generation: Of the present spec.
        now: RFC 3339.
    """
    stood = {each["type"]: each for each in before}
    return [_condition(finding, stood.get(finding.type), generation, now) for finding in findings]


def changed(findings: Iterable[Mapping[str, Any]], before: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The conditions whose status is another than before; none of those that were not there."""
    stood = {each["type"]: each["status"] for each in before}
    return [each for each in findings if each["type"] in stood and stood[each["type"]] != each["status"]]


def _condition(finding: Finding, old: Mapping[str, Any] | None, generation: int, now: str) -> dict[str, Any]:
    same = old is not None and old["status"] == finding.status
    return {
        "type": finding.type,
        "status": finding.status,
        "reason": finding.reason,
        "message": finding.message[:MESSAGE_LIMIT],
        "observedGeneration": generation if finding.generation is None else finding.generation,
        "lastTransitionTime": old["lastTransitionTime"] if old is not None and same else now,
    }
