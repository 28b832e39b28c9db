"""Fixtures for tests with workers; a plugin, so that every suite has them."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.worked.application import everybodys
from tests.worked.broker import BreakableBroker, Broker, breakable, clear
from tests.worked.gates import VARIABLE, Gates


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[Broker]:
    """The run's broker, for this process and those that the test starts, with an empty queue."""
    with _application(monkeypatch, settings) as (app, queue):
        broker = Broker(app, queue)
        yield broker
    clear(os.environ["CELERY_BROKER_URL"], broker)


@pytest.fixture
def breakable_broker(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[BreakableBroker]:
    """The same on a broker that the test may stop and start."""
    original = os.environ["CELERY_BROKER_URL"]
    with breakable(original) as (url, stop, start):
        monkeypatch.setenv("CELERY_BROKER_URL", url)
        with _application(monkeypatch, settings) as (app, queue):
            broker = BreakableBroker(app, queue, stop, start)
            yield broker
    clear(original, broker)


@contextmanager
def _application(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[tuple[Celery, str]]:
    """An application that sends to a queue of its own, and what starts within does too."""
    from tests.worked.celery import make_app  # noqa: PLC0415 - it reads Django's settings

    queue = f"test-{uuid.uuid4()}"
    monkeypatch.setenv("CELERY_QUEUE", queue)
    settings.CELERY_TASK_DEFAULT_QUEUE = queue
    with everybodys(make_app) as app:
        yield app, queue


@pytest.fixture
def gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gates]:
    """The gates of this process and of those that the test starts, all open."""
    directory = tmp_path / "gates"
    monkeypatch.setenv(VARIABLE, str(directory))
    gates = Gates(directory)
    yield gates
    gates.open_all()
