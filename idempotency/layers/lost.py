"""Jobs whose record is overdue, many at a time: what the sweep asks of job rows."""

import dataclasses
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from idempotency.layers import jobs, leases
from idempotency.models import Job, JobStatus

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
    jobs.requeue([job.id for job in lost], using=using)
