"""Redis in states of its own: read-only, full, emptied in mid-storm, gone under a crowd."""

import time

import pytest
import redis
from django.db import transaction
from django.http import HttpResponse

from enrollment_demo.servers import Redis
from idempotency import events
from idempotency.exceptions import InProgress
from idempotency.layers import breaker, cache
from idempotency.layers.connection import server as server_behind
from tests.aftermath import Call, violations
from tests.app.models import Booking
from tests.concurrent import PATIENCE, Crew, until

pytestmark = pytest.mark.django_db(transaction=True)


def book(name="Ada"):
    return HttpResponse(f"{Booking.objects.create(name=name).pk}", status=201)


def replayed(response):
    return "Idempotent-Replayed" in response


def failures():
    return events.counts().get("cache_unavailable", 0)


@pytest.mark.vendors("postgresql", "mysql")
def test_stopped_under_a_crowd_that_waits(ask, bookings, server, client, slow_book):
    """Its waiters go on with the ledger; nobody runs a second time."""
    handler, entered, leave = slow_book
    with Crew() as crew:
        first = crew.start(ask, handler)
        assert entered.wait(PATIENCE)
        waiting = [crew.start(ask, book) for _ in range(3)]
        until(lambda: client.info("clients")["blocked_clients"] == len(waiting))
        before = failures()
        server.kill()
        until(lambda: failures() > before)
        leave.set()
        answers = [future.result(PATIENCE) for future in [first, *waiting]]
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (201, answers[0].content)
    }
    assert [replayed(answer) for answer in answers] == [False, True, True, True]
    assert bookings() == 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_stopped_before_the_handler_or_after_the_commit(ask, bookings, server, moment):
    before = failures()
    if moment == "before":
        server.kill()

    def handler():
        transaction.on_commit(server.kill)
        return book()

    first = ask(handler if moment == "after" else book)
    again = ask(book)
    assert failures() > before
    assert (replayed(first), replayed(again), again.content) == (False, True, first.content)
    assert bookings() == 1


@pytest.mark.vendors("postgresql", "mysql")
def test_emptied_every_10_ms_in_mid_storm(ask, client):
    """Leaders lose their locks, waiters their leaders, and replays their entries."""
    keys = [f"key-{number}" for number in range(10)]
    lost = 0

    def work(name):
        time.sleep(0.02)  # the work
        return book(name)

    with Crew(16) as crew:
        asked = [(key, crew.start(ask, lambda key=key: work(key), key=key)) for key in keys * 8]
        while not all(future.done() for _, future in asked):
            lost += client.dbsize()
            client.flushall()
            time.sleep(0.01)
        history = [Call(key, *told(future)) for key, future in asked]
    names = list(Booking.objects.values_list("name", flat=True))
    assert lost >= len(keys)
    assert violations(history, {key: names.count(key) for key in keys}) == []
    assert {call.key for call in history if call.status == 201} == set(keys)


def told(future):
    try:
        response = future.result(PATIENCE)
    except InProgress as refusal:  # the crowd is full
        return (refusal.status_code,)
    return response.status_code, response.content


def read_only(server, stack):
    """A replica: it answers, and takes no lock and no entry."""
    with redis.Redis.from_url(stack.url()) as main, redis.Redis.from_url(server.url()) as replica:
        replica.replicaof("127.0.0.1", stack.port)
        until(lambda: main.info("replication")["connected_slaves"] == 1)
        until(lambda: replica.info("replication")["master_link_status"] == "up")


def full(server, _):
    """Out of memory, and forbidden to forget anything."""
    with redis.Redis.from_url(server.url()) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")


@pytest.mark.parametrize("state", [read_only, full])
def test_one_that_takes_nothing_is_a_room_that_is_off(ask, bookings, server, client, state):
    """Requests are refused by it at once; it is not taken for dead, for other keys may do."""
    with Redis() as main:
        state(server, main)
        before = failures()
        first = ask(book)
        for _ in range(breaker.FAILURES):
            again = ask(book)
            assert (replayed(first), replayed(again), again.content) == (False, True, first.content)
        assert failures() > before + breaker.FAILURES
        assert not list(client.scan_iter("*"))
        assert bookings() == 1
    client.replicaof("NO", "ONE")
    client.config_set("maxmemory", "0")
    ask(book, key="another")  # nothing waits for a breaker
    assert len(list(client.scan_iter("*:reply"))) == 1


def test_one_that_fills_up_meanwhile_gives_its_lock_back(ask, bookings, server, client):
    """Else every retry would stand behind it until its time-out."""

    def handler():
        full(server, None)
        return book()

    assert ask(handler).status_code == 201
    assert not list(client.scan_iter("*:lock"))
    assert (replayed(ask(book)), bookings()) == (True, 1)


def test_refusals_of_one_that_is_back_close_the_breaker(ask, server, monkeypatch):
    """It may take nothing, and yet it answers at once: that is no time-out to be spared."""
    monkeypatch.setattr(breaker, "PAUSE", 0.0)
    found = server_behind(cache.backend()).breaker
    for _ in range(breaker.FAILURES):
        found.failed()
    full(server, None)
    ask(book)
    monkeypatch.setattr(breaker, "PAUSE", 60.0)
    found.failed()  # where it is closed, one failure does not open it
    assert found.allows()


@pytest.mark.vendors("postgresql", "mysql")
def test_a_breaker_that_is_open_here_and_closed_there(ask, bookings, client, slow_book):
    """The first runs without a lock; a second, that has the lock, is told by the ledger, keeps
    the lock and publishes what it finds."""
    handler, entered, leave = slow_book
    found = server_behind(cache.backend())
    for _ in range(breaker.FAILURES):
        found.breaker.failed()
    with Crew() as crew:
        first = crew.start(ask, handler)
        assert entered.wait(PATIENCE)
        assert not list(client.scan_iter("*"))
        found.breaker.succeeded()
        second = crew.start(ask, book)
        until(lambda: len(list(client.scan_iter("*:lock"))) == 1)
        leave.set()
        assert second.result(PATIENCE).content == first.result(PATIENCE).content
    assert len(list(client.scan_iter("*:reply"))) == 1
    assert not list(client.scan_iter("*:lock"))
    assert bookings() == 1
