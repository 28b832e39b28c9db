"""A relay before PostgreSQL that breaks a connection at its COMMIT, once, when it is told to."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
#: How the server's answer to a COMMIT begins: command complete, then the tag.
DONE = b"COMMIT\x00"


def through(url: str, port: int) -> str:
    """The same database by way of a relay on this port."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.username}@{LOOPBACK}:{port}").geturl()


class CommitRelay:
    """Listens on a port of its own. `break_next` is "unsent" (the COMMIT never reaches the
    server) or "unanswered" (it is carried out, and nobody is told)."""

    def __init__(self, port: int) -> None:
        self.break_next: str | None = None
        #: How many connections were broken.
        self.broken = 0
        self._target = (LOOPBACK, port)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:  # it is being restarted
                    near.close()
                    continue
                for source, sink, passes in (
                    (near, far, self._passes_request),
                    (far, near, self._passes_answer),
                ):
                    threading.Thread(
                        target=self._pump, args=(source, sink, passes), daemon=True
                    ).start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, passes: Callable[[bytes], bool]
    ) -> None:
        with suppress(OSError):
            while (data := source.recv(65536)) and passes(data):
                sink.sendall(data)
        for side in (source, sink):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _passes_request(self, data: bytes) -> bool:
        return not (b"COMMIT" in data and self._breaks("unsent"))

    def _passes_answer(self, data: bytes) -> bool:
        return not (DONE in data and self._breaks("unanswered"))

    def _breaks(self, how: str) -> bool:
        if self.break_next != how:
            return False
        self.break_next = None
        self.broken += 1
        return True
