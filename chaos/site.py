"""The servers and processes of a campaign."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.rows import dict_row

from chaos import log
from chaos.commits import CommitRelay, through
from chaos.oracle import Name
from enrollment_demo.demo.processes import ROOT, Process
from enrollment_demo.demo.services import Service
from enrollment_demo.servers import Postgres, Redis

SETTINGS = "chaos.settings"
#: Seconds between two looks at the processes.
LOOK_EVERY = 0.5


class Web(Service):
    """Three server processes, each of which can be killed; gunicorn starts another."""

    def _command(self) -> Sequence[str]:
        return [*super()._command(), "--workers", "3", "--threads", "8"]


class Worker(Process):
    """A Celery worker with two prefork children."""

    def _command(self) -> Sequence[str]:
        pool = ("--concurrency", "2", "--without-gossip", "--without-mingle")
        return ["celery", "-A", "chaos", "worker", *pool, "--loglevel", "WARNING"]


class Beat(Process):
    """Celery's beat, which has the sweep done each second."""

    def _command(self) -> Sequence[str]:
        schedule = str(self.log.with_suffix(".schedule"))
        return ["celery", "-A", "chaos", "beat", "--schedule", schedule]


@dataclass(frozen=True)
class Site:
    """All that a campaign breaks."""

    database: Postgres
    #: Stands between the service and the database.
    relay: CommitRelay
    cache: Redis
    broker: Redis
    web: Web
    worker: Worker
    log: Path

    def effects(self) -> "Counter[Name]":
        """What stands in the business's own table, by service, caller and key."""
        with psycopg.connect(self.database.url()) as connection:
            rows = connection.execute("SELECT service, caller, name FROM chaos_effect")
            return Counter(tuple(row) for row in rows)

    def unfinished(self) -> list[dict[str, Any]]:
        """What the ledger says of the keys that have no reply, for whoever looks for the cause."""
        with psycopg.connect(self.database.url(), row_factory=dict_row) as connection:
            return connection.execute(
                "SELECT record.scope, record.key, record.state, record.attempt,"
                " (record.lease_until - now())::text AS lease, job.status, job.attempts, job.resent"
                " FROM idempotency_record record"
                " LEFT JOIN idempotency_job job ON job.record_id = record.id"
                " WHERE record.state <> 'finished' ORDER BY record.id"
            ).fetchall()

    def commits(self) -> "Counter[Name]":
        """What the outsider's log was told of, the same way."""
        return log.commits(self.log)

    def executions(self) -> int:
        """How often a handler or task was begun."""
        return sum(log.executions(self.log).values())


@contextmanager
def _supervised(processes: Sequence[Process]) -> Iterator[None]:
    """Start again what has ended, as every host does: a Celery worker at times does not outlive
    its broker."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY):
            for process in processes:
                if not process.running:
                    process.start()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def children(process: Process) -> list[psutil.Process]:
    """The processes that work for this one."""
    return psutil.Process(process.pid).children()


@contextmanager
def site(directory: Path, *, unprotected: bool) -> Iterator[Site]:
    """Everything, up and answering; gone after the block."""
    with ExitStack() as stack:
        database = stack.enter_context(Postgres())
        relay = stack.enter_context(CommitRelay(database.port))
        cache, broker = stack.enter_context(Redis()), stack.enter_context(Redis())
        path = directory / "executions.sqlite3"
        log.create(path)
        env = {
            "DATABASE_URL": through(database.url(), relay.port),
            "REDIS_URL": cache.url(),
            "CELERY_BROKER_URL": broker.url(),
            "CHAOS_UNPROTECTED": "1" if unprotected else "",
            log.VARIABLE: str(path),
            "REMAP_SIGTERM": "SIGQUIT",  # a worker that is to end does not wait for its jobs
        }
        subprocess.run(
            [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0"],
            cwd=ROOT,
            env=os.environ | env | {"DJANGO_SETTINGS_MODULE": SETTINGS},
            check=True,
        )
        processes = [
            kind(kind.__name__.lower(), SETTINGS, directory / f"{kind.__name__.lower()}.log")
            for kind in (Web, Worker, Beat)
        ]
        for process in processes:
            process.env |= env
            stack.enter_context(process)
        web, worker, _ = processes
        assert isinstance(web, Web)
        assert isinstance(worker, Worker)
        web.wait_until_ready("/alive/", {})
        stack.enter_context(_supervised(processes))
        yield Site(database, relay, cache, broker, web, worker, path)
