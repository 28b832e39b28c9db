"""What operators may do to one row or some: asked for, confirmed, carried out, and logged."""

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.models import LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.contrib.admin.utils import quote
from django.core.exceptions import BadRequest, PermissionDenied, ValidationError
from django.db import connections, transaction
from django.forms import Form
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import formats, timezone
from django.utils.translation import gettext as _

from idempotency.admin.lists import ReadOnlyAdmin
from idempotency.admin.verdict import Verdict
from idempotency.layers import ledger

#: Rows of one confirmation: one page of a list. Each is locked and logged in a transaction of its
#: own, so more would keep the operator waiting.
MOST = 100

#: A fencing token as a confirmation sends it along.
_TOKEN = re.compile(r"[0-9]{1,10}")


class ConfirmingAdmin(ReadOnlyAdmin):
    """Rows that are changed by nothing but verdicts."""

    verdicts: ClassVar[tuple[Verdict, ...]] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.actions = [self._asking(verdict) for verdict in self.verdicts]

    # To be said by the admin of a model

    def prepared(self, rows: Any) -> Any:
        """With what pages show of rows, and no more."""
        raise NotImplementedError

    def name_of(self, row: Any) -> str:
        """A row's name in messages."""
        raise NotImplementedError

    def logged_name_of(self, row: Any) -> str:
        """A row's name in the log, which outlives it: no key."""
        raise NotImplementedError

    def stage_label(self, row: Any) -> Any:
        """How a row stands now."""
        raise NotImplementedError

    def token_of(self, row: Any) -> int:
        """What has risen where somebody has changed the row."""
        raise NotImplementedError

    # Where it is asked for

    def get_queryset(self, request: HttpRequest) -> Any:
        return self.prepared(super().get_queryset(request))

    def get_urls(self) -> list[URLPattern]:
        view: Any = self.admin_site.admin_view(self.verdict_view)
        # Each row's verdict commits by itself, and the caches are told before the page is.
        view._non_atomic_requests = frozenset(connections)
        return [path("verdict/<slug:name>/", view, name=self._url_name()), *super().get_urls()]

    def get_actions(self, request: HttpRequest, action_location: Any = None) -> Any:
        """The verdicts that a user may give, and none of the site's own actions."""
        # Django has had the second argument since 6.1.
        where = {} if action_location is None else {"action_location": action_location}
        names = {verdict.name for verdict in self.allowed(request)}
        found = super().get_actions(request, **where)
        return {name: action for name, action in found.items() if name in names}

    def allowed(self, request: HttpRequest) -> list[Verdict]:
        """The verdicts that a user may give."""
        user: Any = request.user
        return [verdict for verdict in self.verdicts if user.has_perm(verdict.permission)]

    def offered(self, request: HttpRequest, row: Any) -> list[dict[str, Any]]:
        """Links to the verdicts that a user may give on a row as it is."""
        return [
            {"label": verdict.label, "url": self._url(verdict, [row.pk])}
            for verdict in self.allowed(request)
            if verdict.fits(row)
        ]

    def _asking(self, verdict: Verdict) -> Callable[..., HttpResponse | None]:
        def ask(_admin: Any, request: HttpRequest, rows: Any) -> HttpResponse | None:
            chosen = list(rows.values_list("pk", flat=True)[: MOST + 1])
            if len(chosen) > MOST:
                text = _("At most %(most)d at once: choose fewer.") % {"most": MOST}
                self.message_user(request, text, messages.ERROR)
                return None
            return HttpResponseRedirect(self._url(verdict, chosen))

        ask.__name__ = verdict.name
        return admin.action(ask, description=verdict.label)

    # Where it is confirmed and done

    def verdict_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Ask for a confirmation; where it is given, carry the verdict out on each row."""
        verdict = next((each for each in self.verdicts if each.name == name), None)
        if verdict is None:
            raise Http404
        if not self.has_view_permission(request) or verdict not in self.allowed(request):
            raise PermissionDenied
        if request.method != "POST":
            form = verdict.form() if verdict.form else None
            return self._confirm(request, verdict, self._rows(request.GET.getlist("row")), form)
        seen = _seen(request.POST.getlist("row"))
        form = verdict.form(request.POST) if verdict.form else None
        if form is not None and not form.is_valid():
            return self._confirm(request, verdict, self._rows(seen), form)
        return self._carry_out(request, verdict, seen, form.cleaned_data if form else {})

    def _confirm(
        self, request: HttpRequest, verdict: Verdict, rows: dict[str, Any], form: Form | None
    ) -> HttpResponse:
        fitting = [row for row in rows.values() if verdict.fits(row)]
        others = [row for row in rows.values() if not verdict.fits(row)]
        context = {
            **self.admin_site.each_context(request),
            "title": verdict.label,
            "opts": self.opts,
            "media": self.media,
            "verdict": verdict,
            "rows": [self._line(row) for row in fitting],
            "others": [self._line(row) for row in others],
            "form": form,
            "back": self._back(fitting or others),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "admin/idempotency/verdict.html", context)

    def _carry_out(
        self, request: HttpRequest, verdict: Verdict, seen: dict[str, int], data: dict[str, Any]
    ) -> HttpResponse:
        done = 0
        rows = self._rows(seen)
        for pk, token in seen.items():
            row = rows.get(pk)
            if row is None:
                self._tell(request, _("%(row)s is not there any more.") % {"row": pk})
                continue
            try:
                if self.token_of(row) == token and self._do(request, verdict, row, data):
                    done += 1
                else:
                    self._tell_left(request, row)
            except ValidationError as error:
                text = _("%(row)s was left alone: %(why)s")
                why = " ".join(error.messages)
                self._tell(request, text % {"row": self.name_of(row), "why": why})
        if done:
            self.message_user(request, verdict.done % {"count": done}, messages.SUCCESS)
        left = self._rows(seen) if len(seen) == 1 else {}
        return HttpResponseRedirect(self._back(left.values()))

    def _do(self, request: HttpRequest, verdict: Verdict, row: Any, data: dict[str, Any]) -> bool:
        stale: list[datetime] = []
        name = self.name_of(row)
        user: Any = request.user
        entry = LogEntry(
            user=user,
            content_type=get_content_type_for_model(row),
            object_id=str(row.pk),
            object_repr=self.logged_name_of(row)[:200],
            action_flag=verdict.flag,
            change_message=verdict.logged(data),
        )
        with transaction.atomic(using=row._state.db):  # no verdict without its entry
            is_done = verdict.carry_out(row, data, stale.append)
            if is_done:
                entry.save()
        for until in stale:
            moment = formats.localize(timezone.localtime(until))
            text = _(
                "%(row)s: not every cache could be told, so the stored reply may still be served"
                " until %(until)s."
            )
            self._tell(request, text % {"row": name, "until": moment})
        return is_done

    def _tell_left(self, request: HttpRequest, row: Any) -> None:
        now = self._rows([str(row.pk)])
        if now:
            text = _("%(row)s was left alone: it has changed meanwhile. It is: %(stage)s.")
            stage = self.stage_label(next(iter(now.values())))
        else:
            text, stage = _("%(row)s was left alone: it is not there any more."), ""
        self._tell(request, text % {"row": self.name_of(row), "stage": stage})

    def _tell(self, request: HttpRequest, text: str) -> None:
        self.message_user(request, text, messages.WARNING)

    # Rows and URLs

    def _rows(self, pks: Iterable[str]) -> dict[str, Any]:
        """Rows as they are where they are written: a replica may lag behind."""
        asked = list(pks)
        if len(asked) > MOST:
            raise BadRequest(f"more than {MOST} rows")
        column = self.opts.pk
        try:
            keys = [column.to_python(pk) for pk in asked]
            for key in keys:
                column.run_validators(key)  # within its range
        except ValidationError as error:
            raise BadRequest("no key of a row") from error
        rows: Any = self.model._default_manager.using(ledger.alias(None))
        found = self.prepared(rows).filter(pk__in=keys).order_by("pk")
        return {str(row.pk): row for row in found}

    def _line(self, row: Any) -> dict[str, Any]:
        return {
            "name": str(row),
            "stage": self.stage_label(row),
            "url": self._change_url(row),
            "value": f"{row.pk}:{self.token_of(row)}",
        }

    def _back(self, rows: Iterable[Any]) -> str:
        """The page of the only row; else the list."""
        only = list(rows)
        if len(only) == 1:
            return self._change_url(only[0])
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"
        return reverse(name, current_app=self.admin_site.name)

    def _change_url(self, row: Any) -> str:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return reverse(name, args=[quote(row.pk)], current_app=self.admin_site.name)

    def _url(self, verdict: Verdict, pks: Iterable[Any]) -> str:
        name = f"admin:{self._url_name()}"
        url = reverse(name, args=[verdict.name], current_app=self.admin_site.name)
        return f"{url}?{urlencode([('row', str(pk)) for pk in pks])}"

    def _url_name(self) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_verdict"


def _seen(values: Iterable[str]) -> dict[str, int]:
    """The rows that were confirmed, with what was seen of them. Raises BadRequest."""
    seen = {}
    for value in values:
        pk, _colon, token = value.rpartition(":")
        if not _TOKEN.fullmatch(token):
            raise BadRequest("no row that was shown")
        seen[pk] = int(token)
    return seen
