"""Consumers in processes of their own: Celery tasks, a log with an offset, a crowd of threads.

Each event is one booking; the result is its number, so that two executions can be told apart.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from celery import shared_task
from django.db import connection, connections, transaction

from idempotency.decorators import once
from idempotency.exceptions import InProgress, KeyExpired, Unavailable
from idempotency.policy import Policy
from tests.app.models import Booking
from tests.worked.gates import stop_at


def book(event: Any) -> int:
    """One effect, with a gate before and one behind its commit."""
    booking = Booking.objects.create(name=event["id"])
    stop_at("effects")
    transaction.on_commit(lambda: stop_at("committed"))
    return booking.pk


@shared_task(acks_late=True, reject_on_worker_lost=True)
@once(operation="below", key="message.headers.0.id")
def below(message: Any) -> int:
    """Protected as Celery wants decorators: its own on top."""
    return book(message["headers"][0])


@once(operation="above", key=lambda message: message["headers"][0]["id"])
@shared_task(bind=True, acks_late=True, reject_on_worker_lost=True)
def above(self: Any, message: Any) -> int:
    """Protected as a task."""
    return book(message["headers"][0])


@shared_task(bind=True, acks_late=True)
@once(operation="retrying", key="event_id")
def retrying(self: Any, event_id: str) -> int:
    """Asks for another attempt, after its effect."""
    booking = Booking.objects.create(name=event_id, seats=self.request.retries)
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return booking.pk


@shared_task(bind=True, acks_late=True, autoretry_for=(LookupError,), retry_kwargs={"countdown": 0})
@once(operation="flaky", key="event_id")
def flaky(self: Any, event_id: str) -> int:
    """Fails after its effect, in a way that Celery retries by itself."""
    booking = Booking.objects.create(name=event_id, seats=self.request.retries)
    if self.request.retries == 0:
        raise LookupError
    return booking.pk


@shared_task(acks_late=True, max_retries=0)
@once(operation="hasty", key="event.id", policy=Policy(in_flight="reject"))
def hasty(event: Any) -> int:
    """Does not wait for the delivery in progress, and allows Celery no retries."""
    return book(event)


@once(operation="hasty", key="event.id", policy=Policy(in_flight="reject"))
def hastily(event: Any) -> int:
    """The same, as a function."""
    return book(event)


@shared_task(acks_late=True)
def caller(event: Any) -> int:
    """A task that consumes nothing itself."""
    return hastily(event)


@shared_task(acks_late=True)
@once(operation="relaying", key="event_id")
def relaying(event_id: str) -> None:
    """Meets an expired key elsewhere, as it hands its event on."""
    raise KeyExpired


@shared_task(acks_late=True, max_retries=1)
@once(operation="cut", key="event_id")
def cut(event_id: str) -> None:
    """Loses its connection each time."""
    Booking.objects.create(name=event_id)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pg_backend_pid())"
            if connection.vendor == "postgresql"
            else "KILL CONNECTION CONNECTION_ID()"
        )


@once(operation="logged", key="event.id")
def logged(event: Any) -> int:
    """What the processes below consume."""
    return book(event)


def settled(event: Any) -> int:
    """The event's result; where it cannot be settled, the message comes again."""
    while True:
        try:
            return int(logged(event))
        except (InProgress, Unavailable) as refusal:
            time.sleep(refusal.wait / 10)


def read_log(log: Path) -> None:
    """Consume a log from its offset on; the offset moves after the event, as with Kafka."""
    offset = log.with_suffix(".offset")
    events = log.read_text().splitlines()
    for position in range(int(offset.read_text()), len(events)):
        result = settled(json.loads(events[position]))
        with log.with_suffix(".results").open("a") as results:
            results.write(f"{position} {result}\n")
        offset.write_text(str(position + 1))


def crowd(event: Any, size: int) -> None:
    """Deliver one event to so many threads at once, as a queue with many consumers may."""
    results: list[int] = []
    ready = threading.Barrier(size)

    def deliver() -> None:
        ready.wait()
        try:
            results.append(settled(event))
        finally:
            connections.close_all()

    stop_at("crowd")
    threads = [threading.Thread(target=deliver) for _ in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write(json.dumps(results))
