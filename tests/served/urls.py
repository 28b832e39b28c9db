"""One protected endpoint whose handler takes as long as it is told."""

import os
import time
from typing import Any

from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency import events
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking


class BookingView(IdempotencyMixin, APIView):
    idempotency_operation = "bookings"

    def get(self, request: Request) -> Response:
        return Response({"pid": os.getpid(), "counts": events.counts()})

    def post(self, request: Request) -> Response:
        asked: Any = request.data
        booking = Booking.objects.create(name=asked["name"])
        time.sleep(asked.get("seconds", 0))
        return Response({"id": booking.pk, "name": booking.name}, status=201)


urlpatterns = [path("bookings/", BookingView.as_view())]
