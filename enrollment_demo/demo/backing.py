"""The servers behind a run: our own, or those that the environment names."""

import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from enrollment_demo.demo.relay import LOOPBACK, Relay
from enrollment_demo.servers import Postgres, Redis


class BackingError(RuntimeError):
    """A given server cannot be used; the message says which and why."""


class Backing:
    """Of each service one database a half, and one Redis database; a broker. A context manager.

    On a given PostgreSQL only databases that this run made are touched, and they are dropped at
    the end. A given Redis is reached through a relay, so that it can go away for us alone. The
    broker is a Redis of its own: it stays when the other one goes, and no other worker listens.
    """

    def __init__(
        self,
        services: Sequence[str],
        halves: Sequence[str],
        *,
        postgres_url: str = "",
        redis_url: str = "",
    ) -> None:
        self.services = services
        self.halves = halves
        #: Also the prefix of our Redis names: an earlier run's replies are none of ours.
        self.run = f"idempotency_demo_{secrets.token_hex(4)}"
        self._postgres_url = postgres_url
        self._redis_url = redis_url
        self._redis: Redis | None = None
        self._broker = Redis()
        self._relay: Relay | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if not self._postgres_url:
                # Thrown away at the end: there is nothing to save from a power cut.
                postgres = stack.enter_context(Postgres(options={"fsync": "off"}))
                self._postgres_url = postgres.url()
            else:
                self._administer([])  # tells now whether we may
                stack.callback(self._drop_databases)
            if self._redis_url:
                self._relay = stack.enter_context(Relay(_address(self._redis_url)))
            else:
                self._redis = stack.enter_context(Redis())
            stack.enter_context(self._broker)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def redis_is_ours(self) -> bool:
        """Whether Redis is killed when it has to go; a given one is only cut off."""
        return self._redis is not None

    def database_url(self, service: str, half: str) -> str:
        """The URL of the service's own database in a half."""
        name = self._name(service, half)
        return urlunsplit(urlsplit(self._postgres_url)._replace(path=f"/{name}"))

    def redis_url(self, service: str) -> str:
        """The URL of the service's own Redis database."""
        number = self.services.index(service)
        if self._redis is not None:
            return self._redis.url(number)
        parts = urlsplit(self._redis_url)
        number += int(parts.path.strip("/") or 0)
        user, at, _ = parts.netloc.rpartition("@")
        port = self._relay.port if self._relay else 0
        return urlunsplit(parts._replace(netloc=f"{user}{at}{LOOPBACK}:{port}", path=f"/{number}"))

    @property
    def broker_url(self) -> str:
        """The URL of Celery's broker."""
        return self._broker.url()

    def create_databases(self, prepare: Callable[[str], None]) -> None:
        """Makes every database; `prepare` fills the first half's, the others are copies of them."""
        first, *others = self.halves
        self._administer([_create(self._name(service, first)) for service in self.services])
        prepare(first)
        self._administer(
            [
                _create(self._name(service, half), template=self._name(service, first))
                for half in others
                for service in self.services
            ]
        )

    def redis_away(self) -> None:
        """Takes Redis away."""
        if self._redis is not None:
            self._redis.kill()
        elif self._relay is not None:
            self._relay.cut()

    def redis_back(self) -> None:
        """Brings Redis back; one of our own is empty then."""
        if self._redis is not None:
            self._redis.start()
        elif self._relay is not None:
            self._relay.mend()

    def _name(self, service: str, half: str) -> str:
        return f"{self.run}_{service}_{half}"

    def _drop_databases(self) -> None:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self._administer(
            [
                drop.format(sql.Identifier(self._name(service, half)))
                for half in self.halves
                for service in self.services
            ]
        )

    def _administer(self, statements: Sequence[sql.Composed]) -> None:
        try:
            with psycopg.connect(
                self._postgres_url, autocommit=True, connect_timeout=5
            ) as connection:
                for statement in statements:
                    connection.execute(statement)
        except psycopg.Error as error:
            raise BackingError(f"PostgreSQL, as DATABASE_URL names it: {error}") from error


def _create(name: str, template: str = "template1") -> sql.Composed:
    return sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
        sql.Identifier(name), sql.Identifier(template)
    )


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "redis" or not (parts.path.strip("/") or "0").isdecimal():
        raise BackingError("The demo needs a REDIS_URL like redis://HOST:PORT/NUMBER.")
    address = parts.hostname or LOOPBACK, parts.port or 6379
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError as error:
        raise BackingError(f"Redis, as REDIS_URL names it: {error}") from error
    return address
