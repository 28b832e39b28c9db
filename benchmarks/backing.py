"""PostgreSQL and Redis for one run: embedded, or a database of our own on the given servers."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import psycopg
import redis
from psycopg import sql

from enrollment_demo.servers import Postgres, Redis


@contextmanager
def servers(database_url: str, redis_url: str) -> Iterator[tuple[str, str, str]]:
    """The URLs of two empty databases and an empty Redis database, gone or emptied afterwards.

    What is not given is started. A given Redis database is emptied.
    """
    with ExitStack() as stack:
        database = database_url or stack.enter_context(Postgres()).url()
        cache = redis_url or stack.enter_context(Redis()).url()
        first, second = (stack.enter_context(_own_database(database)) for _ in range(2))
        yield first, second, stack.enter_context(_emptied(cache))


@contextmanager
def _own_database(url: str) -> Iterator[str]:
    name = f"benchmarks_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            # FORCE: pools of the measured packages may still be open.
            connection.execute(sql.SQL("DROP DATABASE {} (FORCE)").format(sql.Identifier(name)))


@contextmanager
def _emptied(url: str) -> Iterator[str]:
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        try:
            yield url
        finally:
            client.flushdb()
