"""What tests of jobs say and ask again and again."""

import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn
from uuid import UUID, uuid4

from celery import shared_task
from django.db import connection
from django.http import HttpResponse
from django.test.utils import CaptureQueriesContext

from idempotency import recovery, tasks
from idempotency.jobs import start_job
from idempotency.layers.clock import ServerNow, after
from idempotency.layers.leases import UNSETTLED
from idempotency.models import IdempotencyRecord, Job
from idempotency.publishing import publish
from tests.app.models import Booking
from tests.concurrent import until

_acts: dict[str, Callable[[], Any]] = {}


@shared_task
def act(name: str) -> Any:
    """Does what a test of this process has left under this name."""
    return _acts[name]()


def doing(function: Callable[[], Any]) -> Callable[[], HttpResponse]:
    """A handler that starts a job which calls the function."""
    name = str(uuid4())
    _acts[name] = function
    return lambda: start_job(act, name=name)


class Stop(BaseException):
    """Tells a worker to go, as SystemExit does."""


class Started:
    """A job, as the client that has started it knows it: by its key."""

    def __init__(self, ask: Callable[..., Any], handler: Callable[[], HttpResponse]) -> None:
        self._again = partial(ask, key=str(uuid4()), execution="job")
        self.id = UUID(document(self._again(handler))["id"])

    def ask(self) -> Any:
        """What a retry of the request gets."""
        return self._again(None)

    def told(self) -> dict[str, Any]:
        """The document that a retry of the request gets."""
        return document(self.ask())

    @property
    def status(self) -> str:
        return str(self.told()["status"])

    @property
    def ended(self) -> bool:
        return self.told()["finished_at"] is not None

    @property
    def row(self) -> Job:
        """Its row, with its record."""
        return Job.objects.select_related("record").get(pk=self.id)


def document(response: Any) -> dict[str, Any]:
    """The job document that a response carries."""
    found: dict[str, Any] = json.loads(response.content)
    return found


def run(job_id: UUID | str) -> None:
    """What a worker does with the job's message."""
    tasks.run_job.run(str(job_id), "default")


def sweep(**options: Any) -> recovery.Recovered:
    """One sweep that sends what it finds."""
    return recovery.recover(publish, **options)


def swept_until(condition: Callable[[], Any]) -> None:
    """Sweep again and again until it holds; where the broker hands messages out once more too."""

    def swept() -> bool:
        sweep()
        return bool(condition())

    until(swept)


def lapse(**job: Any) -> None:
    """Every lease is over, as if its time had passed; `job`: what the jobs' rows say by then."""
    IdempotencyRecord.objects.filter(purge_at=None).update(lease_until=after(-1))
    if job:
        Job.objects.update(**job)


def overdue() -> int:
    """How many have no end, and nobody who has given a sign of life in time."""
    unsettled = IdempotencyRecord.objects.filter(state__in=UNSETTLED)
    return unsettled.filter(lease_until__lte=ServerNow()).count()


def leased_for() -> timedelta:
    """Time until the end of the only record's lease, by the database's clock."""
    record = IdempotencyRecord.objects.annotate(now=ServerNow()).get()
    left: timedelta = record.lease_until - record.now
    return left


def book(name: str = "Ada") -> int:
    """One effect; its id."""
    return Booking.objects.create(name=name).pk


def booked() -> dict[str, int]:
    """Effects by name: how many."""
    names = list(Booking.objects.values_list("name", flat=True))
    return {name: names.count(name) for name in names}


def sql(call: Callable[[], object]) -> list[str]:
    """The statements meanwhile, without those that begin and end transactions."""
    with CaptureQueriesContext(connection) as queries:
        call()
    said = [query["sql"] for query in queries]
    return [each for each in said if each.split()[0] not in ("BEGIN", "COMMIT", "ROLLBACK")]


def new_key() -> str:
    """For another job in the same test: replies of all tests stand in one cache."""
    return str(uuid4())


def fail(error: BaseException | type[BaseException]) -> NoReturn:
    """Raise it, where a statement has no place."""
    raise error


def raises(kind: type[BaseException], function: Callable[[], object]) -> bool:
    """Whether the function raises this now."""
    try:
        function()
    except kind:
        return True
    return False


def deadlock() -> None:
    """The database says that this transaction was in another's way."""
    said = {
        "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40P01'; END $$",
        "mysql": "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'no'",
    }
    with connection.cursor() as cursor:
        cursor.execute(said[connection.vendor])
