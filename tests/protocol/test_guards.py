"""Guards that stand behind others: each must hold alone, for `make mutants` removes the rest."""

import time
from functools import partial

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.http import HttpResponse

from idempotency import protocol
from idempotency.crowd import Waiter
from idempotency.exceptions import LeaseLost
from idempotency.jobs import start_job
from idempotency.layers import jobs, ledger
from idempotency.layers.retention import purge
from idempotency.models import IdempotencyRecord, Job, JobStatus, State
from idempotency.outcomes import Abandoned, Claimed, Finished, InFlight, JobEnding
from idempotency.worker import end_job
from tests.app.models import Booking
from tests.concurrent import Crew, elsewhere, open_transaction, until
from tests.contracts.test_ledger import REPLY, candidate
from tests.factories import RecordFactory, from_now
from tests.leased import sweep
from tests.worked import tasks

pytestmark = pytest.mark.django_db(transaction=True)
postgres = pytest.mark.vendors("postgresql")
servers = pytest.mark.vendors("postgresql", "mysql")


# The claim


def test_the_database_takes_no_second_record_of_a_key():
    """Whatever the claim has looked at before: this alone is never out of date."""
    kept = RecordFactory.create(scope="user:1/app.View.create", key="k")
    with pytest.raises(IntegrityError):
        RecordFactory.create(scope=kept.scope, key=kept.key)
    RecordFactory.create(scope=kept.scope, key="other")
    RecordFactory.create(scope="user:2/app.View.create", key=kept.key)


def without_waiting(function, *args):
    """The function's result in a transaction of another connection, where waiting is an error."""

    def call():
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '2s'")
            return function(*args, using="default")

    return elsewhere(call)


def claimed():
    return ledger.claim(candidate(), using="default")


def emptied():
    """As a purge does it."""
    planted().update(body=None, headers="")


def forgotten():
    """A take-over, which another one finds under way."""
    planted().update(purge_at=F("created_at"), attempt=F("attempt") + 1)


def planted():
    asked = candidate()
    return IdempotencyRecord.objects.filter(scope=asked.identity.scope, key=asked.identity.key)


@postgres
@pytest.mark.parametrize(
    ("busy", "ending"),
    [(claimed, InFlight), (emptied, Finished), (forgotten, Finished)],
    ids=["claim", "purge", "take-over"],
)
def test_a_claim_waits_for_nobody(busy, ending):
    """Not for an open claim of the same key, nor for who is writing a settled record."""
    asked = candidate()
    if ending is Finished:
        RecordFactory.create(scope=asked.identity.scope, key=asked.identity.key)
    with open_transaction(busy):
        assert isinstance(without_waiting(ledger.claim, asked), ending)


@postgres
def test_a_take_over_waits_for_nobody():
    """The zombie is just finishing: it has the row, and may still commit."""
    asked = candidate()
    row = RecordFactory.create(scope=asked.identity.scope, key=asked.identity.key, abandoned=True)
    left = Abandoned(row.pk, row.attempt, asked.fingerprint, held=False)
    with open_transaction(lambda: list(planted().select_for_update())):
        assert without_waiting(ledger.take_over, asked, left) is None
    assert without_waiting(ledger.take_over, asked, left) == Claimed(row.pk, row.attempt + 1)


@postgres
def test_a_purge_waits_for_nobody():
    """What a take-over has is left to it, and the rest is deleted at once."""
    asked = candidate()
    RecordFactory.create(scope=asked.identity.scope, key=asked.identity.key, forgotten=True)
    RecordFactory.create(forgotten=True)

    def purged():
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '2s'")
        return purge()

    with open_transaction(lambda: list(planted().select_for_update())):
        assert elsewhere(purged).deleted == 1
    assert elsewhere(purged).deleted == 1


def test_a_purge_empties_no_reply_that_is_still_replayed():
    """Where a tombstone is short, the walk comes by records that are alive."""
    RecordFactory.create(expires_at=from_now(minutes=5), purge_at=from_now(minutes=10))
    RecordFactory.create(expires_at=from_now(minutes=-5), purge_at=from_now(minutes=10))
    assert purge().emptied == 1
    assert IdempotencyRecord.objects.get(expires_at__gt=from_now()).headers


# The fence


@servers
@pytest.mark.parametrize(
    "theft",
    [{"attempt": 2}, {"state": State.FINISHED}, {"state": State.UNKNOWN}],
    ids=["attempt", "finished", "unknown"],
)
def test_the_finish_of_a_job_asks_for_token_and_state_itself(theft):
    """Although who ends a job has asked before: nothing keeps the two in one statement."""
    row = RecordFactory.create(pending=True)
    asked = candidate(row.key, row.scope, job=True, lease=60.0)
    IdempotencyRecord.objects.update(**theft)
    with pytest.raises(LeaseLost), transaction.atomic():
        ledger.finish(Claimed(row.pk, row.attempt), asked, REPLY, using="default")
    assert IdempotencyRecord.objects.get().status is None


@postgres
def test_who_ends_a_job_takes_its_record_first(ask, messages):
    """As the sweep and a cancellation do: in another order, two of them could lock each other."""
    ask(lambda: start_job(tasks.book, name="Ada"), execution="job")
    begun = jobs.begin(Job.objects.get().pk, using="default")
    with Crew(1) as crew:
        with open_transaction(lambda: list(IdempotencyRecord.objects.select_for_update())):
            ending = crew.start(ended, begun)
            until(somebody_waits)
            with transaction.atomic():
                assert Job.objects.select_for_update(nowait=True).get().status == JobStatus.RUNNING
        ending.result()
    assert Job.objects.get().status == JobStatus.SUCCEEDED


def ended(begun):
    with transaction.atomic():
        end_job(begun, JobEnding(JobStatus.SUCCEEDED), using="default")


def somebody_waits():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return cursor.fetchone()[0] > 0


# The lease


@servers
@pytest.mark.parametrize("hours", [-1, 1])
def test_the_sweep_asks_the_servers_clock(monkeypatch, hours):
    """Whatever the host says on which it runs."""
    RecordFactory.create(leased=True)
    RecordFactory.create(lapsed=True)
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + hours * 3600)
    assert sweep().abandoned == 1


# The crowd


def test_a_process_has_so_many_waiters_and_no_more(settings):
    """All keys together; who leaves makes room for another."""
    settings.IDEMPOTENCY_MAX_WAITERS = 2
    with Waiter(60) as one, Waiter(60) as other, Waiter(60) as third:
        assert (one.may_wait(), other.may_wait(), third.may_wait()) == (True, True, False)
        assert one.may_wait()  # it has its place already
        other.leave()
        assert third.may_wait()


# The outermost transaction


def book():
    return HttpResponse(str(Booking.objects.create(name="Ada").pk), status=201)


@servers
def test_inside_a_transaction_a_lease_is_not_even_claimed(ask):
    """Nobody else would see it, and a rollback would take it away under the handler."""
    with transaction.atomic():
        with pytest.raises(RuntimeError, match="durable"):
            ask(book, execution="leased")
        assert not IdempotencyRecord.objects.exists()


def test_without_a_key_an_outer_transaction_is_refused_too():
    """The same action behaves the same, whether its request carries a key or not."""
    bare = partial(protocol.run_without_key, book, using="default")
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        bare()
    assert not Booking.objects.exists()
    assert bare().status_code == 201
