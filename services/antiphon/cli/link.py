"""A WebSocket to a Realtime server, and another one to the same session when it breaks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from urllib.parse import urlencode

import aiohttp

from antiphon.contracts.errors import AntiphonError, Reason

RESUMABLE = frozenset({1001, 1005, 1006, 1011, 1012, 1013})
"""Close codes after which the session may live on: the server moves it, or something broke. Source: the same ones after
which OpenAI's client connects again, but for TLS."""
TRIES_S = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""How long to wait before each try to come back; after the last one the session is lost."""
STEADY_S = 5.0
"""A connection that held for so long begins with the first try again."""
_MESSAGE_BYTES = 64 * 2**20
_CLOSE_S = 3.0


class Link:
    """Messages to and from one session, over one socket after the other: `open` it, then take `messages`.

    Args:
        http: What opens sockets.
        url: The server's base address.
        query: Of the first connection.
        protocols: The subprotocols to offer.
        on_change: Told when the connection is lost (False) and when it stands again (True).
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        query: dict[str, str],
        protocols: tuple[str, ...],
        on_change: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self.session_id = ""
        """Of the session, once it is known: from then on it is resumed."""
        self.on_change = on_change
        self._http = http
        self._url = url
        self._query = query
        self._protocols = protocols
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._up = asyncio.Event()
        self._ended: AntiphonError | None = None
        self._closing = False
        self._tries = 0

    @property
    def protocol(self) -> str | None:
        """The subprotocol that the server took of those offered."""
        return self._socket.protocol if self._socket is not None else None

    async def open(self) -> None:
        """Connect. Raises `AntiphonError`, with a sentence that says what to do, when that is refused."""
        query = self._query | ({"session_id": self.session_id} if self.session_id else {})
        address = f"{api_base(self._url)}/realtime?{urlencode(query)}"
        try:
            self._socket = await self._http.ws_connect(address, protocols=self._protocols, max_msg_size=_MESSAGE_BYTES)
        except aiohttp.WSServerHandshakeError as error:
            raise self._refused(error.status) from None
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(self._url) from error
        self._up.set()

    async def messages(self) -> AsyncIterator[aiohttp.WSMessage]:
        """What the server sends, across connections. Raises `AntiphonError` when the session has ended."""
        try:
            while True:
                assert self._socket is not None
                since = asyncio.get_running_loop().time()
                async for message in self._socket:
                    yield message
                await self._come_back(steady=asyncio.get_running_loop().time() - since > STEADY_S)
        except AntiphonError as error:
            self._ended = error
            raise
        finally:
            self._up.set()  # nobody need wait any more: what is sent now fails

    async def send(self, message: str | bytes, *, patient: bool = True) -> None:
        """Send a message; while the connection is lost, wait for the next one, or if not `patient` drop it.

        Raises `AntiphonError` when the session has ended.
        """
        while True:
            if patient:
                await self._up.wait()
            if self._ended is not None:
                raise self._ended
            socket = self._socket
            assert socket is not None
            try:
                await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
                return
            except (ConnectionError, aiohttp.ClientError):
                if not patient:
                    return
            if self._closing:
                raise AntiphonError(Reason.WORKER_LOST, "The session is closed.")
            if socket is self._socket and self._ended is None:
                self._up.clear()  # until `messages` has noticed, too

    async def close(self) -> None:
        """Close it for good. Idempotent."""
        self._closing = True
        if self._socket is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._socket.close()

    async def _come_back(self, *, steady: bool) -> None:
        assert self._socket is not None
        code = self._socket.close_code
        lost = AntiphonError(Reason.WORKER_LOST, f"The server closed the session (code {code}).")
        if self._closing or not self.session_id or code not in RESUMABLE:
            raise lost
        self._up.clear()
        self.on_change(False)
        if steady:
            self._tries = 0
        while self._tries < len(TRIES_S):
            delay_s = TRIES_S[self._tries]
            self._tries += 1
            await asyncio.sleep(delay_s)
            try:
                await self.open()
            except AntiphonError as error:
                if not error.retryable:
                    raise error from lost
                continue
            self.on_change(True)
            return
        raise lost

    def _refused(self, status: int) -> AntiphonError:
        url = self._url
        if status in (401, 403):
            return AntiphonError(
                Reason.UNAUTHENTICATED, f"{url} wants an API key: give it with --key or ANTIPHON_API_KEY."
            )
        if status == 404 and self.session_id:
            return AntiphonError(Reason.SESSION_UNKNOWN, f"{url} does not know this session any more.")
        if status == 404:
            return AntiphonError(
                Reason.MODEL_UNKNOWN, f"{url} has no such assistant: `antiphon models` lists what there is."
            )
        if status in (429, 502, 503, 504):
            return AntiphonError(Reason.WORKER_FULL, f"{url} takes no more sessions now: try again in a moment.")
        return AntiphonError(Reason.INTERNAL, f"{url} refused the session with HTTP {status}.")


def api_base(url: str) -> str:
    """The address under which a server's API stands: `/v1`, unless the URL has a path of its own."""
    base = url.rstrip("/")
    return base if base.count("/") > 2 else f"{base}/v1"


def unreachable(url: str) -> AntiphonError:
    """The error for a server that does not answer."""
    return AntiphonError(
        Reason.NO_WORKER, f"Nothing answers at {url}: start it with `antiphon up`, or name another with --url."
    )
