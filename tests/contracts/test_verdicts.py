"""Verdicts of operators on planted records: what they do, and what they leave alone."""

import pytest

from idempotency import settlement
from idempotency.layers import leases
from idempotency.models import IdempotencyRecord, Job, State, Step
from idempotency.outcomes import Claimed
from tests.concurrent import elsewhere, open_transaction
from tests.factories import JobFactory, RecordFactory, StepFactory

pytestmark = pytest.mark.django_db

DISCARDING = [settlement.expire, settlement.forget]
EXPIRING = {"replayable"}
FORGETTING = {
    "replayable",
    "tombstone",
    "forgotten",
    "released",
    "abandoned",
    "unknown",
    "lapsed",
}
TRAITS = {name: {name: True} for name in sorted(FORGETTING | {"leased", "running", "pending"})} | {
    "replayable": {},
    "job whose lease is over": {"lapsed": True, "state": State.JOB},
}


@pytest.mark.parametrize("stage", TRAITS)
@pytest.mark.parametrize(
    ("verdict", "fitting"),
    [(settlement.expire, EXPIRING), (settlement.forget, FORGETTING)],
    ids=["expire", "forget"],
)
def test_nothing_that_somebody_is_at_work_on_is_touched(verdict, fitting, stage):
    record = RecordFactory.create(**TRAITS[stage])
    other = RecordFactory.create(scope=record.scope)
    assert verdict(record.scope, record.key) == (stage in fitting)
    left = IdempotencyRecord.objects.filter(pk=record.pk).first()
    assert (left is not None and left.attempt == record.attempt) == (stage not in fitting)
    assert IdempotencyRecord.objects.get(pk=other.pk).attempt == other.attempt


@pytest.mark.parametrize("verdict", DISCARDING)
def test_nothing_is_done_to_what_has_changed_or_is_unheard_of(verdict):
    record = RecordFactory.create(attempt=3)
    assert not verdict(record.scope, record.key, attempt=2)
    assert not verdict(record.scope, "unheard of")
    assert not verdict("user:2/elsewhere", record.key)
    assert verdict(record.scope, record.key, attempt=3)


def test_what_is_forgotten_takes_its_job_and_its_steps_along():
    job, other = JobFactory.create(succeeded=True), JobFactory.create(succeeded=True)
    steps = [StepFactory.create(record=each.record) for each in (job, other)]
    assert settlement.forget(job.record.scope, job.record.key)
    assert (list(Job.objects.all()), list(Step.objects.all())) == ([other], steps[1:])


def test_whoever_lost_the_lease_of_a_forgotten_key_writes_nothing():
    record = RecordFactory.create(lapsed=True)
    assert settlement.forget(record.scope, record.key)
    zombie = Claimed(record.pk, record.attempt)
    assert not leases.renew(zombie, 60.0, using="default")
    assert not leases.leave(zombie, State.RELEASED, 60.0, using="default")


@pytest.mark.django_db(transaction=True)
@pytest.mark.vendors("postgresql", "mysql")
@pytest.mark.parametrize("verdict", DISCARDING)
def test_a_record_that_a_transaction_has_is_not_waited_for(verdict):
    """A take-over of a forgotten key holds the row for as long as its handler runs."""
    record = RecordFactory.create()
    rows = IdempotencyRecord.objects.filter(pk=record.pk)
    with open_transaction(lambda: list(rows.select_for_update())):
        assert not elsewhere(verdict, record.scope, record.key)
    assert elsewhere(verdict, record.scope, record.key)


# Release: of what could be taken over anyway; what is held for a verdict is given one.


@pytest.mark.parametrize("traits", [{"abandoned": True}, {"lapsed": True}])
def test_what_is_released_is_free_under_a_new_token(traits):
    record = RecordFactory.create(**traits)
    assert settlement.release(record.scope, record.key)
    left = IdempotencyRecord.objects.get()
    assert (left.state, left.attempt > record.attempt) == (State.RELEASED, True)


def test_steps_that_are_done_stay_done():
    record = StepFactory.create(record__leased=False, record__abandoned=True).record
    assert settlement.release(record.scope, record.key)
    left = IdempotencyRecord.objects.get()
    assert (left.state, left.attempt > record.attempt) == (State.ABANDONED, True)
    assert left.steps.count() == 1


@pytest.mark.parametrize(
    "traits",
    [
        {"leased": True},
        {"running": True},
        {"pending": True},
        {"unknown": True},
        {"lapsed": True, "holds": True},
        {"released": True},
        {},
        {"tombstone": True},
    ],
    ids=str,
)
def test_nothing_else_is_released(traits):
    """Nothing alive above all."""
    record = RecordFactory.create(**traits)
    assert not settlement.release(record.scope, record.key)
    assert IdempotencyRecord.objects.get().attempt == record.attempt
