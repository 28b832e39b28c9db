"""Leased requests whose process died, or stood still past its lease; held and taken over keys."""

import json
import threading
import time
from threading import Event

import pytest
import requests
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError
from django.db.models import F
from django.http import Http404, HttpResponse
from rest_framework.exceptions import NotFound

from idempotency import exceptions, settlement
from idempotency.jobs import current_attempt
from idempotency.keys import child_key
from idempotency.models import IdempotencyRecord, State
from tests.app.models import Booking
from tests.concurrent import PATIENCE, Crew, elsewhere, until
from tests.leased import (
    EVE,
    HOLD,
    PaymentRequired,
    Stopped,
    book,
    dangling,
    expire,
    failing,
    lease_end,
    marked,
    record,
    rendered,
    row,
    sweep,
)
from tests.protocol.test_atomic import Counted
from tests.protocol.test_crowd import Handler
from tests.worked.card import card_network

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.vendors("postgresql", "mysql"),
    pytest.mark.usefixtures("rooms"),
]


@pytest.fixture
def crew():
    with Crew() as crew:
        yield crew


def replayed(response):
    return "Idempotent-Replayed" in response


class Zombie(Handler):
    """A handler that is suspended, then does what the test says with its stale claim."""

    def __init__(self, ending=book):
        super().__init__()
        self._ending = ending

    def __call__(self):
        super().__call__()
        return self._ending()


@pytest.fixture
def suspended(leased, crew):
    """Suspends a handler in a request of its own, past its lease; gives it and its future."""
    started = []

    def suspend(zombie, **policy):
        future = crew.start(leased, zombie, **policy)
        started.append(zombie)
        assert zombie.entered.wait(PATIENCE)
        expire()
        return future

    yield suspend
    for zombie in started:
        zombie.leave.set()


def test_the_next_request_takes_over_and_the_zombie_changes_nothing(leased, suspended, bookings):
    zombie, counted = Zombie(), Counted()
    first = suspended(zombie)
    second = leased(lambda: HttpResponse(book().content + b" %d" % current_attempt()))
    assert second.content.endswith(b" 2")
    assert not replayed(second)
    zombie.leave.set()
    with pytest.raises(exceptions.Unavailable) as refused:
        first.result(PATIENCE)
    assert refused.value.wait == 1
    assert bookings() == 1
    for _ in range(2):
        again = leased(book)
        assert (again.content, replayed(again)) == (second.content, True)
    assert (counted["taken_over"], counted["lease_lost"], counted["executed"]) == (1, 1, 1)


WAKINGS = {
    "replies": (book, {}, exceptions.Unavailable),
    "raises": (failing(ValueError("no")), {}, ValueError),
    "refuses": (failing(NotFound()), {}, NotFound),
    "is told to go": (failing(Stopped()), {}, Stopped),
    "raises what is remembered": (
        failing(PaymentRequired()),
        {"remember_errors": {402}, "on_error": rendered},
        exceptions.Unavailable,
    ),
    "holds": (failing(ValueError("no")), HOLD, ValueError),
}


@pytest.mark.parametrize(("ending", "policy", "error"), WAKINGS.values(), ids=WAKINGS)
def test_a_zombie_changes_nothing_of_a_successor_that_still_runs(
    leased, suspended, bookings, ending, policy, error
):
    """It finishes, frees and holds nothing that another has by now."""
    zombie, second = Zombie(ending), Handler()
    first = suspended(zombie, **policy)
    IdempotencyRecord.objects.update(holds=False)  # as if `hold` were new in the policy
    with Crew(1) as other:
        running = other.start(leased, second)
        assert second.entered.wait(PATIENCE)
        before = row()
        zombie.leave.set()
        with pytest.raises(error):
            first.result(PATIENCE)
        assert row() == before
        second.leave.set()
        assert running.result(PATIENCE).status_code == 201
    assert bookings() == 1


def test_a_zombie_that_returns_a_server_error_changes_nothing_either(leased, suspended, bookings):
    zombie = Zombie(lambda: HttpResponse(status=503))
    first = suspended(zombie)
    second = leased(book)
    zombie.leave.set()
    assert first.result(PATIENCE).status_code == 503
    assert leased(book).content == second.content
    assert bookings() == 1


def test_whose_lease_is_over_finishes_where_nobody_has_taken_over(leased, suspended, bookings):
    zombie = Zombie()
    first = suspended(zombie)
    zombie.leave.set()
    assert first.result(PATIENCE).status_code == 201
    assert replayed(leased(book))
    assert bookings() == 2  # the two of the zombie


def test_of_many_retries_one_takes_over(leased, suspended, crew, bookings):
    zombie, handler = Zombie(), Handler()
    first = suspended(zombie)
    handler.leave.set()
    retries = [crew.start(leased, handler, wait_timeout=PATIENCE) for _ in range(4)]
    contents = {retry.result(PATIENCE).content for retry in retries}
    zombie.leave.set()
    with pytest.raises(exceptions.Unavailable):
        first.result(PATIENCE)
    assert len(contents) == bookings() == 1


def test_another_request_does_not_take_over(leased, suspended, bookings):
    """What the first one did outside stands for its own payload only."""
    first = suspended(Zombie())
    with pytest.raises(exceptions.KeyReused):
        leased(book, body=EVE)
    sweep()
    with pytest.raises(exceptions.KeyReused):
        leased(book, body=EVE)
    assert leased(book).status_code == 201
    assert (bookings(), first.done()) == (1, False)


def test_after_a_sweep_the_zombie_is_too_late_already(leased, suspended, bookings):
    zombie = Zombie()
    first = suspended(zombie)
    assert sweep().abandoned == 1
    zombie.leave.set()
    with pytest.raises(exceptions.Unavailable):
        first.result(PATIENCE)
    assert (bookings(), record().state) == (0, State.ABANDONED)
    assert leased(book).status_code == 201
    assert bookings() == 1


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wrong_clock_of_the_app_host_changes_nothing(
    leased, suspended, crew, monkeypatch, bookings, hours
):
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + hours * 3600)
    alive = Handler()
    running = crew.start(leased, alive, key="alive")
    assert alive.entered.wait(PATIENCE)
    assert sweep().abandoned == 0
    with pytest.raises(exceptions.InProgress):
        leased(book, key="alive", in_flight="reject")
    alive.leave.set()
    content = running.result(PATIENCE).content
    assert leased(book, key="alive").content == content
    suspended(Zombie())
    assert leased(book).status_code == 201
    assert bookings() == 2


# Held


def test_hold_leaves_a_dead_owners_key_to_an_operator(leased, suspended, bookings):
    zombie, counted = Zombie(), Counted()
    first = suspended(zombie, **HOLD)
    for swept in (False, True, True):
        with pytest.raises(exceptions.OutcomeUnknown) as refused:
            leased(book, **HOLD)
        assert not hasattr(refused.value, "wait")
        with pytest.raises(exceptions.KeyReused):
            leased(book, body=EVE, **HOLD)
        assert sweep().held == (not swept)
    assert counted["outcome_unknown"] == 1
    zombie.leave.set()
    with pytest.raises(exceptions.Unavailable):
        first.result(PATIENCE)
    with pytest.raises(exceptions.OutcomeUnknown):
        leased(book, **HOLD)
    assert bookings() == 0


def test_a_policy_that_no_longer_holds_frees_nothing_that_is_held(leased, suspended, bookings):
    suspended(Zombie(), **HOLD)
    with pytest.raises(exceptions.OutcomeUnknown):
        leased(book)
    sweep()
    with pytest.raises(exceptions.OutcomeUnknown):
        leased(book)
    assert bookings() == 0


HELD = {
    "APIException": (failing(NotFound()), NotFound, False),
    "Http404": (failing(Http404()), Http404, False),
    "PermissionDenied": (failing(PermissionDenied()), PermissionDenied, False),
    "server error": (lambda: book(503), None, True),
    "ValueError": (failing(ValueError("no")), ValueError, True),
    "read time-out": (failing(requests.ReadTimeout()), requests.ReadTimeout, True),
    "child's outcome unknown": (
        failing(exceptions.Unavailable()),
        exceptions.Unavailable,
        True,
    ),
    "told to go": (failing(Stopped()), Stopped, True),
    "rolled back": (marked, None, True),
}


@pytest.mark.parametrize(("handler", "error", "unknown"), HELD.values(), ids=HELD)
def test_hold_frees_the_key_only_where_the_handler_says_no(
    leased, bookings, handler, error, unknown
):
    """Whatever else ends it: the card may have been charged when the read timed out."""
    if error is None:
        leased(handler, **HOLD)
    else:
        with pytest.raises(error):
            leased(handler, **HOLD)
    assert bookings() == 0
    if unknown:
        with pytest.raises(exceptions.OutcomeUnknown):
            leased(book, **HOLD)
        assert bookings() == 0
    else:
        assert leased(book, body=EVE, **HOLD).status_code == 201


@pytest.fixture
def card():
    with card_network() as card:
        yield card


def charging(card):
    """A handler that has the card charged under its child key, and books what it is told."""

    def charge():
        told = requests.post(
            card.url,
            headers={"Idempotency-Key": child_key("charge"), "Attempt": str(current_attempt())},
            timeout=0.2,
        )
        return HttpResponse(f"{Booking.objects.create(name='paid').pk}:{told.text}", status=201)

    return charge


def test_a_read_that_times_out_after_the_charge_is_settled_by_an_operator(leased, card, bookings):
    card.answers.clear()
    with pytest.raises(requests.ReadTimeout):
        leased(charging(card), **HOLD)
    card.answers.set()
    with pytest.raises(exceptions.OutcomeUnknown):
        leased(charging(card), **HOLD)
    left = record()
    assert settlement.it_happened(left.scope, left.key, status=201, body={"charge": 1})
    assert json.loads(leased(charging(card), **HOLD).content) == {"charge": 1}
    assert (len(card.asked), len(card.charges), bookings()) == (1, 1, 0)


def test_a_read_that_times_out_after_the_charge_is_retried_under_its_child_key(
    leased, card, bookings
):
    """The card network honours it, so the second try is told of the first one's charge."""
    card.answers.clear()
    with pytest.raises(requests.ReadTimeout):
        leased(charging(card))
    card.answers.set()
    reply = leased(charging(card))
    assert (reply.status_code, reply.content.endswith(b":1")) == (201, True)
    assert (len(card.asked), len(card.charges), bookings()) == (2, 1, 1)
    assert card.asked[0] < card.asked[1]  # the tokens that were sent along


@pytest.mark.vendors("postgresql")
def test_hold_after_a_refused_commit_is_an_unknown_outcome(leased):
    with pytest.raises(IntegrityError):
        leased(dangling, **HOLD)
    with pytest.raises(exceptions.OutcomeUnknown):
        leased(book, **HOLD)


def test_hold_keeps_a_remembered_error(leased, bookings):
    policy = HOLD | {"remember_errors": {402}, "on_error": rendered}
    assert leased(failing(PaymentRequired()), **policy).status_code == 402
    assert leased(book, **policy).status_code == 402
    assert bookings() == 0


def test_an_operator_need_not_wait_for_the_sweep(leased, suspended, bookings):
    zombie = Zombie()
    first = suspended(zombie, **HOLD)
    assert settlement.it_happened(record().scope, record().key, status=201, body="done")
    zombie.leave.set()
    with pytest.raises(exceptions.Unavailable):
        first.result(PATIENCE)
    assert leased(book, **HOLD).content == b'"done"'
    assert bookings() == 0


SETTLEMENTS = {
    "it happened": lambda it: settlement.it_happened(it.scope, it.key, status=201, body="done"),
    "it never happened": lambda it: settlement.it_never_happened(it.scope, it.key),
    "by hand": lambda it: IdempotencyRecord.objects.update(state=State.ABANDONED),
}


@pytest.mark.parametrize("settle", SETTLEMENTS.values(), ids=SETTLEMENTS)
def test_a_zombie_changes_nothing_after_a_settlement(leased, suspended, bookings, settle):
    zombie = Zombie()
    first = suspended(zombie, **HOLD)
    sweep()
    settle(record())
    before = row()
    zombie.leave.set()
    with pytest.raises(exceptions.Unavailable):
        first.result(PATIENCE)
    assert row() == before
    assert bookings() == 0


def test_the_state_alone_stops_a_zombie(leased, suspended, bookings):
    """Whoever settles a row and forgets its token is safe, too."""
    zombie = Zombie()
    first = suspended(zombie)
    IdempotencyRecord.objects.update(state=State.UNKNOWN)
    zombie.leave.set()
    with pytest.raises(exceptions.Unavailable):
        first.result(PATIENCE)
    assert (bookings(), record().state) == (0, State.UNKNOWN)


# The token


def test_the_token_rises_with_every_change_of_owner(leased, suspended):
    tokens = []

    def tell(error=None):
        tokens.append(current_attempt())
        if error:
            raise error
        return HttpResponse("done")

    def again(error=ValueError, **policy):
        with pytest.raises(error):
            leased(lambda: tell(error()), **policy)

    again()  # released
    again(NotFound)  # released by a refusal
    suspended(Zombie())  # expired, and taken over by
    again(**HOLD)  # one that ends unknown
    settlement.it_never_happened(record().scope, record().key)
    again()  # released
    leased(tell)
    assert len(tokens) == 5
    assert tokens == sorted(set(tokens))
    assert record().attempt == tokens[-1]


def test_who_lost_the_lease_is_told_when_it_asks_for_its_token(leased, bookings):
    """The heartbeat has seen it; no statement of the handler's own is needed."""

    def work_on():
        book()
        elsewhere(IdempotencyRecord.objects.update, attempt=F("attempt") + 1)
        until(lambda: not current_attempt())

    with pytest.raises(exceptions.Unavailable) as refused:
        leased(work_on, lease=1)
    assert isinstance(refused.value.__cause__, exceptions.LeaseLost)
    assert bookings() == 0


@pytest.mark.parametrize("rooms", ["off"], indirect=True)
def test_a_handler_of_several_leases_keeps_its_key(leased, crew, bookings):
    handler, started = Handler(), Event()
    first = crew.start(leased, handler, lease=1)
    assert handler.entered.wait(PATIENCE)
    begun = lease_end()
    until(lambda: (lease_end() - begun).total_seconds() > 2)
    with pytest.raises(exceptions.InProgress):
        leased(started.set, in_flight="reject")
    handler.leave.set()
    assert first.result(PATIENCE).status_code == 201
    assert (bookings(), started.is_set()) == (1, False)
    assert not [thread for thread in threading.enumerate() if thread.name == "idempotency-lease"]
