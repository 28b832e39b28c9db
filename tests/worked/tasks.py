"""The tasks of the tests' jobs. Their rows are bookings; at gates they stop where a test says so.

Gates: `before` and `effects` around what a task writes, `seat.N` after a step has committed and
`in.seat.N` before it does, `acknowledgement` (tests.worked.celery) between the end of any task and
that of its message, and `committed` (tests.served.urls) between a job's start and its message.
"""

import time
from typing import Any

import requests
from celery import Task, shared_task
from django.db import connection

from idempotency.jobs import JobFailed, JobResult, current_attempt, job, step
from idempotency.keys import child_key
from tests.app.models import Booking
from tests.worked.gates import stop_at


@shared_task
def book(name: str) -> dict[str, Any]:
    """One booking; its seats are the attempt's fencing token."""
    stop_at("before")
    booking = Booking.objects.create(name=name, seats=current_attempt())
    stop_at("effects")
    return {"id": booking.pk, "name": name}


@shared_task
def book_in_steps(name: str, seats: int) -> int:
    """A booking a step, with progress."""
    for seat in range(1, seats + 1):
        step(f"seat.{seat}", book_seat, name, seat)
        job.progress(seat, seats)
        stop_at(f"seat.{seat}")
    return seats


def book_seat(name: str, seat: int) -> None:
    Booking.objects.create(name=name, seats=seat)
    stop_at(f"in.seat.{seat}")


@shared_task
def count_up(total: int) -> int:
    """Reports progress, and stops at the gate `counted` after each report."""
    for done in range(total + 1):
        job.progress(done, total)
        stop_at("counted")
    return total


@shared_task
def book_with_status(name: str, status: int) -> JobResult:
    """A booking whose final reply has a status of the task's choice."""
    return JobResult({"id": Booking.objects.create(name=name).pk}, status=status)


@shared_task
def book_and_refuse(name: str, message: str, code: str) -> None:
    """A booking, undone by a failure that is meant for the client."""
    Booking.objects.create(name=name)
    raise JobFailed(message, code=code)


@shared_task
def book_and_break(name: str, secret: str) -> None:
    """A booking, undone by an error whose words are for operators only."""
    Booking.objects.create(name=name)
    raise RuntimeError(secret)


@shared_task
def book_too_much(name: str, size: int) -> str:
    """A booking, and a result of so many characters."""
    Booking.objects.create(name=name)
    return "x" * size


@shared_task
def book_the_unspeakable(name: str) -> object:
    """A booking, and a result that is not JSON."""
    return Booking.objects.create(name=name)


@shared_task(bind=True, max_retries=5, default_retry_delay=0)
def book_at_attempt(self: Task, name: str, attempt: int) -> int:
    """A booking undone by Celery's own retry, until the job is at this attempt."""
    Booking.objects.create(name=name)
    if current_attempt() < attempt:
        raise self.retry()
    return current_attempt()


@shared_task(soft_time_limit=1)
def book_too_slowly(name: str) -> None:
    """A booking, and then more work than the soft limit, one second, has room for."""
    Booking.objects.create(name=name)
    _work_on()


@shared_task(time_limit=1)
def book_until_killed(name: str) -> None:
    """A booking, and then work until the hard limit, one second, ends the process."""
    Booking.objects.create(name=name)
    _work_on()


def _work_on() -> None:
    while True:
        time.sleep(0.05)


@shared_task
def book_and_stop_at_the_commit(name: str) -> None:
    """A booking, with the gate `commit` between the job's last statement and its commit."""
    Booking.objects.create(name=name, seats=current_attempt())
    raw = connection.connection
    commit = raw.commit

    def stop_and_commit() -> None:
        stop_at("commit")
        del raw.commit
        commit()

    raw.commit = stop_and_commit


@shared_task(autoretry_for=[requests.Timeout])
def charge(card: str) -> int:
    """A charge that is tried again where nobody has answered."""
    return _charge(card)


@shared_task
def charge_once(card: str) -> int:
    """A charge that fails where nobody has answered."""
    return _charge(card)


def _charge(card: str) -> int:
    """A receipt, and a charge under a child key by a service that may be slow to answer."""
    Booking.objects.create(name="receipt", seats=current_attempt())
    headers = {"Idempotency-Key": child_key("card"), "Attempt": str(current_attempt())}
    charged = requests.post(card, headers=headers, timeout=0.5)
    stop_at("charged")
    return int(charged.json())
