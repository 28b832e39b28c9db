"""The admin's lists and pages: what they show, what they hide, and what they ask the database."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import NoReverseMatch, reverse
from django.utils.html import escape

from idempotency.admin import IdempotencyRecordAdmin, JobAdmin, lists, related
from idempotency.admin.stages import STAGES
from idempotency.layers import encryption
from idempotency.models import IdempotencyRecord, Job, JobStatus
from tests.admin.looking import JOBS, LIST, detail, url_of
from tests.factories import JobFactory, RecordFactory, StepFactory, from_now

pytestmark = pytest.mark.django_db


def keys(client: Client, **query: str) -> list[str]:
    response = client.get(reverse(LIST), query)
    assert response.status_code == 200
    return [record.key for record in response.context["cl"].result_list]


def jobs(client: Client, **query: str) -> list[Job]:
    response = client.get(reverse(JOBS), query)
    assert response.status_code == 200
    return list(response.context["cl"].result_list)


# Who may do what


def test_without_the_view_permission_nothing_is_shown(client: Client, staff: User) -> None:
    job = JobFactory.create()
    for url in (reverse(LIST), reverse(JOBS), url_of(job), url_of(job.record)):
        assert client.get(url).status_code == 403


def test_who_may_view_records_may_not_yet_view_jobs(viewer: Client) -> None:
    job = JobFactory.create(failed=True)
    assert viewer.get(url_of(job.record)).status_code == 200
    assert viewer.get(url_of(job)).status_code == 403


@pytest.mark.parametrize("model", ["record", "job"])
def test_not_even_a_superuser_can_add_change_or_delete(admin_client: Client, model: str) -> None:
    job = JobFactory.create(failed=True)
    row, page = (job, JOBS) if model == "job" else (job.record, LIST)
    before = vars(type(row).objects.get())
    assert admin_client.get(reverse(page.replace("changelist", "add"))).status_code == 403
    for other in ("change", "delete"):
        url = reverse(page.replace("changelist", other), args=[row.pk])
        assert admin_client.post(url, {"key": "other", "status": "queued"}).status_code == 403
    admin_client.post(reverse(page), {"action": "delete_selected", "_selected_action": row.pk})
    kept = vars(type(row).objects.get())
    assert kept | {"_state": None} == before | {"_state": None}


# The list


def test_the_list_is_newest_first_whatever_the_url_asks(viewer: Client) -> None:
    for key in "bca":
        RecordFactory.create(key=key, scope=f"user:{key}/a")
    assert keys(viewer) == keys(viewer, o="2") == ["a", "c", "b"]


#: A record in each stage.
IN_STAGE: dict[str, dict[str, Any]] = {
    "running": {"leased": True},
    "lapsed": {"lapsed": True},
    "job": {"pending": True, "lease_until": from_now(seconds=-1)},  # the job's page tells
    "released": {"released": True},
    "abandoned": {"abandoned": True},
    "unknown": {"unknown": True},
    "replayable": {},
    "tombstone": {"tombstone": True},
    "forgotten": {"forgotten": True},
}


def test_every_stage_is_tested() -> None:
    assert set(IN_STAGE) == set(STAGES)


@pytest.mark.parametrize("stage", IN_STAGE)
def test_the_stage_is_told_from_state_and_times(viewer: Client, stage: str) -> None:
    for name, traits in IN_STAGE.items():
        RecordFactory.create(key=name, **traits)
    assert keys(viewer, stage=stage) == [stage]
    shown = detail(viewer, IdempotencyRecord.objects.get(key=stage))
    assert f'<div class="readonly">{STAGES[stage].label}</div>' in shown
    assert escape(str(STAGES[stage].meaning)) in shown


@pytest.mark.parametrize("state", ["released", "abandoned"])
def test_what_was_given_back_is_forgotten_in_time(viewer: Client, state: str) -> None:
    record = RecordFactory.create(**{state: True}, age=timedelta(hours=49))
    assert keys(viewer, stage=state) == []
    assert keys(viewer, stage="forgotten") == [record.key]


def test_an_unsettled_record_is_running(viewer: Client) -> None:
    record = RecordFactory.create(running=True, purge_at=None)
    assert '<div class="readonly">running</div>' in detail(viewer, record)
    assert keys(viewer) == keys(viewer, stage="running") == [record.key]


def test_operations_are_those_of_the_newest_records(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "LIMIT", 2)
    RecordFactory.create(operation="old.View.create")
    RecordFactory.create(key="one", operation="shop.View.create")
    RecordFactory.create(key="two", operation="bill.View.create")
    page = viewer.get(reverse(LIST)).content.decode()
    assert "shop.View.create" in page
    assert "operation=old.View.create" not in page
    assert keys(viewer, operation="shop.View.create") == ["one"]
    assert keys(viewer, operation="old.View.create") == []


def test_filters_combine_with_each_other_and_with_a_search(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    RecordFactory.create(key="old", forgotten=True, operation="a.View.create")
    RecordFactory.create(key="other", forgotten=True, operation="b.View.create", scope="user:2/b")
    RecordFactory.create(key="new", operation="a.View.create")
    assert keys(viewer, stage="forgotten", operation="a.View.create") == ["old"]
    monkeypatch.setattr(lists, "LIMIT", 1)
    assert keys(viewer, stage="forgotten", q="=old") == ["old"]
    assert keys(viewer, operation="b.View.create", q="user:2/") == ["other"]


@pytest.mark.parametrize(
    ("term", "found"),
    [
        ("key-1", ["key-1"]),
        ("=key-1", ["key-1"]),
        ("KEY-1", []),
        ("key-", []),
        ("user:1/", ["key-1", "key-10"]),
        ("user:1", ["other", "key-1", "key-10"]),
        ("=user:1", ["user:1"]),
        ("user:_", []),
        ("\N{SNOWMAN}", []),
    ],
)
def test_a_search_takes_a_whole_key_or_the_beginning_of_a_scope(
    viewer: Client, term: str, found: list[str]
) -> None:
    RecordFactory.create(key="key-10", scope="user:1/a")
    RecordFactory.create(key="key-1", scope="user:1/a")
    RecordFactory.create(key="other", scope="user:10/a")
    RecordFactory.create(key="user:1", scope="user:2/a")
    assert keys(viewer, q=term) == found


def test_nothing_is_counted_beyond_the_limit(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "LIMIT", 3)
    RecordFactory.create_batch(5)
    changes = viewer.get(reverse(LIST)).context["cl"]
    assert (changes.result_count, changes.full_result_count) == (3, None)


@pytest.mark.parametrize(
    ("query", "queries"),
    [
        # Session, user and permissions (2), the operations, a bounded count, the page.
        ({}, 7),
        # and the ids that bound the answer
        ({"stage": "tombstone"}, 8),
        ({"stage": "unknown"}, 8),
        ({"operation": "shop.OrderViewSet.create"}, 8),
        ({"q": "=mine"}, 8),
        ({"q": "user:1/"}, 8),
        # and those of a scope, of which there are none
        ({"q": "mine"}, 9),
    ],
    ids=str,
)
def test_a_list_costs_a_fixed_number_of_queries(
    viewer: Client,
    query: dict[str, str],
    queries: int,
    django_assert_num_queries: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(IdempotencyRecordAdmin, "list_per_page", 5)
    RecordFactory.create(key="mine")
    RecordFactory.create_batch(20)
    RecordFactory.create_batch(20, tombstone=True)
    RecordFactory.create_batch(20, unknown=True)
    with django_assert_num_queries(queries) as captured:
        viewer.get(reverse(LIST), query)
    asked = [query["sql"] for query in captured if "idempotency_record" in query["sql"]]
    unbounded = [sql for sql in asked if "LIMIT" not in sql and " IN (" not in sql]
    assert unbounded == []


def test_a_list_does_not_read_replies_nor_count_by_filter(viewer: Client) -> None:
    RecordFactory.create()
    with CaptureQueriesContext(connection) as captured:
        keys(viewer, _facets="True")
    asked = [query["sql"] for query in captured if "idempotency_record" in query["sql"]]
    assert len(asked) == 3
    read = connection.ops.quote_name("body")
    assert not any(re.search(rf"[^(.]+\.{read}(?!\))", sql) for sql in asked)


@pytest.mark.parametrize("lookup", ["body__contains", "headers__contains", "status", "key"])
def test_the_url_cannot_ask_for_other_conditions(viewer: Client, lookup: str) -> None:
    RecordFactory.create()
    assert viewer.get(reverse(LIST), {lookup: "1"}).status_code == 400


# The detail page


def test_the_detail_page_shows_all_but_the_reply(viewer: Client) -> None:
    record = RecordFactory.create(
        key="<b>key</b>",
        parent_key="parent",
        headers='[["Content-Type","application/json"],["Location","/secret/"]]',
        body=b'{"secret": 1}',
    )
    page = detail(viewer, record)
    assert "&lt;b&gt;key&lt;/b&gt;" in page
    assert "<b>key</b>" not in page
    assert "secret" not in page
    for shown in (record.scope, "parent", "201", "13 bytes"):
        assert shown in page


def test_the_detail_page_tells_that_a_reply_was_not_kept(viewer: Client) -> None:
    assert "not kept" in detail(viewer, RecordFactory.create(not_kept=True))
    assert "not kept" in detail(viewer, RecordFactory.create(tombstone=True, body=None, headers=""))


def test_the_detail_page_shows_the_lease(viewer: Client) -> None:
    until = datetime(2030, 2, 3, 4, 5, tzinfo=UTC)
    page = detail(viewer, RecordFactory.create(leased=True, lease_until=until, holds=True))
    assert '<time datetime="2030-02-03T04:05:00+00:00">' in page
    assert 'alt="True"' in page


def test_the_detail_page_links_to_the_job(viewer: Client) -> None:
    job = JobFactory.create(running=True)
    JobFactory.create()
    page = detail(viewer, job.record)
    assert f'<a href="{url_of(job)}">running: {job.pk}</a>' in page
    assert page.count("/idempotency/job/") == 1
    assert "/idempotency/job/" not in detail(viewer, RecordFactory.create())


def test_a_site_without_jobs_still_names_them(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = JobFactory.create()

    def refuse(*args: Any, **kwargs: Any) -> str:
        raise NoReverseMatch

    monkeypatch.setattr(related, "reverse", refuse)
    assert f"queued: {job.pk}" in detail(viewer, job.record)


def test_both_pages_show_the_steps_but_not_their_results(viewer: Client, staff: User) -> None:
    staff.user_permissions.add(Permission.objects.get(codename="view_job"))
    job = JobFactory.create(running=True)
    StepFactory.create(record=job.record, position=0, name="charge", result='"secret"')
    StepFactory.create(record=job.record, position=1, name="<b>", attempt=7)
    StepFactory.create(name="another")
    for row in (job, job.record):
        page = detail(viewer, row)
        assert page.index("<td>2</td><td>&lt;b&gt;</td><td>7</td>") < page.index(
            f"<td>1</td><td>charge</td><td>{job.record.attempt}</td>"
        )
        assert "secret" not in page
        assert "another" not in page


def test_of_many_steps_the_last_are_shown(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(related, "LIMIT", 2)
    record = RecordFactory.create(leased=True)
    for position in range(3):
        StepFactory.create(record=record, position=position, name=f"step.{position}")
    page = detail(viewer, record)
    assert [f"step.{number}" in page for number in range(3)] == [False, True, True]


@pytest.mark.parametrize(
    ("more", "queries"),
    [
        # Session, user, permissions (2), the record, job, steps, and kin below and above.
        ([], 9),
        # and the reply
        (["view_stored_reply"], 10),
    ],
)
def test_the_detail_page_costs_a_fixed_number_of_queries(
    viewer: Client, may: Any, more: list[str], queries: int, django_assert_num_queries: Any
) -> None:
    may(*more)
    record = JobFactory.create(succeeded=True, record__key="a-b").record
    for number in range(3):
        RecordFactory.create(key=f"a-b-{number}", scope=record.scope)
        StepFactory.create(record=record, position=number)
    with django_assert_num_queries(queries):
        detail(viewer, record)


@pytest.mark.parametrize("made", [RecordFactory, JobFactory], ids=["record", "job"])
def test_a_page_has_nothing_inline_that_a_strict_policy_would_block(
    admin_client: Client, made: Any
) -> None:
    page = detail(admin_client, made.create(key="a-b") if made is RecordFactory else made.create())
    assert re.findall(r"<script(?![^>]* src=)", page) == []
    assert re.findall(r"<style| style=| on\w+=|javascript:", page) == []
    assert "idempotency/admin.css" in page


# Jobs


def test_jobs_are_newest_first_whatever_the_url_asks(job_viewer: Client) -> None:
    made = JobFactory.create_batch(3)
    assert jobs(job_viewer) == jobs(job_viewer, o="2") == made[::-1]


IN_STATUS: dict[str, dict[str, Any]] = {
    "queued": {},
    "running": {"running": True},
    "succeeded": {"succeeded": True},
    "failed": {"failed": True},
    "cancelled": {"cancelled": True},
}


def test_every_status_is_tested() -> None:
    assert set(IN_STATUS) == set(JobStatus.values)


@pytest.mark.parametrize("status", IN_STATUS)
def test_jobs_are_filtered_by_status(job_viewer: Client, status: str) -> None:
    made = {name: JobFactory.create(**traits) for name, traits in IN_STATUS.items()}
    assert jobs(job_viewer, status=status) == [made[status]]


def test_a_held_job_is_among_the_failed(job_viewer: Client) -> None:
    held = JobFactory.create(held=True)
    assert jobs(job_viewer, status="failed") == [held]


def test_an_old_job_that_is_under_way_is_found(
    job_viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many have come and gone since."""
    monkeypatch.setattr(lists, "LIMIT", 2)
    old = JobFactory.create(running=True, task="old.task")
    JobFactory.create_batch(3, succeeded=True)
    assert jobs(job_viewer, status="running") == [old]
    assert jobs(job_viewer, status="running", task="old.task") == [old]
    assert jobs(job_viewer, task="old.task") == []
    assert len(jobs(job_viewer, status="succeeded")) == 2


def test_tasks_are_those_of_the_newest_jobs(job_viewer: Client) -> None:
    one, other = JobFactory.create(task="shop.pack"), JobFactory.create(task="shop.send")
    page = job_viewer.get(reverse(JOBS)).content.decode()
    assert "task=shop.pack" in page
    assert jobs(job_viewer, task="shop.send") == [other]
    assert jobs(job_viewer, task="shop.pack", status="queued") == [one]


def test_a_job_is_found_by_its_whole_id(job_viewer: Client) -> None:
    job, _other = JobFactory.create(), JobFactory.create()
    assert jobs(job_viewer, q=str(job.pk)) == jobs(job_viewer, q=job.pk.hex.upper()) == [job]
    for term in (str(job.pk)[:8], job.task, job.record.key, "%", "\N{SNOWMAN}"):
        assert jobs(job_viewer, q=term) == []


@pytest.mark.parametrize(
    ("query", "queries"),
    [
        # Session, user and permissions (2), the tasks, a bounded count, the page.
        ({}, 7),
        ({"q": "0b1f9a52-6f3c-4a8e-9a35-3f6f5f1f2a10"}, 7),
        # and the ids that bound the answer
        ({"status": "failed"}, 8),
        ({"status": "running"}, 8),
        ({"task": "tests.import_section"}, 8),
    ],
    ids=str,
)
def test_a_list_of_jobs_costs_a_fixed_number_of_queries(
    job_viewer: Client,
    query: dict[str, str],
    queries: int,
    django_assert_num_queries: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(JobAdmin, "list_per_page", 5)
    JobFactory.create_batch(10)
    JobFactory.create_batch(10, failed=True)
    with django_assert_num_queries(queries) as captured:
        jobs(job_viewer, **query)
    asked = [each["sql"] for each in captured if "idempotency_" in each["sql"]]
    bounds = ("LIMIT", " IN (", f".{connection.ops.quote_name('id')} = ")
    assert [sql for sql in asked if not any(bound in sql for bound in bounds)] == []
    for column in ("arguments", "result", "traceback"):
        assert not any(f".{connection.ops.quote_name(column)}" in sql for sql in asked)


@pytest.mark.parametrize("lookup", ["traceback__contains", "arguments__contains", "record__key"])
def test_the_url_cannot_ask_jobs_for_other_conditions(job_viewer: Client, lookup: str) -> None:
    JobFactory.create()
    assert job_viewer.get(reverse(JOBS), {lookup: "1"}).status_code == 400


def test_a_job_tells_how_far_it_is_and_whose(job_viewer: Client) -> None:
    job = JobFactory.create(
        running=True, arguments='{"secret": 1}', record__key="<b>key</b>", resent=4
    )
    page = detail(job_viewer, job)
    for shown in ("running", "tests.import_section", "3 of 10", str(job.pk)):
        assert f'<div class="readonly">{shown}</div>' in page
    assert "secret" not in page
    assert "&lt;b&gt;key&lt;/b&gt;" in page
    assert "<b>key</b>" not in page


def test_a_job_links_to_its_record(job_viewer: Client) -> None:
    job = JobFactory.create()
    assert f'<a href="{url_of(job.record)}">' in detail(job_viewer, job)


def test_a_job_whose_record_is_gone_can_still_be_looked_at(job_viewer: Client) -> None:
    job = JobFactory.create()
    IdempotencyRecord.objects.filter(pk=job.record.pk)._raw_delete("default")
    assert "tests.import_section" in detail(job_viewer, job)
    assert jobs(job_viewer) == [job]


def test_a_failed_job_shows_why_and_no_result(job_viewer: Client) -> None:
    job = JobFactory.create(
        failed=True,
        error_message="<b>No</b> seats",
        traceback='Traceback:\n  File "a.py"\nKeyError: <x>',
    )
    page = detail(job_viewer, job)
    assert "job_failed" in page
    assert "&lt;b&gt;No&lt;/b&gt; seats" in page
    assert "<pre>Traceback:\n  File &quot;a.py&quot;\nKeyError: &lt;x&gt;</pre>" in page
    succeeded = detail(job_viewer, JobFactory.create(succeeded=True, result='{"secret": 1}'))
    assert "secret" not in succeeded
    assert "<pre>" not in succeeded


def test_the_page_of_a_job_costs_three_queries_of_ours(
    job_viewer: Client, django_assert_num_queries: Any
) -> None:
    job = JobFactory.create(failed=True)
    with django_assert_num_queries(7):  # session, user, permissions (2), the job, record, steps
        detail(job_viewer, job)


# Encrypted


def test_what_is_encrypted_is_shown_where_a_key_opens_it(job_viewer: Client, settings: Any) -> None:
    settings.IDEMPOTENCY_ENCRYPTION_KEYS = [Fernet.generate_key()]
    said = {name: encryption.seal_text(f"{name} of Ada") for name in ("error_message", "traceback")}
    job = JobFactory.create(failed=True, **said)
    page = detail(job_viewer, job)
    assert "error_message of Ada" in page
    assert "traceback of Ada" in page
    settings.IDEMPOTENCY_ENCRYPTION_KEYS = [Fernet.generate_key()]
    page = detail(job_viewer, job)
    assert page.count("encrypted under a key that is not there any more") == 2
    assert encryption.SEALED not in page
