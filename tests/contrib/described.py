"""Schemas of views that a test has made."""

from typing import Any

from django.http import HttpResponseBase
from django.urls import path
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema
from rest_framework import serializers, viewsets
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response

from idempotency.views import IdempotencyMixin


class Order(serializers.Serializer):
    """An order."""

    amount = serializers.IntegerField()


class OrderViewSet(IdempotencyMixin, viewsets.GenericViewSet):
    """Orders."""

    serializer_class = Order
    permission_classes = [IsAuthenticated]

    def create(self, request: Any) -> HttpResponseBase:
        return Response(dict(request.data), status=201)

    def update(self, request: Any, pk: Any) -> HttpResponseBase:
        return Response(request.data)

    def list(self, request: Any) -> HttpResponseBase:
        return Response([])


def orders(view: Any = OrderViewSet, **initkwargs: Any) -> Any:
    """The URL of a viewset."""
    actions = {"get": "list", "post": "create", "put": "update"}
    return path("orders/", view.as_view(actions, **initkwargs))


def schema_of(*patterns: Any, warnings: int = 0) -> dict[str, Any]:
    """The schema, which is valid, and made with so many complaints."""
    made: dict[str, Any] = SchemaGenerator(patterns=list(patterns)).get_schema(public=True)
    validate_schema(made)
    assert len(GENERATOR_STATS._warn_cache) + len(GENERATOR_STATS._error_cache) == warnings
    return made


def operation(*patterns: Any, method: str = "post", warnings: int = 0) -> dict[str, Any]:
    """One operation of the first path, most often that which makes an order."""
    paths = schema_of(*(patterns or [orders()]), warnings=warnings)["paths"]
    found: dict[str, Any] = next(iter(paths.values()))[method]
    return found


def parameter(described: dict[str, Any], name: str = "Idempotency-Key") -> dict[str, Any] | None:
    """The header parameter of that name."""
    named: list[dict[str, Any]] = [
        each for each in described.get("parameters", []) if each["name"] == name
    ]
    assert len(named) <= 1
    return named[0] if named else None


def codes(described: dict[str, Any]) -> set[tuple[str, str]]:
    """The refusals with an example: status and code, without the prefix that all share."""
    return {
        (status, code.removeprefix("idempotency_"))
        for status, response in described["responses"].items()
        for code in response.get("content", {})
        .get("application/problem+json", {})
        .get("examples", {})
    }
