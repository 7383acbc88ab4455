"""URLs of registries: what each means, and which say too little."""

import pytest

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.registry.addresses import Address, Seeds, parse
from antiphon.registry.client import open_client

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("url", ["redis://user:pw@h:1/2", "rediss://h/0?ssl_ca_certs=/ca", "unix:///run/redis.sock"])
def test_one_server_is_addressed_as_redis_py_does_it(url: str) -> None:
    assert parse(url) == Address(url)


def test_sentinels_are_asked_for_a_service() -> None:
    found = parse("rediss+sentinel://ann:a%40b@one:1,two/main/3?ssl_ca_certs=%2Fca&sentinel_password=secret")
    assert found.url == "rediss://ann:a%40b@one:1/3?ssl_ca_certs=%2Fca"
    hosts = (("one", 1), ("two", 26_379))
    assert found.seeds == Seeds("sentinel", hosts, "main", ":secret", tls=True, query="ssl_ca_certs=%2Fca")


@pytest.mark.parametrize("special", ["%2F", "%23", "%3F", "%40", "%3A", "%25", "%2B"])
def test_a_sentinels_password_may_hold_anything(special: str) -> None:
    found = parse(f"redis+sentinel://one:1/main?sentinel_username=ann&sentinel_password=a{special}b").seeds
    assert found is not None and found.user == f"ann:a{special}b"


def test_a_clusters_nodes_are_asked_as_the_same_user() -> None:
    found = parse("redis+cluster://ann:pw@one,[::1]:7000")
    assert found.url == "redis://ann:pw@one:6379/0"
    assert found.seeds == Seeds("cluster", (("one", 6_379), ("[::1]", 7000)), user="ann:pw")


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://one:1",
        "redis+sentinel://one:1/main/x",
        "redis+sentinel://one:x/main",
        "redis+sentinel://one:1,two:99999/main",
        "redis+cluster://one:1/3",
        "redis+nonsense://one:1",
        "http+sentinel://one:1/main",
        "redis+cluster://",
        "http://one:1",
        "nonsense",
        "redis://h:port/0",
    ],
)
def test_a_url_that_does_not_work_is_refused_in_words(url: str) -> None:
    with pytest.raises(AntiphonError, match="not one that works") as refused:
        open_client(url)
    assert refused.value.reason is Reason.INVALID_REQUEST
