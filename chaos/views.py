"""The service: one effect a request, in each execution."""

import os
from functools import partial
from typing import Any

from django.db import transaction
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from chaos import log
from chaos.celery import app  # noqa: F401 - jobs are sent by it
from chaos.effects import effect
from chaos.tasks import work
from idempotency.decorators import once
from idempotency.jobs import start_job, step
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin

#: Set: no request is protected, as if there were no mixin.
UNPROTECTED = bool(os.environ.get("CHAOS_UNPROTECTED"))


class Service(IdempotencyMixin, APIView):
    """Creates the effect that the body names, and works for a while."""

    service = ""
    idempotency_actions = frozenset() if UNPROTECTED else None

    def post(self, request: Request) -> HttpResponseBase:
        asked = _asked(request)
        log.began(self.service, asked["caller"], asked["name"])
        return Response(self.carry_out(asked), status=201)

    def carry_out(self, asked: dict[str, Any]) -> Any:
        """What the reply says."""
        with transaction.atomic():
            return effect(self.service, **asked)


class Atomic(Service):
    service = "atomic"
    idempotency_operation = "atomic"


class Leased(Service):
    service = "leased"
    idempotency_operation = "leased"
    idempotency_policy = Policy(execution="leased")


class Stepped(Service):
    """Two effects, each in a step of its own."""

    service = "stepped"
    idempotency_operation = "stepped"
    idempotency_policy = Policy(execution="leased")

    def carry_out(self, asked: dict[str, Any]) -> Any:
        first, second = (partial(effect, each, **asked) for each in ("stepped first", "stepped"))
        if UNPROTECTED:
            first()
            return second()
        step("first", first)
        return step("second", second)


class Once(APIView):
    """Hands an event to its consumer, as a broker would: at least once."""

    def post(self, request: Request) -> Response:
        return Response(consume(**_asked(request)))


def consume(*, caller: str, name: str, seconds: float, variant: str) -> dict[str, Any]:
    """One effect an event."""
    log.began("once", caller, name)
    with transaction.atomic():
        return effect("once", caller=caller, name=name, seconds=seconds, variant=variant)


if not UNPROTECTED:
    consume = once(operation="consume", key=lambda caller, name, **_: f"{caller}:{name}")(consume)


class Job(Service):
    service = "job"
    idempotency_operation = "job"
    idempotency_policy = Policy(execution="job")

    def post(self, request: Request) -> HttpResponseBase:
        asked = _asked(request)
        if UNPROTECTED:
            work.delay(**asked)
            return Response(asked, status=201)
        return start_job(work, **asked)


class Alive(APIView):
    """Says which process answers, to anybody."""

    authentication_classes = []
    permission_classes = []

    def get(self, request: Request) -> Response:
        return Response({"pid": os.getpid()})


def _asked(request: Request) -> dict[str, Any]:
    body: Any = request.data
    return {"caller": str(request.user.pk), **body}
