"""Counting: in memory on the way, in the database soon after, from every kind of process."""

import os
import signal
import threading
import time
from datetime import timedelta

import pytest
from django.core import mail
from django.db import OperationalError, connection
from django.db.models import Sum
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.utils import timezone
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency import counting, events
from idempotency.events import Event
from idempotency.figures import gather
from idempotency.figures.traffic import Caught, Named
from idempotency.layers import counters
from idempotency.layers.retention import purge
from idempotency.models import HourlyCount, IdempotencyRecord, Job
from idempotency.outcomes import Identity
from idempotency.views import IdempotencyMixin
from tests.concurrent import until
from tests.frame.test_worker import gone
from tests.http.asking import Caller
from tests.served.site import served
from tests.worked import worker

NOW = 500_000 * 3600.0


class Bookings(IdempotencyMixin, APIView):
    idempotency_operation = "bookings.book"

    def post(self, request):
        return Response({"n": 1}, status=201)


urlpatterns = [path("bookings/", Bookings.as_view())]
pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]


@pytest.fixture
def counted(monkeypatch):
    """As in a process that serves; what it counts is added when the test says so."""
    monkeypatch.delattr(mail, "outbox")
    monkeypatch.setattr(counting, "EVERY", 3600.0)
    tally = counting._Tally()
    monkeypatch.setattr(counting, "_tally", tally)
    yield
    if tally._timer is not None:
        tally._timer.cancel()


def rows():
    found = HourlyCount.objects.order_by("hour", "operation", "event", "detail")
    return [tuple(row) for row in found.values_list("operation", "event", "detail", "count")]


def total(event):
    return HourlyCount.objects.filter(event=event).aggregate(n=Sum("count"))["n"] or 0


def test_what_happened_is_added_by_hour_operation_event_and_detail(counted, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOW + 3599)
    for detail in ("cache", "ledger", "cache"):
        counting.count(Event(events.REPLAYED, "bookings.book", detail, duration=0.25))
    monkeypatch.setattr(time, "time", lambda: NOW + 3600)
    counting.count(Event(events.REPLAYED, "bookings.book", "cache", duration=0.25))
    counting.flush()
    assert rows() == [
        ("bookings.book", "replayed", "cache", 2),
        ("bookings.book", "replayed", "ledger", 1),
        ("bookings.book", "replayed", "cache", 1),
    ]
    first, *_, last = HourlyCount.objects.order_by("hour", "detail")
    assert first.seconds == 0.5
    assert last.hour - first.hour == timedelta(hours=1)
    assert first.hour.timestamp() == NOW


def test_additions_add_up(counted):
    for _ in range(2):
        counting.count(Event(events.EXECUTED, "bookings.book"))
        counting.flush()
    assert rows() == [("bookings.book", "executed", "", 2)]


def test_it_is_one_statement_and_none_where_nothing_happened(counted):
    for number in range(50):
        counting.count(Event(events.EXECUTED, f"operation-{number}"))
    with CaptureQueriesContext(connection) as captured:
        counting.flush()
        counting.flush()
    assert len(captured) == 1
    assert HourlyCount.objects.count() == 50


def test_what_could_not_be_added_is_kept(counted, monkeypatch):
    def away(counts):
        raise OperationalError("gone")

    counting.count(Event(events.EXECUTED, "bookings.book", duration=1.0))
    with monkeypatch.context() as broken:
        broken.setattr(counters, "add", away)
        with pytest.raises(OperationalError):
            counting.flush()
    counting.count(Event(events.EXECUTED, "bookings.book", duration=1.0))
    counting.flush()
    assert HourlyCount.objects.values_list("count", "seconds").get() == (2, 2.0)


def test_where_no_thread_can_start_the_next_event_tries_again(counted, monkeypatch):
    def exhausted(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as broken:
        broken.setattr(threading.Thread, "start", exhausted)
        with pytest.raises(RuntimeError, match="thread"):
            counting.count(Event(events.EXECUTED))
    counting.count(Event(events.EXECUTED))
    assert counting._tally._timer.is_alive()
    counting.flush()
    assert total(events.EXECUTED) == 2


def test_kinds_are_bounded_and_none_is_lost(counted, monkeypatch):
    monkeypatch.setattr(counting, "MAX_KINDS", 3)
    for number in range(10):
        counting.count(Event(events.EXECUTED, f"operation-{number}", f"detail-{number}"))
    counting.flush()
    assert len(rows()) == 4
    assert ("", "executed", "", 7) in rows()
    assert total("executed") == 10


def test_details_of_any_kind_fit(counted):
    counting.count(Event(events.FAILED, "bookings.book", "Fehlerä" * 50))
    counting.flush()
    ((_, _, detail, _),) = rows()
    assert len(detail) == 64


def test_details_that_are_cut_to_the_same_are_one_row(counted):
    for end in ("a", "b", "b"):
        counting.count(Event(events.FAILED, "bookings.book", "X" * 64 + end, duration=1.0))
    counting.flush()
    assert HourlyCount.objects.values_list("count", "seconds").get() == (3, 3.0)


def test_counting_is_exact_between_threads(counted):
    def many():
        for _ in range(500):
            counting.count(Event(events.EXECUTED, "bookings.book"))

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counting.flush()
    assert total("executed") == 4000


def test_nothing_is_counted_in_djangos_test_environment():
    """A project's tests are not to write into its tables by a thread, or at the very end."""
    counting.count(Event(events.EXECUTED, "bookings.book"))
    counting.flush()
    assert rows() == []


def test_requests_and_their_replays_are_counted(counted, redis_db):
    api = Caller()
    for _ in range(3):
        assert api.ask("/bookings/").status_code == 201
    with CaptureQueriesContext(connection) as captured:
        counting.flush()
    assert sum("hourly_count" in query["sql"] for query in captured) == 1
    assert ("bookings.book", "executed", "", 1) in rows()
    assert ("bookings.book", "replayed", "ledger", 2) in rows()
    assert IdempotencyRecord.objects.get().replays == 2


def test_the_figures_tell_what_requests_did(counted, redis_db):
    """The names that requests report are those that the figures know."""
    api = Caller()
    for body in ({"n": 1}, {"n": 1}, {"n": 1}, {"n": 2}):
        api.ask("/bookings/", body)
    counting.flush()
    figures = gather(1)
    assert figures.traffic.executed == 1
    assert figures.traffic.caught == Caught(ledger=2)
    assert figures.traffic.refusals == (Named("idempotency_key_reused", 1),)
    (operation,) = figures.traffic.operations
    assert (operation.name, operation.executed, operation.caught) == ("bookings.book", 1, 2)
    assert operation.mean_seconds > 0
    assert figures.newest.scopes[0].replays == 2


def test_a_record_that_is_gone_counts_no_replays(counted, redis_db):
    api = Caller()
    api.ask("/bookings/")
    api.ask("/bookings/")
    IdempotencyRecord.objects.all().delete()
    counting.flush()
    assert total("replayed") == 1


def test_records_are_bounded(counted, monkeypatch):
    monkeypatch.setattr(counting, "MAX_RECORDS", 2)
    for number in range(5):
        counting.replayed(Identity("user:1/bookings.book", f"key-{number}"))
    assert len(counting._tally._replays) == 2


def test_the_purge_forgets_old_counts():
    for days in (0, counters.KEPT_DAYS - 1, counters.KEPT_DAYS + 1):
        HourlyCount.objects.create(
            hour=timezone.now() - timedelta(days=days), event="executed", count=1, seconds=0.0
        )
    purge(dry_run=True)
    assert HourlyCount.objects.count() == 3
    purge()
    assert HourlyCount.objects.count() == 2


def test_old_counts_go_in_batches(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(counters, "BATCH_SIZE", 2)
    long_ago = timezone.now() - timedelta(days=counters.KEPT_DAYS + 1)
    for number in range(5):
        HourlyCount.objects.create(
            hour=long_ago - timedelta(hours=number), event="executed", count=1, seconds=0.0
        )
    with django_assert_num_queries(3 * 2 + 1):
        assert counters.purge() == 5
    assert not HourlyCount.objects.exists()


# In real processes


@pytest.mark.django_db(transaction=True)
@pytest.mark.vendors("postgresql", "mysql")
class TestProcesses:
    @pytest.mark.parametrize(
        "arguments",
        [(), ("--preload",), ("--max-requests", "7")],
        ids=["threads", "preloaded", "recycled"],
    )
    def test_of_gunicorn(self, tmp_path, redis_db, arguments):
        """Whichever process has served them, and whether it lives or has ended by now."""
        with served(tmp_path, *arguments) as site:
            # One after the other: a crowd on a busy machine may be told to come again.
            for _ in range(2):
                asked = [site.begin("/bookings/", key=f"k-{n}", name=f"k-{n}") for n in range(20)]
                assert {future.result(30).status_code for future in asked} == {201}
        assert total("executed") == 20
        assert total("replayed") == 20

    def test_that_go_on_add_it_soon(self, tmp_path, redis_db):
        with served(tmp_path) as site:
            site.post("/bookings/")
            until(lambda: total("executed") == 1)

    def test_of_celery(self, tmp_path, redis_db, broker):
        with served(tmp_path) as site:
            for number in range(3):
                site.post("/jobs/", key=f"k-{number}", task="book")
        with worker(tmp_path / "worker.log") as celery:
            until(lambda: set(Job.objects.values_list("status", flat=True)) == {"succeeded"})
            os.kill(celery.pid, signal.SIGTERM)
            until(lambda: gone(celery.pid))
        assert [total(name) for name in ("job_queued", "job_started", "job_ended")] == [3, 3, 3]
