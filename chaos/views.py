"""The service: one effect a request, in each execution."""

import os
import time
from typing import Any

from django.db import transaction
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from chaos import log
from chaos.celery import app  # noqa: F401 - jobs are sent by it
from chaos.models import Effect
from chaos.tasks import work
from idempotency.jobs import start_job
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin

#: Set: no request is protected, as if there were no mixin.
UNPROTECTED = bool(os.environ.get("CHAOS_UNPROTECTED"))


class Service(IdempotencyMixin, APIView):
    """Creates the effect that the body names, and works for a while."""

    service = ""
    idempotency_actions = frozenset() if UNPROTECTED else None

    def post(self, request: Request) -> HttpResponseBase:
        asked: Any = request.data
        caller = str(request.user.pk)
        log.began(self.service, caller, asked["name"])
        with transaction.atomic():
            effect = Effect.objects.create(service=self.service, caller=caller, name=asked["name"])
            time.sleep(asked["seconds"])
        body = {"caller": caller, "name": asked["name"], "effect": effect.pk}
        return Response(body, status=201)


class Atomic(Service):
    service = "atomic"
    idempotency_operation = "atomic"


class Leased(Service):
    service = "leased"
    idempotency_operation = "leased"
    idempotency_policy = Policy(execution="leased")


class Job(Service):
    service = "job"
    idempotency_operation = "job"
    idempotency_policy = Policy(execution="job")

    def post(self, request: Request) -> HttpResponseBase:
        asked: Any = request.data
        caller = str(request.user.pk)
        if UNPROTECTED:
            work.delay(caller=caller, name=asked["name"], seconds=asked["seconds"])
            return Response({"caller": caller, "name": asked["name"]}, status=201)
        return start_job(work, caller=caller, name=asked["name"], seconds=asked["seconds"])


class Alive(APIView):
    """Says which process answers, to anybody."""

    authentication_classes = []
    permission_classes = []

    def get(self, request: Request) -> Response:
        return Response({"pid": os.getpid()})
