"""What is in the ledger at this moment, however large it is: bounded looks by indexes.

Each is one statement or two, and none counts the table. Claims of atomic executions are in their
transactions, where nobody sees them.
"""

from dataclasses import dataclass
from typing import Final

from django.db.models import Count, F, Q, Sum

from idempotency.layers.clock import ServerNow
from idempotency.models import IdempotencyRecord, JobStatus, State

#: Records of one look: what is more is told as "at least".
LIMIT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Keys that have no outcome at this moment. `is_all` is False where there are more."""

    #: Leased executions, and jobs by their status.
    leased: int
    queued: int
    running: int
    #: How many of those above gave no sign of life in time: a retry or the sweep is to see to them.
    overdue: int
    #: Left to an operator.
    unknown: int
    is_all: bool

    @property
    def in_flight(self) -> int:
        """All but those that wait for an operator."""
        return self.leased + self.queued + self.running


@dataclass(frozen=True, slots=True)
class Scope:
    """One of the busiest among the newest records."""

    scope: str
    records: int
    replays: int


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest records, at most LIMIT: a sample of what is going on."""

    records: int
    #: Left without an outcome, to be taken over by the same request.
    abandoned: int
    scopes: tuple[Scope, ...]


def unsettled(*, using: str) -> Unsettled:
    """By the index of what is never purged by itself."""
    rows = (
        IdempotencyRecord.objects.using(using)
        .filter(purge_at=None)
        .annotate(status_of_job=F("job__status"), overdue=Q(lease_until__lte=ServerNow()))
        .values("id", "state", "status_of_job", "overdue")[:LIMIT]
    )
    leased, job = Q(state=State.RUNNING), Q(state=State.JOB)
    counts = rows.aggregate(
        all=Count("id"),
        leased=Count("id", filter=leased),
        queued=Count("id", filter=job & Q(status_of_job=JobStatus.QUEUED)),
        running=Count("id", filter=job & Q(status_of_job=JobStatus.RUNNING)),
        overdue_ones=Count("id", filter=(leased | job) & Q(overdue=True)),
        unknown=Count("id", filter=Q(state=State.UNKNOWN)),
    )
    return Unsettled(
        counts["leased"],
        counts["queued"],
        counts["running"],
        counts["overdue_ones"],
        counts["unknown"],
        is_all=counts["all"] < LIMIT,
    )


def newest(scopes: int, *, using: str) -> Newest:
    """The newest records by their ids, and the so many busiest scopes among them."""
    records = IdempotencyRecord.objects.using(using)
    last = records.order_by("-pk").values_list("pk", flat=True).first()
    if last is None:
        return Newest(0, 0, ())
    # As a number: the planner takes a subquery's answer for a third of the table.
    sample = records.filter(pk__gt=last - LIMIT)
    found = sample.aggregate(
        records=Count("pk"), abandoned=Count("pk", filter=Q(state=State.ABANDONED))
    )
    busiest = (
        sample.values_list("scope")
        .annotate(records=Count("pk"), replayed=Sum("replays"))
        .order_by("-records", "scope")[:scopes]
    )
    return Newest(**found, scopes=tuple(Scope(*row) for row in busiest))
