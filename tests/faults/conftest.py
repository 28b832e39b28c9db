"""The protocol's fixtures, against a Redis that the test may break."""

from threading import Event

import pytest
import redis
from django.http import HttpResponse

from enrollment_demo.servers import Redis
from tests.app.models import Booking
from tests.concurrent import PATIENCE
from tests.protocol.conftest import ask, bookings  # noqa: F401 - fixtures


@pytest.fixture
def server(settings):
    """A Redis of the test's own, behind the `default` cache."""
    with Redis() as server:
        configured = dict(settings.CACHES["default"]) | {"LOCATION": server.url()}
        settings.CACHES = {"default": configured}
        yield server


@pytest.fixture
def client(server):
    """A plain client of that Redis."""
    with redis.Redis.from_url(server.url()) as client:
        yield client


@pytest.fixture
def slow_book():
    """A booking that stands in its handler until it is let go: handler, entered, let go."""
    entered, leave = Event(), Event()

    def handler():
        response = HttpResponse(f"{Booking.objects.create(name='Ada').pk}", status=201)
        entered.set()
        assert leave.wait(PATIENCE)
        return response

    yield handler, entered, leave
    leave.set()
