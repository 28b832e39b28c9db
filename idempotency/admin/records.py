"""The records: who used which key, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.db.models.functions import Length
from django.http import HttpRequest, HttpResponse
from django.utils.text import Truncator
from django.utils.timesince import timesince
from django.utils.translation import gettext_lazy as _

from idempotency.admin.confirming import ConfirmingAdmin
from idempotency.admin.dashboard import DashboardAdmin
from idempotency.admin.family import family_of
from idempotency.admin.lists import first, first_keys, is_narrowed, newest_of
from idempotency.admin.related import job_of, steps_of, url_of_job
from idempotency.admin.stages import STAGES, stage_of
from idempotency.admin.stored import stored_reply
from idempotency.admin.timeline import life_of_record
from idempotency.admin.verdicts import RECORD_VERDICTS
from idempotency.layers.clock import ServerNow
from idempotency.models import IdempotencyRecord, State
from idempotency.outcomes import Identity

Records = QuerySet[IdempotencyRecord]
Condition = Callable[[ServerNow], Q]


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
        now = ServerNow()
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
class IdempotencyRecordAdmin(DashboardAdmin, ConfirmingAdmin):
    """Who used which key, and what became of it."""

    verdicts = RECORD_VERDICTS

    # What is long comes last.
    list_display = (
        "stage",
        "status",
        "replays",
        "age",
        "short_key",
        "expires_at",
        "operation",
        "scope",
    )
    list_display_links = ("stage", "short_key")
    list_filter = (StageFilter, OperationFilter)
    search_fields = ("scope__startswith", "key__exact")
    search_help_text = _("The beginning of a scope, or a whole key; =KEY looks for keys only.")
    fields = readonly_fields = (
        "stage",
        "meaning",
        "operation",
        "scope",
        "key",
        "parent_key",
        "fencing_token",
        "is_held_if_lost",
        "status",
        "replays",
        "reply_size",
    )

    def prepared(self, rows: Any) -> Any:
        """With the database's clock, and without replies."""
        return rows.defer("headers", "body", "fingerprint", "fields").annotate(
            now=ServerNow(), body_size=Length("body")
        )

    def get_search_results(
        self, request: HttpRequest, queryset: Records, search_term: str
    ) -> tuple[Records, bool]:
        if not search_term:
            return queryset, False
        found: list[int] = []
        if search_term.isascii():
            # Before the filters, which have no index in common with it.
            records = IdempotencyRecord.objects.using(queryset.db)
            if not search_term.startswith("="):
                # A range of bytes is exact on every vendor, and what the index is sorted by.
                scopes = records.filter(scope__gte=search_term, scope__lt=f"{search_term}\x7f")
                found = first_keys(scopes.order_by("scope", "key"))
            found = found or first_keys(records.filter(key=search_term.removeprefix("=")))
        return queryset.filter(pk__in=found), False

    # A record's own page

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        record: Any = kwargs["obj"]
        user: Any = request.user
        job, steps = job_of(record), steps_of(record.pk, record._state.db)
        may_see_reply = user.has_perm("idempotency.view_stored_reply")
        context |= {
            "verdicts": self.offered(request, record),
            "life": life_of_record(record, job, steps, record.now),
            "may_see_reply": may_see_reply,
            "reply": stored_reply(record) if may_see_reply else None,
            "family": family_of(record, record.now, using=record._state.db),
            "job": job,
            "job_url": None if job is None else url_of_job(job, self.admin_site.name),
            "steps": steps,
        }
        return super().render_change_form(request, context, *args, **kwargs)

    # What verdicts say of it

    def name_of(self, row: IdempotencyRecord) -> str:
        return Truncator(row.key).chars(40)

    def logged_name_of(self, row: IdempotencyRecord) -> str:
        """The operation, and the digest by which the logs of events name the key."""
        identity = Identity(row.scope, row.key, str(row._state.db))
        return f"{row.operation} {identity.digest}"

    def stage_label(self, row: Any) -> Any:
        return STAGES[stage_of(row, row.now)].label

    def token_of(self, row: IdempotencyRecord) -> int:
        return row.attempt

    # Columns

    @admin.display(description=_("stage"))
    def stage(self, record: Any) -> Any:
        """The stage at this moment, by the database's clock."""
        return self.stage_label(record)

    @admin.display(description=_("which means"))
    def meaning(self, record: Any) -> Any:
        """What a retry gets in this stage."""
        return STAGES[stage_of(record, record.now)].meaning

    @admin.display(description=_("key"))
    def short_key(self, record: IdempotencyRecord) -> str:
        """Enough of it to tell keys apart."""
        return self.name_of(record)

    @admin.display(description=_("age"))
    def age(self, record: Any) -> str:
        """Since the claim, in the largest unit."""
        return timesince(record.created_at, record.now, depth=1)

    @admin.display(description=_("fencing token"))
    def fencing_token(self, record: IdempotencyRecord) -> int:
        """It rises with every change of owner or verdict."""
        return record.attempt

    @admin.display(description=_("left to a verdict if lost"), boolean=True)
    def is_held_if_lost(self, record: IdempotencyRecord) -> bool:
        """What the policy's `on_abandoned` says."""
        return record.holds

    @admin.display(description=_("stored reply"))
    def reply_size(self, record: Any) -> Any:
        """Its size; the reply itself belongs to the caller."""
        if record.status is None:
            return self.get_empty_value_display()
        if record.body_size is None:
            return _("not kept")
        return _("%(size)d bytes") % {"size": record.body_size}
