"""The sweep: how long it takes to recover what is lost among a great many settled records."""

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connection, transaction
from django.test.utils import CaptureQueriesContext

from benchmarks import background, calls, planting
from idempotency.layers import leases
from idempotency.layers.clock import after
from idempotency.models import IdempotencyRecord, State
from idempotency.publishing import publish
from idempotency.recovery import BATCH_SIZE, recover

#: Jobs that are lost: every other one with its message, the others with their worker.
LOST = 100


@dataclass(frozen=True)
class Sweep:
    """One sweep of the lost jobs alone, and one of as many among the settled records."""

    records: int
    lost: int
    #: Seconds.
    planting: float
    alone: float
    among: float
    #: By which the database looks for what is overdue; none where it reads the whole table.
    indexes: tuple[str, ...]


def measure(records: int) -> Sweep:
    """Empty the ledger, and sweep it as it is and with so many settled records in it.

    They are left there.
    """
    planting.empty()
    _lose()
    alone = _swept()
    planting.empty()
    started = time.monotonic()
    planting.plant(records)
    took = time.monotonic() - started
    _lose()
    indexes = _indexes()
    return Sweep(records, LOST, took, alone, _swept(), indexes)


def _lose() -> None:
    """Start jobs by real requests, and let their leases run out."""
    for number in range(LOST):
        key = str(uuid.uuid4())
        reply = calls.send(calls.handler(), calls.environ("job", key, f"s-{key}"))
        if number % 2:
            background.begin(json.loads(reply.body)["id"])
    IdempotencyRecord.objects.filter(state=State.JOB).update(lease_until=after(-1.0))


def _swept() -> float:
    """Seconds of a sweep that recovers all that is lost."""
    done = recover(publish)
    if (done.resent, done.requeued) != (LOST // 2, LOST // 2):
        raise AssertionError(f"the sweep did not find what was lost: {done}")
    return done.seconds


def _indexes() -> tuple[str, ...]:
    """The indexes in the plan of the very query that the sweep looks with."""
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        leases.due(BATCH_SIZE, using=DEFAULT_DB_ALIAS)
    (query,) = [one["sql"] for one in captured.captured_queries if "SELECT" in one["sql"]]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {query}")
        (((explained,),),) = cursor.fetchall()
    return tuple(_named(explained["Plan"]))


def _named(plan: dict[str, Any]) -> Iterator[str]:
    if "Index Name" in plan:
        yield plan["Index Name"]
    for child in plan.get("Plans", ()):
        yield from _named(child)
