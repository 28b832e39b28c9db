"""What nobody is at work on any more: found, and sent on its way again, ended or held.

The sweep is safe to run in many places at once, and beside live traffic: it takes what is overdue
in small batches, skips what another transaction has locked, and raises the fencing token of
whatever it takes away.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db import transaction

from idempotency import events
from idempotency.conf import conf, seconds
from idempotency.layers import jobs, leases, ledger, lost
from idempotency.layers.leases import Overdue
from idempotency.layers.lost import Lost
from idempotency.models import JobStatus, State
from idempotency.outcomes import JobEnding
from idempotency.worker import end_job, give_up

#: Records of one batch: its transaction holds their locks, and a worker may wait for one of them.
BATCH_SIZE: Final = 100

_LOST: Final = JobEnding(
    JobStatus.FAILED,
    error_code="job_worker_lost",
    error_message="The job was lost together with the process that ran it, too often to go on.",
)
_CANCELLED: Final = JobEnding(
    JobStatus.CANCELLED, error_code="job_cancelled", error_message="The job was cancelled."
)

#: Sends a job's message: its id, its task's name, and the alias of its record; False: it could not.
Publisher = Callable[..., bool]


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a sweep has done."""

    #: Queued jobs whose message was sent again.
    resent: int = 0
    #: Jobs whose worker is gone, waiting for another.
    requeued: int = 0
    #: Jobs that were lost too often, and have failed.
    failed: int = 0
    #: Leased requests whose process is gone: the next retry takes over.
    abandoned: int = 0
    #: Either, where the policy leaves it to an operator.
    held: int = 0
    batches: int = 0
    seconds: float = 0.0


def recover(
    publish: Publisher, *, using: str | None = None, batch_size: int = BATCH_SIZE
) -> Recovered:
    """Recover every job whose message was lost, and every job and lease whose owner is gone.

    Nothing whose lease is still running is touched. Each batch commits by itself and sends its
    messages afterwards, so this must not run inside a transaction. Raises ValueError for a batch
    size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"The batch size must be at least 1, not {batch_size}.")
    alias = ledger.alias(using)
    started = time.monotonic()
    counted: Counter[str] = Counter()
    batches = 0
    while True:
        with transaction.atomic(using=alias, durable=True):
            # What was overdue at the start: a broker that hangs for longer than a lease would have
            # what it did not take come up again and again.
            overdue = leases.due(batch_size, ago=time.monotonic() - started, using=alias)
            counted.update(_recover_batch(overdue, publish, alias))
        batches += 1
        if len(overdue) < batch_size:
            break
    took = time.monotonic() - started
    return Recovered(**counted, batches=batches, seconds=took)


def cancel(job_id: UUID, *, using: str) -> bool:
    """End a job as cancelled, whoever has it; False where it has ended."""
    with transaction.atomic(using=using):
        taken = jobs.take(job_id, using=using)
        if taken is None:
            return False
        end_job(taken, _CANCELLED, using=using)
    _report(events.JOB_ENDED, taken.candidate.operation, _CANCELLED.status)
    return True


def _recover_batch(overdue: list[Overdue], publish: Publisher, using: str) -> Iterator[str]:
    """What was done about each record, which this transaction has locked: a field of Recovered."""
    record_ids = [found.claimed.record_id for found in overdue if found.is_job]
    jobs_behind = lost.behind(record_ids, using=using)
    again = []
    for found in overdue:
        job = jobs_behind.get(found.claimed.record_id)
        if job is None:  # a request, or a job whose row was deleted: the key is abandoned
            yield _recover_lease(found, using)
        elif job.is_queued or not (found.holds or job.attempts >= jobs.MAX_ATTEMPTS):
            again.append(job)
            _send_later(publish, job.id, job.task, using)
            _report(events.JOB_RESENT if job.is_queued else events.JOB_HANDED_BACK, found.operation)
            yield "resent" if job.is_queued else "requeued"
        else:
            yield _end(job, found, using)
    lost.send_again(again, using=using)


def _end(job: Lost, found: Overdue, using: str) -> str:
    """End a job that was lost too often, or leave it to an operator."""
    taken = jobs.take(job.id, using=using)
    if taken is None:
        raise AssertionError(f"record {job.record_id} is locked, and yet another's")
    held = give_up(taken, job.lease, _LOST, using=using) == events.OUTCOME_UNKNOWN
    event = events.OUTCOME_UNKNOWN if held else events.JOB_ENDED
    _report(event, found.operation, "" if held else JobStatus.FAILED.value)
    return "held" if held else "failed"


def _recover_lease(found: Overdue, using: str) -> str:
    # Its policy is not known here; what the settings say is long enough for a token.
    kept = seconds(conf.IDEMPOTENCY_TTL) + seconds(conf.IDEMPOTENCY_TOMBSTONE)
    state = State.UNKNOWN if found.holds else State.ABANDONED
    leases.leave(found.claimed, state, kept, using=using)
    _report(events.OUTCOME_UNKNOWN if found.holds else events.ABANDONED, found.operation)
    return "held" if found.holds else "abandoned"


def _send_later(publish: Publisher, job_id: UUID, task: str, using: str) -> None:
    def send() -> None:
        if publish(job_id, task, using=using) is False:
            jobs.unsent(job_id, using=using)

    transaction.on_commit(send, using=using, robust=True)


def _report(name: str, operation: str, detail: str = "") -> None:
    events.record(events.Event(name, operation, detail))
