"""A ledger of any size: settled records as past executions have left them."""

from django.db import DEFAULT_DB_ALIAS, connections

from idempotency.models import HourlyCount, IdempotencyRecord, Job, Step

#: Records a caller: what follows takes some caller's number below records / PER_CALLER.
PER_CALLER = 200

#: Of two days that are over, in the order in which they were made: all are due for the purge.
_SETTLED = f"""
INSERT INTO {IdempotencyRecord._meta.db_table} (
    scope, key, operation, state, fingerprint, attempt, status, headers, body, parent_key,
    created_at, completed_at, expires_at, purge_at
)
SELECT
    'user:' || n / {PER_CALLER} || '/benchmarks.Protected.post', gen_random_uuid(),
    'benchmarks.Protected.post', 'finished', sha256(n::text::bytea), 1, 201,
    '[["Content-Type","application/json"]]',
    convert_to('{{"id":' || n || ',"student":"s","course":"CS101"}}', 'UTF8'), '',
    made, made, made + interval '24 hours', made + interval '48 hours'
FROM
    generate_series(1, %(records)s) AS n,
    LATERAL (SELECT now() - interval '96 hours' + interval '47 hours' * n / %(records)s) AS t(made)
"""

#: Operations, and days of which every hour has every event of each.
OPERATIONS, DAYS = 20, 30

_COUNTERS = f"""
INSERT INTO {HourlyCount._meta.db_table} (hour, operation, event, detail, count, seconds)
SELECT date_trunc('hour', now()) - n * interval '1 hour', 'shop.View' || operation || '.create',
    event, detail, 100, 2.5
FROM
    generate_series(0, %(hours)s - 1) AS n,
    generate_series(1, %(operations)s) AS operation,
    (VALUES
        ('executed', ''), ('replayed', 'cache'), ('replayed', 'ledger'), ('waited', ''),
        ('constraint_caught', ''), ('refused', 'idempotency_in_progress'),
        ('refused', 'idempotency_key_reused'), ('refused', 'idempotency_key_invalid'),
        ('failed', 'ValidationError'), ('attached', ''), ('observed', 'executed'),
        ('observed', 'replayed')
    ) AS kind(event, detail)
"""


def empty(using: str = DEFAULT_DB_ALIAS) -> None:
    """Leave nothing in the ledger."""
    tables = ", ".join(model._meta.db_table for model in (IdempotencyRecord, Job, Step))
    with connections[using].cursor() as cursor:
        cursor.execute(f"TRUNCATE {tables}")


def plant(records: int, using: str = DEFAULT_DB_ALIAS) -> None:
    """Add so many settled records, and have the planner know of them."""
    with connections[using].cursor() as cursor:
        cursor.execute(_SETTLED, {"records": records})
    vacuum(using)


def vacuum(using: str = DEFAULT_DB_ALIAS) -> None:
    """What the database's own does by and by."""
    with connections[using].cursor() as cursor:
        cursor.execute(f"VACUUM (ANALYZE) {IdempotencyRecord._meta.db_table}")


def plant_counters() -> int:
    """Add the counters of DAYS days in which nothing stood still; how many there are."""
    empty_counters()
    with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
        cursor.execute(_COUNTERS, {"hours": DAYS * 24, "operations": OPERATIONS})
        planted = cursor.rowcount
        cursor.execute(f"VACUUM (ANALYZE) {HourlyCount._meta.db_table}")
    return int(planted)


def empty_counters() -> None:
    """Leave no counters."""
    with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
        cursor.execute(f"TRUNCATE {HourlyCount._meta.db_table}")
