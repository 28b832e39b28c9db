"""What a test does to the broker its jobs and messages pass through."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import redis
from celery import Celery

from enrollment_demo.demo.relay import LOOPBACK, Relay
from enrollment_demo.servers import Redis


@dataclass(frozen=True)
class Broker:
    """The broker as one test uses it: an application and queues of its own."""

    #: Sends from the test's own process.
    app: Celery
    #: Where all tasks go that are not routed.
    queue: str

    @property
    def other_queue(self) -> str:
        """One more queue for tests of routing, removed with the first."""
        return f"{self.queue}.other"

    def messages(self, queue: str = "") -> int:
        """How many wait in a queue (the first unless named): none that a worker has taken."""
        with self.app.connection_for_read() as connection, connection.channel() as channel:
            try:
                declared = channel.queue_declare(queue or self.queue, passive=True)
            except connection.channel_errors:  # nobody has used it yet
                return 0
        return int(declared.message_count)

    def lose(self) -> int:
        """Take away every waiting message of the first queue; how many there were."""
        with self.app.connection_for_write() as connection:
            return int(connection.default_channel.queue_purge(self.queue) or 0)


@dataclass(frozen=True)
class BreakableBroker(Broker):
    """A broker that can be stopped, and nobody else's.

    A stopped Redis loses all messages; a RabbitMQ is cut off from us, and keeps them.
    """

    stop: Callable[[], None]
    start: Callable[[], None]


@contextmanager
def breakable(url: str) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """Another way to the broker of `url`, or another of its kind: its URL, its stop and start."""
    parts = urlsplit(url)
    if parts.scheme == "redis":
        with Redis() as server:
            yield server.url(), server.kill, server.start
        return
    with Relay((parts.hostname or LOOPBACK, parts.port or 5672)) as relay:
        account, at, _ = parts.netloc.rpartition("@")
        netloc = f"{account}{at}{LOOPBACK}:{relay.port}"
        yield parts._replace(netloc=netloc).geturl(), relay.cut, relay.mend


def clear(url: str, broker: Broker) -> None:
    """Remove the test's queues, and from Redis also what was taken and not acknowledged."""
    if urlsplit(url).scheme == "redis":
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        return
    with broker.app.connection_for_write(url) as connection:
        for queue in (broker.queue, broker.other_queue):
            connection.default_channel.queue_delete(queue)
