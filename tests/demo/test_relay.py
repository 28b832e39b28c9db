"""The relay's faults, on a plain HTTP server."""

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from enrollment_demo.demo.relay import LOOPBACK, Fault, Relay
from tests.concurrent import until


class Server(ThreadingHTTPServer):
    """Counts what it answers, and answers when it may."""

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), Handler)
        self.answered = 0
        self.clients: set[str] = set()
        self.may_answer = threading.Event()
        self.may_answer.set()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.clients.add(self.client_address[0])
        self.rfile.read(int(self.headers["Content-Length"]))
        server.may_answer.wait(20)
        self.send_response(201)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"made")
        server.answered += 1

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.may_answer.set()
        server.shutdown()
        thread.join()


def post(port: int, timeout: float = 20, address: str = LOOPBACK) -> bytes:
    connection = http.client.HTTPConnection(
        LOOPBACK, port, timeout=timeout, source_address=(address, 0)
    )
    try:
        connection.request("POST", "/", b"please", {"Connection": "close"})
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize(("unseen", "seen"), [(True, "127.1.0.7"), (False, LOOPBACK)])
def test_the_target_sees_the_clients_address_where_it_is_to(
    server: Server, unseen: bool, seen: str
) -> None:
    with Relay((LOOPBACK, server.server_port), unseen=unseen) as relay:
        assert post(relay.port, address="127.1.0.7") == b"made"
    assert server.clients == {seen}


def test_passes_both_ways(server: Server) -> None:
    """Without a fault nothing is lost."""
    with Relay((LOOPBACK, server.server_port)) as relay:
        assert post(relay.port) == b"made"
        until(lambda: relay.busy == 0)


def test_drops_the_answer_after_the_server_gave_it(server: Server) -> None:
    """The client sees a broken connection; the work is done."""
    with Relay((LOOPBACK, server.server_port), Fault.DROP) as relay:
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            post(relay.port)
        assert relay.busy == 0
    until(lambda: server.answered == 1)


def test_holds_the_answer_until_the_client_gives_up(server: Server) -> None:
    """The client sees its own time-out; the work is done."""
    with Relay((LOOPBACK, server.server_port), Fault.HOLD) as relay:
        with pytest.raises(TimeoutError):
            post(relay.port, timeout=0.1)
        until(lambda: relay.busy == 0 and server.answered == 1)


def test_knows_what_a_client_left_behind(server: Server) -> None:
    """A client that gave up leaves the server at work: busy until its answer is through."""
    server.may_answer.clear()
    with Relay((LOOPBACK, server.server_port)) as relay:
        with pytest.raises(TimeoutError):
            post(relay.port, timeout=0.1)
        assert relay.busy == 1
        server.may_answer.set()
        until(lambda: relay.busy == 0 and server.answered == 1)


def test_cuts_what_is_open_and_what_comes(server: Server) -> None:
    """Until it is mended."""
    server.may_answer.clear()
    with Relay((LOOPBACK, server.server_port)) as relay:
        errors: list[Exception] = []

        def ask() -> None:
            try:
                post(relay.port)
            except (OSError, http.client.HTTPException) as error:
                errors.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: relay.busy == 1)
        relay.cut()
        asking.join(20)
        assert len(errors) == 1
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            post(relay.port)

        relay.mend()
        server.may_answer.set()
        assert post(relay.port) == b"made"


def test_a_target_that_is_down_is_a_broken_connection() -> None:
    """As without the relay."""
    with Relay((LOOPBACK, 1)) as relay, pytest.raises((ConnectionError, http.client.HTTPException)):
        post(relay.port)
