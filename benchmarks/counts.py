"""What one request asks of Redis and of the database: counted, not timed."""

import os
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.test.utils import CaptureQueriesContext
from redis import Redis

from benchmarks.cases import Case

#: Ends the reading of what MONITOR tells.
_MARK = "benchmarks:mark"


@dataclass(frozen=True)
class Count:
    """One request's commands, in order."""

    case: Case
    #: Sent to Redis: each is a round trip.
    redis: tuple[str, ...]
    #: Run inside Redis by the scripts among them.
    scripted: tuple[str, ...]
    #: Sent by Django to the database, BEGIN, COMMIT and savepoints aside.
    sql: tuple[str, ...]
    transactions: int
    savepoints: int


def count(case: Case) -> Count:
    """Send one request of the case, and write down what it asks for."""
    case.send(1)  # connections that have slept are tried before they are used again
    with (
        _connected() as marker,
        _connected() as client,
        client.monitor() as monitor,
        CaptureQueriesContext(connection) as captured,
    ):
        replies = case.send(1)
        marker.echo(_MARK)
        commands = []
        while _MARK not in (told := monitor.next_command())["command"]:
            commands.append(told)
    case.check(replies)
    statements = [verb(query["sql"]) for query in captured.captured_queries]
    return Count(
        case,
        redis=tuple(verb(told["command"]) for told in commands if not _scripted(told)),
        scripted=tuple(verb(told["command"]) for told in commands if _scripted(told)),
        sql=tuple(verb for verb in statements if verb not in _CONTROL),
        transactions=statements.count("BEGIN"),
        savepoints=statements.count("SAVEPOINT"),
    )


def _connected() -> Redis:
    client = Redis.from_url(os.environ["REDIS_URL"])
    client.ping()  # or its greeting would be counted
    return client


_CONTROL = frozenset({"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"})


def verb(command: str) -> str:
    """What a statement or a command begins with."""
    return command.split(maxsplit=1)[0].upper()


def _scripted(told: dict[str, Any]) -> bool:
    return bool(told["client_type"] == "lua")
