"""Servers that the environment names: what a run does to them."""

import os

import psycopg
import pytest
import redis as client

from enrollment_demo.demo.backing import Backing
from enrollment_demo.servers import Redis


@pytest.mark.vendors("postgresql")
def test_given_servers_are_left_as_they_were() -> None:
    """Databases of the run's own, dropped at the end; Redis only cut off, for the run alone."""
    given = os.environ["DATABASE_URL"]

    def databases() -> set[str]:
        with psycopg.connect(given) as connection:
            return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}

    before = databases()
    with (
        Redis() as redis,
        Backing(["a", "b"], ["one", "two"], postgres_url=given, redis_url=redis.url(3)) as backing,
    ):
        backing.create_databases(lambda half: None)
        assert len(databases() - before) == 4
        assert backing.redis_url("b").endswith("/4")
        with client.Redis.from_url(backing.redis_url("b"), retry=None) as connection:
            connection.set("ours", 1)
            backing.redis_away()
            with pytest.raises(client.ConnectionError):
                connection.get("ours")
            backing.redis_back()
            assert connection.get("ours") == b"1"
            assert redis.running
    assert databases() == before
