"""A network between nodes and their database: slow, or not there at all."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress


class Proxy:
    """Passes TCP on to a port of loopback, each piece as much later as it is told.

    Args:
        to_port: that connections are passed on to.
        delay_seconds: of each piece, either way: half a round trip.

    Attributes:
        port: that it listens on.
        cut: while set, what arrives is swallowed and nothing is answered, as by a broken link.
    """

    def __init__(self, to_port: int, delay_seconds: float = 0.0) -> None:
        self._to_port = to_port
        self.delay_seconds = delay_seconds
        self.cut = False
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def close(self) -> None:
        """Stop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer), return_exceptions=True)
        finally:
            for end in (writer, back):
                end.transport.abort()
                with suppress(OSError, asyncio.CancelledError):
                    await end.wait_closed()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(1 << 16):
                await asyncio.sleep(self.delay_seconds)
                if not self.cut:
                    target.write(piece)
                    await target.drain()
        target.close()
