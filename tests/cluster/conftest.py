"""What the tests against a control plane share: one plane a session, one namespace a test."""

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_binaries import Missing, build
from control_plane import ControlPlane

PROGRAMS = ("kube-apiserver", "etcd", "kwok")
_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The first test of a session waits for programs that may have to be built.
    for item in items:
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300, func_only=True))


def missing(reason: str) -> None:
    """Say that a rung was not run and why; where CI runs, nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(f"control plane: {reason}", pytrace=False)
    pytest.skip(f"NOT RUN, control plane: {reason}")


@pytest.fixture(scope="session")
def cluster_programs(pytestconfig: pytest.Config) -> None:
    """The programs, built where they were not yet."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    if sys.platform != "linux":
        missing(f"its programs are started as Linux processes, and this is {sys.platform}")
    try:
        with capture.global_and_fixture_disabled():
            build(*PROGRAMS)
    except Missing as reason:
        missing(str(reason))


@pytest.fixture(scope="session")
def control_plane(cluster_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane with the definitions of crds/, without nodes."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture
def own_control_plane(cluster_programs: None, tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane of one test's own, for tests that stop it or count all that happens in it."""
    with ControlPlane(tmp_path) as plane:
        yield plane


@pytest.fixture
def cluster_namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace of `control_plane`, deleted after the test."""
    name = control_plane.create_namespace(f"test-{next(_numbers)}")
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show pods, events and ended components beside a failure."""
    report = yield
    if report.when == "call" and report.failed:
        planes = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, ControlPlane)]
        report.sections.extend(("control plane", plane.report()) for plane in planes)
    return report
