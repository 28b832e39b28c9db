"""The log of executions: append-only, without constraints, in a database of its own.

It is written outside of every transaction of the service, so it holds executions that were undone
as well: it counts how often a handler was begun. What was committed is told by the effects.
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
        log.execute("CREATE TABLE began (service TEXT, caller TEXT, name TEXT, pid INT, at REAL)")


def began(service: str, caller: str, name: str) -> None:
    """One execution of a handler or task has begun."""
    line = (service, caller, name, os.getpid(), time.time())
    with closing(sqlite3.connect(os.environ[VARIABLE], PATIENCE, isolation_level=None)) as log:
        log.execute("INSERT INTO began VALUES (?, ?, ?, ?, ?)", line)


def executions(path: Path) -> "Counter[tuple[str, str, str]]":
    """How often each was begun, by service, caller and name."""
    with closing(sqlite3.connect(path, PATIENCE)) as log:
        return Counter(log.execute("SELECT service, caller, name FROM began"))
