"""What stands between the protected views and their records: poolers, pools, tenants, other
databases. Nothing here asks a server.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Warning  # noqa: A004 - its own name
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from idempotency.checks.database import connection_of
from idempotency.checks.protected import ProtectedView, protected_views

#: The port that PgBouncer listens on unless it is told otherwise.
_PGBOUNCER: Final = "6432"
#: The packages that give each tenant a schema of one database.
_TENANT_ENGINES: Final = ("django_tenants.", "tenant_schemas.")
#: psycopg_pool's, where `pool` names no size.
_POOL_SIZE: Final = 4


def check_connections(**kwargs: Any) -> list[CheckMessage]:
    """Poolers that lose what a session keeps, pools that are too small, tenants that would meet,
    and databases that commit on their own."""
    found: defaultdict[str, list[ProtectedView]] = defaultdict(list)
    for view in protected_views():
        connection = connection_of(view.declared.policy.using)
        if connection is not None:
            found[connection.alias].append(view)
    messages: list[CheckMessage] = []
    for alias, views in sorted(found.items()):
        messages += _check_pooling(connections[alias], views)
        messages += _check_tenants(connections[alias], views)
    return messages + list(_check_other_databases(found))


def _check_pooling(
    connection: BaseDatabaseWrapper, views: list[ProtectedView]
) -> Iterator[CheckMessage]:
    if connection.vendor != "postgresql":
        return
    config, where = connection.settings_dict, f"DATABASES[{connection.alias!r}]"
    given = config.get("OPTIONS")
    options = given if isinstance(given, dict) else {}
    prepares = options.get("prepare_threshold") is not None
    if str(config.get("PORT", "")) == _PGBOUNCER and (
        prepares or not config.get("DISABLE_SERVER_SIDE_CURSORS")
    ):
        yield Warning(
            f"{where} is on PgBouncer's port, and its sessions keep"
            f" {'prepared statements' if prepares else 'server-side cursors'}: with transaction"
            " pooling, the next transaction is on another session.",
            hint="Set DISABLE_SERVER_SIDE_CURSORS = True, and leave prepare_threshold out of"
            " OPTIONS. With session pooling, silence this check.",
            id="idempotency.W021",
        )
    pool = options.get("pool")
    size = _size(pool) if isinstance(pool, dict) else _POOL_SIZE
    if size < 2 and any(view.declared.policy.execution != "atomic" for view in views):
        yield Warning(
            f"{where} has a pool of {size}, and leased executions or jobs hold a second connection"
            " while they renew: they would wait for themselves.",
            hint='Raise max_size in OPTIONS["pool"] to twice the number of threads.',
            id="idempotency.W022",
        )


def _size(pool: dict[str, Any]) -> int:
    size = pool.get("max_size") or pool.get("min_size", _POOL_SIZE)
    return size if isinstance(size, int) else _POOL_SIZE


def _check_tenants(
    connection: BaseDatabaseWrapper, views: list[ProtectedView]
) -> Iterator[CheckMessage]:
    if not str(connection.settings_dict.get("ENGINE", "")).startswith(_TENANT_ENGINES):
        return
    own_tables = "idempotency" in getattr(settings, "TENANT_APPS", ())
    if own_tables and _has_key_function():
        return
    nameless = sorted({view.dotted for view in views if not view.names_caller})
    if nameless:
        missing = "the cache has no KEY_FUNCTION" if own_tables else "all tenants share its tables"
        yield Warning(
            f"DATABASES[{connection.alias!r}] has a schema for each tenant, {missing}, and"
            f" {', '.join(nameless)} names callers without their tenant: the users 7 of two"
            " tenants would be handed each other's replies.",
            hint="Name the tenant in get_idempotency_caller(); or put idempotency into TENANT_APPS"
            " and give the cache a KEY_FUNCTION that names the tenant.",
            id="idempotency.W020",
        )


def _has_key_function() -> bool:
    caches: Any = settings.CACHES
    alias = str(getattr(settings, "IDEMPOTENCY_CACHE", "default"))
    config = caches.get(alias) if isinstance(caches, dict) else None
    return isinstance(config, dict) and bool(config.get("KEY_FUNCTION"))


def _check_other_databases(found: dict[str, list[ProtectedView]]) -> Iterator[CheckMessage]:
    if not found:
        return
    asking = {
        alias for alias, config in connections.settings.items() if config.get("ATOMIC_REQUESTS")
    }
    beside: defaultdict[str, set[str]] = defaultdict(set)
    for alias, views in found.items():
        for other in asking - {alias}:
            beside[other] |= {view.dotted for view in views}
    for other, names in sorted(beside.items()):
        yield Warning(
            f"DATABASES[{other!r}] has ATOMIC_REQUESTS, and the records of"
            f" {', '.join(sorted(names))} are in another database: what such a request writes to"
            f" {other!r} commits just before the rest, and is written again by a retry if the rest"
            " fails.",
            hint="Let what must happen once be written where the records are: Policy(using=...)."
            f" Where these views write nothing to {other!r}, silence this check.",
            id="idempotency.W024",
        )
