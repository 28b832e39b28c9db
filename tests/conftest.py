"""Fixtures for all suites; the servers themselves come up in tests.plugin."""

import os
import socket
from collections.abc import Iterator

import pytest
import redis
from django.db import connection


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vendors(*names): what this run's database must be one of")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select, rather than skip, what speaks of this run's vendor."""

    def fits(item: pytest.Item) -> bool:
        marks = item.iter_markers("vendors")
        return all(connection.vendor in mark.args for mark in marks)

    config.hook.pytest_deselected(items=[item for item in items if not fits(item)])
    items[:] = [item for item in items if fits(item)]


@pytest.fixture
def redis_db() -> Iterator[redis.Redis]:
    """An empty Redis database, the one behind the `default` cache, emptied again afterwards."""
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def closed_port() -> int:
    """A port of the loopback on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
