"""Rows that remember the key that made them, and the lists in which an outsider counts them."""

from typing import Any, ClassVar, TypeVar

from django.db.models import Model, QuerySet
from rest_framework import mixins, serializers, viewsets
from rest_framework.request import Request
from rest_framework.serializers import BaseSerializer

from idempotency.keys import current_key

M = TypeVar("M", bound=Model)


class RowsViewSet(
    mixins.CreateModelMixin,
    mixins.RetrieveModelMixin,
    mixins.ListModelMixin,
    viewsets.GenericViewSet[M],
):
    """Rows are made, shown and listed, never changed."""

    #: Query parameter -> look-up, for the lists.
    filters: ClassVar[dict[str, str]] = {}
    #: Status -> what it says, for refusals that are the view's own.
    refusals: ClassVar[dict[int, str]] = {}

    def get_queryset(self) -> QuerySet[M]:
        """The rows that the query asks for."""
        asked = self.request.query_params
        wanted: dict[str, Any] = {
            look_up: asked[name] for name, look_up in self.filters.items() if name in asked
        }
        if any("\0" in value for value in wanted.values()):
            return super().get_queryset().none()  # PostgreSQL would refuse the statement
        return super().get_queryset().filter(**wanted)

    def perform_create(self, serializer: BaseSerializer[M]) -> None:
        """Saves the row with the key that made it."""
        serializer.save(idempotency_key=request_key(self.request))


class CodeField(serializers.SlugRelatedField[M]):
    """Another row, by its code."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(slug_field="code", **kwargs)

    def to_internal_value(self, data: Any) -> M:
        """The row. PostgreSQL would refuse the statement for a code with a null character."""
        if isinstance(data, str) and "\0" in data:
            self.fail("invalid")
        return super().to_internal_value(data)


def request_key(request: Request) -> str:
    """The key of the running request; while the demo bypasses the mixin, its header as it came."""
    try:
        return current_key()
    except LookupError:
        return str(request.headers.get("Idempotency-Key", ""))[:255]
