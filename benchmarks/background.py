"""What stands behind the jobs of the benchmarks: Celery, and what a worker does with a job."""

import os
from uuid import UUID

from celery import Celery
from django.db import DEFAULT_DB_ALIAS

from benchmarks.models import Enrollment
from idempotency.jobs import JobResult
from idempotency.layers import jobs
from idempotency.tasks import run_job

#: Messages lie in the run's own Redis database, and go with it: nobody consumes them.
application = Celery("benchmarks", broker=os.environ["REDIS_URL"])
application.set_default()


@application.task  # type: ignore[untyped-decorator]
def enroll_later(student: str, course: str) -> JobResult:
    """The business of the other views, done by a worker."""
    row = Enrollment.objects.create(student=student, course=course)
    document = {"id": row.pk, "student": row.student, "course": row.course}
    return JobResult(document, status=201)


def begin(job_id: str) -> None:
    """Begin a job as a worker does, and leave it running."""
    jobs.begin(UUID(job_id), using=DEFAULT_DB_ALIAS)


def finish(job_id: str) -> None:
    """Carry a job out: the very task that a worker runs, in this process."""
    run_job(job_id, DEFAULT_DB_ALIAS)
