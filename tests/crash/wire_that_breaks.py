"""A TCP proxy that can lose the network: bytes go nowhere, nobody is told, and connections made before stay lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

BLOCK = 64 << 10


class Wire:
    """Everything between a client and a server.

    Attributes:
        port: where the client is to connect.
        up, down: bytes that have passed to and from the server.
        limit_up, limit_down: the network is lost once so many have passed.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._whole = asyncio.Event()
        self._whole.set()
        self._pipes: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.port, self.up, self.down = 0, 0, 0
        self.limit_up: int | None = None
        self.limit_down: int | None = None

    @property
    def lost(self) -> bool:
        """Whether the network is lost."""
        return not self._whole.is_set()

    def restore(self) -> None:
        """The network is there again; the ends of old connections are told, as a router does that knows nothing of them."""
        self.limit_up = self.limit_down = None
        for writer in self._pipes:
            writer.transport.abort()
        self._pipes.clear()
        self._whole.set()

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._pipes.append(writer)
        await self._whole.wait()
        if writer.transport.is_closing():
            return
        inner, outer = await asyncio.open_connection("127.0.0.1", self._target)
        self._pipes.append(outer)
        for work in (self._carry(reader, outer, "up"), self._carry(inner, writer, "down")):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str) -> None:
        try:
            while data := await source.read(BLOCK):
                limit = getattr(self, f"limit_{way}")
                if limit is not None and getattr(self, way) + len(data) > limit:
                    self._whole.clear()
                if self.lost:
                    return  # for ever: what was on its way is gone
                setattr(self, way, getattr(self, way) + len(data))
                sink.write(data)
                await sink.drain()
            if not self.lost:
                sink.close()
        except ConnectionError:
            sink.close()


@asynccontextmanager
async def wire_to(target: int) -> AsyncIterator[Wire]:
    """A wire to a port of this machine."""
    wire = Wire(target)
    server = await asyncio.start_server(wire.meet, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        wire.restore()
        server.close()
