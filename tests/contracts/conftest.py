"""What the contracts of jobs begin with: a request that starts one, and its delivery."""

from functools import partial

import pytest

from idempotency import events
from tests.jobs import document, doing
from tests.protocol.conftest import ask  # noqa: F401 - a fixture


@pytest.fixture
def ask_job(ask, messages):  # noqa: F811 - the fixture
    """A request that starts a job, or asks for it."""
    return partial(ask, execution="job")


@pytest.fixture
def carry_out(ask_job, messages):
    """Starts a job that calls the function, carries it out, and gives the client's document."""

    def carry_out(function, **policy):
        ask_job(doing(function), **policy)
        messages.deliver()
        return document(ask_job(None, **policy))

    return carry_out


class Happened(list):
    """The events of one test."""

    def __call__(self, sender, event, **kwargs):
        self.append(f"{event.name}.{event.detail}" if event.detail else event.name)


@pytest.fixture
def happened():
    listening = Happened()
    events.recorded.connect(listening)
    yield listening
    events.recorded.disconnect(listening)
