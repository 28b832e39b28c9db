"""The client, against a real server on the loopback interface that answers by a script."""

import io
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest
import requests

from idempotency import client
from idempotency.client import IdempotentSession
from idempotency.keys import InvalidKey, child_key, parse_key, running

HEADER = "Idempotency-Key"
SCOPE = "Idempotency-Scope"


@dataclass
class Received:
    """A request as the server read it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str | None:
        return self.headers.get(HEADER)


Step = Callable[[BaseHTTPRequestHandler], None]


def reply(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Step:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drop(handler: BaseHTTPRequestHandler) -> None:
    """The request was read, the reply is lost."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    """The reply is lost halfway."""
    reply(201, {"Content-Length": "100"}, b"only the beginning")(handler)
    drop(handler)


@dataclass
class Server:
    """Answers the nth request with the nth step of its script, and remembers them all."""

    script: list[Step] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ended: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/invoices/"

    @property
    def other_host(self) -> str:
        """The same server under another name, so another host for the client."""
        return f"http://localhost:{self.port}/elsewhere/"

    @property
    def keys(self) -> list[str | None]:
        return [request.key for request in self.received]

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        self.ended.wait(30)
        handler.close_connection = True

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if handler.headers.get("Transfer-Encoding") == "chunked":
            while size := int(handler.rfile.readline(), 16):
                body += handler.rfile.read(size)
                handler.rfile.readline()
            handler.rfile.readline()
        index = len(self.received)
        self.received.append(
            Received(handler.command, handler.path, dict(handler.headers.items()), body)
        )
        self.arrived.release()
        self.script[index](handler)


@pytest.fixture
def server() -> Iterator[Server]:
    scripted = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

    # A plain function, so that it is bound to the handler and not to the scripted server.
    def handle(handler: BaseHTTPRequestHandler) -> None:
        scripted.handle(handler)

    for method in ("GET", "HEAD", "OPTIONS", "TRACE", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", handle)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        scripted.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield scripted
        scripted.ended.set()
        http.shutdown()
        thread.join()


class Clock:
    """Time that passes only in pauses; pauses are recorded."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """No test waits; the random part of a pause is its greatest."""
    monkeypatch.setenv("NO_PROXY", "*")
    clock = Clock()
    monkeypatch.setattr(client, "sleep", clock.sleep)
    monkeypatch.setattr(client, "monotonic", lambda: clock.now)
    monkeypatch.setattr(client, "uniform", lambda low, high: high)
    return clock


@pytest.fixture
def session() -> Iterator[IdempotentSession]:
    with IdempotentSession() as session:
        yield session


IN_PROGRESS = reply(409, {"Retry-After": "0"})
CREATED = reply(201, body=b"made")


# The key


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_an_unsafe_request_gets_a_uuid_of_its_own(
    server: Server, session: IdempotentSession, method: str
) -> None:
    server.script = [CREATED, CREATED]
    first = session.request(method, server.url)
    session.request(method, server.url)
    assert len({UUID(key) for key in server.keys}) == 2
    assert first.request.headers[HEADER] == server.keys[0]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
def test_a_safe_request_gets_none_and_is_repeated(server: Server, method: str) -> None:
    server.script = [drop, reply(503), reply(200)]
    with IdempotentSession(child="billing") as session:
        assert session.request(method, server.url).status_code == 200
    assert server.keys == [None, None, None]
    assert SCOPE not in server.received[0].headers


def test_a_given_key_is_sent(server: Server, session: IdempotentSession) -> None:
    server.script = [CREATED, CREATED, CREATED]
    session.post(server.url, json={}, key="mine")
    session.put(server.url, data=b"", key='say "hi"')
    session.post(server.url, headers={HEADER.lower(): '"theirs"; v=1'})
    assert server.keys[0] == "mine"
    assert server.keys[1] == r'"say \"hi\""'
    assert server.received[2].headers[HEADER.lower()] == '"theirs"; v=1'


def test_key_goes_along_with_other_headers(server: Server, session: IdempotentSession) -> None:
    server.script = [CREATED]
    session.post(server.url, headers={"X-Trace": "1"}, key="mine")
    assert (server.keys, server.received[0].headers["X-Trace"]) == (["mine"], "1")


def test_strict_quotes_every_key(server: Server) -> None:
    server.script = [CREATED, CREATED]
    with IdempotentSession(strict=True) as session:
        session.post(server.url)
        session.post(server.url, key="mine")
    generated = parse_key(server.keys[0] or "", strict=True)
    assert str(UUID(generated)) == generated
    assert server.keys[1] == '"mine"'


def test_the_header_has_the_name_that_was_asked_for(server: Server) -> None:
    server.script = [reply(503), CREATED]
    with IdempotentSession(header="X-Idempotency-Key") as session:
        session.post(server.url, key="mine")
    assert [r.headers["X-Idempotency-Key"] for r in server.received] == ["mine", "mine"]
    assert server.keys == [None, None]


@pytest.mark.parametrize("arguments", [{"headers": {HEADER.upper(): "b"}}, {"method": "get"}])
def test_a_key_out_of_place_is_an_error(
    session: IdempotentSession, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="key= is for unsafe methods"):
        session.request(**{"method": "POST", "url": "http://127.0.0.1/", "key": "a"} | arguments)


def test_a_malformed_key_is_never_sent(server: Server, session: IdempotentSession) -> None:
    with pytest.raises(InvalidKey):
        session.post(server.url, key="k" * 256)
    assert server.received == []


def test_a_key_for_the_whole_session_is_an_error(session: IdempotentSession) -> None:
    session.headers[HEADER] = "one for all"
    with pytest.raises(ValueError, match="belongs to one request"):
        session.post("http://127.0.0.1/")


def test_preparing_a_request_twice_makes_two_keys(session: IdempotentSession) -> None:
    request = requests.Request("POST", "http://127.0.0.1/", headers={"X-Trace": "1"})
    first, second = session.prepare_request(request), session.prepare_request(request)
    assert first.headers[HEADER] != second.headers[HEADER]
    assert request.headers == {"X-Trace": "1"}


def test_what_signs_a_request_sees_its_key(session: IdempotentSession) -> None:
    def sign(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        prepared.headers["X-Signed"] = prepared.headers[HEADER]
        return prepared

    prepared = session.prepare_request(requests.Request("POST", "http://127.0.0.1/", auth=sign))
    assert prepared.headers["X-Signed"] == prepared.headers[HEADER]


# Inside a handler


def test_a_child_session_sends_child_key_and_scope_of_what_runs_now(server: Server) -> None:
    server.script = [CREATED, reply(503), CREATED]
    with IdempotentSession(child="billing") as session:
        for key, scope in (("first", "digest-1"), ("second", "digest-2")):
            with running(key, scope):
                session.post(server.url)
    sent = [(request.key, request.headers[SCOPE]) for request in server.received]
    second = ("second-billing", "digest-2")
    assert sent == [("first-billing", "digest-1"), second, second]


def test_a_second_call_may_name_its_own_key_in_the_same_scope(server: Server) -> None:
    server.script = [CREATED]
    with IdempotentSession(child="billing") as session, running("first", "digest"):
        session.post(server.url, key=child_key("billing.2"))
    assert server.keys == ["first-billing.2"]
    assert server.received[0].headers[SCOPE] == "digest"


@pytest.mark.parametrize("key", [None, "mine"])
def test_a_child_session_outside_a_handler_sends_nothing(server: Server, key: str | None) -> None:
    with IdempotentSession(child="billing") as session, pytest.raises(LookupError):
        session.post(server.url, key=key)
    assert server.received == []


def test_a_child_with_a_bad_name_is_found_at_once() -> None:
    with pytest.raises(InvalidKey, match="child's name"):
        IdempotentSession(child="billing-service")


def test_without_child_the_running_key_is_not_used(
    server: Server, session: IdempotentSession
) -> None:
    server.script = [CREATED]
    with running("first", "digest"):
        session.post(server.url)
    assert str(UUID(server.keys[0])) == server.keys[0]
    assert SCOPE not in server.received[0].headers


# Attempts


@pytest.mark.parametrize(
    "failure",
    [reply(502), reply(503), reply(504), IN_PROGRESS, drop, cut_off],
    ids=["502", "503", "504", "in progress", "lost reply", "half a reply"],
)
def test_what_may_have_failed_is_sent_again_with_the_same_key_and_body(
    server: Server, session: IdempotentSession, failure: Step
) -> None:
    server.script = [failure, failure, CREATED]
    response = session.post(server.url, json={"amount": 5})
    assert (response.status_code, response.content) == (201, b"made")
    assert [request.body for request in server.received] == [b'{"amount": 5}'] * 3
    assert server.keys == [response.request.headers[HEADER]] * 3


def test_a_hung_server_is_left_and_asked_again(server: Server) -> None:
    server.script = [server.hang] + [CREATED] * 4
    with IdempotentSession(timeout=(3, 0.5)) as session:
        assert session.post(server.url, key="mine").status_code == 201
    assert len(server.keys) >= 2  # More only where a busy machine answers late.
    assert set(server.keys) == {"mine"}


@pytest.mark.parametrize("status", [200, 202, 400, 401, 404, 408, 409, 422, 425, 429, 500, 501])
def test_any_other_reply_is_returned_at_once(
    server: Server, session: IdempotentSession, clock: Clock, status: int
) -> None:
    server.script = [reply(status)]
    assert session.post(server.url).status_code == status
    assert len(server.received) == 1
    assert clock.pauses == []


@pytest.mark.parametrize("status", [202, 400, 413, 422, 429])
def test_retry_after_makes_only_a_409_worth_repeating(
    server: Server, session: IdempotentSession, status: int
) -> None:
    server.script = [reply(status, {"Retry-After": "0"})]
    assert session.post(server.url).status_code == status
    assert len(server.received) == 1


@pytest.mark.parametrize("status", [409, 502, 503, 504])
def test_after_the_last_attempt_its_response_is_returned(
    server: Server, session: IdempotentSession, status: int
) -> None:
    server.script = [drop] * 4 + [reply(status, {"Retry-After": "0"}, b"still")]
    response = session.post(server.url)
    assert (response.status_code, response.content) == (status, b"still")
    assert len(server.received) == 5


@pytest.mark.parametrize("failure", [drop, cut_off], ids=["lost reply", "half a reply"])
def test_without_a_response_requests_own_exception_tells_the_key(
    server: Server, session: IdempotentSession, failure: Step
) -> None:
    server.script = [reply(503)] * 4 + [failure]
    with pytest.raises(requests.RequestException) as caught:
        session.post(server.url)
    assert caught.value.request is not None
    assert server.keys == [caught.value.request.headers[HEADER]] * 5


def test_a_time_out_ends_as_requests_time_out(server: Server) -> None:
    server.script = [server.hang, server.hang]
    session = IdempotentSession(attempts=2, timeout=(3, 0.05))
    with session, pytest.raises(requests.ReadTimeout):
        session.post(server.url)
    assert [server.arrived.acquire(timeout=10) for _ in range(2)] == [True, True]


def test_an_address_where_nobody_listens_is_tried_as_often(clock: Clock) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with IdempotentSession(attempts=3) as session, pytest.raises(requests.ConnectionError):
            session.post(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert len(clock.pauses) == 2


def test_attempts_counts_the_first(server: Server) -> None:
    server.script = [reply(503)] * 2
    with IdempotentSession(attempts=1) as session:
        assert session.post(server.url).status_code == 503
    assert len(server.received) == 1


@pytest.mark.parametrize("arguments", [{"attempts": 0}, {"deadline": 0}, {"deadline": 0.4}])
def test_a_session_that_could_send_nothing_is_an_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1 attempt"):
        IdempotentSession(**arguments)


# Pauses


def test_pauses_grow_up_to_a_limit(server: Server, clock: Clock) -> None:
    server.script = [drop] * 7 + [CREATED]
    with IdempotentSession(attempts=8) as session:
        session.post(server.url)
    assert clock.pauses == [0.25, 0.5, 1, 2, 4, 4, 4]


def test_pauses_are_random_from_zero(
    server: Server, session: IdempotentSession, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        ranges.append((low, high))
        return high / 2

    monkeypatch.setattr(client, "uniform", uniform)
    server.script = [drop, drop, CREATED]
    session.post(server.url)
    assert ranges == [(0, 0.25), (0, 0.5)]
    assert clock.pauses == [0.125, 0.25]


def test_one_request_does_not_lengthen_the_pauses_of_the_next(
    server: Server, session: IdempotentSession, clock: Clock
) -> None:
    server.script = [drop, CREATED, drop, CREATED]
    session.post(server.url)
    session.post(server.url)
    assert clock.pauses == [0.25, 0.25]


@pytest.mark.parametrize("status", [409, 502, 503, 504])
def test_retry_after_in_seconds_is_waited_for(
    server: Server, session: IdempotentSession, clock: Clock, status: int
) -> None:
    server.script = [reply(status, {"Retry-After": "7"}), CREATED]
    session.post(server.url)
    assert clock.pauses == [7.25]


def test_retry_after_as_a_date_is_waited_for(
    server: Server, session: IdempotentSession, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib3.util.retry.time.time", lambda: 1_700_000_000.0)
    date = formatdate(1_700_000_006, usegmt=True)
    past = formatdate(1_600_000_000, usegmt=True)
    server.script = [reply(409, {"Retry-After": date}), reply(409, {"Retry-After": past}), CREATED]
    session.post(server.url)
    assert clock.pauses == [6.25, 0.5]


@pytest.mark.parametrize("value", ["86400", "Fri, 31 Dec 2199 23:59:59 GMT"])
def test_retry_after_has_an_upper_limit(server: Server, clock: Clock, value: str) -> None:
    server.script = [reply(503, {"Retry-After": value}), CREATED]
    with IdempotentSession(retry_after_max=3) as session:
        session.post(server.url)
    assert clock.pauses == [3.25]


@pytest.mark.parametrize(
    "value",
    [
        "soon",
        "-5",
        "1.5",
        "9" * 5000,
        "Mon, 01 Jan 99999 00:00:00 GMT",
        f"1 Jan {'9' * 20} 0:0:0 GMT",
    ],
)
def test_a_retry_after_that_cannot_be_read_counts_as_one(
    server: Server, session: IdempotentSession, clock: Clock, value: str
) -> None:
    server.script = [reply(409, {"Retry-After": value}), CREATED]
    assert session.post(server.url).status_code == 201
    assert clock.pauses == [0.25]


def test_no_attempt_starts_that_the_deadline_would_cut_short(server: Server, clock: Clock) -> None:
    server.script = [reply(409, {"Retry-After": "9"})] * 5
    with IdempotentSession(deadline=20) as session:
        assert session.post(server.url).status_code == 409
    assert clock.pauses == [9.25, 9.5]  # A third would end after 28.75 s: it is not waited for.


def test_the_deadline_cuts_the_time_outs(
    server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[float, float]] = []
    original = requests.adapters.HTTPAdapter.send

    def send(self: Any, request: Any, stream: bool, timeout: Any, **kwargs: Any) -> Any:
        used.append(timeout)
        return original(self, request, stream, timeout, **kwargs)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    server.script = [reply(503, {"Retry-After": "8"}), CREATED, CREATED, CREATED, CREATED]
    with IdempotentSession(deadline=10) as session:
        session.post(server.url)
        session.post(server.url, timeout=4)
        session.post(server.url, timeout=(2, None))
        session.get(server.url)
    assert used == [(3, 10), (1.75, 1.75), (4, 4), (2, 10), (3, 10)]


def test_a_pause_that_overran_the_deadline_leaves_the_last_attempt_half_a_second(
    server: Server, session: IdempotentSession, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "sleep", lambda seconds: clock.sleep(1000))
    server.script = [reply(503), CREATED]
    assert session.post(server.url).status_code == 201


# Bodies


def test_a_file_is_sent_again_from_where_it_began(
    server: Server, session: IdempotentSession
) -> None:
    server.script = [drop, reply(503), CREATED]
    file = io.BytesIO(b"read before, the rest")
    file.seek(len(b"read before, "))
    assert session.post(server.url, data=file).status_code == 201
    assert [request.body for request in server.received] == [b"the rest"] * 3


def test_an_iterators_body_is_sent_once_with_its_key(
    server: Server, session: IdempotentSession, clock: Clock
) -> None:
    server.script = [reply(503, body=b"no"), drop]
    assert session.post(server.url, data=iter([b"a", b"b"])).status_code == 503
    with pytest.raises(requests.ConnectionError):
        session.post(server.url, data=iter([b"c", b"d"]))
    assert [request.body for request in server.received] == [b"ab", b"cd"]
    assert all(server.keys)
    assert clock.pauses == []


def test_a_streamed_reply_is_left_to_the_caller(server: Server, session: IdempotentSession) -> None:
    server.script = [reply(503, body=b"no"), cut_off]
    response = session.post(server.url, stream=True)
    assert response.status_code == 201
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        _ = response.content
    assert len(server.received) == 2


def test_a_reply_that_is_not_wanted_gives_its_connection_back_before_the_pause(
    server: Server, session: IdempotentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = threading.Event()

    def half(handler: BaseHTTPRequestHandler) -> None:
        reply(503, {"Content-Length": "100"}, b"half")(handler)
        handler.close_connection = True
        try:
            said = handler.connection.recv(1)
        except ConnectionResetError:  # it has not read all that was sent
            said = b""
        if said == b"":
            closed.set()

    server.script = [half, CREATED]
    in_time: list[bool] = []
    monkeypatch.setattr(client, "sleep", lambda seconds: in_time.append(closed.wait(10)))
    assert session.post(server.url, stream=True).status_code == 201
    assert in_time == [True]


# Redirects


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_within_the_host_keeps_key_and_scope(server: Server, status: int) -> None:
    server.script = [reply(status, {"Location": "/moved/"}), reply(503), CREATED]
    with IdempotentSession(child="billing") as session, running("first", "digest"):
        assert session.post(server.url, data=b"body").status_code == 201
    sent = [(r.path, r.key, r.headers.get(SCOPE), r.body) for r in server.received]
    moved = ("/moved/", "first-billing", "digest", b"body")
    assert sent == [("/invoices/", "first-billing", "digest", b"body"), moved, moved]


@pytest.mark.parametrize("header", [HEADER, "X-Idempotency-Key"])
def test_another_host_gets_neither_key_nor_scope(server: Server, header: str) -> None:
    server.script = [reply(307, {"Location": server.other_host}), CREATED]
    with IdempotentSession(child="billing", header=header) as session, running("k", "digest"):
        assert session.post(server.url).status_code == 201
    here, there = server.received
    assert (header in here.headers, SCOPE in here.headers) == (True, True)
    assert (there.method, header in there.headers, SCOPE in there.headers) == ("POST", False, False)


@pytest.mark.parametrize("failure", [reply(503), drop], ids=["503", "lost reply"])
def test_an_unsafe_request_that_lost_its_key_is_not_repeated(
    server: Server, session: IdempotentSession, failure: Step
) -> None:
    server.script = [reply(307, {"Location": server.other_host}), failure, CREATED]
    with suppress(requests.ConnectionError):
        assert session.post(server.url).status_code == 503
    assert len(server.received) == 2


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_turns_into_a_get_drops_the_key(
    server: Server, session: IdempotentSession, status: int
) -> None:
    server.script = [reply(status, {"Location": "/made/1/"}), reply(200)]
    session.post(server.url)
    assert [(request.method, request.key is None) for request in server.received] == [
        ("POST", False),
        ("GET", True),
    ]


# The module


def in_a_new_interpreter(code: str, without: str) -> subprocess.CompletedProcess[bytes]:
    code = f"import sys; sys.modules[{without!r}] = None; {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)


def test_the_module_needs_no_django() -> None:
    assert in_a_new_interpreter("import idempotency.client", without="django").returncode == 0


def test_without_requests_the_error_names_the_extra() -> None:
    failed = in_a_new_interpreter("import idempotency.client", without="requests")
    assert failed.returncode == 1
    assert b"pip install 'django-idempotency-ledger[client]'" in failed.stderr


def test_raw_keys_are_not_logged(
    server: Server, session: IdempotentSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    server.script = [drop, reply(503), CREATED]
    session.post(server.url, key="a-secret-key")
    assert [r.levelname for r in caplog.records if r.name == "idempotency.client"] == ["INFO"] * 2
    assert "a-secret-key" not in caplog.text
