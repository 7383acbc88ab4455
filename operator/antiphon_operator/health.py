"""Whether the operator lives and is ready, told from a thread of its own: a stuck event loop cannot hide it."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BEAT_S = 0.5
STUCK_S = 15.0
"""An event loop that did not turn for so long is stuck."""


class Pulse:
    """When the event loop last turned; written by it, read by any thread."""

    def __init__(self) -> None:
        self._beat_s = time.monotonic()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self._beat_s = time.monotonic()
            await asyncio.sleep(BEAT_S)

    @property
    def lives(self) -> bool:
        """Whether it turned lately."""
        return time.monotonic() - self._beat_s < STUCK_S


@contextlib.asynccontextmanager
async def health_server(host: str, port: int, *, trouble: Callable[[], str]) -> AsyncIterator[int]:
    """Serve `/livez` and `/readyz` while the block runs.

    Args:
        host: The address to listen on.
        port: 0: any free one.
        trouble: Why the operator is not ready; empty when it is. Called from another thread.

    Yields:
        The port.
    """
    pulse = Pulse()
    server = ThreadingHTTPServer((host, port), _handler(pulse, trouble))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True)
    thread.start()
    beating = asyncio.create_task(pulse.run(), name="pulse")
    try:
        yield server.server_port
    finally:
        beating.cancel()
        await asyncio.wait({beating})
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join(timeout=1)


def _handler(pulse: Pulse, trouble: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            """Answer a probe."""
            said = {"/livez": "" if pulse.lives else "the event loop is stuck", "/readyz": trouble()}.get(self.path)
            code = 404 if said is None else 503 if said else 200
            answer = f"{said or 'ok'}\n".encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of probes."""

    return Handler
