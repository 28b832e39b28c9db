"""A caller, and what the idempotency layer says has happened."""

from collections.abc import Iterator
from typing import Any

import pytest

from idempotency import events
from tests.http.asking import Caller


@pytest.fixture
def api() -> Caller:
    """An anonymous caller."""
    return Caller()


class Happened(list[events.Event]):
    """The events of one test, in order."""

    def named(self, name: str) -> list[str]:
        """The details of the events of this name."""
        return [event.detail for event in self if event.name == name]


@pytest.fixture
def happened() -> Iterator[Happened]:
    seen = Happened()

    def listen(sender: Any, event: events.Event, **kwargs: Any) -> None:
        seen.append(event)

    events.recorded.connect(listen)
    yield seen
    events.recorded.disconnect(listen)
