"""What stands behind a record: its job and its steps, for the pages of records and of jobs."""

from django.contrib.admin.utils import quote
from django.urls import NoReverseMatch, reverse

from idempotency.admin.lists import LIMIT
from idempotency.models import IdempotencyRecord, Job, Step


def job_of(record: IdempotencyRecord) -> Job | None:
    """How far the job is that stands, or stood, for a record's key, if there is one."""
    jobs = Job.objects.using(record._state.db).defer("arguments", "result", "traceback")
    return jobs.filter(record=record.pk).first()


def url_of_job(job: Job, site: str) -> str | None:
    """A job's page; `None` on a site of the project's own where jobs are not registered."""
    try:
        return reverse("admin:idempotency_job_change", args=[quote(job.pk)], current_app=site)
    except NoReverseMatch:
        return None


def steps_of(record_id: int, using: str | None) -> list[Step]:
    """The steps that are done, at most LIMIT, the last first.

    Without their results, which are part of the work.
    """
    steps = Step.objects.using(using).filter(record=record_id).order_by("-position")
    return list(steps.defer("result")[:LIMIT])
