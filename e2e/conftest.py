"""What the end-to-end cases share: a cluster, one installation, and what failed cases show."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_binaries import Missing, build
from image_builder import images
from installation import Installation
from node_cluster import NodeCluster, require_a_node
from node_namespace import leftovers
from target import Target


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--context", help="the context of your kubeconfig to run on; without it, a cluster is made here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600, func_only=True))


def missing(reason: str) -> None:
    """Say that nothing was run, and why; where CI runs, nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(f"end to end: {reason}", pytrace=False)
    pytest.skip(f"NOT RUN, end to end: {reason}")


@pytest.fixture(scope="session")
def target(pytestconfig: pytest.Config) -> Iterator[Target]:
    """The cluster: one node made here, or the context that was named."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    context = pytestconfig.getoption("--context")
    try:
        with capture.global_and_fixture_disabled():
            build(*(("kubectl", "helm") if context else ()))
            if context:
                yield Target(kubeconfig_of_yours(), context, is_ours=False)
                return
            require_a_node()
            archive = images()
    except Missing as reason:
        missing(str(reason))
    with NodeCluster() as cluster:
        cluster.import_image(archive)
        yield Target(cluster.kubeconfig, cluster.CONTEXT, is_ours=True)
    assert leftovers() == []


def kubeconfig_of_yours() -> Path:
    return Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube/config")


@pytest.fixture(scope="session")
def installation(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Both charts installed and the samples applied; removed afterwards from a cluster that is not ours."""
    installed = Installation(target, tmp_path_factory.mktemp("installation"))
    try:
        installed.install()
        installed.apply_samples()
    except Exception as error:
        error.add_note(target.report(installed.namespace))
        raise
    yield installed
    if not target.is_ours:
        target.kubectl("delete", "namespace", installed.namespace, "--wait=false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show objects, events and the pods' last lines beside a failure."""
    report = yield
    installed = getattr(item, "funcargs", {}).get("installation")
    if report.when == "call" and report.failed and installed:
        report.sections.append(("cluster", installed.target.report(installed.namespace)))
    return report
