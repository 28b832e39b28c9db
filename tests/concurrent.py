"""Threads with database connections of their own, for tests that need two transactions at once."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

from django.db import connections, transaction

#: Seconds until a test that waits for another thread gives up.
PATIENCE = 20


class Crew:
    """Runs functions beside the test; each thread's connections are closed after its call."""

    def __init__(self, size: int = 8) -> None:
        self._pool = ThreadPoolExecutor(size)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()

    def start(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> "Future[Any]":
        def call() -> Any:
            try:
                return function(*args, **kwargs)
            finally:
                connections.close_all()

        return self._pool.submit(call)


def elsewhere(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The function's result, from another thread and so another connection."""
    with Crew(1) as crew:
        return crew.start(function, *args, **kwargs).result(PATIENCE)


@contextmanager
def open_transaction(first: Callable[[], Any]) -> Iterator[Any]:
    """Another connection's transaction that has run `first` and commits when the block ends."""
    ready, end = Event(), Event()
    result: list[Any] = []

    def hold() -> None:
        with transaction.atomic():
            result.append(first())
            ready.set()
            assert end.wait(PATIENCE)

    with Crew(1) as crew:
        holding = crew.start(hold)
        try:
            while not ready.wait(0.01):
                if holding.done():
                    holding.result()
            yield result[0]
        finally:
            end.set()
            holding.result(PATIENCE)


def until(condition: Callable[[], bool]) -> None:
    """A bounded poll; fails the test when the condition never comes true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.01)
