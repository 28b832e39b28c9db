"""The cache behind IDEMPOTENCY_CACHE: whether its rooms work, and how long they may hang."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - its own name
from django.utils.module_loading import import_string

#: Seconds; a request must not hang longer on a Redis that does not answer.
_LONGEST_TIMEOUT = 5.0

_REDIS = "django_redis.cache.RedisCache"
_LOCMEM = "django.core.cache.backends.locmem.LocMemCache"
_UNPICKLES = "what others may write into it would be unpickled here"
_NO_LOCK = "it has no lock, and is no faster than the ledger itself"

#: Backend -> why it cannot hold the cache and lock rooms; empty where it can.
BACKENDS: Final = {
    _REDIS: "",
    _LOCMEM: "",
    "django.core.cache.backends.dummy.DummyCache": "",  # "go without", said aloud
    "django.core.cache.backends.redis.RedisCache": _UNPICKLES,
    "django.core.cache.backends.memcached.PyMemcacheCache": _UNPICKLES,
    "django.core.cache.backends.memcached.PyLibMCCache": _UNPICKLES,
    "django.core.cache.backends.filebased.FileBasedCache": _UNPICKLES,
    "django.core.cache.backends.db.DatabaseCache": _NO_LOCK,
}

#: django-redis's CLIENT_CLASS -> the same.
CLIENTS: Final = {
    "django_redis.client.DefaultClient": "",
    "django_redis.client.default.DefaultClient": "",
    "django_redis.client.SentinelClient": "",
    "django_redis.client.sentinel.SentinelClient": "",
    "django_redis.client.ShardClient": "its shards would part an entry from its lock",
    "django_redis.client.sharded.ShardClient": "its shards would part an entry from its lock",
    "django_redis.client.HerdClient": "it wraps and pickles every value with a time-out of its own",
    "django_redis.client.herd.HerdClient": "it wraps and pickles every value with a time-out"
    " of its own",
}

_GO_WITHOUT = (
    "Point IDEMPOTENCY_CACHE at a django-redis cache with the default or the Sentinel client, or at"
    " one on DummyCache to go without. Until then the rooms are off: replays come from the"
    " database, and nothing is lost but speed."
)


def check_cache(**kwargs: Any) -> list[CheckMessage]:
    """Whether the backend will do, and what it does when Redis does not answer."""
    alias = getattr(settings, "IDEMPOTENCY_CACHE", "default")
    caches: Any = settings.CACHES
    if not isinstance(caches, Mapping) or not isinstance(alias, str) or alias not in caches:
        return []  # idempotency.E010 where it was set; Django demands a default
    config = caches[alias] if isinstance(caches[alias], Mapping) else {}
    where = f"CACHES[{alias!r}], which IDEMPOTENCY_CACHE names,"
    path = str(config.get("BACKEND", ""))
    try:
        known = _known_base(path)
    except Exception as error:  # noqa: BLE001 - a module under import may raise anything
        return [
            Error(
                f"{where} has a BACKEND that cannot be imported: {error}",
                hint="Correct the path, or install its package.",
                id="idempotency.E018",
            )
        ]
    if known is None:
        return [_unfit(where, path, "nothing is known of it", "idempotency.W006")]
    if BACKENDS[known]:
        return [_unfit(where, path, BACKENDS[known], "idempotency.W005")]
    if known == _LOCMEM and not settings.DEBUG:
        return [
            Warning(
                f"{where} is LocMemCache, and DEBUG is off: each server process has a memory of"
                " its own, so replays mostly come from the database, and nothing locks.",
                hint="Point IDEMPOTENCY_CACHE at a django-redis cache, which all processes share,"
                " or at one on DummyCache to go without.",
                id="idempotency.W007",
            )
        ]
    return _check_redis(where, config) if known == _REDIS else []


def _known_base(path: str) -> str | None:
    """The backend itself or the nearest of its bases that is in the table."""
    if path in BACKENDS:
        return path
    for base in import_string(path).__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        if name in BACKENDS:
            return name
    return None


def _unfit(where: str, path: str, reason: str, number: str) -> CheckMessage:
    return Warning(f"{where} is {path}: {reason}.", hint=_GO_WITHOUT, id=number)


def _check_redis(where: str, config: Mapping[str, Any]) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    options = _mapping(config.get("OPTIONS"))
    client = str(options.get("CLIENT_CLASS", "django_redis.client.DefaultClient"))
    reason = CLIENTS.get(client, "only django-redis's default and Sentinel clients are known")
    if reason:
        messages.append(_unfit(where, client, reason, "idempotency.W008"))
    # Weakest first, as django-redis and redis-py have it.
    given = {
        **{name.lower(): value for name, value in options.items()},
        **_mapping(options.get("CONNECTION_POOL_KWARGS")),
        **_url_options(config.get("LOCATION")),
    }
    lacking = [
        name
        for name in ("SOCKET_TIMEOUT", "SOCKET_CONNECT_TIMEOUT")
        if not _is_short(given.get(name.lower()))
    ]
    if lacking:
        messages.append(
            Warning(
                f"{where} has no {' and no '.join(lacking)} of {_LONGEST_TIMEOUT:g} seconds or less"
                " in OPTIONS: a request would hang on a Redis that does not answer.",
                hint="Set both to half a second. Without them, the rooms use 0.5 s of their own;"
                " the project's other uses of this cache have none.",
                id="idempotency.W009",
            )
        )
    if any(given.get(name) for name in ("retry", "retry_on_timeout", "retry_on_error")):
        messages.append(
            Warning(
                f"{where} has retries configured: they multiply each time-out.",
                hint="Remove retry, retry_on_timeout and retry_on_error. The rooms never retry:"
                " the ledger answers instead.",
                id="idempotency.W010",
            )
        )
    return messages


def _is_short(value: Any) -> bool:
    try:
        return 0 < float(value) <= _LONGEST_TIMEOUT
    except (TypeError, ValueError, OverflowError):
        return False


def _mapping(value: Any) -> dict[str, Any]:
    return {str(name): each for name, each in value.items()} if isinstance(value, Mapping) else {}


def _url_options(location: Any) -> dict[str, Any]:
    """What the (first) URL's query sets."""
    first = location[0] if isinstance(location, list | tuple) and location else location
    try:
        query = parse_qs(urlsplit(str(first).split(",", 1)[0]).query)
    except ValueError:
        return {}
    return {name: values[-1] for name, values in query.items()}
