"""Weights come from a mirror that breaks off: they are resumed, verified, and refused when they are others."""

import re

import pytest
from cluster_processes import wait_for
from installation import BREAK_AFTER, Installation

pytestmark = pytest.mark.e2e

WRONG = "sha256:" + "0" * 64


def test_a_broken_download_is_resumed(installation: Installation) -> None:
    installation.kubectl("wait", "--for=condition=ArtifactCached", "voicemodel", "--all", "--timeout=8m")
    (pod,) = installation.get("pods", "-l", "app=hub")["items"]
    told = installation.target.logs(installation.namespace, pod["metadata"]["name"])
    (broken,) = re.findall(r"^(\S+) from byte 0: \d+ bytes sent, broken off$", told, re.M)
    resumed = [int(start) for start in re.findall(rf"^{re.escape(broken)} from byte (\d+): ", told, re.M)]
    assert any(start >= BREAK_AFTER // 2 for start in resumed), told


def test_other_weights_than_expected_are_refused(installation: Installation) -> None:
    installation.kubectl("wait", "--for=condition=Ready", "voicemodel/joe", "--timeout=8m")
    joe = installation.get("voicemodel", "joe")
    spec = joe["spec"] | {"artifact": joe["spec"]["artifact"] | {"digest": WRONG}}
    named = {"apiVersion": joe["apiVersion"], "kind": "VoiceModel", "metadata": {"name": "not-joe"}}
    installation.target.apply(installation.namespace, named | {"spec": spec})
    try:
        wait_for(
            lambda: WRONG in str(installation.get("voicemodel", "not-joe").get("status", {})),
            "a condition that names the digest",
            timeout_s=120,
        )
        assert installation.condition("voicemodel", "not-joe", "Ready")["status"] == "False"
        refused = installation.condition("voicemodel", "not-joe", "ArtifactCached")
        assert refused["status"] == "False" and WRONG in refused["message"], refused
    finally:
        installation.kubectl("delete", "voicemodel", "not-joe")
