"""What keeping a lease asks of the database: counted on the heartbeat's own connection."""

import threading
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db.backends.signals import connection_created

from benchmarks import calls
from benchmarks.cases import WrongReplyError
from benchmarks.views import LEASE, LONG_WORK
from idempotency.heartbeat import THREAD_NAME

Queries = deque[dict[str, str]]


@dataclass(frozen=True)
class Heartbeats:
    """All that the heartbeat's thread sent while one leased execution worked."""

    lease: float
    worked: float
    connections: int
    #: In order; BEGIN and COMMIT are among them, if there are any.
    sql: tuple[str, ...]


def count() -> Heartbeats:
    """Run one leased execution that outlasts several leases."""
    with _opened() as logs:
        key = str(uuid.uuid4())
        reply = calls.send(calls.handler(), calls.environ("lasting", key, f"s-{key}"))
    if reply.status != 201:
        raise WrongReplyError(f"{reply.status} {reply.body!r}")
    sql = tuple(query["sql"] for log in logs for query in log)
    return Heartbeats(LEASE, LONG_WORK, len(logs), sql)


@contextmanager
def _opened() -> Iterator[list[Queries]]:
    """What is sent over each connection that a heartbeat opens meanwhile; the counters have a
    thread and a connection too."""
    logs: list[Queries] = []

    def note(connection: Any, **_: Any) -> None:
        if threading.current_thread().name == THREAD_NAME:
            connection.force_debug_cursor = True
            logs.append(connection.queries_log)

    connection_created.connect(note)
    try:
        yield logs
    finally:
        connection_created.disconnect(note)
