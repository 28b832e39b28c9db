"""Read-only pages, and lists of them that stay fast however many rows there are."""

from typing import Any, ClassVar, TypeVar

from django.contrib import admin
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

Row = TypeVar("Row", bound=Model)

#: Rows of one answer: twenty pages. Whoever needs more asks the database.
LIMIT = 1000


class BoundedPaginator(Paginator):  # type: ignore[type-arg] # no subscript at run time
    """Counts to the limit only, along the index: a purge leaves empty pages at a table's head."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows[:LIMIT].count())


class NewestFirst(ChangeList):
    """By the one order that has an index, whatever the URL asks."""

    model_admin: "ReadOnlyAdmin"

    def get_ordering(self, request: HttpRequest, queryset: Any) -> list[Any]:
        return [self.model_admin.newest_first]

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        rows = super().get_queryset(request, *args, **kwargs)
        return rows.defer(*self.model_admin.not_in_lists)


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # no subscript at run time
    """What can be looked at, and neither added, changed nor deleted."""

    #: The order of an index, from its end.
    newest_first: ClassVar[str] = "-id"
    #: Columns that only a row's own page reads.
    not_in_lists: ClassVar[tuple[str, ...]] = ()

    class Media:
        css = {"all": ("idempotency/admin.css",)}

    #: Half of Django's: the database answers in a few milliseconds, each row takes one to render.
    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each would be a count
    paginator = BoundedPaginator
    sortable_by = ()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """None but the filters': they would scan the table, and could feel for a reply's text."""
        filters: Any = self.list_filter
        return lookup in {each.parameter_name for each in filters}

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return NewestFirst


def first(
    chosen: "QuerySet[Any]", queryset: "QuerySet[Row]", column: str = "pk"
) -> "QuerySet[Row]":
    """Those of the queryset whose column is among the first LIMIT of the chosen rows' `pk`."""
    return queryset.filter(**{f"{column}__in": first_keys(chosen)})


def first_keys(chosen: "QuerySet[Any]") -> list[Any]:
    """The primary keys of the first LIMIT: as a list, for MySQL has no LIMIT in a subquery."""
    return list(chosen.values_list("pk", flat=True)[:LIMIT])


def newest_of(rows: "QuerySet[Row]", column: str) -> list[tuple[str, str]]:
    """A filter's choices: what the newest rows have; a list of all would read the whole table."""
    return [(value, value) for value in sorted(set(rows.values_list(column, flat=True)[:LIMIT]))]


def is_narrowed(request: HttpRequest, *parameters: str) -> bool:
    """Whether a search or another filter has bounded the answer already."""
    return any(request.GET.get(name) for name in (SEARCH_VAR, *parameters))
