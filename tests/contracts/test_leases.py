"""Leases on whichever vendor the run has chosen: the claim, the fence, and the heartbeat."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.db.backends.signals import connection_created
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idempotency import settlement
from idempotency.exceptions import LeaseLost
from idempotency.fingerprint import Fingerprint
from idempotency.heartbeat import BEATS, Heartbeat
from idempotency.layers import leases, ledger, steps
from idempotency.layers.steps import FinishedStep
from idempotency.models import IdempotencyRecord, State, Step
from idempotency.outcomes import Abandoned, Claimed, Finished, InFlight
from tests.concurrent import PATIENCE, Crew, elsewhere, open_transaction, until
from tests.contracts.test_ledger import FINGERPRINT, REPLY, candidate, claim, plant
from tests.leased import Stopped, expire, lease_end, row, sweep

pytestmark = pytest.mark.django_db(transaction=True)
servers = pytest.mark.vendors("postgresql", "mysql")

LEASE = 60.0
OTHER = Fingerprint(b"x" * 16, b"y" * 16)


def leased(key="k", **changes):
    return candidate(key, **{"lease": LEASE} | changes)


def taken(asked=None):
    """A claim that has committed with its lease."""
    claimed = claim(asked or leased())
    assert isinstance(claimed, Claimed)
    return claimed


def take_over(left, asked=None):
    with transaction.atomic():
        return ledger.take_over(asked or leased(), left, using="default")


def finish(claimed, asked=None):
    with transaction.atomic():
        return ledger.finish(claimed, asked or leased(), REPLY, using="default")


def leave(claimed, state, kept=3600.0):
    return leases.leave(claimed, state, kept, using="default")


# The claim


@servers
def test_a_lease_is_counted_by_the_database_clock(monkeypatch):
    """Whatever the app host's clock says."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    taken()
    with connection.cursor() as cursor:
        now = {"postgresql": "now()", "mysql": "utc_timestamp(6)"}[connection.vendor]
        cursor.execute(f"SELECT {now}")
        moment = cursor.fetchone()[0].replace(tzinfo=None)
    record = IdempotencyRecord.objects.get()
    left = record.lease_until.replace(tzinfo=None) - moment
    assert timedelta(seconds=LEASE - 5) < left <= timedelta(seconds=LEASE)
    assert (record.state, record.purge_at, record.holds) == (State.RUNNING, None, False)


@servers
def test_while_it_lasts_the_key_is_in_flight_and_tells_its_request():
    taken()
    assert claim(leased(fingerprint=OTHER)) == InFlight(fingerprint=FINGERPRINT)
    assert claim(candidate()) == InFlight(fingerprint=FINGERPRINT)


@servers
@pytest.mark.parametrize("holds", [False, True])
def test_once_it_is_over_the_key_is_abandoned(holds):
    claimed = taken(leased(holds=holds))
    expire()
    assert claim(leased()) == Abandoned(claimed.record_id, claimed.attempt, FINGERPRINT, held=holds)


@servers
@pytest.mark.parametrize("state", [State.ABANDONED, State.UNKNOWN])
def test_what_was_left_is_not_free(state):
    claimed = taken()
    leave(claimed, state)
    held = state == State.UNKNOWN
    verdict = claim(leased(fingerprint=OTHER))
    assert verdict == Abandoned(claimed.record_id, claimed.attempt + 1, FINGERPRINT, held=held)


@servers
@pytest.mark.parametrize("asked", [leased(fingerprint=OTHER), candidate(fingerprint=OTHER)])
def test_what_was_released_is_free_for_any_request(asked):
    """Under the next token, with a lease or without."""
    claimed = taken()
    leave(claimed, State.RELEASED)
    assert claim(asked) == Claimed(claimed.record_id, claimed.attempt + 2)
    record = IdempotencyRecord.objects.get()
    assert bytes(record.fingerprint) == bytes(OTHER)
    assert (record.lease_until is None, record.purge_at is None) == (
        asked.lease is None,
        asked.lease is not None,
    )


@servers
def test_a_finish_ends_the_lease_and_sets_the_purge():
    asked = leased()
    finish(taken(asked), asked)
    record = IdempotencyRecord.objects.get()
    assert (record.state, record.lease_until) == (State.FINISHED, None)
    assert record.purge_at - record.expires_at == pytest.approx(
        timedelta(seconds=asked.tombstone), abs=timedelta(milliseconds=5)
    )
    assert isinstance(claim(asked), Finished)


# Taking over


@servers
def test_of_many_who_take_over_one_does():
    taken()
    expire()
    left = claim()
    with Crew(8) as crew:
        got = [future.result() for future in [crew.start(take_over, left) for _ in range(24)]]
    assert [one for one in got if one] == [Claimed(left.record_id, left.attempt + 1)]


@servers
@pytest.mark.parametrize(
    "since",
    [
        {"attempt": 2},
        {"lease_until": timezone.now() + timedelta(hours=1)},
        {"state": State.FINISHED},
        {"state": State.UNKNOWN},
        {"holds": True},
    ],
    ids=["taken over", "renewed", "finished", "held", "holding"],
)
def test_nothing_is_taken_over_that_has_changed_since_the_look(since):
    taken()
    expire()
    left = claim()
    IdempotencyRecord.objects.update(**since)
    before = row()
    assert take_over(left) is None
    assert row() == before


@servers
def test_nobody_waits_for_a_zombie_that_is_just_finishing():
    """Its row is locked until it commits, which a suspended process may never do."""
    claimed = taken()
    expire()
    left = claim()
    finishing = open_transaction(lambda: ledger.finish(claimed, leased(), REPLY, using="default"))
    with Crew(1) as crew, finishing:
        assert crew.start(take_over, left).result(PATIENCE / 4) is None
    assert isinstance(claim(), Finished)


@servers
def test_who_takes_over_without_a_lease_leaves_none():
    """The policy was changed to atomic meanwhile."""
    taken()
    expire()
    take_over(claim(), candidate())
    record = IdempotencyRecord.objects.get()
    assert (record.attempt, record.lease_until) == (2, None)
    assert record.purge_at > timezone.now()


@servers
@pytest.mark.parametrize(("forgotten", "kept"), [(False, 1), (True, 0)])
def test_steps_are_forgotten_with_their_key_and_not_before(forgotten, kept):
    claimed = taken()
    steps.add(claimed, 0, FinishedStep("first", "1"), using="default")
    leave(claimed, State.ABANDONED)
    if forgotten:
        past = timezone.now() - timedelta(seconds=1)
        IdempotencyRecord.objects.update(purge_at=past)
        taken(leased(fingerprint=OTHER))
    else:
        assert take_over(claim()) is not None
    assert Step.objects.count() == kept


# The fence

#: What an owner does under its claim; a false value or LeaseLost says that it is none any more.
DEEDS: dict[str, Callable[[Claimed], object]] = {
    "renew": lambda mine: leases.renew(mine, LEASE, using="default"),
    "take": lambda mine: leases.take(mine, LEASE, using="default"),
    "release": lambda mine: leave(mine, State.RELEASED),
    "abandon": lambda mine: leave(mine, State.ABANDONED),
    "hold": lambda mine: leave(mine, State.UNKNOWN),
    "finish": finish,
}
deeds = pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)


@servers
@deeds
@pytest.mark.parametrize("state", [State.RUNNING, State.JOB])
def test_an_owner_may_do_what_it_likes_even_past_its_lease(deed, state):
    """Only who takes over ends it: a clock that ran out has nobody to protect yet."""
    claimed = taken()
    IdempotencyRecord.objects.update(state=state)
    expire()
    assert deed(claimed)


@servers
@deeds
@pytest.mark.parametrize(
    "theft",
    [{"attempt": 2}] + [{"state": s} for s in State if s not in leases.UNSETTLED],
    ids=lambda theft: str(next(iter(theft.values()))),
)
def test_a_zombie_changes_nothing(deed, theft):
    """The token has moved on, or, whatever the token, somebody has settled it."""
    claimed = taken()
    IdempotencyRecord.objects.update(**theft)
    before = row()
    with suppress(LeaseLost):
        assert not deed(claimed)
    assert row() == before


@servers
def test_leaving_keeps_the_row_for_its_token_and_raises_it():
    claimed = taken()
    assert leave(claimed, State.RELEASED, kept=100.0)
    record = IdempotencyRecord.objects.get()
    assert (record.state, record.attempt, record.lease_until) == (State.RELEASED, 2, None)
    assert record.purge_at - timezone.now() == pytest.approx(
        timedelta(seconds=100), abs=timedelta(seconds=5)
    )


@servers
def test_an_unknown_outcome_is_kept_until_it_is_settled():
    leave(taken(), State.UNKNOWN, kept=0.0)
    assert IdempotencyRecord.objects.get().purge_at is None


def _forget(claimed):
    finish(claimed)
    IdempotencyRecord.objects.update(purge_at=timezone.now() - timedelta(seconds=1))


def _settle(claimed):
    leave(claimed, State.UNKNOWN)
    assert settlement.it_never_happened(*_whose(claimed))


def _sweep(claimed):
    expire()
    assert sweep().abandoned == 1


def _whose(claimed):
    return IdempotencyRecord.objects.values_list("scope", "key").get(pk=claimed.record_id)


ENDINGS: dict[str, Callable[[Claimed], object]] = {
    "released": lambda claimed: leave(claimed, State.RELEASED),
    "abandoned": lambda claimed: leave(claimed, State.ABANDONED),
    "expired": lambda claimed: expire(),
    "swept": _sweep,
    "settled": _settle,
    "forgotten": _forget,
}


@servers
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(endings=st.lists(st.sampled_from(sorted(ENDINGS)), min_size=1, max_size=8))
def test_the_token_never_goes_backwards(db, endings):
    IdempotencyRecord.objects.all().delete()
    token = 0
    for ending in [*endings, "released"]:
        verdict = claim(leased())
        claimed = take_over(verdict) if isinstance(verdict, Abandoned) else verdict
        assert isinstance(claimed, Claimed)
        assert claimed.attempt > token
        token = claimed.attempt
        ENDINGS[ending](claimed)


# What the sweep finds


def due(limit=10):
    with transaction.atomic():
        return leases.due(limit, using="default")


@servers
@pytest.mark.parametrize("state", State)
def test_overdue_is_what_is_unsettled_and_past_its_lease(state):
    past = timezone.now() - timedelta(seconds=1)
    record = plant(state=state, lease_until=past, purge_at=None, holds=True)
    plant(key="alive", state=state, lease_until=timezone.now() + timedelta(hours=1), purge_at=None)
    plant(key="unleased", state=state, lease_until=None)
    expected = [
        leases.Overdue(
            Claimed(record.pk, 3), state == State.JOB, holds=True, operation="app.View.create"
        )
    ]
    assert due() == (expected if state in leases.UNSETTLED else [])


@servers
def test_two_sweeps_at_once_find_different_rows():
    keys = ["a", "b", "c"]
    for key in keys:
        taken(leased(key))
    expire()
    sweep = open_transaction(lambda: leases.due(2, using="default"))
    with Crew(1) as crew, sweep as theirs:
        ours = crew.start(due).result(PATIENCE / 4)
    assert (len(theirs), len(ours)) == (2, 1)
    assert {row.claimed for row in theirs}.isdisjoint(row.claimed for row in ours)


@pytest.mark.vendors("sqlite")
def test_there_are_no_leases_on_sqlite():
    with pytest.raises(ImproperlyConfigured, match=r"'default' is SQLite.*execution=\"atomic\""):
        leases.check_vendor("default")


# The heartbeat


class Beats:
    """What heartbeat threads do: their connections, and the statements on them."""

    def __init__(self):
        self.connections = []
        self.statements = []
        self.moments = []

    def watch(self, sender, connection, **kwargs):
        if threading.current_thread().name == "idempotency-lease":
            self.connections.append(connection)
            connection.execute_wrappers.append(self._note)

    def _note(self, execute, sql, *rest):
        started = time.monotonic()
        try:
            return execute(sql, *rest)
        finally:
            self.statements.append(sql)
            self.moments.append(started)


@pytest.fixture
def beats():
    beats = Beats()
    connection_created.connect(beats.watch)
    yield beats
    connection_created.disconnect(beats.watch)


def beating(claimed, lease=1.0):
    renew = partial(leases.renew, claimed, lease, using="default")
    return Heartbeat(renew, lease, using="default")


def terminate(wrapper):
    """Have the server end somebody's connection."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            backend = wrapper.connection.info.backend_pid
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
        else:
            cursor.execute(f"KILL CONNECTION {wrapper.connection.thread_id()}")


@servers
def test_a_lease_is_kept_over_several_of_its_lengths(beats):
    claimed = taken(leased(lease=1.0))
    first = lease_end()
    with beating(claimed) as heartbeat:
        until(lambda: lease_end() - first > timedelta(seconds=2))
        assert not heartbeat.lost
    assert len(beats.statements) >= 2 * BEATS


@servers
def test_a_renewal_is_one_statement_each_third_of_the_lease(beats):
    claimed, started = taken(), time.monotonic()
    with beating(claimed, lease=1.0):
        until(lambda: len(beats.statements) == 4)
    assert all(sql.startswith("UPDATE") for sql in beats.statements)
    for number, moment in enumerate(beats.moments, start=1):
        assert moment - started >= number / BEATS
    assert len(beats.connections) == 1


@servers
def test_it_has_a_connection_of_its_own_beside_an_open_transaction(beats):
    claimed = taken()
    expire()
    with transaction.atomic(), beating(claimed):
        assert IdempotencyRecord.objects.filter(lease_until__lte=timezone.now()).exists()
        until(lambda: beats.statements)
        assert isinstance(elsewhere(claim), InFlight)
    assert connection not in beats.connections


@servers
@pytest.mark.parametrize("ending", [None, ValueError, Stopped])
def test_thread_and_connection_end_with_the_block(beats, ending):
    with suppress(ValueError, Stopped), beating(taken()):
        until(lambda: beats.statements)
        if ending:
            raise ending
    assert [t for t in threading.enumerate() if t.name == "idempotency-lease"] == []
    assert [wrapper.connection for wrapper in beats.connections] == [None]


@servers
def test_a_block_that_ends_at_once_opens_no_connection(beats):
    with beating(taken()):
        pass
    assert beats.connections == []


@servers
@pytest.mark.parametrize("state", [State.RELEASED, State.ABANDONED, State.UNKNOWN])
def test_a_lost_lease_is_seen_and_not_asked_for_again(beats, state):
    claimed = taken()
    with beating(claimed) as heartbeat:
        leave(claimed, state)
        before = row()
        until(lambda: heartbeat.lost)
        until(lambda: beats.connections[0].connection is None)
    assert len(beats.statements) == 1
    assert row() == before


@servers
def test_it_survives_a_renewal_that_fails(beats, caplog):
    claimed = taken(leased(lease=1.0))
    with beating(claimed) as heartbeat:
        until(lambda: beats.statements)
        terminate(beats.connections[0])
        first = lease_end()
        until(lambda: lease_end() > first)
        assert not heartbeat.lost
    assert len(beats.connections) == 2
    assert "idempotency heartbeat failed: OperationalError" in caplog.messages
