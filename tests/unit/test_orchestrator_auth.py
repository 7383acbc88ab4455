"""API keys, by header and by subprotocol, and when none are needed."""

import pytest
from aiohttp.test_utils import make_mocked_request

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.auth import KeyRing, is_loopback
from antiphon.orchestrator.config import ServerConfig

pytestmark = pytest.mark.unit


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> KeyRing:
    monkeypatch.setenv("KEYS", "alpha\n beta \n\n")
    return KeyRing.of(ServerConfig.model_validate({"host": "0.0.0.0", "keys": [{"env": "KEYS"}]}))


def caller(ring: KeyRing, **headers: str) -> str:
    return ring.caller(make_mocked_request("GET", "/", headers={k.replace("_", "-"): v for k, v in headers.items()}))


async def test_keys_are_taken_from_header_and_subprotocol(ring: KeyRing) -> None:
    fingerprint = caller(ring, Authorization="Bearer alpha")
    assert caller(ring, Authorization="bearer  alpha ") == fingerprint
    assert caller(ring, Sec_WebSocket_Protocol="realtime, openai-insecure-api-key.alpha") == fingerprint
    assert caller(ring, Authorization="Bearer beta") not in ("", fingerprint)
    assert "alpha" not in fingerprint


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer gamma"}, {"Authorization": "Basic alpha"}, {"Authorization": "Bearer "}]
)
async def test_others_are_refused(ring: KeyRing, headers: dict[str, str]) -> None:
    with pytest.raises(AntiphonError) as raised:
        caller(ring, **headers)
    assert raised.value.reason is Reason.UNAUTHENTICATED


def test_no_keys_only_on_loopback() -> None:
    KeyRing.of(ServerConfig(host="127.0.0.1"))
    KeyRing.of(ServerConfig(host="localhost"))
    for host in ("0.0.0.0", "::", "10.0.0.1", "voice.example"):
        with pytest.raises(AntiphonError, match=r"server\.keys"):
            KeyRing.of(ServerConfig(host=host))


async def test_without_keys_only_pages_of_this_machine() -> None:
    ring = KeyRing.of(ServerConfig())
    assert caller(ring) == ""
    assert caller(ring, Origin="http://localhost:5173") == ""
    for origin in ("https://example.org", "null", "http://127.0.0.1.example.org"):
        with pytest.raises(AntiphonError):
            caller(ring, Origin=origin)


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "192.168.1.1", "localhost.example.org")))
