"""Real PostgreSQL and Redis servers as plain processes, owned by the run that starts them."""

from enrollment_demo.servers.postgres import Postgres
from enrollment_demo.servers.process import ServerError
from enrollment_demo.servers.redis import Redis

__all__ = ["Postgres", "Redis", "ServerError"]
