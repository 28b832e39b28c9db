"""Observing without keys, on every vendor: what the ledger makes of fingerprints."""

from uuid import uuid4

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from idempotency import events
from idempotency.layers import ledger
from idempotency.models import IdempotencyRecord
from idempotency.observing import observe_keyless
from idempotency.operation import operation_of
from idempotency.outcomes import InFlight
from idempotency.policy import Policy
from tests.app.models import Booking
from tests.concurrent import PATIENCE, Crew

pytestmark = pytest.mark.django_db(transaction=True)

#: Among more keys than these, MariaDB finds no gap that a test before has left locked.
UNIQUE = uuid4().hex


@pytest.fixture
def details():
    seen = []

    def listen(sender, event, **kwargs):
        if event.name == events.OBSERVED:
            seen.append(event.detail)

    events.recorded.connect(listen)
    yield seen
    events.recorded.disconnect(listen)


def book():
    booking = Booking.objects.create(name="Ada")
    return HttpResponse(str(booking.pk), status=201)


def ask(body):
    def operation():
        return operation_of(
            RequestFactory().post("/bookings/"),
            None,
            name="app.View.create",
            caller="user:1",
            body={"name": f"{body}-{UNIQUE}"},
            terms=Policy(mode="observe").resolve(),
            using="default",
        )

    return observe_keyless("app.View.create", book, operation, using="default")


def test_equal_requests_are_counted_and_all_run(details):
    for body in ("one", "one", "two", "one"):
        assert ask(body).status_code == 201
    assert details == [
        "executed_by_fingerprint",
        "replayed_by_fingerprint",
        "executed_by_fingerprint",
        "replayed_by_fingerprint",
    ]
    assert Booking.objects.count() == 4
    assert IdempotencyRecord.objects.count() == 2


def test_what_is_forgotten_is_new(details):
    for _ in range(2):
        ask("again")
        IdempotencyRecord.objects.update(purge_at="2020-01-01T00:00:00Z")
    assert details == ["executed_by_fingerprint"] * 2
    assert IdempotencyRecord.objects.count() == 1


@pytest.mark.parametrize("met", [2, 100])
def test_a_neighbours_lock_is_no_duplicate(details, monkeypatch, met):
    """MariaDB cannot tell it from our own; when it meets one depends on the moment."""
    claim, neighbours = ledger.claim, iter([InFlight(certain=False)] * met)
    monkeypatch.setattr(
        ledger, "claim", lambda wanted, using: next(neighbours, None) or claim(wanted, using=using)
    )
    assert ask("one").status_code == 201
    assert details == ["executed_by_fingerprint"]


@pytest.mark.vendors("postgresql", "mysql")
def test_a_crowd_of_equal_and_of_other_requests(details):
    """Of each kind one is new, and no neighbour is taken for its like."""
    bodies = [f"crowd-{number % 4}" for number in range(16)]
    with Crew(8) as crew:
        asked = [crew.start(ask, body) for body in bodies]
        assert {one.result(PATIENCE).status_code for one in asked} == {201}
    assert Booking.objects.count() == 16
    assert sorted(details) == ["executed_by_fingerprint"] * 4 + ["replayed_by_fingerprint"] * 12
