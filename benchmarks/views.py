"""The create view in its forms: at its least, bare, and protected."""

import time
from functools import partial
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django_redis import get_redis_connection
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from benchmarks.background import enroll_later
from benchmarks.models import Enrollment
from idempotency.jobs import start_job
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin

#: Where the floor's reply lies in Redis.
FLOOR = "benchmarks:floor"
#: Seconds of work in the handler of the crowd's view.
WORK = 0.05
#: Seconds of a lease, and of the work that the heartbeat keeps it for: four leases, and a tenth of
#: one so that the last renewal is not cut off by the end.
LEASE, LONG_WORK = 1.5, 6.15
#: When a handler's transaction committed, by student; read and emptied by the crowd.
commits: dict[str, float] = {}


def enroll(data: Any) -> dict[str, Any]:
    """The business: one insert."""
    row = Enrollment.objects.create(student=data["student"], course=data["course"])
    return {"id": row.pk, "student": row.student, "course": row.course}


def alive(request: HttpRequest) -> HttpResponse:
    """Whether the server is up."""
    return HttpResponse("yes")


class Floor(APIView):
    """The least that a replay can do: one GET, and the bytes as they are."""

    def post(self, request: Request) -> HttpResponse:
        body = get_redis_connection("default").get(FLOOR)
        return HttpResponse(body, status=201, content_type="application/json")


class Bare(APIView):
    """The unprotected create: BEGIN, one insert, COMMIT."""

    def post(self, request: Request) -> Response:
        with transaction.atomic():
            return Response(enroll(request.data), status=201)


class Protected(IdempotencyMixin, APIView):
    """The same behind the mixin, which brings the transaction."""

    def post(self, request: Request) -> Response:
        return Response(enroll(request.data), status=201)


class Slow(IdempotencyMixin, APIView):
    """The same with some work in it, telling when it committed."""

    def post(self, request: Request) -> Response:
        reply = enroll(request.data)
        time.sleep(WORK)
        transaction.on_commit(partial(_note_commit, reply["student"]))
        return Response(reply, status=201)


class Leased(IdempotencyMixin, APIView):
    """The same under a lease: the claim commits first."""

    idempotency_policy = Policy(execution="leased")

    def post(self, request: Request) -> Response:
        return Response(enroll(request.data), status=201)


class Lasting(IdempotencyMixin, APIView):
    """The same, so long that its lease is renewed on the way."""

    idempotency_policy = Policy(execution="leased", lease=LEASE)

    def post(self, request: Request) -> Response:
        time.sleep(LONG_WORK)
        return Response(enroll(request.data), status=201)


class Job(IdempotencyMixin, APIView):
    """The same as a job: this only starts it."""

    idempotency_policy = Policy(execution="job")

    def post(self, request: Request) -> HttpResponseBase:
        data: Any = request.data
        return start_job(enroll_later, student=data["student"], course=data["course"])


def _note_commit(student: str) -> None:
    commits[student] = time.monotonic()
