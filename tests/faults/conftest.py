"""The protocol's fixtures, against a Redis that the test may break."""

import pytest
import redis

from enrollment_demo.servers import Redis
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
