"""What an operator takes away: a reply before its time, or all that is known of a key."""

from datetime import datetime

import pytest
from django.db import transaction
from django.http import HttpResponse

from idempotency import events, exceptions, settlement
from idempotency.keys import current_key
from idempotency.models import IdempotencyRecord
from tests.app.models import Booking
from tests.factories import RecordFactory

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("rooms")]

#: Rooms in which a cache may still have a reply that was dropped.
UNSURE = ("raising", "local")
DISCARDING = [settlement.expire, settlement.forget]


def book():
    return HttpResponse(f"{Booking.objects.create(name=current_key()).pk}", status=201)


@pytest.fixture
def finished(ask):
    """The record of a request that has its reply, in whatever cache there is."""
    ask(book)
    return IdempotencyRecord.objects.get()


def test_what_has_expired_is_refused_on_every_path(ask, finished, bookings):
    assert settlement.expire(finished.scope, finished.key)
    with pytest.raises(exceptions.KeyExpired):
        ask(book)
    left = IdempotencyRecord.objects.get()
    assert (left.attempt, left.body, left.headers) == (finished.attempt + 1, None, "")
    assert left.purge_at == finished.purge_at
    assert bookings() == 1


def test_what_is_forgotten_runs_anew(ask, finished, bookings):
    assert settlement.forget(finished.scope, finished.key)
    assert ask(book).status_code == 201
    assert bookings() == 2


@pytest.mark.parametrize("verdict", DISCARDING)
def test_whoever_decides_is_told_until_when_a_cache_may_serve_the_reply(finished, rooms, verdict):
    told: list[datetime] = []
    assert verdict(finished.scope, finished.key, on_stale=told.append)
    assert told == ([finished.expires_at] if rooms in UNSURE else [])


def test_a_reply_that_is_over_anyway_is_nothing_to_be_told():
    told: list[datetime] = []
    tombstone = RecordFactory.create(tombstone=True)
    assert settlement.forget(tombstone.scope, tombstone.key, on_stale=told.append)
    assert told == []


@pytest.mark.parametrize("verdict", DISCARDING)
def test_a_verdict_that_is_rolled_back_has_done_and_told_nothing(ask, finished, verdict):
    """A cache that forgot too early would be filled again by whoever reads the ledger."""
    told: list[datetime] = []
    before = events.counts().get(events.SETTLED, 0)
    with transaction.atomic():
        assert verdict(finished.scope, finished.key, on_stale=told.append)
        transaction.set_rollback(True)
    assert told == []
    assert events.counts().get(events.SETTLED, 0) == before
    assert ask(book)["Idempotent-Replayed"] == "true"
