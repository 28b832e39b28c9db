"""What stands behind a record: its job and its steps, for the pages of records and of jobs."""

from typing import Any

from django.contrib.admin.utils import display_for_value, quote
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from idempotency.admin.lists import LIMIT
from idempotency.models import IdempotencyRecord, Job, Step


def job_link(record: IdempotencyRecord, site: str) -> str | None:
    """A link to a record's job; `None` where it has none."""
    jobs = Job.objects.using(record._state.db).filter(record=record.pk)
    job = jobs.only("id", "status").first()
    if job is None:
        return None
    text = f"{job.get_status_display()}: {job.pk}"
    try:
        url = reverse("admin:idempotency_job_change", args=[quote(job.pk)], current_app=site)
    except NoReverseMatch:  # a site of the project's own, where jobs are not registered
        return text
    return format_html('<a href="{}">{}</a>', url, text)


def step_table(record_id: int, using: str | None) -> SafeString | None:
    """The steps that are done, at most LIMIT, the last first; `None` where there are none.

    Their results are part of the work, and not shown.
    """
    steps = Step.objects.using(using).filter(record=record_id).order_by("-position")
    rows = steps.values_list("position", "name", "attempt", "created_at")[:LIMIT]
    body = format_html_join(
        "", "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", map(_cells, rows)
    )
    if not body:
        return None
    head = format_html_join("", "<th>{}</th>", ((each,) for each in _HEAD))
    return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body)


_HEAD = (_("step"), _("name"), _("attempt"), _("done at"))


def _cells(row: tuple[Any, ...]) -> tuple[Any, ...]:
    position, name, attempt, created_at = row
    return position + 1, name, attempt, display_for_value(created_at, "")
