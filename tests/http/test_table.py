"""The HTTP table of the contract, row by row."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from django.utils import timezone
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.layers import lock
from idempotency.models import IdempotencyRecord
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.concurrent import PATIENCE, Crew
from tests.http.asking import (
    BookingSerializer,
    Caller,
    assert_refused,
    assert_same_reply,
    assert_untouched,
    replayed,
)


class Gate:
    """Where a handler stands still until it is let through."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE)


class Bookings(IdempotencyMixin, APIView):
    #: Called after the effect, inside the transaction.
    inside: Callable[[], None] | None = None

    def post(self, request, **kwargs):
        serializer = BookingSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        serializer.save()
        if Bookings.inside is not None:
            Bookings.inside()
        return Response(serializer.data, status=201, headers={"Location": "/bookings/1/"})


class Large(IdempotencyMixin, APIView):
    def post(self, request):
        Booking.objects.create(name="large")
        return HttpResponse(b"x" * 2000, status=201)


class Streaming(IdempotencyMixin, APIView):
    def post(self, request):
        Booking.objects.create(name="streamed")
        return StreamingHttpResponse([b"a", b"b"])


urlpatterns = [
    path("bookings/", Bookings.as_view()),
    path("bookings/<int:pk>/", Bookings.as_view()),
    path("required/", Bookings.as_view(idempotency_policy=Policy(required=True))),
    path("uuid/", Bookings.as_view(idempotency_policy=Policy(key_format="uuid"))),
    path("lenient/", Bookings.as_view(idempotency_policy=Policy(mismatch="lenient"))),
    path("lenient/<int:pk>/", Bookings.as_view(idempotency_policy=Policy(mismatch="lenient"))),
    path("reject/", Bookings.as_view(idempotency_policy=Policy(in_flight="reject"))),
    path("hurried/", Bookings.as_view(idempotency_policy=Policy(wait_timeout=0.05))),
    path("large/", Large.as_view()),
    path("streaming/", Streaming.as_view()),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]
committed = pytest.mark.django_db(transaction=True)

ONE = {"name": "one", "seats": 1}
TWO = {"name": "two", "seats": 1}


@contextmanager
def in_flight(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[tuple[Gate, Future[Any]]]:
    """A first request of ONE that stands in its handler; it is let through at the end."""
    gate = Gate()
    monkeypatch.setattr(Bookings, "inside", staticmethod(gate))
    with Crew(1) as crew:
        first = crew.start(Caller().ask, url, ONE)
        try:
            assert gate.reached.wait(PATIENCE)
            yield gate, first
        finally:
            gate.opened.set()


# Replays


@pytest.mark.parametrize("emptied", [False, True], ids=["cache", "ledger"])
@committed
def test_a_duplicate_gets_the_stored_reply(redis_db, api, happened, emptied):
    """Same status, bytes and headers, from the cache, and from the ledger where it is empty."""
    first = api.ask("/bookings/", ONE)
    if emptied:
        redis_db.flushdb()
    again = api.ask("/bookings/", ONE)
    assert first.status_code == 201
    assert_same_reply(first, again)
    assert again["Location"] == first["Location"] == "/bookings/1/"
    assert Booking.objects.count() == 1
    assert happened.named("replayed") == ["ledger" if emptied else "cache"]


@committed
def test_what_the_ledger_answered_is_answered_by_the_cache_from_then_on(redis_db, api, happened):
    api.ask("/bookings/", ONE)
    redis_db.flushdb()
    api.ask("/bookings/", ONE)
    api.ask("/bookings/", ONE)
    assert happened.named("replayed") == ["ledger", "cache"]


@committed
def test_without_redis_the_processs_own_memory_replays(api, happened, settings):
    """Django's default cache, where a project has set none."""
    backend = "django.core.cache.backends.locmem.LocMemCache"
    settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": "own-memory"}}
    assert_same_reply(api.ask("/bookings/", ONE), api.ask("/bookings/", ONE))
    assert happened.named("replayed") == ["cache"]


def test_the_replay_header_may_be_named_by_a_setting(redis_db, api, settings):
    settings.IDEMPOTENCY_REPLAYED_HEADER = "X-Replayed"
    api.ask("/bookings/", ONE)
    again = api.ask("/bookings/", ONE)
    assert again["X-Replayed"] == "true"
    assert not replayed(again)


def test_without_a_key_every_request_runs(redis_db, api):
    """No record either: nothing could ever be asked about it."""
    assert [api.ask("/bookings/", ONE, key=None).status_code for _ in range(2)] == [201, 201]
    assert Booking.objects.count() == 2
    assert_untouched(redis_db)


# In flight


@committed
def test_a_duplicate_in_flight_waits_for_the_reply(redis_db, api, happened, monkeypatch):
    """The first is let through only when the duplicate has begun to wait."""
    with in_flight(monkeypatch, "/bookings/") as (gate, first):
        wait = lock.wait

        def let_through(*args, **kwargs):
            gate.opened.set()
            return wait(*args, **kwargs)

        monkeypatch.setattr(lock, "wait", let_through)
        again = api.ask("/bookings/", ONE)
    assert_same_reply(first.result(), again)
    assert Booking.objects.count() == 1
    assert len(happened.named("waited")) == 1


@pytest.mark.parametrize(
    ("url", "waiters"),
    [("/reject/", 4), ("/hurried/", 4), ("/bookings/", 0)],
    ids=["rejected", "wait over", "too many waiters"],
)
@committed
def test_a_duplicate_in_flight_is_told_to_come_back(
    redis_db, api, happened, monkeypatch, settings, url, waiters
):
    settings.IDEMPOTENCY_MAX_WAITERS = waiters
    with in_flight(monkeypatch, url) as (_, first):
        refused = api.ask(url, ONE)
    assert_refused(refused, 409, "idempotency_in_progress", retry_after=True)
    assert happened.named("refused") == ["idempotency_in_progress"]
    assert_same_reply(first.result(), api.ask(url, ONE))
    assert Booking.objects.count() == 1


@committed
def test_a_mismatch_outranks_in_progress(redis_db, api, monkeypatch):
    """The lock's token tells what the first request was, before the ledger can."""
    with in_flight(monkeypatch, "/reject/"):
        refused = api.ask("/reject/", TWO)
    assert_refused(refused, 409, "idempotency_key_reused")


@committed
def test_in_flight_without_redis_is_known_from_the_ledger(redis_db, api, monkeypatch, settings):
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    with in_flight(monkeypatch, "/reject/") as (_, first):
        refused = api.ask("/reject/", ONE)
    assert_refused(refused, 409, "idempotency_in_progress", retry_after=True)
    assert_same_reply(first.result(), api.ask("/reject/", ONE))


@committed
def test_other_keys_do_not_wait_for_a_running_one(redis_db, api, monkeypatch):
    """One global lock name would hold up everybody."""
    with in_flight(monkeypatch, "/reject/"):
        monkeypatch.setattr(Bookings, "inside", None)
        assert api.ask("/reject/", ONE, key="k-2").status_code == 201


# Mismatches


@pytest.mark.parametrize("status", [409, 422])
def test_another_payload_is_refused_and_names_what_differs(redis_db, api, settings, status):
    """Fields that changed, went and came; the names only."""
    settings.IDEMPOTENCY_MISMATCH_STATUS = status
    api.ask("/bookings/", {"name": "one", "seats": 1, "gone": "secret", "same": 0})
    refused = api.ask("/bookings/", {"name": "two", "seats": 1, "came": "secret", "same": 0})
    assert_refused(refused, status, "idempotency_key_reused")
    assert refused.json()["mismatched_fields"] == ["came", "gone", "name"]
    assert b"secret" not in refused.content
    assert Booking.objects.count() == 1


@committed
def test_the_mismatch_is_found_in_the_cache_too(redis_db, api):
    """Whatever room answers, the fingerprint is checked."""
    api.ask("/bookings/", ONE)
    assert_refused(api.ask("/bookings/", TWO), 409, "idempotency_key_reused")


def test_a_refused_mismatch_leaves_the_stored_reply_alone(redis_db, api):
    first = api.ask("/bookings/", ONE)
    api.ask("/bookings/", TWO)
    assert_same_reply(first, api.ask("/bookings/", ONE))


def test_lenient_replays_for_another_body(redis_db, api):
    assert_same_reply(api.ask("/lenient/", ONE), api.ask("/lenient/", TWO))
    assert Booking.objects.count() == 1


@pytest.mark.parametrize("url", ["/bookings/", "/lenient/"], ids=["strict", "lenient"])
@pytest.mark.parametrize("other", ["1/", "?page=2"], ids=["path", "query"])
def test_another_route_is_refused_in_every_mode(redis_db, api, url, other):
    """The same key and operation; the fields are equal, so none is named."""
    api.ask(url, ONE)
    refused = api.ask(url + other, ONE)
    assert_refused(refused, 409, "idempotency_key_reused")
    assert not refused.json().get("mismatched_fields")
    assert Booking.objects.count() == 1


# Keys that are refused


@pytest.mark.parametrize("by", ["policy", "setting"])
def test_a_missing_key_is_refused_where_it_is_required(redis_db, api, happened, settings, by):
    if by == "setting":
        settings.IDEMPOTENCY_REQUIRED = True
    url = "/required/" if by == "policy" else "/bookings/"
    assert_refused(api.ask(url, ONE, key=None), 400, "idempotency_key_required")
    assert not Booking.objects.exists()
    assert happened.named("refused") == ["idempotency_key_required"]


def test_a_malformed_key_is_refused(redis_db, api, happened):
    assert_refused(api.ask("/bookings/", ONE, key="a b"), 400, "idempotency_key_invalid")
    assert_untouched(redis_db)
    assert happened.named("refused") == ["idempotency_key_invalid"]


def test_a_key_of_another_format_is_refused(redis_db, api):
    assert_refused(api.ask("/uuid/", ONE, key="k-1"), 400, "idempotency_key_invalid")
    assert_untouched(redis_db)


# Retention


def age(**moments: timedelta) -> None:
    """Move the record's moments relative to now."""
    now = timezone.now()
    IdempotencyRecord.objects.update(**{name: now + delta for name, delta in moments.items()})


PAST, FUTURE = timedelta(minutes=-1), timedelta(hours=1)


def test_a_late_retry_is_refused_and_never_looks_new(redis_db, api):
    """The replay window is over, the tombstone still there; another payload hears the same."""
    api.ask("/bookings/", ONE)
    age(expires_at=PAST, purge_at=FUTURE)
    assert_refused(api.ask("/bookings/", ONE), 409, "idempotency_key_expired")
    assert_refused(api.ask("/bookings/", TWO), 409, "idempotency_key_expired")
    assert Booking.objects.count() == 1


@committed
def test_a_forgotten_key_is_new(redis_db, api):
    """Past `purge_at`, purged or not; the fencing token goes on rising."""
    api.ask("/bookings/", ONE)
    redis_db.flushdb()
    age(expires_at=PAST, purge_at=PAST)
    taken_over = api.ask("/bookings/", TWO)
    assert (taken_over.status_code, taken_over.json()["name"]) == (201, "two")
    assert_same_reply(taken_over, api.ask("/bookings/", TWO))
    assert IdempotencyRecord.objects.get().attempt == 2


def test_the_windows_come_from_the_policy_or_the_settings(redis_db, api, settings):
    """Counted from the finish: `ttl` to the end of replays, `tombstone` from there on."""
    settings.IDEMPOTENCY_TTL = timedelta(hours=2)
    settings.IDEMPOTENCY_TOMBSTONE = timedelta(hours=3)
    api.ask("/bookings/", ONE)
    record = IdempotencyRecord.objects.get()
    assert record.expires_at - record.completed_at == timedelta(hours=2)
    assert record.purge_at - record.completed_at >= timedelta(hours=5)


# Large replies


@pytest.mark.parametrize("emptied", [False, True], ids=["cache", "ledger"])
@committed
def test_a_reply_that_is_too_large_is_given_once_and_not_kept(redis_db, api, settings, emptied):
    """The work stands and the key is used: the duplicate hears so, and runs nothing."""
    settings.IDEMPOTENCY_MAX_BODY = 1000
    first = api.ask("/large/")
    if emptied:
        redis_db.flushdb()
    assert (first.status_code, len(first.content)) == (201, 2000)
    assert_refused(api.ask("/large/"), 409, "idempotency_reply_not_kept")
    assert Booking.objects.count() == 1


def test_a_reply_of_the_largest_size_is_kept(redis_db, api, settings):
    """The limit counts body and headers together."""
    api.ask("/large/", key="k-0")
    headers = json.loads(IdempotencyRecord.objects.get().headers)
    size = 2000 + sum(len(name) + len(value) for name, value in headers)
    settings.IDEMPOTENCY_MAX_BODY = size
    assert_same_reply(api.ask("/large/", key="k-1"), api.ask("/large/", key="k-1"))
    settings.IDEMPOTENCY_MAX_BODY = size - 1
    api.ask("/large/", key="k-2")
    assert api.ask("/large/", key="k-2").json()["code"] == "idempotency_reply_not_kept"


# Out of reach


@committed
def test_a_ledger_out_of_reach_is_a_503(redis_db, api, happened, monkeypatch, closed_port):
    """The handler never runs unprotected; the key is free when the database is back."""
    monkeypatch.setitem(connection.settings_dict, "PORT", closed_port)
    connection.close()
    refused = api.ask("/bookings/", ONE)
    monkeypatch.undo()
    connection.close()
    assert_refused(refused, 503, "idempotency_unavailable", retry_after=True)
    assert happened.named("refused") == ["idempotency_unavailable"]
    assert_untouched(redis_db)
    assert api.ask("/bookings/", ONE).status_code == 201


@committed
def test_a_replay_from_the_cache_needs_no_ledger(redis_db, api, monkeypatch, closed_port):
    first = api.ask("/bookings/", ONE)
    monkeypatch.setitem(connection.settings_dict, "PORT", closed_port)
    connection.close()
    again = api.ask("/bookings/", ONE)
    monkeypatch.undo()
    connection.close()
    assert_same_reply(first, again)


@committed
def test_a_connection_lost_in_the_handler_is_an_unknown_outcome(redis_db, api, monkeypatch):
    """503; nothing is published, and the retry asks the ledger."""

    def lose() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(Bookings, "inside", staticmethod(lose))
    refused = api.ask("/bookings/", ONE)
    monkeypatch.setattr(Bookings, "inside", None)
    connection.close()
    assert_refused(refused, 503, "idempotency_unavailable", retry_after=True)
    assert_untouched(redis_db)
    assert not replayed(api.ask("/bookings/", ONE))
    assert Booking.objects.count() == 1


@committed
def test_authentication_that_cannot_reach_the_ledger_is_a_503_under_a_key(
    redis_db, api, monkeypatch, closed_port
):
    """The client is told to come back with its key, rather than left with a bare 500."""

    def ask_the_database(self, request):
        Booking.objects.exists()

    monkeypatch.setattr(Bookings, "perform_authentication", ask_the_database)
    monkeypatch.setitem(connection.settings_dict, "PORT", closed_port)
    connection.close()
    refused = api.ask("/bookings/", ONE)
    bare = api.ask("/bookings/", ONE, key=None)
    monkeypatch.undo()
    connection.close()
    assert_refused(refused, 503, "idempotency_unavailable", retry_after=True)
    assert bare.status_code == 500


# Configuration errors


@committed
def test_a_streaming_reply_under_a_key_is_a_configuration_error(redis_db, api, happened):
    """500, nothing committed, the key free; never half stored."""
    response = api.ask("/streaming/")
    assert response.status_code == 500
    assert not Booking.objects.exists()
    assert happened.named("failed") == ["ImproperlyConfigured"]
    assert_untouched(redis_db)


def test_a_streaming_reply_without_a_key_is_the_views_own(redis_db, api):
    response = api.ask("/streaming/", key=None)
    assert b"".join(response.streaming_content) == b"ab"
    assert Booking.objects.count() == 1
