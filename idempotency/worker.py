"""Carries out one job, once: leases it, runs its task, and commits the effects with its end.

Knows no Celery: `idempotency.tasks` calls it with the message, and finds the task's function.
"""

import logging
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

from django.db import DatabaseError, InterfaceError, OperationalError, transaction

from idempotency import events
from idempotency.current import Execution, entered
from idempotency.documents import decode, encode, final_reply
from idempotency.exceptions import JobFailed, LeaseLost, OutcomeUnknown, for_client, is_refusal
from idempotency.layers import jobs, leases, ledger, link
from idempotency.leased import beating
from idempotency.models import JobStatus, State
from idempotency.outcomes import JobEnding, JobRun
from idempotency.work import Work

logger: Final = logging.getLogger("idempotency")

#: Finds the function of a task by the task's name; `None`: there is no such task.
Finder = Callable[[str], Callable[..., Any] | None]

#: What the client is told of an error that was not meant for it.
_NEUTRAL: Final = "The job failed because of an error in this service."
_UNKNOWN: Final = "What the job did is not known; the operators of this service settle it."
#: Statuses that a client would misread, or get no document with.
_NO_FINAL_REPLY: Final = frozenset({202, 204, 205, 304})
#: Characters of an error's message that are kept: it is part of every reply.
_MESSAGE: Final = 2_000
#: Characters of a traceback that are kept, its end.
_TRACEBACK: Final = 20_000


class TryAgain(Exception):
    """Raised for a task that wants another attempt: the job waits for it."""


class OutOfTime(Exception):
    """Raised for a task that has met its soft time limit."""


class _Undone(JobFailed):
    """A task that has done its work and returned, and we could not let it stand."""


class JobResult:
    """What a task returns to choose the status of the final reply; `value` must be JSON."""

    def __init__(self, value: Any, *, status: int = HTTPStatus.OK) -> None:
        if not 200 <= status <= 499 or status in _NO_FINAL_REPLY:
            raise ValueError(
                f"A job's final reply has a status from 200 to 499, not {status}; 202 says that"
                " it is still under way, and 204, 205 and 304 have no room for its document."
            )
        self.value = value
        self.status = status


def run(job_id: UUID, find: Finder, *, using: str) -> None:
    """Carry out a job, unless it has ended, or another worker has it: then do nothing.

    What the task raises fails the job and goes no further. Raises what keeps the worker from
    saying so; the job is picked up again when its lease is over.
    """
    begun = jobs.begin(job_id, using=using)
    if begun is None:
        events.record(events.Event(events.JOB_IGNORED, digest=str(job_id)))
        return
    log = events.Reporter(begun.candidate.operation, begun.candidate.identity.digest)
    log.record(events.JOB_STARTED)
    execution = Execution(begun.claimed, begun.candidate, using, job=begun)
    try:
        with entered(execution):
            _run(begun, execution, find, log)
    except LeaseLost:
        log.record(events.LEASE_LOST)
        # An error of the task's own may stand behind it, which no row keeps.
        logger.warning("idempotency job %s was lost in its attempt", job_id, exc_info=True)


def give_up(
    begun: JobRun, pause: float, ending: JobEnding, *, certain: bool = False, using: str
) -> str:
    """An attempt has ended without an end of the job: what its policy and the attempts it has had
    make of that. `pause` in seconds, until its message is sent again; `ending`: if it is the last;
    `certain`: that it has done nothing.

    Gives the event to report. Raises LeaseLost.
    """
    with transaction.atomic(using=using):
        if begun.candidate.holds and not certain:
            _hold(begun, ending, using)
            return events.OUTCOME_UNKNOWN
        if begun.attempts >= jobs.MAX_ATTEMPTS:
            end_job(begun, ending, using=using)
            return events.JOB_ENDED
        if leases.take(begun.claimed, pause, using=using) is None:
            raise LeaseLost(_lost(begun))
        jobs.requeue([begun.id], using=using)
        return events.JOB_HANDED_BACK


def _run(begun: JobRun, execution: Execution, find: Finder, log: events.Reporter) -> None:
    using, lease = execution.using, begun.order.lease
    before = link.current(using=using)
    try:
        function = find(begun.order.task)
        if function is None:
            raise JobFailed("This service no longer knows how to do that.", code="job_task_unknown")
        work = Work(begun.claimed, begun.candidate, using=using)
        with beating(execution), work:
            execution.work = work
            returned = function(**decode(begun.order.arguments))
            if link.doomed(using=using):  # first, since no statement would pass any more
                message = "The job's work was undone by the job itself."
                raise _Undone(message, code="job_rolled_back")
            work.settle(partial(_succeed, execution, begun, returned))
        log.record(events.JOB_ENDED, JobStatus.SUCCEEDED.value)
    except LeaseLost:
        raise
    except Exception as error:
        if link.unreachable(error, using=using, before=before):
            raise
        link.mend(using=using)
        untouched = _is_untouched(execution, error)
        if untouched or isinstance(error, TryAgain | OperationalError | InterfaceError):
            # Deadlocks, restarts: not the task's fault, so it has another attempt.
            ending = _failure(execution, error)
            log.record(give_up(begun, lease, ending, certain=untouched, using=using))
        else:
            _fail(begun, execution, error, log)
    except BaseException as error:  # the worker is told to go: its next one may begin at once
        with suppress(LeaseLost, DatabaseError, InterfaceError):
            link.mend(using=using)
            ending, untouched = _failure(execution, error), _is_untouched(execution, error)
            log.record(give_up(begun, 0.0, ending, certain=untouched, using=using))
        raise


def _is_untouched(execution: Execution, error: BaseException) -> bool:
    """Whether the task was not even entered, and not because there is none."""
    return execution.work is None and not isinstance(error, JobFailed)


def _succeed(execution: Execution, begun: JobRun, returned: Any) -> None:
    chosen = returned if isinstance(returned, JobResult) else JobResult(returned)
    try:
        result = encode(chosen.value, f"The result of {begun.order.task}")
    except ValueError as error:
        message = "The job's result is too large to keep, so the job was undone."
        raise _Undone(message, code="job_result_too_large") from error
    ending = JobEnding(JobStatus.SUCCEEDED, execution.progress, result)
    end_job(begun, ending, chosen.status, using=execution.using)


def end_job(begun: JobRun, ending: JobEnding, status: int = HTTPStatus.OK, *, using: str) -> None:
    """Write the job's end and the key's reply, in the caller's transaction, under the fence.

    Raises LeaseLost.
    """
    # First the record, as everybody does: two who lock in different orders wait for each other.
    if not leases.renew(begun.claimed, begun.order.lease, using=using):
        raise LeaseLost(_lost(begun))
    view = jobs.end(begun.claimed, ending, using=using)
    ledger.finish(begun.claimed, begun.candidate, final_reply(view, status), using=using)


def _hold(begun: JobRun, ending: JobEnding, using: str) -> None:
    """Leave a job whose effects outside are unknown to an operator. Raises LeaseLost."""
    ending = replace(ending, error_code=OutcomeUnknown.default_code, error_message=_UNKNOWN)
    if not leases.leave(begun.claimed, State.UNKNOWN, 0.0, using=using):
        raise LeaseLost(_lost(begun))
    jobs.end(begun.claimed, ending, using=using)


def _fail(begun: JobRun, execution: Execution, error: Exception, log: events.Reporter) -> None:
    ending, using = _failure(execution, error), execution.using
    refused = is_refusal(error) and not isinstance(error, _Undone)
    unknown = begun.candidate.holds and not refused
    with transaction.atomic(using=using, durable=True):
        if unknown:
            _hold(begun, ending, using)
        else:
            end_job(begun, ending, using=using)
    if unknown:
        log.record(events.OUTCOME_UNKNOWN)
    else:
        log.record(events.JOB_ENDED, JobStatus.FAILED.value)


def _failure(execution: Execution, error: BaseException) -> JobEnding:
    """What the client is told of an error, and what operators are."""
    code, message = for_client(error) or ("job_failed", _NEUTRAL)
    if isinstance(error, OutOfTime):
        code, message = "job_time_limit", "The job took longer than it may."
    lines = traceback.format_exception(error)
    return JobEnding(
        JobStatus.FAILED,
        execution.progress,
        error_code=_storable(code),
        error_message=_storable(message[:_MESSAGE]),
        traceback=_storable("".join(lines)[-_TRACEBACK:]),
    )


def _storable(text: str) -> str:
    """Without what PostgreSQL or UTF-8 have no place for: the job would never end."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _lost(begun: JobRun) -> str:
    return f"job {begun.id} is no longer ours at attempt {begun.claimed.attempt}"
