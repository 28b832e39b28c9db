"""Events: one report, three sinks, and none of them can harm a request."""

import logging
import threading
from collections.abc import Callable, Iterator

import pytest
from django.db import connection
from django.urls import path
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency import events
from idempotency.events import Event, recorded
from idempotency.models import IdempotencyRecord
from idempotency.outcomes import Identity
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.http.asking import Caller, assert_same_reply


class Bookings(IdempotencyMixin, APIView):
    idempotency_operation = "bookings.book"

    def post(self, request):
        if request.data.get("fail"):
            raise RuntimeError("asked for")
        return Response({"id": Booking.objects.create(name="one").pk}, status=201)


urlpatterns = [path("bookings/", Bookings.as_view())]
pytestmark = pytest.mark.urls(__name__)

KEY = "a-key-that-must-stay-private"


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    """What the signal's receivers are told."""
    told: list[Event] = []

    def listen(sender, event, **kwargs):
        assert sender is Event
        told.append(event)

    recorded.connect(listen)
    yield told
    recorded.disconnect(listen)


@pytest.fixture
def counted() -> Callable[[str], int]:
    """How often a name was counted since the test began."""
    before = events.counts()
    return lambda name: events.counts().get(name, 0) - before.get(name, 0)


# The function


def test_an_event_is_counted_by_name_and_by_detail(counted):
    events.record(Event(events.REPLAYED, "bookings.book", "cache"))
    events.record(Event(events.REPLAYED, "bookings.book", "ledger"))
    events.record(Event(events.EXECUTED, "bookings.book"))
    assert counted("replayed") == 2
    assert counted("replayed.cache") == counted("replayed.ledger") == 1
    assert counted("executed") == 1
    assert "executed." not in events.counts()


def test_counts_are_a_copy():
    events.counts().clear()
    events.record(Event(events.EXECUTED))
    assert events.counts()["executed"] >= 1


def test_counting_is_exact_between_threads(counted):
    def many() -> None:
        for _ in range(2000):
            events.record(Event("counted_in_threads", detail="d"))

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted("counted_in_threads") == counted("counted_in_threads.d") == 8000


def test_the_signal_carries_the_event(heard):
    event = Event(events.REFUSED, "bookings.book", "idempotency_in_progress", "ab" * 16, 0.25)
    events.record(event)
    assert heard == [event]


@pytest.mark.parametrize(
    ("name", "level"),
    [
        (events.EXECUTED, logging.INFO),
        (events.REPLAYED, logging.INFO),
        (events.REFUSED, logging.INFO),
        (events.CONSTRAINT_CAUGHT, logging.WARNING),
        (events.ROLLED_BACK, logging.WARNING),
        (events.CACHE_UNAVAILABLE, logging.WARNING),
        (events.LEASE_LOST, logging.ERROR),
    ],
)
def test_the_log_says_it_at_the_level_of_its_weight(caplog, name, level):
    """What an operator must look at stands out; the fields are there for structured logs."""
    caplog.set_level(logging.INFO, "idempotency")
    events.record(Event(name, "bookings.book", "why", "ab" * 16, 0.25))
    (line,) = caplog.records
    assert (line.name, line.levelno) == ("idempotency", level)
    assert line.getMessage() == f"idempotency {name} bookings.book why"
    extra = {
        name.removeprefix("idempotency_"): value
        for name, value in vars(line).items()
        if name.startswith("idempotency_")
    }
    assert extra == {
        "event": name,
        "operation": "bookings.book",
        "detail": "why",
        "digest": "ab" * 16,
        "duration": 0.25,
    }


def test_nothing_is_formatted_for_a_log_that_nobody_reads(caplog):
    caplog.set_level(logging.ERROR, "idempotency")
    events.record(Event(events.EXECUTED))
    assert caplog.records == []


def test_a_receiver_that_raises_does_no_harm(heard, counted):
    def broken(**kwargs):
        raise RuntimeError("receiver")

    recorded.connect(broken)
    try:
        events.record(Event(events.EXECUTED))
    finally:
        recorded.disconnect(broken)
    assert len(heard) == counted("executed") == 1


# Through a request


@pytest.mark.django_db(transaction=True)
def test_a_requests_story_is_told(redis_db, heard, counted):
    """First, replay, mismatch, failure: each with its operation, reason, digest and duration."""
    api = Caller()
    api.ask("/bookings/", key=KEY)
    api.ask("/bookings/", key=KEY)
    api.ask("/bookings/", {"other": 1}, key=KEY)
    api.ask("/bookings/", {"fail": 1}, key="another")
    assert [(event.name, event.detail) for event in heard] == [
        ("executed", ""),
        ("replayed", "cache"),
        ("refused", "idempotency_key_reused"),
        ("failed", "RuntimeError"),
    ]
    assert {event.operation for event in heard} == {"bookings.book"}
    digest = Identity("anon/bookings.book", KEY).digest
    assert [event.digest == digest for event in heard] == [True, True, True, False]
    assert all(0 < event.duration < 60 for event in heard)
    for name in ("executed", "replayed.cache", "refused.idempotency_key_reused", "failed"):
        assert counted(name) == 1


@pytest.mark.django_db(transaction=True)
def test_the_ledger_catching_what_redis_missed_is_told_once(redis_db, heard):
    """A warning: cache and lock both let a duplicate through."""
    api = Caller()
    api.ask("/bookings/", key=KEY)
    redis_db.flushdb()
    api.ask("/bookings/", key=KEY)
    assert [(event.name, event.detail) for event in heard] == [
        ("executed", ""),
        ("constraint_caught", ""),
        ("replayed", "ledger"),
    ]


@pytest.mark.django_db(transaction=True)
def test_an_execution_is_told_when_its_transaction_has_ended(redis_db):
    """A receiver that looks sees the finished record, and may ask the database."""
    seen = []

    def look(sender, event, **kwargs):
        seen.append((IdempotencyRecord.objects.get().state, connection.in_atomic_block))

    recorded.connect(look)
    try:
        Caller().ask("/bookings/", key=KEY)
    finally:
        recorded.disconnect(look)
    assert seen == [("finished", False)]


@pytest.mark.django_db(transaction=True)
def test_a_raising_receiver_changes_no_reply(redis_db):
    def broken(**kwargs):
        raise RuntimeError("receiver")

    recorded.connect(broken)
    try:
        api = Caller()
        assert_same_reply(api.ask("/bookings/", key=KEY), api.ask("/bookings/", key=KEY))
    finally:
        recorded.disconnect(broken)


@pytest.mark.django_db(transaction=True)
def test_no_log_and_no_name_in_redis_shows_a_key_a_scope_or_a_body(redis_db, caplog):
    """Digests stand for them, whatever happens to the request."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("django.db.backends").setLevel(logging.INFO)  # SQL has its parameters
    api = Caller()
    for body in ({"a": "private-body"}, {"a": "private-body"}, {"a": 2}, {"fail": 1}):
        api.ask("/bookings/", body, key=KEY, scope="private-scope")
    api.ask("/bookings/", key=f"{KEY} malformed", scope="private-scope")
    names = b"\n".join(redis_db.keys("*")).decode()
    ours = [line for line in caplog.records if line.name.startswith("idempotency")]
    assert len(ours) == 5
    assert names
    for private in (KEY, "private-scope", "private-body", "anon/"):
        assert private not in names
        assert not any(private in str(vars(line)) for line in ours)


@pytest.mark.django_db
def test_a_refused_key_is_told_without_the_key(redis_db, heard):
    Caller().ask("/bookings/", key="not valid")
    assert heard == [Event("refused", "bookings.book", "idempotency_key_invalid")]
