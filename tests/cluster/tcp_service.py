"""A Service of one address: each connection goes to one of the pods that are ready when it is opened."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence

BYTES = 64 * 1024


@contextlib.asynccontextmanager
async def tcp_service(backends: Callable[[], Sequence[str]], port: int) -> AsyncIterator[str]:
    """Serve until the block ends; gives `host:port`. Connections that are open then are cut.

    Args:
        backends: The hosts to send to, asked at every connection; none: it is refused.
        port: Theirs.
    """
    turns = itertools.count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hosts = backends()
        with contextlib.closing(writer):
            if not hosts:
                return
            try:
                there = await asyncio.open_connection(hosts[next(turns) % len(hosts)], port)
            except OSError:
                return
            with contextlib.closing(there[1]):
                copies = [asyncio.create_task(_copy(reader, there[1])), asyncio.create_task(_copy(there[0], writer))]
                try:
                    await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for copy in copies:
                        copy.cancel()
                    await asyncio.wait(copies)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, own_port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{own_port}"
    finally:
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(BYTES):
            writer.write(data)
            await writer.drain()
