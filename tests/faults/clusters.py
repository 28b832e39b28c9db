"""PostgreSQL clusters of a test's own, and a standby that takes a primary's place."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg

from enrollment_demo.servers import Postgres
from enrollment_demo.servers.process import LOOPBACK
from tests.concurrent import until


class Standby(Postgres):
    """A copy of a running primary that follows it, and is waited for by every commit."""

    def __init__(self, primary: Postgres) -> None:
        super().__init__()
        self._primary = primary

    def _prepare(self, directory: Path) -> None:
        program = self._programs(directory) / "pg_basebackup"
        source = ("-h", LOOPBACK, "-p", str(self._primary.port), "-U", "postgres")
        # A fast checkpoint: the default spreads it over minutes.
        self._run(
            [str(program), "-D", str(directory / "data"), "-R", "-c", "fast", *source], directory
        )

    def follow(self) -> None:
        """Have the primary's commits wait for us."""
        with psycopg.connect(self._primary.url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            state = "SELECT sync_state FROM pg_stat_replication"
            until(lambda: connection.execute(state).fetchone() == ("sync",))

    def promote(self) -> None:
        """Become a primary."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute("SELECT pg_promote(wait => true)")


def migrate(url: str) -> None:
    """Give an empty database the served project's tables."""
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0"],
        env=os.environ | {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "tests.served.settings"},
        check=True,
    )


def empty(url: str) -> None:
    """Take away what a test has left."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE testapp_booking, idempotency_record CASCADE")


def bookings(url: str) -> dict[str, int]:
    """How many effects there are, by name."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT name, count(*) FROM testapp_booking GROUP BY name")
        return dict(rows.fetchall())
