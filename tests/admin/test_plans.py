"""What the database reads for a list, a search and a page: an index, and a bounded part of it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from idempotency.admin import family, lists
from idempotency.admin.stages import STAGES
from idempotency.models import IdempotencyRecord, Job
from tests.admin.looking import JOBS, LIST, url_of

pytestmark = [pytest.mark.django_db, pytest.mark.vendors("postgresql")]

#: So many that reading all of them is never the planner's choice.
ROWS = 20_000
#: Rows of an answer; a thousand would be a good part of these.
LIMIT = 50

_PLANT = f"""
    INSERT INTO idempotency_record (scope, key, operation, state, fingerprint, attempt, holds,
        status, headers, body, parent_key, replays, created_at, expires_at, purge_at)
    SELECT 'user:' || n % 1000 || '/shop.View' || n % 5 || '.create', 'key-' || n,
        'shop.View' || n % 5 || '.create', (ARRAY['finished', 'finished', 'finished', 'finished',
        'released', 'abandoned', 'running', 'job', 'unknown'])[1 + n % 9], '', 1, false, 201, '[]',
        'body', '', 0, now(), now() + (n - {ROWS // 2}) * interval '1 second',
        CASE WHEN n % 9 < 6 THEN now() + (n - {ROWS // 3}) * interval '1 second' END
    FROM generate_series(1, {ROWS}) n;
    INSERT INTO idempotency_job (id, record_id, status, task, arguments, lease, ttl, tombstone,
        error_code, error_message, traceback, attempts, resent, created_at)
    SELECT gen_random_uuid(), id, (ARRAY['queued', 'succeeded', 'failed'])[1 + id % 3],
        'shop.task' || id % 3, '{{}}', 60, 60, 60, '', '', '', 0, 0, now()
    FROM idempotency_record;
    INSERT INTO idempotency_step (record_id, position, name, result, attempt, created_at)
    SELECT id, 0, 'step', 'null', 1, now() FROM idempotency_record;
    ANALYZE idempotency_record; ANALYZE idempotency_job; ANALYZE idempotency_step;
"""


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lists, family):
        monkeypatch.setattr(module, "LIMIT" if module is lists else "KIN", LIMIT)
    monkeypatch.setattr(lists.ReadOnlyAdmin, "list_per_page", 10)
    with connection.cursor() as cursor:
        cursor.execute(_PLANT)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def faults(client: Client, url: str, most: int = LIMIT + 1) -> list[str]:
    """The statements of a page that read a table, or more of an index than an answer has, and one
    row that tells that there are more."""
    with CaptureQueriesContext(connection) as captured:
        assert client.get(url).status_code == 200
    asked = [each["sql"] for each in captured if '"idempotency_' in each["sql"]]
    assert asked
    found = []
    with connection.cursor() as cursor:
        for sql in asked:
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
            answer = cursor.fetchone()[0]
            plan = (json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"]
            for node in nodes(plan):
                read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                read += node.get("Rows Removed by Index Recheck", 0)
                if node["Node Type"] == "Seq Scan" or read * node["Actual Loops"] > most:
                    found.append(f"{node['Node Type']} of {read} rows: {sql[:300]}")
    return found


RECORDS = {
    "the list": {},
    "a page of it": {"p": "3"},
    "another order": {"o": "3"},
    "an operation": {"operation": "shop.View3.create"},
    "an operation of a stage": {"operation": "shop.View3.create", "stage": "replayable"},
    "a scope": {"q": "user:77/"},
    "a wide scope": {"q": "user:"},
    "a scope of a stage": {"q": "user:7", "stage": "tombstone"},
    "a key": {"q": "key-4711"},
    "a key alone": {"q": "=key-4711"},
    "no key": {"q": "=nothing"},
    "a key of a stage": {"q": "=key-4711", "stage": "unknown"},
    **{f"stage {stage}": {"stage": stage} for stage in STAGES},
}


def test_lists_filters_and_searches_of_records_read_a_bounded_part_of_an_index(
    admin_client: Client, planted: None
) -> None:
    found = {}
    for name, query in RECORDS.items():
        url = f"{reverse(LIST)}?{'&'.join(f'{key}={value}' for key, value in query.items())}"
        found[name] = faults(admin_client, url)
    assert found == {name: [] for name in RECORDS}


def test_lists_filters_and_searches_of_jobs_read_a_bounded_part_of_an_index(
    admin_client: Client, planted: None
) -> None:
    job = Job.objects.first()
    queries = ["", "status=failed", "task=shop.task1", f"q={job.pk}"]
    found = {query: faults(admin_client, f"{reverse(JOBS)}?{query}") for query in queries}
    assert found == {query: [] for query in queries}
    # Wherever it stands among the records that are not settled, of which a third are jobs here.
    assert faults(admin_client, f"{reverse(JOBS)}?status=queued", 3 * LIMIT) == []


def test_pages_of_records_and_jobs_read_a_bounded_part_of_an_index(
    admin_client: Client, planted: None
) -> None:
    """Its kin too, of which there may be any number: keys begin with whatever clients like."""
    record = IdempotencyRecord.objects.get(key="key-1")
    IdempotencyRecord.objects.filter(key="key-2").update(key="key", scope=record.scope)
    parent = IdempotencyRecord.objects.get(key="key")
    pages = [url_of(record), url_of(parent), url_of(Job.objects.get(record=record))]
    assert {url: faults(admin_client, url) for url in pages} == {url: [] for url in pages}
