"""The Prometheus sink: its metrics, their labels, and what several processes add up to."""

import re
import threading
from collections import defaultdict
from typing import Any

import pytest
import requests
from django.db import OperationalError, connection, connections
from django.urls import path
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency import events, exceptions
from idempotency.contrib import prometheus
from idempotency.events import Event
from idempotency.jobs import step
from idempotency.models import HourlyCount, IdempotencyRecord, Job, Step
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.concurrent import PATIENCE, Crew, until
from tests.factories import RecordFactory
from tests.http.asking import Caller
from tests.served.site import kill, served


class Bookings(IdempotencyMixin, APIView):
    idempotency_operation = "bookings.book"
    hold = threading.Event()
    running = threading.Event()

    def post(self, request):
        if request.data.get("hold"):
            Bookings.running.set()
            assert Bookings.hold.wait(20)
        if request.data.get("fail"):
            raise RuntimeError("asked for")
        return Response({"n": Booking.objects.create(name="one").pk}, status=201)


class Stepped(IdempotencyMixin, APIView):
    idempotency_operation = "bookings.steps"
    idempotency_policy = Policy(execution="leased")

    def post(self, request):
        step("one", int)
        return Response({"in_flight": samples()[IN_FLIGHT]})


IN_FLIGHT = ("idempotency_in_flight", (("operation", "bookings.steps"),))
urlpatterns = [path("bookings/", Bookings.as_view()), path("steps/", Stepped.as_view())]
pytestmark = pytest.mark.urls(__name__)


class Change:
    """How much a sample has grown since this was made."""

    def __init__(self):
        self._before = samples()

    def __call__(self, name, **labels):
        key = (name, tuple(sorted(labels.items())))
        return samples()[key] - self._before[key]


#: What this process counts; asks no database, as its own registry does for the tables.
COUNTED = CollectorRegistry()
for metric in (prometheus._total, prometheus._seconds, prometheus._in_flight):
    COUNTED.register(metric)


def samples(text=None):
    text = generate_latest(COUNTED).decode() if text is None else text
    found: defaultdict[Any, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if family.name.startswith("idempotency_"):
                found[sample.name, tuple(sorted(sample.labels.items()))] += sample.value
    return found


def events_of(change, event, detail="", operation="bookings.book"):
    return change("idempotency_events_total", operation=operation, event=event, detail=detail)


@pytest.fixture
def forgotten(monkeypatch):
    """A sink that has met no operation yet."""
    monkeypatch.setattr(prometheus, "_operations", set())
    monkeypatch.setattr(prometheus, "_known", {})


# What is counted


@pytest.mark.django_db
def test_requests_are_counted_and_timed_by_what_came_of_them(redis_db):
    change, api = Change(), Caller()
    api.ask("/bookings/", {})
    api.ask("/bookings/", {})
    api.ask("/bookings/", {"other": 1})
    api.ask("/bookings/", {"fail": 1}, key="k-2")
    assert events_of(change, "executed") == 1
    assert events_of(change, "replayed", "ledger") == 1
    assert events_of(change, "refused", "idempotency_key_reused") == 1
    assert events_of(change, "failed", "exception") == 1
    for outcome in ("executed", "replayed", "refused", "failed"):
        labels = {"operation": "bookings.book", "outcome": outcome}
        assert change("idempotency_duration_seconds_count", **labels) == 1
        assert 0 < change("idempotency_duration_seconds_sum", **labels) < 5
        assert change("idempotency_duration_seconds_bucket", le="30.0", **labels) == 1


@pytest.mark.django_db(transaction=True)
def test_executions_are_in_flight_while_they_run(redis_db):
    change = Change()
    Bookings.hold.clear()
    Bookings.running.clear()
    with Crew(1) as crew:
        asked = crew.start(Caller().ask, "/bookings/", {"hold": 1})
        assert Bookings.running.wait(20)
        try:
            assert change("idempotency_in_flight", operation="bookings.book") == 1
        finally:
            Bookings.hold.set()
        assert asked.result(20).status_code == 201
    Caller().ask("/bookings/", {"fail": 1}, key="k-2")
    assert change("idempotency_in_flight", operation="bookings.book") == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.vendors("postgresql", "mysql")
def test_leases_are_in_flight_too(redis_db):
    change = Change()
    answer = Caller().ask("/steps/", {})
    assert answer.json() == {"in_flight": 1.0}
    assert change("idempotency_in_flight", operation="bookings.steps") == 0
    assert events_of(change, "step_done", operation="bookings.steps") == 1


# Labels


@pytest.mark.vendors("postgresql", "mysql")
def test_names_and_labels_are_those_that_are_documented(db):
    """In the module's docstring, and there are no others."""
    rows = re.findall(r"^(idempotency_\w+) +\w+ +(.+?)  ", prometheus.__doc__, re.MULTILINE)
    documented = {name: set(labels.split(", ")) for name, labels in rows}
    assert len(documented) == 5
    events.record(Event(events.EXECUTED, "bookings.book", duration=1.0))
    prometheus.follow("bookings.book", 0)
    with connection.cursor() as cursor:
        cursor.execute(
            "ANALYZE" if connection.vendor == "postgresql" else "ANALYZE TABLE idempotency_record"
        )
    prometheus.storage._next_look = 0.0
    emitted: dict[str, set[str]] = {}
    for name, labels in samples(generate_latest(REGISTRY).decode()):
        base = re.sub(r"_(bucket|sum|count|created)$", "", name)
        emitted.setdefault(base, set()).update(dict(labels).keys() - {"le"})
    emitted.pop("idempotency_events", None)  # its `_created`
    assert emitted == documented


def test_every_event_and_refusal_is_known():
    told = {
        value
        for name, value in vars(events).items()
        if name.isupper() and isinstance(value, str) and not name.endswith("_FINGERPRINT")
    }
    assert set(prometheus.DETAILS) == told
    codes = {kind.default_code for kind in exceptions.IdempotencyError.__subclasses__()}
    ours = {code for code in codes if code.startswith("idempotency_")}
    assert ours <= prometheus.DETAILS[events.REFUSED] <= prometheus.DETAILS[events.OBSERVED]


@pytest.mark.parametrize(
    ("event", "detail", "label"),
    [
        (events.FAILED, "RuntimeError", "exception"),
        (events.FAILED, "503", "5xx"),
        (events.ROLLED_BACK, "201", "2xx"),
        (events.CACHE_UNAVAILABLE, "TimeoutError", "TimeoutError"),
        (events.CACHE_UNAVAILABLE, "ReadOnlyError", "exception"),
        (events.REPLAYED, "somewhere", "other"),
        (events.REFUSED, "idempotency_own", "other"),
        (events.JOB_ENDED, "succeeded", "succeeded"),
        (events.EXECUTED, "", ""),
    ],
)
def test_details_are_folded(event, detail, label):
    change = Change()
    events.record(Event(event, "bookings.book", detail, "ab" * 16))
    assert events_of(change, event, label) == 1


def test_what_took_no_time_is_not_timed():
    """A key is refused before anybody looks at it: a zero would only hide the others."""
    change = Change()
    events.record(Event(events.REFUSED, "bookings.book", "idempotency_key_invalid"))
    assert events_of(change, "refused", "idempotency_key_invalid") == 1
    labels = {"operation": "bookings.book", "outcome": "refused"}
    assert change("idempotency_duration_seconds_count", **labels) == 0


def test_an_event_of_somebody_elses_is_another():
    change = Change()
    events.record(Event("made-up", "bookings.book", "with a detail"))
    assert events_of(change, "other", "other") == 1


def test_operations_are_bounded_and_none_is_lost(forgotten, monkeypatch):
    monkeypatch.setattr(prometheus, "MAX_OPERATIONS", 3)
    change = Change()
    for number in range(9):
        prometheus.count(Event(events.EXECUTED, f"bounded-{number}", duration=1.0))
        prometheus.follow(f"bounded-{number}", 1)
        prometheus.follow(f"bounded-{number}", -1)
    names = {dict(labels).get("operation") for _, labels in samples()}
    assert {name for name in names if name and name.startswith("bounded-")} == {
        "bounded-0",
        "bounded-1",
        "bounded-2",
    }
    assert events_of(change, "executed", operation="other") == 6
    assert len(prometheus._known) == 3
    assert change("idempotency_in_flight", operation="other") == 0


def test_a_sink_that_fails_fails_nobody(forgotten, monkeypatch, caplog):
    """As where the folder of several processes' metrics is gone."""

    def gone(*labels):
        raise FileNotFoundError("metrics")

    monkeypatch.setattr(prometheus._total, "labels", gone)
    events.record(Event(events.EXECUTED, "bookings.book"))
    assert "FileNotFoundError" in caplog.text


# The tables


@pytest.fixture
def collector(monkeypatch):
    return prometheus.StorageCollector()


def tables(collector):
    registry = CollectorRegistry()
    registry.register(collector)
    return samples(generate_latest(registry).decode())


def of(found, name, table):
    return found[name, (("database", "default"), ("table", table))]


@pytest.mark.django_db
@pytest.mark.vendors("postgresql", "mysql")
def test_the_tables_are_told_by_rows_and_bytes(collector):
    RecordFactory.create_batch(200)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("ANALYZE idempotency_record")
    found = tables(collector)
    assert 150 <= of(found, "idempotency_table_rows", "idempotency_record") <= 250
    for table in (IdempotencyRecord, Job, Step, HourlyCount):
        assert of(found, "idempotency_table_bytes", table._meta.db_table) > 0


@pytest.mark.django_db
def test_they_are_asked_once_in_a_while(collector, django_assert_num_queries):
    with django_assert_num_queries(1):
        first = tables(collector)
        assert tables(collector) == first


def test_to_register_asks_no_database(collector):
    """pytest-django fails a test that does."""
    CollectorRegistry(auto_describe=True).register(collector)


@pytest.mark.django_db
def test_a_database_that_does_not_answer_costs_its_tables_only(collector, monkeypatch, caplog):
    def away(*, using):
        raise OperationalError("gone")

    monkeypatch.setattr(prometheus, "measure", away)
    assert tables(collector) == {}
    assert "OperationalError" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_scrape_in_a_thread_of_its_own_leaves_no_connection(collector):
    left = []

    def scrape():
        tables(collector)
        left.append(connections["default"].connection)

    thread = threading.Thread(target=scrape)
    thread.start()
    thread.join()
    assert left == [None]


# In real processes


def counted(site):
    return samples(site.get("/metrics/"))


def total(found, event, detail="", operation="bookings"):
    labels = {"operation": operation, "event": event, "detail": detail}
    return found["idempotency_events_total", tuple(sorted(labels.items()))]


def in_flight(found, operation="gated"):
    return found["idempotency_in_flight", (("operation", operation),)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.vendors("postgresql", "mysql")
class TestProcesses:
    @pytest.fixture
    def site(self, tmp_path, redis_db, gates):
        folder = tmp_path / "metrics"
        folder.mkdir()
        with served(
            tmp_path,
            # Preloaded: the metrics are made in the process that all others are forked from.
            *("--preload", "--config", "python:tests.served.metrics"),
            environment={"PROMETHEUS_MULTIPROC_DIR": str(folder)},
        ) as site:
            yield site

    def test_of_gunicorn_are_added_up(self, site, gates):
        """And one that is killed is in flight no more, while what it has counted stays."""
        asked = [
            site.begin("/bookings/", key=f"k-{n}", name=f"k-{n}")
            for _ in range(2)
            for n in range(20)
        ]
        assert {future.result(30).status_code for future in asked} == {201}
        found = counted(site)
        assert total(found, "executed") == 20
        assert total(found, "replayed", "cache") + total(found, "replayed", "ledger") == 20
        labels = (("operation", "bookings"), ("outcome", "executed"))
        assert found["idempotency_duration_seconds_count", labels] == 20
        assert in_flight(found, "bookings") == 0
        assert of(found, "idempotency_table_bytes", "idempotency_record") > 0

        gates.close("effects")
        lost = site.begin("/gated/", key="k-lost")
        pid = gates.reached("effects")
        assert in_flight(counted(site)) == 1
        kill(pid)
        with pytest.raises(requests.ConnectionError):
            lost.result(PATIENCE)
        until(lambda: in_flight(counted(site)) == 0)
        assert total(counted(site), "executed") == 20
