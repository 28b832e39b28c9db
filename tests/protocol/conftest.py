"""Every protocol test runs with the rooms on, off, raising, and in the process's own memory."""

from functools import partial
from uuid import uuid4

import pytest
from django.core.cache import caches
from django.test import RequestFactory

from idempotency import protocol
from idempotency.layers import connection as redis_connection
from idempotency.operation import operation_of
from idempotency.policy import Policy
from tests.app.models import Booking

ROOMS = ("redis", "off", "raising", "local")


@pytest.fixture(params=ROOMS)
def rooms(request, settings, redis_db, closed_port):
    """Which rooms there are; `settings.CACHES` says so, as in a project."""
    configured = dict(settings.CACHES["default"])
    match request.param:
        case "off":
            configured = {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}
        case "raising":
            configured["LOCATION"] = f"redis://127.0.0.1:{closed_port}/0"
        case "local":
            configured = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    settings.CACHES = {"default": configured}
    redis_connection._servers.clear()
    caches["default"].clear() if request.param != "raising" else None
    yield request.param
    redis_connection._servers.clear()


@pytest.fixture
def ask():
    """One request through the protocol, as a view would make it."""
    # MariaDB locks the gap beside a key that was deleted a moment ago, by the test before.
    unique = uuid4().hex

    def ask(
        handler,
        *,
        key=unique,
        caller="user:1",
        body=None,
        path="/bookings/",
        on_error=give_up,
        **policy,
    ):
        request = RequestFactory().post(path)
        operation = operation_of(
            request,
            key,
            name="app.View.create",
            caller=caller,
            body={"name": "Ada"} if body is None else body,
            terms=Policy(**policy).resolve(),
            using="default",
        )
        return protocol.run(operation, handler, on_error)

    return ask


def give_up(error):
    """Renders no error, as the protocol knows it from plain views."""
    raise error


@pytest.fixture
def leased(ask):
    """The same under a lease that needs no renewal while a test runs."""
    return partial(ask, execution="leased", lease=60)


@pytest.fixture
def bookings():
    """How many effects there are."""
    return Booking.objects.count
