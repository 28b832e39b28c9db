"""Leased requests whose process is killed, or suspended past its lease: real signals."""

import time
from datetime import timedelta

import pytest
import requests

from idempotency import settlement
from idempotency.models import State, Step
from tests.app.models import Booking
from tests.concurrent import PATIENCE, until
from tests.leased import lease_end, record, sweep
from tests.served.site import kill, served, suspended
from tests.served.urls import LEASE
from tests.worked.clock import ahead

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.vendors("postgresql", "mysql"),
    pytest.mark.usefixtures("redis_db"),
]

#: Seconds within which a key is taken over once its lease is over: a look, and a busy machine.
MOMENT = 4


@pytest.fixture
def site(tmp_path, gates):
    with served(tmp_path) as site:
        yield site


def seats():
    return list(Booking.objects.order_by("seats").values_list("seats", flat=True))


def refusal(response):
    return response.status_code, response.json()["code"], "Retry-After" in response.headers


UNAVAILABLE = (503, "idempotency_unavailable", True)
UNKNOWN = (409, "idempotency_outcome_unknown", False)


@pytest.mark.parametrize("gate", ["before", "effects"])
def test_a_killed_process_costs_its_lease_and_a_moment(site, gates, gate):
    gates.close(gate)
    first = site.begin("/leased/")
    kill(gates.reached(gate))
    killed = time.monotonic()
    second = site.post("/leased/")
    assert time.monotonic() - killed < LEASE + MOMENT
    assert (second.status_code, second.json()["attempt"]) == (201, 2)
    assert seats() == [2]
    with pytest.raises(requests.ConnectionError):
        first.result(PATIENCE)
    assert site.post("/leased/").content == second.content


def test_a_suspended_process_changes_nothing_when_it_goes_on(site, gates):
    gates.close("effects")
    first = site.begin("/leased/")
    zombie = gates.reached("effects")
    with suspended(zombie):
        second = site.post("/leased/")
        assert (second.status_code, second.json()["attempt"]) == (201, 2)
        gates.open("effects")
    assert refusal(first.result(PATIENCE)) == UNAVAILABLE
    assert seats() == [2]
    assert (record().attempt, bytes(record().body)) == (2, second.content)
    again = site.post("/leased/")
    assert (again.status_code, again.content) == (201, second.content)
    assert again.headers["Idempotent-Replayed"] == "true"


def test_a_suspended_process_goes_on_while_another_has_its_key(site, gates):
    gates.close("effects")
    first = site.begin("/leased/")
    with suspended(gates.reached("effects")):
        gates.close("before")
        second = site.begin("/leased/")
        gates.reached("before")
        gates.open("effects")
    assert refusal(first.result(PATIENCE)) == UNAVAILABLE
    assert (seats(), second.done()) == ([], False)
    gates.open("before")
    assert second.result(PATIENCE).json()["attempt"] == 2
    assert seats() == [2]


def test_a_handler_outlives_its_lease_as_long_as_its_process_does(site, gates):
    gates.close("effects")
    first = site.begin("/leased/")
    gates.reached("effects")
    begun = lease_end()
    until(lambda: lease_end() - begun > timedelta(seconds=2 * LEASE))
    assert sweep().batches == 1
    gates.open("effects")
    assert first.result(PATIENCE).json()["attempt"] == 1
    assert site.post("/leased/").json()["attempt"] == 1
    assert seats() == [1]


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wrong_clock_of_the_app_hosts_changes_nothing(tmp_path, gates, hours):
    gates.close("effects")
    with served(tmp_path, environment=ahead(timedelta(hours=hours))) as site:
        first = site.begin("/leased/")
        pid = gates.reached("effects")
        begun = lease_end()
        until(lambda: lease_end() - begun > timedelta(seconds=LEASE))
        assert (record().attempt, first.done()) == (1, False)
        kill(pid)
        killed = time.monotonic()
        second = site.post("/leased/")
        assert time.monotonic() - killed < LEASE + MOMENT
        assert (second.status_code, second.json()["attempt"]) == (201, 2)
        assert site.post("/leased/").content == second.content
    assert seats() == [2]


def test_under_hold_a_killed_process_leaves_its_key_to_an_operator(site, gates):
    gates.close("effects")
    site.begin("/held/")
    kill(gates.reached("effects"))
    assert refusal(site.post("/held/")) == UNKNOWN
    assert sweep().held == 1
    assert refusal(site.post("/held/")) == UNKNOWN
    assert settlement.it_never_happened(record().scope, record().key)
    assert site.post("/held/").status_code == 201
    assert len(seats()) == 1


def test_under_hold_a_suspended_process_finds_its_key_settled(site, gates):
    """An operator has looked it up meanwhile, and given the reply."""
    gates.close("effects")
    first = site.begin("/held/")
    with suspended(gates.reached("effects")):
        until(lambda: sweep().held == 1)
        assert settlement.it_happened(record().scope, record().key, status=201, body={"id": 7})
        gates.open("effects")
    assert refusal(first.result(PATIENCE)) == UNAVAILABLE
    reply = site.post("/held/")
    assert (reply.status_code, reply.json()) == (201, {"id": 7})
    assert seats() == []


@pytest.mark.parametrize("gate", ["seat.2", "in.seat.2"], ids=["after a step", "in a step"])
def test_steps_of_a_killed_process_are_resumed(site, gates, gate):
    gates.close(gate)
    site.begin("/stepped/", seats=3)
    kill(gates.reached(gate))
    second = site.post("/stepped/", seats=3)
    assert (second.status_code, second.json()) == (201, {"seats": 3, "attempt": 2})
    assert seats() == [1, 2, 3]


@pytest.mark.parametrize("gate", ["seat.2", "in.seat.2"], ids=["after a step", "in a step"])
def test_steps_of_a_suspended_process_are_done_once(site, gates, gate):
    """It goes on in the middle of, or ahead of, a step that another has done by now."""
    gates.close(gate)
    first = site.begin("/stepped/", seats=3)
    with suspended(gates.reached(gate)):
        second = site.post("/stepped/", seats=3)
        assert second.json() == {"seats": 3, "attempt": 2}
        gates.open(gate)
    assert refusal(first.result(PATIENCE)) == UNAVAILABLE
    assert seats() == [1, 2, 3]
    done = 1 if gate.startswith("in") else 2
    attempts = list(Step.objects.order_by("position").values_list("attempt", flat=True))
    assert attempts == [1] * done + [2] * (3 - done)
    assert record().state == State.FINISHED


def test_a_process_is_killed_at_every_step_in_turn(site, gates):
    for seat in (1, 2, 3):
        gates.close(f"in.seat.{seat}")
    for seat in (1, 2, 3):
        site.begin("/stepped/", seats=3)
        kill(gates.reached(f"in.seat.{seat}"))
    last = site.post("/stepped/", seats=3)
    assert last.json() == {"seats": 3, "attempt": 4}
    assert seats() == [1, 2, 3]
