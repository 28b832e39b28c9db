"""What tests of leases do to records, and handlers that end in every way."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NoReturn

import pytest
from django.db import transaction
from django.http import HttpResponse
from rest_framework.exceptions import APIException

from idempotency.layers.clock import after
from idempotency.models import IdempotencyRecord
from idempotency.recovery import Recovered, recover
from tests.app.models import Booking, Ticket

#: A policy that leaves to an operator what is not known.
HOLD: Final = {"on_abandoned": "hold"}
#: Another payload than the one that is sent by default.
EVE: Final = {"name": "Eve"}


# Records


def record() -> IdempotencyRecord:
    """The only one."""
    return IdempotencyRecord.objects.get()


def row() -> dict[str, Any]:
    """All that the only record says, to be compared."""
    return {**IdempotencyRecord.objects.values().get()}


def lease_end() -> datetime:
    """Of the only record."""
    end = record().lease_until
    assert end is not None
    return end


def expire() -> None:
    """Every lease is over, as if its owner had been silent."""
    IdempotencyRecord.objects.filter(purge_at=None).update(lease_until=after(-1))


def sweep() -> Recovered:
    """Recover what is overdue, where nothing is a job."""
    return recover(lambda *args, **kwargs: pytest.fail("a message was sent"))


# Handlers: each has one effect


class Stopped(BaseException):
    """As when a process is told to go."""


class PaymentRequired(APIException):
    """An error that a policy may remember."""

    status_code = 402


def rendered(error: Exception) -> HttpResponse:
    """An APIException as a view would render it."""
    assert isinstance(error, APIException)
    return HttpResponse(str(error), status=error.status_code)


def book(status: int = 201) -> HttpResponse:
    """Replies with what tells its booking apart."""
    return HttpResponse(f"{Booking.objects.create(name='Ada').pk}", status=status)


def failing(error: BaseException) -> Callable[[], NoReturn]:
    """A handler that ends in an error."""

    def fail() -> NoReturn:
        book()
        raise error

    return fail


def marked() -> HttpResponse:
    """Marks its own transaction, and replies all the same."""
    response = book()
    transaction.set_rollback(True)
    return response


def dangling() -> HttpResponse:
    """What it writes is refused at the commit (PostgreSQL)."""
    response = book()
    Ticket.objects.create(booking_id=10**9)
    return response
