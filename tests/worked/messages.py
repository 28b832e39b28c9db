"""Messages that the test itself delivers, where no worker is needed."""

import uuid
from collections.abc import Iterator
from functools import partial

import pytest
from celery import Celery
from kombu.message import Message

from tests.worked.application import everybodys


class Messages:
    """What was sent and not delivered yet. It waits in the memory of this process."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def __len__(self) -> int:
        with self.app.connection_for_read() as connection:
            try:
                return int(connection.SimpleQueue(self._queue).qsize())
            except connection.channel_errors:  # nothing has been sent yet
                return 0

    def take(self, queue: str | None = None) -> Message:
        """The next message, which is then gone; an error where there is none."""
        with (
            self.app.connection_for_read() as connection,
            connection.SimpleQueue(queue or self._queue) as waiting,
        ):
            message: Message = waiting.get(block=False)
            message.ack()
        return message

    def deliver(self, times: int = 1) -> None:
        """Carry out the next message as a worker would, as often as a broker may hand it out."""
        message = self.take()
        arguments, keywords, _ = message.payload
        for _ in range(times):
            self.app.tasks[message.headers["task"]].run(*arguments, **keywords)

    @property
    def _queue(self) -> str:
        return str(self.app.conf.task_default_queue)


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Messages]:
    """The messages of one test, sent by a real application over a transport of Celery's own."""
    queue = f"test-{uuid.uuid4()}"
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://")  # outranks what an application is given
    with everybodys(partial(Celery, queue)) as app:
        app.conf.task_default_queue = queue
        yield Messages(app)
