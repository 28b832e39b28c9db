"""Jobs whose record is overdue, many at a time: what the sweep asks of job rows."""

import dataclasses
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db import transaction
from django.db.models import F

from idempotency.layers import leases
from idempotency.layers.clock import after
from idempotency.models import IdempotencyRecord, Job, JobStatus, State

#: The pause before a queued job's message is sent again doubles so often: with a lease of a
#: minute, a queue that is hours long gets one more message an hour from each of its jobs.
MAX_DOUBLINGS: Final = 6


@dataclass(frozen=True, slots=True)
class Lost:
    """A job that has lost its message, or its worker. `lease` in seconds."""

    record_id: int
    id: UUID
    task: str
    status: str
    lease: float
    attempts: int
    resent: int

    @property
    def is_queued(self) -> bool:
        """Whether it lost its message, and not its worker."""
        return self.status == JobStatus.QUEUED

    @property
    def pause(self) -> float:
        """Seconds until the sweep looks at it again."""
        return self.lease * (2 ** min(self.resent, MAX_DOUBLINGS) if self.is_queued else 1)


def behind(record_ids: Collection[int], *, using: str) -> dict[int, Lost]:
    """The jobs behind these records, by record. One statement."""
    names = [each.name for each in dataclasses.fields(Lost)]
    found = Job.objects.using(using).filter(record__in=record_ids).values_list(*names)
    return {row[0]: Lost(*row) for row in found}


def send_again(lost: Collection[Lost], *, using: str) -> None:
    """Have jobs wait for one more message, in the transaction that has locked their records.

    Their tokens rise: a worker that comes back to one of them writes nothing any more.
    """
    pauses: dict[float, list[int]] = defaultdict(list)
    for job in lost:
        pauses[job.pause].append(job.record_id)
    for pause, record_ids in pauses.items():
        leases.take_all(record_ids, pause, using=using)
    Job.objects.using(using).filter(pk__in=[job.id for job in lost]).update(
        status=JobStatus.QUEUED, resent=F("resent") + 1
    )


def unsent(job_id: UUID, *, using: str) -> None:
    """Take back what `send_again` has counted: the broker did not take the message, and a pause
    that grows with its outage would keep the job waiting long after it."""
    with transaction.atomic(using=using):
        jobs = Job.objects.using(using).filter(pk=job_id)
        records = IdempotencyRecord.objects.using(using)
        waiting = records.filter(pk__in=jobs.values("record"), state=State.JOB).select_for_update()
        record = waiting.first()
        job = jobs.filter(status=JobStatus.QUEUED).first()
        if record is not None and job is not None:
            records.filter(pk=record.pk).update(lease_until=after(job.lease))
            jobs.update(resent=max(job.resent - 1, 0))
