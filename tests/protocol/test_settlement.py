"""An operator's verdict on what was left without an outcome."""

import json

import pytest
from celery import shared_task
from django.http import HttpResponse

from idempotency import exceptions, settlement, worker
from idempotency.jobs import start_job, step
from idempotency.keys import current_key
from idempotency.models import IdempotencyRecord, Job, State
from tests.app.models import Booking

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.vendors("postgresql", "mysql"),
    pytest.mark.usefixtures("rooms"),
]

HOLD = {"execution": "leased", "on_abandoned": "hold"}


def book():
    return HttpResponse(f"{Booking.objects.create(name=current_key()).pk}", status=201)


def fail():
    Booking.objects.create(name="undone")
    raise TimeoutError("the card network did not answer")


@shared_task(name="settlement.charge")
def charge():
    raise TimeoutError("the card network did not answer")


def left_by(ask, handler, **policy):
    """What a handler leaves whose outcome nobody knows: its record."""
    with pytest.raises(TimeoutError):
        ask(handler, **policy)
    record = IdempotencyRecord.objects.get()
    assert record.state == State.UNKNOWN
    return record


def test_what_happened_is_replayed_from_then_on(ask, bookings):
    record = left_by(ask, fail, **HOLD)
    with pytest.raises(exceptions.OutcomeUnknown):
        ask(book, **HOLD)
    assert settlement.it_happened(record.scope, record.key, status=201, body={"id": 7})
    for _ in range(2):
        reply = ask(book, **HOLD)
        assert (reply.status_code, json.loads(reply.content)) == (201, {"id": 7})
        assert reply["Idempotent-Replayed"] == "true"
    assert bookings() == 0


def test_what_never_happened_runs_with_the_next_retry(ask, bookings):
    record = left_by(ask, fail, **HOLD)
    assert settlement.it_never_happened(record.scope, record.key)
    assert ask(book, **HOLD).status_code == 201
    assert bookings() == 1


def test_steps_that_are_done_stay_done(ask, bookings):
    def charge_after_a_step(error):
        step("book", lambda: book().status_code)
        if error:
            raise TimeoutError
        return HttpResponse("done")

    record = left_by(ask, lambda: charge_after_a_step(error=True), **HOLD)
    assert settlement.it_never_happened(record.scope, record.key)
    assert IdempotencyRecord.objects.get().state == State.ABANDONED
    assert ask(lambda: charge_after_a_step(error=False), **HOLD).content == b"done"
    assert bookings() == 1


@pytest.mark.parametrize("state", [State.RUNNING, State.FINISHED, State.RELEASED])
def test_only_what_was_left_is_settled(ask, state):
    ask(book, **HOLD)
    record = IdempotencyRecord.objects.get()
    IdempotencyRecord.objects.update(state=state)
    assert not settlement.it_happened(record.scope, record.key, status=200, body=None)
    assert not settlement.it_never_happened(record.scope, record.key)
    assert not settlement.it_never_happened(record.scope, "unheard of")


def test_a_reply_that_is_no_json_changes_nothing(ask):
    record = left_by(ask, fail, **HOLD)
    with pytest.raises(TypeError, match="The reply must be JSON"):
        settlement.it_happened(record.scope, record.key, status=200, body={1, 2})
    assert IdempotencyRecord.objects.get().state == State.UNKNOWN


def test_every_verdict_raises_the_fencing_token(ask):
    record = left_by(ask, fail, **HOLD)
    settlement.it_never_happened(record.scope, record.key)
    never = IdempotencyRecord.objects.get()
    assert never.attempt > record.attempt
    IdempotencyRecord.objects.update(state=State.UNKNOWN)
    settlement.it_happened(record.scope, record.key, status=200, body=None)
    assert IdempotencyRecord.objects.get().attempt > never.attempt


@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_reply_without_a_body_is_replayed_without_one(ask, status):
    record = left_by(ask, fail, **HOLD)
    with pytest.raises(ValueError, match="has no body"):
        settlement.it_happened(record.scope, record.key, status=status, body={})
    assert settlement.it_happened(record.scope, record.key, status=status, body=None)
    reply = ask(book, **HOLD)
    assert (reply.status_code, reply.content, reply.get("Content-Type")) == (status, b"", None)


def test_nothing_is_settled_that_has_changed_since_it_was_seen(ask):
    record = left_by(ask, fail, **HOLD)
    seen = {"attempt": record.attempt - 1}
    assert not settlement.it_happened(record.scope, record.key, status=200, body=None, **seen)
    assert not settlement.it_never_happened(record.scope, record.key, **seen)
    assert not settlement.release(record.scope, record.key, **seen)
    assert IdempotencyRecord.objects.get().attempt == record.attempt
    assert settlement.it_never_happened(record.scope, record.key, attempt=record.attempt)


class TestJobs:
    POLICY = {"execution": "job", "on_abandoned": "hold"}

    @pytest.fixture
    def held(self, ask):
        """The record of a job whose outcome nobody knows."""
        ask(lambda: start_job(charge), **self.POLICY)
        worker.run(Job.objects.get().pk, lambda name: charge.run, using="default")
        with pytest.raises(exceptions.OutcomeUnknown):
            ask(None, **self.POLICY)
        return IdempotencyRecord.objects.get()

    def test_what_happened_is_the_jobs_result(self, ask, held):
        assert settlement.it_happened(held.scope, held.key, status=200, body={"charge": "ch_1"})
        document = json.loads(ask(None, **self.POLICY).content)
        assert (document["status"], document["result"]) == ("succeeded", {"charge": "ch_1"})
        assert document["error"] is None

    def test_its_reply_is_its_document(self, held):
        with pytest.raises(ValueError, match="204 cannot have"):
            settlement.it_happened(held.scope, held.key, status=204, body=None)
        assert IdempotencyRecord.objects.get().state == State.UNKNOWN

    def test_what_never_happened_is_queued_again(self, ask, held):
        assert settlement.it_never_happened(held.scope, held.key)
        document = json.loads(ask(None, **self.POLICY).content)
        assert (document["status"], document["error"]) == ("queued", None)
        worker.run(Job.objects.get().pk, lambda name: lambda: "charged", using="default")
        assert json.loads(ask(None, **self.POLICY).content)["result"] == "charged"
