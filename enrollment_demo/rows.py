"""Rows that remember the key that made them, and the lists in which an outsider counts them."""

from typing import Any, ClassVar, TypeVar

from django.db.models import Model, QuerySet
from rest_framework import mixins, viewsets
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

    def get_queryset(self) -> QuerySet[M]:
        """The rows that the query asks for."""
        asked = self.request.query_params
        wanted: dict[str, Any] = {
            look_up: asked[name] for name, look_up in self.filters.items() if name in asked
        }
        return super().get_queryset().filter(**wanted)

    def perform_create(self, serializer: BaseSerializer[M]) -> None:
        """Saves the row with the key that made it."""
        serializer.save(idempotency_key=request_key(self.request))


def request_key(request: Request) -> str:
    """The key of the running request; while the demo bypasses the mixin, its header as it came."""
    try:
        return current_key()
    except LookupError:
        return str(request.headers.get("Idempotency-Key", ""))[:255]
