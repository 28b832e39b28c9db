"""The jobs: how far they are, what became of them, and why they failed."""

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.timesince import timesince
from django.utils.translation import gettext_lazy as _

from idempotency.admin.confirming import ConfirmingAdmin
from idempotency.admin.lists import first, is_narrowed, newest_of
from idempotency.admin.related import steps_of
from idempotency.admin.timeline import life_of_job
from idempotency.admin.verdicts import JOB_VERDICTS
from idempotency.layers import encryption
from idempotency.layers.clock import ServerNow
from idempotency.models import IdempotencyRecord, Job, JobStatus, State

Jobs = QuerySet[Job]

#: Newest first, by an index that is there; a job's own id tells nothing of its age.
_NEWEST_FIRST = "-record_id"


class StatusFilter(admin.SimpleListFilter):
    """Jobs that are under way, by the index of unsettled records; else of the newest jobs."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(JobStatus.choices)

    def queryset(self, request: HttpRequest, queryset: Jobs) -> Jobs:
        value = self.value()
        if value not in JobStatus.values:
            return queryset
        if value in (JobStatus.QUEUED, JobStatus.RUNNING):
            records = IdempotencyRecord.objects.using(queryset.db).filter(purge_at=None)
            newest = records.filter(state=State.JOB).order_by("-purge_at", "-id")
            queryset = first(newest, queryset, "record_id")
        elif not is_narrowed(request):
            queryset = first(queryset.order_by(_NEWEST_FIRST), queryset)
        return queryset.filter(status=value)


class TaskFilter(admin.SimpleListFilter):
    """The tasks of the newest jobs."""

    title = _("task (newest jobs)")
    parameter_name = "task"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return newest_of(Job.objects.order_by(_NEWEST_FIRST), "task")

    def queryset(self, request: HttpRequest, queryset: Jobs) -> Jobs:
        value = self.value()
        if value is None:
            return queryset
        if not is_narrowed(request, StatusFilter.parameter_name):
            queryset = first(queryset.order_by(_NEWEST_FIRST), queryset)
        return queryset.filter(task=value)


@admin.register(Job)
class JobAdmin(ConfirmingAdmin):
    """How far jobs are. Arguments and results are not shown; whoever may view jobs sees why they
    have failed."""

    verdicts = JOB_VERDICTS
    newest_first = _NEWEST_FIRST
    not_in_lists = ("error_message", "traceback")

    list_display = (
        "status",
        "id",
        "task",
        "progress",
        "attempts",
        "age",
        "finished_at",
        "error_code",
    )
    list_display_links = ("status", "id")
    list_filter = (StatusFilter, TaskFilter)
    search_fields = ("id__exact",)
    search_help_text = _("A whole id of a job.")
    fields = readonly_fields = (
        "status",
        "id",
        "task",
        "record",
        "progress",
        "attempts",
        "resent",
        "error_code",
        "readable_message",
        "formatted_traceback",
    )

    def prepared(self, rows: Any) -> Any:
        """With the database's clock, and without what belongs to the callers."""
        return rows.defer("arguments", "result").annotate(now=ServerNow())

    def get_search_results(
        self, request: HttpRequest, queryset: Jobs, search_term: str
    ) -> tuple[Jobs, bool]:
        if not search_term:
            return queryset, False
        try:
            return queryset.filter(pk=UUID(search_term)), False
        except ValueError:
            return queryset.none(), False

    # A job's own page

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        job: Any = kwargs["obj"]
        records = IdempotencyRecord.objects.using(job._state.db).defer("headers", "body")
        record = records.filter(pk=job.record_id).first()
        if record is not None:
            job.record = record
        context |= {
            "verdicts": self.offered(request, job),
            "life": life_of_job(job, record, job.now),
            "job": job,
            "steps": steps_of(job.record_id, job._state.db),
        }
        return super().render_change_form(request, context, *args, **kwargs)

    # What verdicts say of it

    def name_of(self, row: Job) -> str:
        return str(row)

    def logged_name_of(self, row: Job) -> str:
        """Its task and its id."""
        return str(row)

    def stage_label(self, row: Job) -> Any:
        return row.get_status_display()

    def token_of(self, row: Job) -> int:
        """None: a job is cancelled whoever has it by now."""
        return 0

    # Columns

    @admin.display(description=_("progress"))
    def progress(self, job: Job) -> Any:
        """As the task has reported it."""
        if job.total is None:
            return self.get_empty_value_display()
        return _("%(done)d of %(total)d") % {"done": job.done, "total": job.total}

    @admin.display(description=_("age"))
    def age(self, job: Any) -> str:
        """Since the request, in the largest unit."""
        return timesince(job.created_at, job.now, depth=1)

    @admin.display(description=_("traceback"))
    def formatted_traceback(self, job: Job) -> Any:
        """As Python prints it."""
        text = _readable(job.traceback)
        return format_html("<pre>{}</pre>", text) if text else self.get_empty_value_display()

    @admin.display(description=_("error message"))
    def readable_message(self, job: Job) -> Any:
        """As clients read it."""
        return _readable(job.error_message)


def _readable(stored: str) -> Any:
    """A text that may be encrypted, perhaps under a key that is gone."""
    text = encryption.unseal_text(stored, "job")
    return _("encrypted under a key that is not there any more") if text is None else text
