"""What the demo asks of a service: what its process counted, and to run unprotected."""

import os
from typing import Any, TypeVar

from django.conf import settings
from django.urls import path
from rest_framework.decorators import api_view, schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from idempotency import events

V = TypeVar("V", bound=type[GenericViewSet[Any]])


@api_view(["GET"])
@schema(None)  # no part of what a service offers
def counts(request: Request) -> Response:
    """What this process counted since it started; another process of the service has its own."""
    return Response({"process": os.getpid(), "counts": events.counts()})


demo_urls = [path("demo/counts/", counts)]


def protected(viewset: V) -> V:
    """The viewset as it is; while the demo bypasses the mixin, the same with nothing protected."""
    if not settings.DEMO_BYPASS_IDEMPOTENCY:
        return viewset
    bypassed: V = type(viewset.__name__, (viewset,), {"idempotency_actions": frozenset()})  # type: ignore[assignment]
    return bypassed
