"""Redis stopped, hung, emptied and lying: slower, and nothing else."""

import os
import pickle
import signal
import time
from collections import Counter

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.http import HttpResponse

from idempotency import events
from idempotency.crowd import LOOK_EVERY
from idempotency.exceptions import InProgress, KeyReused
from idempotency.layers import breaker, cache
from idempotency.layers.connection import server as server_behind
from tests.app.models import Booking
from tests.concurrent import PATIENCE, Crew, until
from tests.leased import EVE, Stopped

pytestmark = pytest.mark.django_db(transaction=True)


def book():
    return HttpResponse(f"{Booking.objects.create(name='Ada').pk}", status=201)


def replayed(response):
    return "Idempotent-Replayed" in response


def failures():
    return events.counts().get("cache_unavailable", 0)


def replays():
    """How many there were, by the room that answered."""
    counts = events.counts()
    return Counter({room: counts.get(f"replayed.{room}", 0) for room in ("cache", "ledger")})


def entries(client, room):
    return list(client.scan_iter(f"*:{room}"))


def test_stopped_between_try_and_retry(ask, bookings, server):
    first = ask(book)
    server.kill()
    before = failures()
    again = ask(book)
    assert replayed(again)
    assert again.content == first.content
    assert failures() > before
    assert bookings() == 1


def test_stopped_while_the_handler_runs(ask, bookings, server):
    def book_and_kill():
        server.kill()
        return book()

    before = failures()
    first = ask(book_and_kill)
    assert failures() > before  # it is told of the end, and is not there
    assert first.status_code == 201
    assert ask(book).content == first.content
    assert bookings() == 1


def test_emptied_between_try_and_retry_it_is_filled_again(ask, bookings, client):
    first = ask(book)
    client.flushall()
    before = replays()
    assert ask(book).content == first.content
    assert replays() - before == Counter(ledger=1)
    assert len(entries(client, "reply")) == 1
    assert ask(book).content == first.content
    assert replays() - before == Counter(ledger=1, cache=1)
    assert bookings() == 1


def test_hung_it_costs_its_time_outs_and_then_nothing(ask, bookings, server):
    """With the breaker open, a request does not wait for the server at all."""
    time_out = server_behind(cache.backend()).socket_timeout
    server.pause()
    for number in range(breaker.FAILURES):
        before, started = failures(), time.monotonic()
        ask(book, key=f"slow-{number}")
        assert failures() > before
        # One to connect or to ask; with retries, or one more to leave, it would be two and more.
        assert time_out <= time.monotonic() - started < 2 * time_out
    before, started = failures(), time.monotonic()
    for number in range(20):
        ask(book, key=f"fast-{number}")
    # One probe may fall into this; twenty time-outs of half a second cannot.
    assert failures() - before <= 1
    assert time.monotonic() - started < 5
    assert bookings() == breaker.FAILURES + 20


def test_it_is_noticed_when_it_comes_back(ask, server, client, monkeypatch):
    monkeypatch.setattr(breaker, "PAUSE", 0.05)
    server.kill()
    for number in range(breaker.FAILURES + 1):
        ask(book, key=f"{number}")
    server.start()
    until(lambda: ask(book, key="back") and entries(client, "reply"))


GARBAGE = {
    "empty": lambda entry: b"",
    "text": lambda entry: b"not an entry",
    "pickle": lambda entry: pickle.dumps({"status": 200}),
    "truncated": lambda entry: entry[:-1],
    "other version": lambda entry: b"\x02" + entry[1:],
    "flipped": lambda entry: entry[:-2] + bytes([entry[-2] ^ 1]) + entry[-1:],
    "head only": lambda entry: entry[:17],
}


@pytest.mark.parametrize("spoil", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_a_miss_and_is_replaced(ask, bookings, client, spoil):
    first = ask(book)
    (name,) = entries(client, "reply")
    entry = client.get(name)
    client.set(name, spoil(entry))
    again = ask(book)
    assert replayed(again)
    assert again.content == first.content
    assert client.get(name)[17:] == entry[17:]
    assert not entries(client, "lock")
    assert bookings() == 1


def test_another_keys_entry_is_a_miss(ask, bookings, client):
    """A valid entry, moved under another name: its MAC binds it to its own."""
    other = ask(book, key="other")
    (moved,) = entries(client, "reply")
    entry = client.get(moved)
    mine = ask(book, key="mine")
    (name,) = set(entries(client, "reply")) - {moved}
    client.set(name, entry)
    assert ask(book, key="mine").content == mine.content != other.content
    assert bookings() == 2


@pytest.mark.parametrize("room", ["reply", "lock", "wake"])
def test_a_key_of_the_wrong_type_does_no_harm(ask, bookings, client, room):
    first = ask(book)
    (name,) = entries(client, "reply")
    spoilt = name.replace(b":reply", f":{room}".encode())
    client.delete(name, spoilt)
    client.hset(spoilt, "field", "value")
    before = failures()
    again = ask(book)
    assert again.content == first.content
    # Entry and lock stay as they are, and are of no use; a wake-up is made anew.
    assert (failures() > before, client.type(spoilt) == b"hash") == (room != "wake",) * 2
    assert bool(entries(client, "reply")) is (room != "lock")
    assert bookings() == 1


def test_ignored_exceptions_are_not_read_as_no_record(ask, bookings, server, settings):
    settings.DJANGO_REDIS_IGNORE_EXCEPTIONS = True
    first = ask(book)
    server.kill()
    before = failures()
    assert ask(book).content == first.content
    assert failures() > before
    assert bookings() == 1


def test_a_process_that_lost_its_lock_publishes_nothing(ask, bookings, client):
    """It was suspended past the time-out: another has the lock, perhaps a newer reply."""

    def lose_the_lock():
        (name,) = entries(client, "lock")
        client.set(name, b"somebody else")
        return book()

    ask(lose_the_lock)
    assert not entries(client, "reply")
    assert [client.get(name) for name in entries(client, "lock")] == [b"somebody else"]
    assert bookings() == 1


def killed(ask, client, **asked):
    """A request's process is killed in its handler: its lock is left; its name and token."""
    left = {}

    def die():
        left.update({name: client.get(name) for name in entries(client, "lock")})
        raise Stopped

    with pytest.raises(Stopped):
        ask(die, **asked)
    ((name, token),) = left.items()
    client.set(name, token, px=60_000)
    return name, token


def test_a_dead_holder_of_another_payload_refuses_nobody(ask, bookings, client):
    """Its work was rolled back and the key is free: the client has corrected its mistake."""
    killed(ask, client, body=EVE)
    assert (ask(book).status_code, bookings()) == (201, 1)
    with pytest.raises(KeyReused):
        ask(book, body=EVE)


def test_a_dead_holder_of_another_payload_hides_no_reply(ask, bookings, client):
    """The entry was evicted; a mistaken request came, took the lock and died with it."""
    name, token = killed(ask, client, body=EVE)
    client.delete(name)
    first = ask(book)
    client.flushall()
    client.set(name, token, px=60_000)
    again = ask(book)
    assert (replayed(again), again.content, bookings()) == (True, first.content, 1)
    assert (len(entries(client, "reply")), entries(client, "lock")) == (1, [])


def test_a_dead_holders_lock_goes_to_who_runs_in_its_place(ask, bookings, client):
    """It costs one look at the ledger, not one each retry until its time-out."""
    name, token = killed(ask, client)

    def handler():
        assert client.get(name) not in {token, None}
        return book()

    first = ask(handler)
    before = replays()
    assert ask(book).content == first.content
    assert replays() - before == Counter(cache=1)
    assert not entries(client, "lock")
    assert bookings() == 1


@pytest.mark.vendors("postgresql", "mysql")
def test_who_runs_in_a_dead_holders_place_is_who_the_lock_tells_of(ask, client, slow_book):
    """So its own duplicates are in progress, and another payload is refused."""
    handler, entered, leave = slow_book
    killed(ask, client, body=EVE)
    with Crew(1) as crew:
        first = crew.start(ask, handler)
        assert entered.wait(PATIENCE)
        with pytest.raises(InProgress):
            ask(book, in_flight="reject")
        with pytest.raises(KeyReused):
            ask(book, body=EVE)
        assert "cmdstat_blmove" not in client.info("commandstats")  # it has not waited for it
        leave.set()
        assert first.result(PATIENCE).status_code == 201


@pytest.mark.vendors("postgresql", "mysql")
def test_a_forged_holder_is_not_believed(ask, client, slow_book):
    """Whoever can write to Redis says that another request has the key: one that asks for the
    same is told to wait, not that its key was used."""
    handler, entered, leave = slow_book
    with Crew(1) as crew:
        first = crew.start(ask, handler)
        assert entered.wait(PATIENCE)
        (name,) = entries(client, "lock")
        token = client.get(name)
        client.set(name, token[:16] + bytes(32) + token[48:])
        with pytest.raises(InProgress):
            ask(book, in_flight="reject")
        leave.set()
        first.result(PATIENCE)


def test_a_lock_that_is_no_requests_stays_its_holders(ask, bookings, client):
    """The project may take the same `cache.lock` for reasons of its own."""
    name, _ = killed(ask, client)
    client.set(name, b"a token of somebody else")
    assert (ask(book).status_code, bookings()) == (201, 1)
    assert client.get(name) == b"a token of somebody else"


@pytest.mark.vendors("postgresql", "mysql")
def test_a_waiter_that_is_told_to_stop_stops(ask, bookings, client, slow_book):
    """As Celery does it at a soft time limit: an exception out of a signal's handler."""
    handler, entered, leave = slow_book

    def interrupt():
        until(lambda: client.info("clients")["blocked_clients"] == 1)
        os.kill(os.getpid(), signal.SIGALRM)

    def stop(*_):
        raise SoftTimeLimitExceeded

    former = signal.signal(signal.SIGALRM, stop)
    try:
        with Crew(2) as crew:
            first = crew.start(ask, handler)
            assert entered.wait(PATIENCE)
            interrupting = crew.start(interrupt)
            with pytest.raises(SoftTimeLimitExceeded):
                ask(book)
            interrupting.result(PATIENCE)
            leave.set()
            first.result(PATIENCE)
    finally:
        signal.signal(signal.SIGALRM, former)
    assert bookings() == 1


def test_an_entry_past_its_end_is_a_miss(ask, client, monkeypatch):
    """Where Redis keeps it, against its time-out, the host's own clock sends for the ledger."""
    ask(book, ttl=60)
    (name,) = entries(client, "reply")
    client.persist(name)
    before, true = replays(), time.time
    monkeypatch.setattr(time, "time", lambda: true() + 61)
    ask(book)
    assert replays() - before == Counter(ledger=1)


def test_who_takes_the_lock_takes_back_the_last_wake_up(ask, client):
    """Its waiters would not sleep: they would ask without a pause, until that one is over."""
    with pytest.raises(ZeroDivisionError):
        ask(lambda: 1 / 0)
    (wake,) = entries(client, "wake")
    client.persist(wake)
    ask(lambda: HttpResponse(f"{client.exists(wake)}"))
    assert ask(book).content == b"0"


@pytest.mark.vendors("postgresql", "mysql")
def test_a_wait_ends_before_the_sockets_time_out(ask, client, settings, slow_book):
    """Else every wait would look like a server that hangs, and open the breaker."""
    configured = dict(settings.CACHES["default"])
    # Shorter than a look at the ledger is far, so that it is this that ends the wait.
    configured["OPTIONS"] = configured["OPTIONS"] | {"SOCKET_TIMEOUT": LOOK_EVERY * 0.96}
    settings.CACHES = {"default": configured}
    handler, entered, leave = slow_book
    with Crew(1) as crew:
        first = crew.start(ask, handler)
        assert entered.wait(PATIENCE)
        before = failures()
        with pytest.raises(InProgress):
            ask(book, wait_timeout=2 * LOOK_EVERY)
        assert failures() == before
        leave.set()
        first.result(PATIENCE)


def test_no_entry_outlives_its_record(ask, client):
    ask(book, ttl=60)
    (name,) = entries(client, "reply")
    assert 0 < client.pttl(name) <= 60_000 - 900
