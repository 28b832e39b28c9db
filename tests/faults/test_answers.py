"""A server that answers, but not what was asked: no exception reaches the request."""

import socket
import threading
from contextlib import contextmanager, suppress

import pytest
from django.core.cache import caches
from django.http import HttpResponse

from idempotency import events
from idempotency.layers import breaker
from idempotency.layers.connection import server
from tests.app.models import Booking

pytestmark = pytest.mark.django_db(transaction=True)

ANSWERS = [b":2", b"*0", b"*1\r\n:5", b"*1\r\n$-1", b"$abc", b":x", b"+OK", b"-ERR no", b"!"]


def book():
    return HttpResponse(f"{Booking.objects.create(name='Ada').pk}", status=201)


@pytest.fixture
def liar(settings):
    """Speaks RESP and gives every command one answer; yields a function that sets it."""
    answer = [b"+OK"]
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        with connection:
            while data := connection.recv(65536):
                # The handshake comes in commands of its own, which want an OK.
                lying = b"EVALSHA" in data or b"EVAL\r\n" in data
                connection.sendall((answer[0] if lying else b"+OK") + b"\r\n")

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    configured = dict(settings.CACHES["default"])
    configured["LOCATION"] = f"redis://127.0.0.1:{listener.getsockname()[1]}/0?protocol=2"
    settings.CACHES = {"default": configured}
    yield answer
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize("answer", ANSWERS, ids=[a.decode().split()[0] for a in ANSWERS])
def test_an_answer_out_of_step_is_a_room_that_is_off(ask, bookings, liar, answer):
    liar[0] = answer
    first = ask(book)
    again = ask(book)
    assert (first.status_code, again.content) == (201, first.content)
    assert bookings() == 1


def test_one_that_hangs_is_asked_once(ask, settings):
    """redis-py's own retries would turn one time-out into many, and try to connect each time."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        configured = dict(settings.CACHES["default"])
        configured["LOCATION"] = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        configured["OPTIONS"] = configured["OPTIONS"] | {"SOCKET_TIMEOUT": 0.05}
        settings.CACHES = {"default": configured}
        ask(book)
        listener.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                asked.append(listener.accept()[0])
    for connection in asked:
        connection.close()
    assert len(asked) == 1


def test_a_full_pool_of_ours_is_no_fault_of_the_server(ask, settings, redis_db, bookings):
    """It must not make every other request do without Redis."""
    configured = dict(settings.CACHES["default"])
    pool = {"CONNECTION_POOL_KWARGS": {"max_connections": 1}}
    configured["OPTIONS"] = configured["OPTIONS"] | pool
    settings.CACHES = {"default": configured}

    with occupied_pool():
        before = events.counts().get("cache_unavailable.breaker_open", 0)
        for number in range(breaker.FAILURES + 1):
            ask(book, key=f"crowded-{number}")
        assert events.counts().get("cache_unavailable.breaker_open", 0) == before
    ask(book, key="free")
    assert list(redis_db.scan_iter("*:reply"))


@contextmanager
def occupied_pool():
    """All connections of our pool are taken."""
    pool = server(caches["default"]).client.connection_pool
    taken = pool.get_connection()
    try:
        yield
    finally:
        pool.release(taken)
