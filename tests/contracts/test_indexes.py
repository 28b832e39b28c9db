"""What the ledger's look-up of a key reads, whatever index the planner takes."""

import json

import pytest
from django.db import connection

from idempotency.layers.statements import statements
from tests.factories import RecordFactory

pytestmark = [pytest.mark.django_db, pytest.mark.vendors("postgresql")]

_CROWD = """
    INSERT INTO idempotency_record (scope, key, operation, state, fingerprint, attempt, holds,
        headers, parent_key, replays, created_at)
    SELECT 'user:' || n || '/shop.View.create', 'order-1', 'shop.View.create', 'finished', '', 1,
        false, '', '', 0, now() FROM generate_series(1, 5000) n;
"""


@pytest.mark.parametrize("plans", ["force_generic_plan", "force_custom_plan"])
def test_a_key_that_many_callers_use_is_found_at_once(plans):
    """Such as order numbers. Before the crowd, statistics have seen no key twice."""
    record = RecordFactory.create(key="order-1")
    RecordFactory.create_batch(20)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE idempotency_record")
        cursor.execute(_CROWD)
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"SET LOCAL plan_cache_mode = {plans}")
        read = statements(connection).read.replace("%(scope)s::varchar", "$1")
        read = read.replace("%(key)s::varchar", "$2")
        cursor.execute(f"PREPARE look (varchar, varchar) AS {read}")
        cursor.execute(
            "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE look(%s, %s)", [record.scope, record.key]
        )
        answer = cursor.fetchone()[0]
        cursor.execute("DEALLOCATE look")
    plan = (json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"]
    assert (plan["Actual Rows"], plan.get("Rows Removed by Filter", 0)) == (1, 0)
