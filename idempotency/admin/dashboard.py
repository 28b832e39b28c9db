"""The dashboard: a page beside the list of records, for whoever may view records."""

from dataclasses import dataclass
from typing import Any, Final

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_safe

from idempotency.admin import panels
from idempotency.admin.charts import number
from idempotency.figures import gather


@dataclass(frozen=True, slots=True)
class Range:
    """A choice of how far to look back."""

    name: str
    label: Any
    hours: int


#: The first is shown where the URL names none.
RANGES: Final = (
    Range("24h", _("24 hours"), 24),
    Range("7d", _("7 days"), 7 * 24),
    Range("30d", _("30 days"), 30 * 24),
)


class DashboardAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # no subscript at run time
    """Adds the dashboard to the URLs of the records' admin."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_safe(self.dashboard))
        return [path("dashboard/", view, name="idempotency_dashboard"), *super().get_urls()]

    def dashboard(self, request: HttpRequest) -> TemplateResponse:
        """What happened in a range, and how things stand now."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        request.current_app = self.admin_site.name
        asked = request.GET.get("range")
        chosen = next((each for each in RANGES if each.name == asked), RANGES[0])
        figures = gather(chosen.hours)
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": _("Idempotency dashboard"),
            "ranges": RANGES,
            "chosen": chosen,
            "is_empty": figures.is_empty,
        }
        if not figures.is_empty:
            context |= {
                "tiles": panels.tiles(figures),
                "charts": (panels.caught_chart(figures), panels.executed_chart(figures)),
                "refusals": panels.bars(figures.traffic.refusals),
                "observed": panels.bars(figures.traffic.observed),
                "operations": panels.operations(figures),
                "scopes": panels.scopes(figures),
                "sample": number(figures.newest.records),
                "now": panels.now(figures),
                "storage": panels.storage(figures),
                "growth": panels.growth(figures),
                "size": figures.storage.size,
            }
        return TemplateResponse(request, "admin/idempotency/dashboard.html", context)
