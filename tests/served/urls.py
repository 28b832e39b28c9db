"""Protected endpoints: one that takes as long as it is told, jobs, and leased handlers."""

import os
import time
from functools import partial
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency import events
from idempotency.contrib.prometheus import storage
from idempotency.jobs import current_attempt, start_job, step
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.worked import tasks
from tests.worked.gates import stop_at

#: Seconds. Short, because tests wait for the end of leases whose owners they killed.
LEASE = 2


class BookingView(IdempotencyMixin, APIView):
    idempotency_operation = "bookings"

    def get(self, request: Request) -> Response:
        return Response({"pid": os.getpid(), "time": time.time(), "counts": events.counts()})

    def post(self, request: Request) -> Response:
        asked: Any = request.data
        booking = Booking.objects.create(name=asked["name"])
        time.sleep(asked.get("seconds", 0))
        return Response({"id": booking.pk, "name": booking.name}, status=201)


class GatedView(IdempotencyMixin, APIView):
    """A booking in one transaction, between the gates `before`, `effects` and `committed`."""

    idempotency_operation = "gated"

    def post(self, request: Request) -> Response:
        asked: Any = request.data
        stop_at("before")
        booking = Booking.objects.create(name=asked["name"])
        transaction.on_commit(partial(stop_at, "committed"))
        stop_at("effects")
        return Response({"id": booking.pk}, status=201)


class JobView(IdempotencyMixin, APIView):
    """Starts the task of tests.worked.tasks that the body names, with the rest of the body."""

    idempotency_operation = "jobs"
    idempotency_policy = Policy(execution="job", lease=LEASE)

    def post(self, request: Request) -> HttpResponse:
        arguments: Any = dict(request.data)
        task = getattr(tasks, arguments.pop("task"))
        # Before the message goes out, since these are called in order.
        transaction.on_commit(partial(stop_at, "committed"))
        started = start_job(task, **arguments)
        stop_at("started")
        return started


class HeldJobView(JobView):
    idempotency_operation = "held-jobs"
    idempotency_policy = Policy(execution="job", lease=LEASE, on_abandoned="hold")


class LeasedView(IdempotencyMixin, APIView):
    """A booking whose seats are the fencing token, between the gates `before` and `effects`."""

    idempotency_operation = "leased"
    idempotency_policy = Policy(execution="leased", lease=LEASE)

    def post(self, request: Request) -> Response:
        asked: Any = request.data
        stop_at("before")
        booking = Booking.objects.create(name=asked["name"], seats=current_attempt())
        stop_at("effects")
        return Response({"id": booking.pk, "attempt": current_attempt()}, status=201)


class HeldView(LeasedView):
    idempotency_operation = "held"
    idempotency_policy = Policy(execution="leased", lease=LEASE, on_abandoned="hold")


class SteppedView(LeasedView):
    """A booking a step; the gate `seat.N` stands after a step, `in.seat.N` within it."""

    idempotency_operation = "stepped"

    def post(self, request: Request) -> Response:
        asked: Any = request.data
        for seat in range(1, asked["seats"] + 1):
            step(f"seat.{seat}", tasks.book_seat, asked["name"], seat)
            stop_at(f"seat.{seat}")
        return Response({"seats": asked["seats"], "attempt": current_attempt()}, status=201)


def metrics(request: HttpRequest) -> HttpResponse:
    """All processes added up, and the tables; the runbook shows the same."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    registry.register(storage)
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


urlpatterns = [
    path("metrics/", metrics),
    path("bookings/", BookingView.as_view()),
    path("gated/", GatedView.as_view()),
    path("jobs/", JobView.as_view()),
    path("held-jobs/", HeldJobView.as_view()),
    path("leased/", LeasedView.as_view()),
    path("held/", HeldView.as_view()),
    path("stepped/", SteppedView.as_view()),
    path("idempotency/", include("idempotency.urls")),
]
