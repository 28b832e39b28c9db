"""A Redis client of our own, from the django-redis cache's parameters: short waits, no retries."""

import threading
from typing import Any

from django.core.cache.backends.base import BaseCache
from django_redis.cache import RedisCache
from django_redis.client import DefaultClient, SentinelClient
from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool
from redis.retry import Retry

from idempotency.layers.breaker import Breaker

#: Seconds, where the project's cache has no socket time-outs: a request must not hang on Redis.
SOCKET_TIMEOUT = 0.5


class Server:
    """One Redis server as the rooms see it: client, breaker, and how long a wait may block."""

    def __init__(self, cache: RedisCache[Any]) -> None:
        self.client, self.socket_timeout = _client(cache)
        self.breaker = Breaker()


def server(cache: BaseCache) -> Server | None:
    """The server behind a django-redis cache, one a process; `None` for every other backend."""
    found: Server | None = vars(cache).get(_KEPT)  # a cache object lives as long as its thread
    if found is None and isinstance(cache, RedisCache):
        found = vars(cache)[_KEPT] = _shared(cache)
    return found


def _shared(cache: RedisCache[Any]) -> Server | None:
    if type(cache.client) not in (DefaultClient, SentinelClient):
        return None
    known = (str(cache._server), repr(cache._params.get("OPTIONS")))
    with _servers_lock:
        if known not in _servers:
            _servers[known] = Server(cache)
        return _servers[known]


#: Where a cache object keeps its server.
_KEPT = "_idempotency_server"
_servers: dict[tuple[str, str], Server] = {}
_servers_lock = threading.Lock()


def _client(cache: RedisCache[Any]) -> "tuple[Redis, float]":
    # A factory and a pool of our own: django-redis shares them with other caches by URL.
    factory: Any = type(cache.client.connection_factory)(dict(cache.client._options))
    pool = factory.get_connection_pool(factory.make_connection_params(cache.client._server[0]))
    _hurry(pool)
    for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
        _hurry(sentinel.connection_pool)
    client: Redis = factory.redis_client_cls(connection_pool=pool)
    return client, float(pool.connection_kwargs["socket_timeout"])


def _hurry(pool: Any) -> None:
    """Short waits and no retries: redis-py's own turn a time-out of one second into many."""
    kwargs = pool.connection_kwargs
    for name in ("socket_timeout", "socket_connect_timeout"):
        kwargs[name] = kwargs.get(name) or SOCKET_TIMEOUT
    kwargs["retry"] = Retry(NoBackoff(), 0)
    kwargs["retry_on_error"] = []
    kwargs["decode_responses"] = False
    if isinstance(pool, BlockingConnectionPool):  # a full pool is no reason to wait either
        pool.timeout = kwargs["socket_timeout"]
