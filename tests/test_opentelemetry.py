"""The OpenTelemetry sink: what the current span is told, by a real SDK."""

import pytest
from django.urls import path
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency import events
from idempotency.contrib import opentelemetry as sink
from idempotency.events import Event
from idempotency.models import IdempotencyRecord
from idempotency.outcomes import Identity
from idempotency.views import IdempotencyMixin
from tests.http.asking import Caller

KEY = "a-key-that-must-stay-private"


class Bookings(IdempotencyMixin, APIView):
    idempotency_operation = "bookings.book"

    def post(self, request):
        return Response({"n": 1}, status=201)


urlpatterns = [path("bookings/", Bookings.as_view())]
pytestmark = pytest.mark.urls(__name__)


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider.get_tracer(__name__)
    provider.shutdown()


def told(span):
    return [(event.name, dict(event.attributes)) for event in span.events]


@pytest.mark.django_db
def test_a_request_is_told_on_its_span(redis_db, tracer, exporter):
    """By its outcome, and never by its key, nor by who has sent it."""
    for _ in range(2):
        with tracer.start_as_current_span("POST"):
            assert Caller().ask("/bookings/", key=KEY).status_code == 201
    record = IdempotencyRecord.objects.get()
    digest = Identity(record.scope, record.key).digest
    both = {"idempotency.operation": "bookings.book", "idempotency.key_digest": digest}
    first, second = exporter.get_finished_spans()
    assert told(first) == [("idempotency.executed", both)]
    assert dict(first.attributes) == both | {"idempotency.event": "executed"}
    ledger = both | {"idempotency.detail": "ledger"}
    assert told(second)[-1] == ("idempotency.replayed", ledger)
    assert dict(second.attributes) == ledger | {"idempotency.event": "replayed"}
    for span in (first, second):
        assert KEY not in span.to_json()
        assert record.scope not in span.to_json()


def test_the_span_keeps_what_it_came_to(tracer, exporter):
    """What happens on the way, or after it, is an event of the span and no more."""
    with tracer.start_as_current_span("POST"):
        events.record(Event(events.WAITED, "bookings.book", digest="ab"))
        events.record(Event(events.REPLAYED, "bookings.book", "cache", "ab"))
        events.record(Event(events.CACHE_UNAVAILABLE, detail="TimeoutError"))
    (span,) = exporter.get_finished_spans()
    assert [name for name, _ in told(span)] == [
        "idempotency.waited",
        "idempotency.replayed",
        "idempotency.cache_unavailable",
    ]
    assert dict(span.attributes) == {
        "idempotency.event": "replayed",
        "idempotency.operation": "bookings.book",
        "idempotency.detail": "cache",
        "idempotency.key_digest": "ab",
    }


@pytest.mark.parametrize("name", sorted(events.OUTCOMES))
def test_every_outcome_is_on_the_span(tracer, exporter, name):
    with tracer.start_as_current_span("POST"):
        events.record(Event(name, "bookings.book"))
    (span,) = exporter.get_finished_spans()
    assert span.attributes["idempotency.event"] == name


def test_a_span_that_records_nothing_is_left_alone(monkeypatch):
    """Nor is anything made ready for it."""

    class Untouchable(trace.NonRecordingSpan):
        def add_event(self, *args, **kwargs):
            raise AssertionError

        set_attributes = add_event

    quiet = TracerProvider(sampler=ALWAYS_OFF).get_tracer(__name__)
    with quiet.start_as_current_span("POST") as span:
        assert not span.is_recording()
        sink.annotate(Event(events.EXECUTED))
    with trace.use_span(Untouchable(trace.INVALID_SPAN_CONTEXT)):
        sink.annotate(Event(events.EXECUTED))
    sink.annotate(Event(events.EXECUTED))  # no span at all
