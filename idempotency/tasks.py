"""The Celery tasks: one that carries out jobs, and two for the beat. Found by autodiscovery."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from traceback import walk_tb
from typing import Any, Final
from uuid import UUID

from celery import Task, current_app, shared_task
from celery.exceptions import Retry, SoftTimeLimitExceeded
from celery.signals import worker_process_shutdown

from idempotency import counting, recovery, worker
from idempotency.exceptions import LeaseLost, is_refusal
from idempotency.layers import retention
from idempotency.publishing import publish

logger: Final = logging.getLogger("idempotency")


@shared_task(  # type: ignore[untyped-decorator]
    name="idempotency.run_job",
    acks_late=True,  # a message is done with when its job is
    reject_on_worker_lost=True,  # and comes again when its worker is killed
    ignore_result=True,  # the job's row is the result
)
def run_job(job_id: str, using: str) -> None:
    """Carry out a job. A message that comes late, twice or for nothing does nothing."""
    worker.run(UUID(job_id), _find, using=using)


@shared_task(name="idempotency.recover", ignore_result=True)  # type: ignore[untyped-decorator]
def recover(using: str | None = None) -> None:
    """The sweep, for the beat: `idempotency_recover`."""
    done = recovery.recover(publish, using=using)
    logger.debug("idempotency sweep %s", asdict(done))


@shared_task(name="idempotency.purge", ignore_result=True)  # type: ignore[untyped-decorator]
def purge(using: str | None = None, max_seconds: float | None = None) -> None:
    """The purge, for the beat: `idempotency_purge`."""
    done = retention.purge(using=using, max_seconds=max_seconds)
    logger.debug("idempotency purge %s", asdict(done))


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _count(**_: Any) -> None:
    """A pool's process ends without the interpreter's own goodbye."""
    counting.end()


def _retried(error: Exception) -> bool:
    """Whether it comes out of `self.retry(exc=...)`: of a task that is called directly, Celery
    raises the error that it was given."""
    frames = walk_tb(error.__traceback__)
    return any(frame.f_code is Task.retry.__code__ for frame, _ in frames)


def _find(name: str) -> Callable[..., Any] | None:
    task = current_app.tasks.get(name)
    if task is None:
        return None

    # What the task has Celery retry by itself: called directly, Celery lets it through.
    again = tuple(getattr(task, "autoretry_for", ()))
    never = (LeaseLost, *getattr(task, "dont_autoretry_for", ()))

    def call(**arguments: Any) -> Any:
        try:
            return task.run(**arguments)
        except SoftTimeLimitExceeded as error:
            raise worker.OutOfTime from error
        except Exception as error:
            wanted = isinstance(error, (Retry, *again)) or _retried(error)
            if not wanted or isinstance(error, never) or is_refusal(error):
                raise
            raise worker.TryAgain from error

    return call
