"""What an outsider knows: append-only, without constraints, in a database of its own.

It is written outside of every transaction of the service. That an execution has begun is written at
once, so those that were undone are there too; that an effect is committed, right after its commit;
and what the rooms complained of, so that a fault is known to have met somebody.
"""

import os
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

#: Names the log's file in the processes of the service.
VARIABLE = "CHAOS_LOG"
#: Seconds to wait for another process's line.
PATIENCE = 10.0


def create(path: Path) -> None:
    """An empty log."""
    with closing(sqlite3.connect(path, isolation_level=None)) as log:
        log.execute("PRAGMA journal_mode = WAL")
        for table in ("began", "committed"):
            log.execute(f"CREATE TABLE {table} (service TEXT, caller TEXT, name TEXT, at REAL)")
        log.execute("CREATE TABLE complained (event TEXT, at REAL)")


def began(service: str, caller: str, name: str) -> None:
    """One execution of a handler or task has begun."""
    _write("INSERT INTO began VALUES (?, ?, ?, ?)", service, caller, name)


def committed(service: str, caller: str, name: str) -> None:
    """One effect is committed. Not known where the process is killed before it can say so."""
    _write("INSERT INTO committed VALUES (?, ?, ?, ?)", service, caller, name)


def complained(event: str) -> None:
    """Something was not as it should be."""
    _write("INSERT INTO complained VALUES (?, ?)", event)


def _write(statement: str, *line: str) -> None:
    with closing(
        sqlite3.connect(os.environ[VARIABLE], timeout=PATIENCE, isolation_level=None)
    ) as log:
        log.execute(statement, (*line, time.time()))


def executions(path: Path) -> "Counter[tuple[str, str, str]]":
    """How often each was begun, by service, caller and name."""
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as log:
        return Counter(log.execute("SELECT service, caller, name FROM began"))


def commits(path: Path) -> "Counter[tuple[str, str, str]]":
    """How many effects of each are known to be committed, by service, caller and name."""
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as log:
        return Counter(log.execute("SELECT service, caller, name FROM committed"))


def complaints(path: Path, event: str, since: float) -> int:
    """How many of these there were since a moment, in seconds since 1970."""
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as log:
        asked = "SELECT count(*) FROM complained WHERE event = ? AND at >= ?"
        (count,) = log.execute(asked, (event, since)).fetchone()
        return int(count)
