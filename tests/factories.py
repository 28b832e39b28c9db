"""Users, tokens, effects, and an idempotency record in each state."""

from datetime import timedelta

import factory
from django.contrib.auth.models import User
from django.utils import timezone
from factory.django import DjangoModelFactory
from rest_framework.authtoken.models import Token

from idempotency.models import IdempotencyRecord, State
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


class RecordFactory(DjangoModelFactory[IdempotencyRecord]):
    """A finished record that is replayed for another day; the traits name the other states."""

    class Meta:
        model = IdempotencyRecord

    class Params:
        #: Claimed: the transaction of a take-over shows like this to nobody else.
        running = factory.Trait(
            state=State.RUNNING,
            status=None,
            headers="",
            body=None,
            completed_at=None,
            expires_at=None,
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
