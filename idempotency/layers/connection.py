"""A Redis client of our own, from the django-redis cache's parameters: short waits, no retries."""

import hashlib
import threading
from typing import Any

from django.core.cache.backends.base import BaseCache
from django_redis.cache import RedisCache
from django_redis.client import DefaultClient, SentinelClient
from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from idempotency.layers.breaker import Breaker

#: Seconds, where the project's cache has no socket time-outs: a request must not hang on Redis.
SOCKET_TIMEOUT = 0.5

#: What a server that is away, or a stream out of step, has redis-py raise. No more: whoever is told
#: to stop is told by an exception too, as Celery's soft time limit does.
BROKEN = (
    RedisError,
    OSError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


class Script:
    """Lua, and the name by which Redis knows it."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


class Server:
    """One Redis server as the rooms see it: client, breaker, and how long a wait may block."""

    def __init__(self, cache: RedisCache[Any]) -> None:
        self.client, self.socket_timeout = _client(cache)
        self.breaker = Breaker()

    def run(self, script: Script, keys: list[str], *arguments: bytes) -> Any:
        """The script's answer. One round trip; one more where the server does not know it yet."""
        named = (b"%d" % len(keys), *(key.encode() for key in keys), *arguments)
        try:
            return self._ask(b"EVALSHA", script.sha, *named)
        except NoScriptError:
            return self._ask(b"EVAL", script.text, *named)

    def _ask(self, *command: bytes) -> Any:
        # Not by `execute_command`: its retries are off, and the rest of it costs a replay as much
        # as the round trip. A connection closes itself where its stream may be out of step.
        pool = self.client.connection_pool
        connection: Any = pool.get_connection()
        try:
            connection.send_packed_command([_packed(command)])
            return connection.read_response()
        finally:
            pool.release(connection)


def _packed(command: tuple[bytes, ...]) -> bytes:
    """As Redis reads it: an array of bulk strings."""
    parts = [b"$%d\r\n%b\r\n" % (len(part), part) for part in command]
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


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
