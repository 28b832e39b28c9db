"""Users, tokens, effects, counts, and an idempotency record, a job and a step in each state."""

import json
from datetime import datetime, timedelta

import factory
from django.contrib.auth.models import User
from django.utils import timezone
from factory.django import DjangoModelFactory
from rest_framework.authtoken.models import Token

from idempotency.models import HourlyCount, IdempotencyRecord, Job, JobStatus, State, Step
from tests.app.models import Booking


class UserFactory(DjangoModelFactory[User]):
    class Meta:
        model = User

    username = factory.Sequence("student-{}".format)


class TokenFactory(DjangoModelFactory[Token]):
    class Meta:
        model = Token

    user = factory.SubFactory(UserFactory)


class BookingFactory(DjangoModelFactory[Booking]):
    class Meta:
        model = Booking

    name = factory.Sequence("booking {}".format)
    seats = 1


def from_now(**lapse: float) -> datetime:
    """A moment so far away; in the past where that is negative."""
    return timezone.now() + timedelta(**lapse)


class RecordFactory(DjangoModelFactory[IdempotencyRecord]):
    """A finished record that is replayed for another day; the traits name the other states."""

    class Meta:
        model = IdempotencyRecord

    class Params:
        #: Not finished: what all states below have in common.
        unfinished = factory.Trait(
            status=None, headers="", body=None, completed_at=None, expires_at=None
        )
        #: Claimed: the transaction of a take-over shows like this to nobody else.
        running = factory.Trait(unfinished=True, state=State.RUNNING)
        #: Claimed by a leased execution that is alive.
        leased = factory.Trait(
            running=True,
            lease_until=factory.LazyFunction(lambda: from_now(minutes=1)),
            purge_at=None,
        )
        #: Claimed by a leased execution whose process is gone.
        lapsed = factory.Trait(
            leased=True, lease_until=factory.LazyFunction(lambda: from_now(seconds=-1))
        )
        #: A job stands for it: see JobFactory.
        pending = factory.Trait(leased=True, state=State.JOB)
        #: Given back; only its token is remembered.
        released = factory.Trait(unfinished=True, state=State.RELEASED, attempt=2)
        #: Left without an outcome, to be taken over.
        abandoned = factory.Trait(unfinished=True, state=State.ABANDONED, attempt=2)
        #: Left without an outcome, to be settled by an operator.
        unknown = factory.Trait(
            unfinished=True, state=State.UNKNOWN, attempt=2, holds=True, purge_at=None
        )
        #: Finished, with a reply that was larger than IDEMPOTENCY_MAX_BODY.
        not_kept = factory.Trait(headers="[]", body=None)
        #: The replay window is over, a late retry is still refused.
        tombstone = factory.Trait(
            age=timedelta(hours=25),
        )
        #: May be taken over or deleted.
        forgotten = factory.Trait(age=timedelta(hours=49))
        age = timedelta(0)

    scope = "user:1/shop.OrderViewSet.create"
    key = factory.Sequence("key-{}".format)
    operation = factory.LazyAttribute(lambda record: record.scope.partition("/")[2])
    state = State.FINISHED
    fingerprint = bytes(32)
    fields = None
    attempt = 1
    status = 201
    headers = '[["Content-Type","application/json"]]'
    body = b'{"id":1}'
    created_at = factory.LazyAttribute(lambda record: timezone.now() - record.age)
    completed_at = factory.SelfAttribute("created_at")
    expires_at = factory.LazyAttribute(lambda record: record.created_at + timedelta(hours=24))
    purge_at = factory.LazyAttribute(lambda record: record.created_at + timedelta(hours=48))


class JobFactory(DjangoModelFactory[Job]):
    """A queued job behind its record; the traits name the other statuses."""

    class Meta:
        model = Job

    class Params:
        begun = factory.Trait(attempts=1, started_at=factory.SelfAttribute("created_at"))
        running = factory.Trait(
            begun=True, status=JobStatus.RUNNING, done=3, total=10, record__attempt=2
        )
        #: Over; a key that is finished with it has a reply.
        ended = factory.Trait(
            begun=True, finished_at=factory.LazyFunction(timezone.now), record__pending=False
        )
        succeeded = factory.Trait(
            ended=True, status=JobStatus.SUCCEEDED, result=json.dumps({"enrolled": 10})
        )
        failed = factory.Trait(
            ended=True,
            status=JobStatus.FAILED,
            error_code="job_failed",
            error_message="The job failed.",
            traceback="Traceback: for operators only",
        )
        cancelled = factory.Trait(
            ended=True,
            status=JobStatus.CANCELLED,
            error_code="job_cancelled",
            error_message="The job was cancelled.",
        )
        #: Failed, and what it did outside is left to an operator.
        held = factory.Trait(failed=True, record__unknown=True)

    record = factory.SubFactory(RecordFactory)
    record__pending = True
    status = JobStatus.QUEUED
    task = "tests.import_section"
    arguments = json.dumps({"course": "CS101"})
    lease = 60.0
    ttl = 24 * 3600.0
    tombstone = 24 * 3600.0
    created_at = factory.LazyFunction(timezone.now)


class StepFactory(DjangoModelFactory[Step]):
    """A finished step of a leased execution that is alive."""

    class Meta:
        model = Step

    record = factory.SubFactory(RecordFactory, leased=True)
    position = factory.Sequence(int)
    name = factory.LazyAttribute(lambda step: f"step.{step.position}")
    result = "null"
    attempt = factory.SelfAttribute("record.attempt")
    created_at = factory.LazyFunction(timezone.now)


class HourlyCountFactory(DjangoModelFactory[HourlyCount]):
    """First requests within the running hour, or `ago` before."""

    class Meta:
        model = HourlyCount

    class Params:
        ago = timedelta(0)

    hour = factory.LazyAttribute(
        lambda row: (timezone.now() - row.ago).replace(minute=0, second=0, microsecond=0)
    )
    operation = "shop.OrderViewSet.create"
    event = "executed"
    detail = ""
    count = 1
    seconds = 0.5
