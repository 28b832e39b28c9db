"""A Celery application that is everybody's for the length of a test."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from celery import Celery, _state
from kombu import pools


@contextmanager
def everybodys(make: Callable[[], Celery]) -> Iterator[Celery]:
    """What `make` gives. Afterwards it is nobody's: a closed one is told of no more tasks."""
    default, current = _state.default_app, _state._tls.current_app
    with make() as app:
        app.set_default()
        try:
            yield app
        finally:
            pools.reset()
            _state.set_default_app(default)
            _state._set_current_app(current)
