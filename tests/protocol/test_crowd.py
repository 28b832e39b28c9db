"""Duplicates that meet the first one while it runs."""

from threading import Event
from uuid import uuid4

import pytest
from django.http import HttpResponse

from idempotency import crowd, exceptions
from idempotency.models import IdempotencyRecord
from tests.app.models import Booking
from tests.concurrent import PATIENCE, Crew, until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("rooms")]


class Handler:
    """One effect; it ends when it is told to, so that duplicates can meet it."""

    def __init__(self, error=None):
        self.entered, self.leave = Event(), Event()
        self._error = error

    def __call__(self):
        booking = Booking.objects.create(name="Ada")
        self.entered.set()
        assert self.leave.wait(PATIENCE)
        if self._error:
            raise self._error
        return HttpResponse(f"{booking.pk}", status=201)


@pytest.fixture
def crew():
    with Crew(12) as crew:
        yield crew


@pytest.mark.vendors("postgresql", "mysql")
def test_duplicates_wait_for_the_reply(ask, crew, bookings):
    handler = Handler()
    first = crew.start(ask, handler)
    assert handler.entered.wait(PATIENCE)
    duplicates = [crew.start(ask, handler) for _ in range(4)]
    assert not any(duplicate.done() for duplicate in duplicates)
    handler.leave.set()
    replies = [future.result(PATIENCE) for future in [first, *duplicates]]
    assert len({reply.content for reply in replies}) == bookings() == 1
    assert sum("Idempotent-Replayed" in reply for reply in replies) == 4


@pytest.mark.vendors("postgresql", "mysql")
def test_reject_answers_at_once(ask, crew, bookings):
    handler = Handler()
    first = crew.start(ask, handler)
    assert handler.entered.wait(PATIENCE)
    with pytest.raises(exceptions.InProgress) as refused:
        ask(handler, in_flight="reject")
    assert refused.value.wait == 1
    handler.leave.set()
    first.result(PATIENCE)
    assert bookings() == 1


@pytest.mark.vendors("postgresql", "mysql")
def test_a_wait_ends_with_its_time(ask, crew):
    handler = Handler()
    first = crew.start(ask, handler)
    assert handler.entered.wait(PATIENCE)
    with pytest.raises(exceptions.InProgress):
        ask(handler, wait_timeout=0.3)
    handler.leave.set()
    first.result(PATIENCE)


@pytest.mark.vendors("postgresql", "mysql")
def test_a_full_crowd_is_refused_at_once_and_makes_room_again(ask, crew, settings, bookings):
    settings.IDEMPOTENCY_MAX_WAITERS = 2
    handler = Handler()
    first = crew.start(ask, handler)
    assert handler.entered.wait(PATIENCE)
    others = [crew.start(ask, handler, wait_timeout=PATIENCE) for _ in range(6)]
    refused = [f for f in others if isinstance(wait_for_refusal(f, others), exceptions.InProgress)]
    assert len(refused) == 4
    handler.leave.set()
    assert {f.result(PATIENCE).status_code for f in {first, *others} - set(refused)} == {201}
    assert bookings() == 1
    assert ask(handler).status_code == 201  # the places were given back


def wait_for_refusal(future, others):
    """The refusal of this request, once as many were refused as cannot fit."""
    until(lambda: sum(other.done() for other in others) == 4)
    return future.exception() if future.done() else None


@pytest.mark.vendors("postgresql", "mysql")
def test_when_the_first_one_fails_a_waiter_runs(ask, crew, bookings):
    failing = Handler(error=ValueError("no"))
    first = crew.start(ask, failing)
    assert failing.entered.wait(PATIENCE)
    second = Handler()
    second.leave.set()
    duplicates = [crew.start(ask, second) for _ in range(3)]
    failing.leave.set()
    with pytest.raises(ValueError, match="no"):
        first.result(PATIENCE)
    replies = [duplicate.result(PATIENCE) for duplicate in duplicates]
    assert len({reply.content for reply in replies}) == bookings() == 1


@pytest.mark.vendors("postgresql", "mysql")
def test_a_mismatch_known_from_the_lock_outranks_in_progress(ask, crew, rooms):
    handler = Handler()
    first = crew.start(ask, handler)
    assert handler.entered.wait(PATIENCE)
    expected = exceptions.KeyReused if rooms == "redis" else exceptions.InProgress
    with pytest.raises(expected):
        ask(handler, body={"name": "Eve"}, wait_timeout=0.3)
    handler.leave.set()
    first.result(PATIENCE)
    with pytest.raises(exceptions.KeyReused):
        ask(handler, body={"name": "Eve"})


@pytest.mark.vendors("postgresql", "mysql")
def test_other_keys_pass_a_waiting_crowd(ask, crew, bookings):
    handler, quick = Handler(), Handler()
    quick.leave.set()
    first = crew.start(ask, handler)
    assert handler.entered.wait(PATIENCE)
    waiting = [crew.start(ask, handler) for _ in range(4)]
    assert ask(quick, key=uuid4().hex).status_code == 201
    assert not any(future.done() for future in [first, *waiting])
    handler.leave.set()
    for future in [first, *waiting]:
        future.result(PATIENCE)


@pytest.mark.vendors("postgresql", "mysql")
def test_a_waiter_that_runs_gives_its_place_back(ask, crew):
    """Who inherits a failed leader's key does not wait any more."""
    failing, heir = Handler(error=ValueError("no")), Handler()
    first = crew.start(ask, failing)
    assert failing.entered.wait(PATIENCE)
    inheriting = crew.start(ask, heir)
    until(lambda: crowd._places._taken == 1)
    failing.leave.set()
    with pytest.raises(ValueError, match="no"):
        first.result(PATIENCE)
    assert heir.entered.wait(PATIENCE)
    assert crowd._places._taken == 0
    heir.leave.set()
    assert inheriting.result(PATIENCE).status_code == 201


def test_of_a_storm_on_one_key_one_runs(ask, crew, bookings):
    handler = Handler()
    handler.leave.set()

    def attempt():
        try:
            return ask(handler).content
        except (exceptions.InProgress, exceptions.Unavailable) as refusal:
            return type(refusal)

    endings = {future.result(PATIENCE) for future in [crew.start(attempt) for _ in range(30)]}
    contents = {ending for ending in endings if isinstance(ending, bytes)}
    assert len(contents) == bookings() == IdempotencyRecord.objects.count() == 1


@pytest.mark.vendors("sqlite")
def test_a_locked_database_is_unavailable_and_asks_for_a_retry(ask, crew, bookings):
    """SQLite knows one writer; past its own patience the answer is 503, never a second run."""
    handler = Handler()
    first = crew.start(ask, handler)
    assert handler.entered.wait(PATIENCE)
    with pytest.raises((exceptions.Unavailable, exceptions.InProgress)) as refused:
        crew.start(ask, handler, wait_timeout=0.2).result(PATIENCE)
    assert refused.value.wait == 1
    handler.leave.set()
    first.result(PATIENCE)
    assert bookings() == 1
