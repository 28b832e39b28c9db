"""PgBouncer before a PostgreSQL, as a process of the test's own."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import dict_row

from enrollment_demo.servers.process import LOOPBACK, Server


class PgBouncer(Server):
    """Transaction pooling on a free loopback port; three connections a database to the server."""

    #: How many connections to the server there are at most, for one database.
    size: ClassVar[int] = 3

    reserved: ClassVar[frozenset[str]] = frozenset(
        {"admin_users", "auth_file", "auth_type", "listen_addr", "listen_port", "logfile"}
        | {"pidfile", "unix_socket_dir"}
    )

    def __init__(
        self, program: Path, url: str, *, options: Mapping[str, str] | None = None
    ) -> None:
        """`program` is its binary, `url` names the server and the database behind it."""
        super().__init__(options=options)
        self._program = program
        self._behind = urlsplit(url)

    @property
    def database(self) -> str:
        """The name of the database behind it."""
        return self._behind.path.removeprefix("/")

    def url(self, database: str = "") -> str:
        """The URL of the database by way of the pool; its own console is called `pgbouncer`."""
        user = self._behind.username
        return f"postgres://{user}@{LOOPBACK}:{self.port}/{database or self.database}"

    def show(self, what: str) -> list[dict[str, Any]]:
        """What its console tells of the database."""
        return [row for row in self._console(what) if row["database"] == self.database]

    def servers(self) -> set[int]:
        """The process ids of PostgreSQL's end of its connections."""
        return {row["remote_pid"] for row in self.show("SERVERS")}

    def _prepare(self, directory: Path) -> None:
        behind = self._behind
        settings = {
            "pool_mode": "transaction",
            "default_pool_size": str(self.size),
            **self.options,
            "listen_addr": LOOPBACK,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(directory / "userlist.txt"),
            "admin_users": str(behind.username),
        }
        lines = ["[databases]", f"* = host={behind.hostname} port={behind.port}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        self._write(directory / "pgbouncer.ini", "\n".join(lines))
        self._write(directory / "userlist.txt", f'"{behind.username}" "{behind.password or ""}"')

    def _write(self, path: Path, text: str) -> None:
        path.write_text(f"{text}\n")
        os.chown(path, *self._account)

    def _command(self, directory: Path) -> Sequence[str]:
        return [str(self._program), str(directory / "pgbouncer.ini")]

    def _answers(self) -> bool:
        try:
            shown = {row["key"]: row["value"] for row in self._console("CONFIG")}
        except psycopg.Error:
            return False
        directory = self._directory
        return directory is not None and shown["conffile"] == str(directory / "pgbouncer.ini")

    def _console(self, what: str) -> list[dict[str, Any]]:
        # Its console knows no transactions.
        with psycopg.connect(
            self.url("pgbouncer"), autocommit=True, connect_timeout=2, row_factory=dict_row
        ) as connection:
            return connection.execute(f"SHOW {what}").fetchall()
