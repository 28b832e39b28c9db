"""The jobs: how far they are, what became of them, and why they failed."""

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.timesince import timesince
from django.utils.translation import gettext_lazy as _

from idempotency.admin.lists import ReadOnlyAdmin, first, is_narrowed, newest_of
from idempotency.admin.related import step_table
from idempotency.layers import encryption
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
class JobAdmin(ReadOnlyAdmin):
    """How far jobs are. Arguments and results are not shown; whoever may view jobs sees why they
    have failed."""

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
        "created_at",
        "started_at",
        "finished_at",
        "error_code",
        "readable_message",
        "formatted_traceback",
        "its_steps",
    )

    def get_queryset(self, request: HttpRequest) -> Jobs:
        jobs: Jobs = super().get_queryset(request)
        return jobs.defer("arguments", "result")

    def get_search_results(
        self, request: HttpRequest, queryset: Jobs, search_term: str
    ) -> tuple[Jobs, bool]:
        if not search_term:
            return queryset, False
        try:
            return queryset.filter(pk=UUID(search_term)), False
        except ValueError:
            return queryset.none(), False

    # Columns

    @admin.display(description=_("progress"))
    def progress(self, job: Job) -> Any:
        """As the task has reported it."""
        if job.total is None:
            return None
        return _("%(done)d of %(total)d") % {"done": job.done, "total": job.total}

    @admin.display(description=_("age"))
    def age(self, job: Job) -> str:
        """Since the request, in the largest unit."""
        return timesince(job.created_at, depth=1)

    @admin.display(description=_("traceback"))
    def formatted_traceback(self, job: Job) -> Any:
        """As Python prints it."""
        text = _readable(job.traceback)
        return format_html("<pre>{}</pre>", text) if text else None

    @admin.display(description=_("error message"))
    def readable_message(self, job: Job) -> Any:
        """As clients read it."""
        return _readable(job.error_message)

    @admin.display(description=_("steps"))
    def its_steps(self, job: Job) -> Any:
        """The steps that are done."""
        return step_table(job.record_id, job._state.db)


def _readable(stored: str) -> Any:
    """A text that may be encrypted, perhaps under a key that is gone."""
    text = encryption.unseal_text(stored, "job")
    return _("encrypted under a key that is not there any more") if text is None else text
