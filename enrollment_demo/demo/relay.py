"""A TCP relay on the loopback that can lose, hold back or cut what passes through it."""

import asyncio
import re
import threading
from contextlib import suppress
from enum import StrEnum
from typing import Final, Self

LOOPBACK: Final = "127.0.0.1"


class Fault(StrEnum):
    """What the relay does to a connection."""

    #: Passes both ways.
    NONE = "none"
    #: Passes the request on, reads the server's whole answer, and breaks the connection.
    DROP = "drop"
    #: The same, but leaves the client waiting until it gives up.
    HOLD = "hold"
    #: Breaks every connection at once.
    CUT = "cut"


class Relay:
    """Listens on a port of its own and stands between its clients and `target`."""

    def __init__(
        self, target: tuple[str, int], fault: Fault = Fault.NONE, *, unseen: bool = False
    ) -> None:
        self.target = target
        self.fault = fault
        #: The target sees each client's own address; it has to be on the loopback, as they are.
        self._unseen = unseen
        self.port = 0
        #: Connections on which the server may still be at work.
        self.busy = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._transports: set[asyncio.WriteTransport] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        listen = asyncio.start_server(self._serve, LOOPBACK, 0, backlog=256)
        self._server = asyncio.run_coroutine_threadsafe(listen, self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The relay's address as an HTTP origin."""
        return f"http://{LOOPBACK}:{self.port}"

    def cut(self) -> None:
        """Breaks what is open and everything that comes, until `mend()`."""
        self.fault = Fault.CUT
        self._loop.call_soon_threadsafe(self._abort_all)

    def mend(self) -> None:
        """Passes everything again."""
        self.fault = Fault.NONE

    def _abort_all(self) -> None:
        for transport in self._transports:
            transport.abort()

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
        self._abort_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault, request = self.fault, None
        mine = {writer.transport}
        self._transports |= mine
        self.busy += 1
        try:
            own = (writer.get_extra_info("peername")[0], 0) if self._unseen else None
            far_reader, far_writer = await asyncio.open_connection(*self.target, local_addr=own)
            mine.add(far_writer.transport)
            self._transports |= mine
            if self.fault is Fault.CUT:  # perhaps only since it came
                fault = Fault.CUT
                return
            request = asyncio.create_task(_pump(reader, far_writer))
            if fault is Fault.NONE:
                await _pump(far_reader, writer)
            else:
                await _read_answer(far_reader)
        except (OSError, asyncio.CancelledError):  # we cancel only to shut down
            fault = Fault.CUT
        finally:
            self.busy -= 1
            if fault is Fault.HOLD and request is not None:
                await request  # it ends when the client gives up
            if request is not None:
                request.cancel()
            for transport in mine:
                # An orderly end lets the last bytes through; a fault is a reset.
                transport.close() if fault is Fault.NONE else transport.abort()
            self._transports -= mine


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes on all that comes, and reads on to the end when nobody takes it any more."""
    with suppress(OSError):
        while data := await reader.read(65536):
            if not writer.is_closing():
                writer.write(data)
                with suppress(OSError):
                    await writer.drain()
    with suppress(OSError):
        writer.write_eof()


async def _read_answer(reader: asyncio.StreamReader) -> None:
    """Reads one HTTP answer to its end."""
    with suppress(asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        await (reader.readexactly(int(length[1])) if length else reader.read())
