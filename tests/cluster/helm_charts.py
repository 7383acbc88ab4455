"""Our charts by the real helm, built from its source."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from cluster_binaries import KUBERNETES, program

CHARTS = Path(__file__).parents[2] / "charts"
ANTIPHON = CHARTS / "antiphon"
CRDS = CHARTS / "antiphon-crds"
NOT_HERE = ("ServiceMonitor",)
"""Kinds of others, which a plane does not know."""

Values = Mapping[str, Any]


class HelmError(Exception):
    """helm failed; the message is what it said."""


def helm(*arguments: str | Path, values: Values | None = None, timeout_s: float = 120.0) -> str:
    """What helm prints; `values` is a file of values for it.

    Raises:
        HelmError: it failed.
    """
    more = () if values is None else ("--values", "-")
    done = subprocess.run(
        [program("helm"), *map(str, arguments), *more],
        input=json.dumps(values) if values is not None else None,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if done.returncode:
        raise HelmError(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def rendered(
    values: Values, *, chart: Path = ANTIPHON, release: str = "voice", namespace: str = "talk"
) -> list[dict[str, Any]]:
    """The objects of a chart with these values, those of its tests included.

    Raises:
        HelmError: the values were refused.
    """
    told = helm("template", release, chart, "--namespace", namespace, "--kube-version", KUBERNETES, values=values)
    return [document for document in yaml.safe_load_all(told) if document]


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The object of this kind and name."""
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found
