"""Who may call: API keys, compared in constant time."""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import SecretStr

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.config import ServerConfig

KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""How browsers, which cannot set headers on a WebSocket, carry the key: as a subprotocol with this prefix."""
REALTIME_PATH = "/v1/realtime"
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""For probes and scrapers: no key is asked for."""
CALLER = web.RequestKey("caller", str)
"""The fingerprint of the caller's key; empty where none is asked for."""


class KeyRing:
    """The keys that open this server. Empty: it is open to whoever reaches its loopback address."""

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        self._digests = [_digest(key.get_secret_value()) for key in keys]

    @classmethod
    def of(cls, server: ServerConfig) -> "KeyRing":
        """The configured keys.

        Raises `AntiphonError(INVALID_REQUEST)` when a source cannot be read, and when there is no key although the
        server can be reached from other machines.
        """
        lines = [line.strip() for source in server.keys for line in source.read().get_secret_value().splitlines()]
        if not lines and not is_loopback(server.host):
            raise AntiphonError(
                Reason.INVALID_REQUEST,
                f"Listening on {server.host} without API keys would let anyone in: "
                "set server.keys (a list of {env: NAME} or {file: PATH}), or listen on 127.0.0.1.",
            )
        return cls(SecretStr(line) for line in lines if line)

    def caller(self, request: web.Request) -> str:
        """The fingerprint of the key that a request carries. Raises `AntiphonError(UNAUTHENTICATED)`."""
        if not self._digests:
            _check_origin(request)
            return ""
        key = _key_of(request)
        if key is None:
            raise AntiphonError(Reason.UNAUTHENTICATED, "Send an API key: 'Authorization: Bearer KEY'.")
        digest = _digest(key)
        # All of them, whichever fits: the time taken tells nothing.
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            raise AntiphonError(Reason.UNAUTHENTICATED, "This API key is not known here.")
        return digest.hex()[:12]


def auth_middleware(keys: KeyRing) -> Middleware:
    """Lets only callers with a key pass, but for `OPEN_PATHS`; says who it is in `request[CALLER]`.

    `REALTIME_PATH` checks by itself: a browser sees a refusal only inside an open WebSocket.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN_PATHS and request.path != REALTIME_PATH:
            request[CALLER] = keys.caller(request)
        return await handler(request)

    return check


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address or name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def offered_subprotocols(request: web.Request) -> list[str]:
    """The WebSocket subprotocols that a client offers."""
    offered = ",".join(request.headers.getall("Sec-WebSocket-Protocol", []))
    return [protocol.strip() for protocol in offered.split(",") if protocol.strip()]


def _key_of(request: web.Request) -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    for protocol in offered_subprotocols(request):
        if protocol.startswith(KEY_SUBPROTOCOL):
            return protocol.removeprefix(KEY_SUBPROTOCOL)
    return None


def _check_origin(request: web.Request) -> None:
    """Without keys, a browser may come only from a page of this machine: any site can reach for its loopback."""
    origin = request.headers.get("Origin")
    if origin is not None and not is_loopback(urlsplit(origin).hostname or ""):
        raise AntiphonError(
            Reason.UNAUTHENTICATED, "Without API keys only pages of this machine are served: set server.keys."
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
