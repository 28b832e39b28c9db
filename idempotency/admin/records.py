"""The records: who used which key, and what became of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.db.models.functions import Length
from django.http import HttpRequest
from django.utils import timezone
from django.utils.text import Truncator
from django.utils.timesince import timesince
from django.utils.translation import gettext_lazy as _

from idempotency.admin.lists import ReadOnlyAdmin, first, is_narrowed, newest_of
from idempotency.admin.related import job_link, step_table
from idempotency.admin.stages import STAGES, stage_of
from idempotency.layers import encryption
from idempotency.models import IdempotencyRecord, State

Records = QuerySet[IdempotencyRecord]
Condition = Callable[[datetime], Q]


@dataclass(frozen=True)
class _Section:
    """Where on the index of `purge_at` a stage lies, and what it says beyond."""

    border: Condition
    #: Read in this order, so that the rows nearest to the border come first.
    order: tuple[str, str]
    condition: Condition


_NEWEST = ("-purge_at", "-id")


def _unsettled(condition: Condition) -> _Section:
    return _Section(lambda now: Q(purge_at=None), _NEWEST, condition)


def _kept(condition: Condition, order: tuple[str, str] = _NEWEST) -> _Section:
    return _Section(lambda now: Q(purge_at__gt=now), order, condition)


_SECTIONS = {
    "unknown": _unsettled(lambda now: Q(state=State.UNKNOWN)),
    "lapsed": _unsettled(lambda now: Q(state=State.RUNNING, lease_until__lte=now)),
    "running": _unsettled(
        lambda now: Q(state=State.RUNNING) & (Q(lease_until=None) | Q(lease_until__gt=now))
    ),
    "job": _unsettled(lambda now: Q(state=State.JOB)),
    "abandoned": _kept(lambda now: Q(state=State.ABANDONED)),
    "released": _kept(lambda now: Q(state=State.RELEASED)),
    "replayable": _kept(lambda now: Q(expires_at__gt=now)),
    "tombstone": _kept(lambda now: Q(expires_at__lte=now), ("purge_at", "id")),
    "forgotten": _Section(lambda now: Q(purge_at__lte=now), _NEWEST, lambda now: Q()),
}


class StageFilter(admin.SimpleListFilter):
    """The records of one stage that are nearest to its border on the index."""

    title = _("state")
    parameter_name = "stage"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(name, STAGES[name].label) for name in _SECTIONS]

    def queryset(self, request: HttpRequest, queryset: Records) -> Records:
        section = _SECTIONS.get(str(self.value()))
        if section is None:
            return queryset
        now = timezone.now()
        if not is_narrowed(request):
            nearest = queryset.filter(section.border(now)).order_by(*section.order)
            queryset = first(nearest, queryset)
        return queryset.filter(section.border(now), section.condition(now))


class OperationFilter(admin.SimpleListFilter):
    """The operations of the newest records."""

    title = _("operation (newest records)")
    parameter_name = "operation"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return newest_of(IdempotencyRecord.objects.order_by("-id"), "operation")

    def queryset(self, request: HttpRequest, queryset: Records) -> Records:
        value = self.value()
        if value is None:
            return queryset
        if not is_narrowed(request, StageFilter.parameter_name):
            queryset = first(queryset.order_by("-id"), queryset)
        return queryset.filter(operation=value)


@admin.register(IdempotencyRecord)
class IdempotencyRecordAdmin(ReadOnlyAdmin):
    """Who used which key, and what became of it. The stored replies are not shown."""

    # The scope ends with the operation; it comes last, because it is long.
    list_display = ("stage", "status", "short_key", "age", "expires_at", "scope")
    list_display_links = ("stage", "short_key")
    list_filter = (StageFilter, OperationFilter)
    search_fields = ("scope__startswith", "key__exact")
    search_help_text = _("The beginning of a scope, or a whole key; =KEY looks for keys only.")
    fields = readonly_fields = (
        "stage",
        "meaning",
        "state",
        "operation",
        "scope",
        "key",
        "parent_key",
        "attempt",
        "lease_until",
        "holds",
        "its_job",
        "created_at",
        "completed_at",
        "expires_at",
        "purge_at",
        "status",
        "header_names",
        "reply_size",
        "its_steps",
    )

    def get_queryset(self, request: HttpRequest) -> Records:
        records: Records = super().get_queryset(request)
        return records.defer("body", "fingerprint", "fields").annotate(body_size=Length("body"))

    def get_search_results(
        self, request: HttpRequest, queryset: Records, search_term: str
    ) -> tuple[Records, bool]:
        if not search_term:
            return queryset, False
        scopes, keys = queryset.none(), queryset.none()
        if search_term.isascii():
            # A range of bytes is exact on every vendor, and what the index is sorted by.
            scopes = queryset.filter(scope__gte=search_term, scope__lt=f"{search_term}\x7f")
            keys = queryset.filter(key=search_term.removeprefix("="))
        if search_term.startswith("="):
            return first(keys, queryset), False
        found = first(scopes.order_by("scope", "key"), queryset)
        return (found if found.exists() else first(keys, queryset)), False

    # Columns

    @admin.display(description=_("stage"))
    def stage(self, record: IdempotencyRecord) -> Any:
        """The stage at this moment, by this server's clock."""
        return STAGES[stage_of(record, timezone.now())].label

    @admin.display(description=_("which means"))
    def meaning(self, record: IdempotencyRecord) -> Any:
        """What a retry gets in this stage."""
        return STAGES[stage_of(record, timezone.now())].meaning

    @admin.display(description=_("key"))
    def short_key(self, record: IdempotencyRecord) -> str:
        """Enough of it to tell keys apart."""
        return Truncator(record.key).chars(40)

    @admin.display(description=_("age"))
    def age(self, record: IdempotencyRecord) -> str:
        """Since the claim, in the largest unit."""
        return timesince(record.created_at, depth=1)

    @admin.display(description=_("job"))
    def its_job(self, record: IdempotencyRecord) -> Any:
        """A link to the job that stands, or stood, for the key."""
        return job_link(record, self.admin_site.name)

    @admin.display(description=_("steps"))
    def its_steps(self, record: IdempotencyRecord) -> Any:
        """The steps that are done."""
        return step_table(record.pk, record._state.db)

    @admin.display(description=_("stored headers"))
    def header_names(self, record: IdempotencyRecord) -> Any:
        """Names only: values are part of the reply."""
        if encryption.is_sealed(record.headers):
            return _("encrypted")
        headers = json.loads(record.headers) if record.headers else []
        return ", ".join(name for name, _value in headers)

    @admin.display(description=_("stored reply"))
    def reply_size(self, record: Any) -> Any:
        """Its size; the reply itself belongs to the caller."""
        if record.body_size is None:
            return _("not kept")
        return _("%(size)d bytes") % {"size": record.body_size}
