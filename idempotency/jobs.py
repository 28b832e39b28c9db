"""Long-running work: jobs that a retry re-attaches to, and steps that a crash does not repeat.

class ImportView(IdempotencyMixin, APIView):
    idempotency_policy = Policy(execution="job")

    def post(self, request):
        return start_job(import_section, course="CS101", students=[...])

@shared_task
def import_section(course, students):
    for number, student in enumerate(students, 1):
        step(f"enroll.{number}", enroll, student, course)
        job.progress(number, len(students))
    return {"enrolled": len(students)}
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.http import HttpResponse

from idempotency.current import Execution, current, current_attempt
from idempotency.documents import encode, provisional_reply
from idempotency.exceptions import JobFailed, StepMisplaced
from idempotency.execution import RETRY_AFTER
from idempotency.layers import jobs, ledger, link
from idempotency.outcomes import JobOrder
from idempotency.recovery import cancel
from idempotency.worker import JobResult

__all__ = [
    "JobFailed",
    "JobResult",
    "cancel_job",
    "current_attempt",
    "job",
    "start_job",
    "step",
]


def start_job(task: Any, /, **arguments: Any) -> HttpResponse:
    """Start a job in a protected action, and give the 202 that the action answers with.

    `task` is a Celery task, called later in a worker with these keyword arguments, which must be
    JSON. Claim, job and arguments commit together; the message goes out after the commit. One job
    an execution. Duplicates of the request get the job's status, then the final reply.

    Raises LookupError outside of a protected action, ImproperlyConfigured where its policy is not
    Policy(execution="job") or a job has been started already, TypeError for arguments that the
    task does not take or that are no JSON, ValueError where they are too large: before anything
    is written.
    """
    execution = current()
    candidate, using = execution.candidate, execution.using
    if not candidate.job:
        raise ImproperlyConfigured('start_job() needs Policy(execution="job") on its action.')
    if link.waits(execution.message, using=using):
        raise ImproperlyConfigured("One request starts one job: start_job() was called twice.")
    name = getattr(task, "name", None)
    if not isinstance(name, str) or not callable(getattr(task, "run", None)):
        raise TypeError(f"start_job() takes a Celery task, not {task!r}.")
    inspect.signature(task.run).bind(**arguments)
    order = JobOrder(
        task=name,
        arguments=encode(arguments, f"The arguments of {name}"),
        lease=candidate.lease or 0.0,
        ttl=candidate.ttl,
        tombstone=candidate.tombstone,
    )
    job = jobs.add(execution.claimed, order, using=using)
    # Robust: work that is committed must not answer 500 because a broker is away.
    execution.message = partial(_publish, job.id, name, using)
    transaction.on_commit(execution.message, using=using, robust=True)
    return provisional_reply(job, RETRY_AFTER)


def step(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of `function(*args, **kwargs)`, run once in all attempts of an execution.

    For leased executions and jobs. The function runs in a transaction of its own, with its record
    and the fence; after a crash, finished steps give their stored results and are not run again.
    The result must be JSON, and is given as it comes back from there. Inside, `current_key()` is
    the step's own key, derived from the execution's, so calls to other services that honour it
    happen once even where a step is repeated.

    An execution with steps has no other transaction: what it writes, it writes in steps. `name`,
    1 to 64 characters out of A-Z a-z 0-9 _ . ~, is unique in the execution, and names and order
    are the same in each attempt.

    Raises LookupError outside of an execution; StepMisplaced in an atomic one, within another
    step or an atomic block, and for writes outside of steps; StepChanged where an earlier attempt
    had other steps; InvalidKey or ValueError for the name; TypeError or ValueError for the result;
    LeaseLost where another has taken over.
    """
    execution = current()
    execution.check()
    if execution.work is None:
        raise StepMisplaced(
            f"The step {name!r} stands in an atomic execution, which is one transaction. Give the"
            ' action Policy(execution="leased"), or make it a job.'
        )
    return execution.work.step(name, function, *args, **kwargs)


def cancel_job(job_id: UUID | str, *, using: str | None = None) -> bool:
    """Call off a job that is queued or running; False where it has ended.

    A running one is told when it reports progress, begins a step or asks for its attempt; in any
    case nothing of it is committed from now on. Steps that are done stay done. `using` is the
    alias of the records, by default the router's. Raises ValueError for what is no job's id.
    """
    known = job_id if isinstance(job_id, UUID) else UUID(job_id)
    return cancel(known, using=ledger.alias(using))


class _RunningJob:
    """The job that runs here, in a Celery worker."""

    @property
    def id(self) -> UUID:
        """The job's id. Raises LookupError outside of a job."""
        found = self._execution().job
        assert found is not None  # noqa: S101 - _execution has seen to it
        return found.id

    def progress(self, done: int, total: int) -> None:
        """Say how far the job is; whoever asks for it sees that within a second or so.

        Written on another connection, so it shows before the job's own transaction commits.
        Raises ValueError unless these are whole numbers and 0 <= done <= total, LookupError outside
        of a job, and LeaseLost where it was cancelled or taken over.
        """
        whole = all(isinstance(number, int) for number in (done, total))
        if not (whole and 0 <= done <= total < 2**63):
            raise ValueError(f"Progress is whole numbers, 0 <= done <= total, not {done}/{total}.")
        execution = self._execution()
        execution.check()
        execution.progress = done, total
        ours = execution.job
        assert ours is not None  # noqa: S101 - _execution has seen to it
        if execution.heartbeat is not None:
            write = partial(jobs.progress, ours.id, ours.attempts, done, total)
            execution.heartbeat.report(partial(write, using=execution.using))

    def _execution(self) -> Execution:
        execution = current()
        if execution.job is None:
            raise LookupError("This is no job: start one with start_job().")
        return execution


#: The job that runs here.
job: Final = _RunningJob()


def _publish(job_id: UUID, task: str, using: str) -> None:
    from idempotency.publishing import publish  # noqa: PLC0415 - Celery is an extra

    publish(job_id, task, using=using)
