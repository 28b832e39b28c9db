"""A service outside of everybody's transactions, which charges cards: HTTP on the loopback."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.concurrent import PATIENCE


class CardNetwork(ThreadingHTTPServer):
    """Charges once for each idempotency key, and answers a retry as it answered the first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Charge)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        #: The keys of all charges, and what each request said about its sender.
        self.charges: list[str] = []
        self.asked: list[str] = []
        #: Replies wait for it: charged is charged, and nobody is told.
        self.answers = threading.Event()
        self.answers.set()
        self._lock = threading.Lock()

    def charge(self, key: str, attempt: str) -> int:
        """The number of the key's charge."""
        with self._lock:
            self.asked.append(attempt)
            if key not in self.charges:
                self.charges.append(key)
            return self.charges.index(key) + 1


class _Charge(BaseHTTPRequestHandler):
    server: CardNetwork

    def do_POST(self) -> None:
        """One request to charge."""
        number = self.server.charge(self.headers["Idempotency-Key"], self.headers["Attempt"])
        self.server.answers.wait(PATIENCE)
        body = json.dumps(number).encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called
        """Says nothing."""


@contextmanager
def card_network() -> Iterator[CardNetwork]:
    """The network is open while the block runs."""
    with CardNetwork() as network:
        threading.Thread(target=network.serve_forever, daemon=True).start()
        try:
            yield network
        finally:
            network.answers.set()
            network.shutdown()
