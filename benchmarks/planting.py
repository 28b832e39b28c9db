"""A ledger of any size: settled records as past executions have left them."""

from django.db import DEFAULT_DB_ALIAS, connections

from idempotency.models import IdempotencyRecord, Job, Step

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
