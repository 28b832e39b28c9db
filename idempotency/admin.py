"""A read-only look at the records; what changes them are commands.

The table may hold tens of millions of rows, and each further index would cost every insert. So a
question goes to an index that is there, takes at most LIMIT rows of its answer, and counts no
further. Only the search for a key reads a whole index: (scope, key).
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.db.models.functions import Length
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.text import Truncator
from django.utils.timesince import timesince
from django.utils.translation import gettext_lazy as _

from idempotency.models import IdempotencyRecord

Records = QuerySet[IdempotencyRecord]

#: Records of one answer: ten pages. Whoever needs more asks the database.
LIMIT = 1000

_STAGES = {
    "running": _("running"),
    "replayable": _("replayable"),
    "tombstone": _("tombstone"),
    "forgotten": _("forgotten"),
}

#: Where on the index of `purge_at` a stage begins, read in this order, and what it says beyond.
_FILTERS: dict[str, tuple[Callable[[datetime], Q], str, Callable[[datetime], Q]]] = {
    "replayable": (
        lambda now: Q(purge_at__gt=now),
        "-purge_at",
        lambda now: Q(expires_at__gt=now, purge_at__gt=now),
    ),
    "tombstone": (
        lambda now: Q(purge_at__gt=now),
        "purge_at",
        lambda now: Q(expires_at__lte=now, purge_at__gt=now),
    ),
    "forgotten": (
        lambda now: Q(purge_at__lte=now),
        "-purge_at",
        lambda now: Q(purge_at__lte=now),
    ),
}


def stage_of(record: IdempotencyRecord, now: datetime) -> str:
    """Which of the stages a record is in."""
    if record.purge_at is not None and record.purge_at <= now:
        return "forgotten"
    if record.expires_at is None:
        return "running"
    return "tombstone" if record.expires_at <= now else "replayable"


class StageFilter(admin.SimpleListFilter):
    """The records of one stage that are nearest to its border on the index."""

    title = _("state")
    parameter_name = "stage"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(name, _STAGES[name]) for name in _FILTERS]

    def queryset(self, request: HttpRequest, queryset: Records) -> Records:
        value = self.value()
        if value not in _FILTERS:
            return queryset
        now = timezone.now()
        border, order, condition = _FILTERS[value]
        if not request.GET.get(SEARCH_VAR):
            queryset = _first(queryset.filter(border(now)).order_by(order), queryset)
        return queryset.filter(condition(now))


class OperationFilter(admin.SimpleListFilter):
    """The operations of the newest records: a list of all would read the whole table."""

    title = _("operation (newest records)")
    parameter_name = "operation"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        newest = IdempotencyRecord.objects.order_by("-id").values_list("operation", flat=True)
        return [(name, name) for name in sorted(set(newest[:LIMIT]))]

    def queryset(self, request: HttpRequest, queryset: Records) -> Records:
        value = self.value()
        if value is None:
            return queryset
        if not (request.GET.get(SEARCH_VAR) or request.GET.get(StageFilter.parameter_name)):
            queryset = _first(queryset.order_by("-id"), queryset)
        return queryset.filter(operation=value)


class BoundedPaginator(Paginator):  # type: ignore[type-arg] # no subscript at run time
    """Counts to the limit only."""

    @cached_property
    def count(self) -> int:
        records: Any = self.object_list
        return int(records.order_by()[:LIMIT].count())


class NewestFirst(ChangeList):
    """By id, whatever the URL asks: no other order has an index."""

    def get_ordering(self, request: HttpRequest, queryset: Any) -> list[Any]:
        return ["-id"]


@admin.register(IdempotencyRecord)
class IdempotencyRecordAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # no subscript at run time
    """Who used which key, and what became of it. The stored replies are not shown."""

    # The scope ends with the operation; it comes last, because it is long.
    list_display = ("stage", "status", "short_key", "age", "expires_at", "scope")
    list_display_links = ("stage", "short_key")
    list_filter = (StageFilter, OperationFilter)
    search_fields = ("scope__startswith", "key__exact")
    search_help_text = _("The beginning of a scope, or a whole key; =KEY looks for keys only.")
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each would be a count
    paginator = BoundedPaginator
    actions = None
    sortable_by = ()
    fields = readonly_fields = (
        "stage",
        "state",
        "operation",
        "scope",
        "key",
        "parent_key",
        "attempt",
        "created_at",
        "completed_at",
        "expires_at",
        "purge_at",
        "status",
        "header_names",
        "reply_size",
    )

    # Read-only

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """None but the filters': they would scan the table, and could feel for a reply's text."""
        return lookup in (StageFilter.parameter_name, OperationFilter.parameter_name)

    # Cheap questions

    def get_queryset(self, request: HttpRequest) -> Records:
        records: Records = super().get_queryset(request)
        return records.defer("body", "fingerprint", "fields").annotate(body_size=Length("body"))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return NewestFirst

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
            return _first(keys, queryset), False
        found = _first(scopes.order_by("scope", "key"), queryset)
        return (found if found.exists() else _first(keys, queryset)), False

    # Columns

    @admin.display(description=_("stage"))
    def stage(self, record: IdempotencyRecord) -> Any:
        """The stage at this moment, by this server's clock."""
        return _STAGES[stage_of(record, timezone.now())]

    @admin.display(description=_("key"))
    def short_key(self, record: IdempotencyRecord) -> str:
        """Enough of it to tell keys apart."""
        return Truncator(record.key).chars(40)

    @admin.display(description=_("age"))
    def age(self, record: IdempotencyRecord) -> str:
        """Since the claim, in the largest unit."""
        return timesince(record.created_at, depth=1)

    @admin.display(description=_("stored headers"))
    def header_names(self, record: IdempotencyRecord) -> str:
        """Names only: values are part of the reply."""
        headers = json.loads(record.headers) if record.headers else []
        return ", ".join(name for name, _value in headers)

    @admin.display(description=_("stored reply"))
    def reply_size(self, record: Any) -> Any:
        """Its size; the reply itself belongs to the caller."""
        if record.body_size is None:
            return _("not kept")
        return _("%(size)d bytes") % {"size": record.body_size}


def _first(chosen: Records, queryset: Records) -> Records:
    """Those of the queryset that are among the first LIMIT of the chosen ones."""
    # As a list: MySQL has no LIMIT in a subquery.
    return queryset.filter(id__in=list(chosen.values_list("id", flat=True)[:LIMIT]))
