"""The read-only admin of records: what it shows, what it hides, and what it asks the database."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from idempotency import admin as records_admin
from idempotency.models import IdempotencyRecord
from tests.factories import RecordFactory, UserFactory

LIST = "admin:idempotency_idempotencyrecord_changelist"

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(client: Client) -> User:
    user = UserFactory.create(is_staff=True)
    client.force_login(user)
    return user


@pytest.fixture
def viewer(client: Client, staff: User) -> Client:
    staff.user_permissions.add(Permission.objects.get(codename="view_idempotencyrecord"))
    return client


def keys(client: Client, **query: str) -> list[str]:
    response = client.get(reverse(LIST), query)
    assert response.status_code == 200
    return [record.key for record in response.context["cl"].result_list]


def detail(client: Client, record: IdempotencyRecord) -> str:
    url = reverse("admin:idempotency_idempotencyrecord_change", args=[record.pk])
    response = client.get(url)
    assert response.status_code == 200
    return response.content.decode()


# Who may do what


def test_without_the_view_permission_nothing_is_shown(client: Client, staff: User) -> None:
    record = RecordFactory.create()
    assert client.get(reverse(LIST)).status_code == 403
    url = reverse("admin:idempotency_idempotencyrecord_change", args=[record.pk])
    assert client.get(url).status_code == 403


def test_not_even_a_superuser_can_add_change_or_delete(admin_client: Client) -> None:
    record = RecordFactory.create()
    assert admin_client.get(reverse(LIST.replace("changelist", "add"))).status_code == 403
    for page in ("change", "delete"):
        url = reverse(LIST.replace("changelist", page), args=[record.pk])
        assert admin_client.post(url, {"key": "other"}).status_code == 403
    admin_client.post(reverse(LIST), {"action": "delete_selected", "_selected_action": record.pk})
    assert IdempotencyRecord.objects.get().key == record.key


# The list


def test_the_list_is_newest_first_whatever_the_url_asks(viewer: Client) -> None:
    for key in "bca":
        RecordFactory.create(key=key, scope=f"user:{key}/a")
    assert keys(viewer) == keys(viewer, o="2") == ["a", "c", "b"]


@pytest.mark.parametrize(
    ("stage", "key"),
    [("replayable", "live"), ("tombstone", "tombstone"), ("forgotten", "forgotten")],
)
def test_the_state_is_told_from_the_times(viewer: Client, stage: str, key: str) -> None:
    RecordFactory.create(key="live")
    RecordFactory.create(key="tombstone", tombstone=True)
    RecordFactory.create(key="forgotten", forgotten=True)
    assert keys(viewer, stage=stage) == [key]
    shown = detail(viewer, IdempotencyRecord.objects.get(key=key))
    assert f'<div class="readonly">{stage}</div>' in shown


def test_an_unsettled_record_is_running(viewer: Client) -> None:
    record = RecordFactory.create(running=True, purge_at=None)
    assert '<div class="readonly">running</div>' in detail(viewer, record)
    assert keys(viewer) == [record.key]


def test_operations_are_those_of_the_newest_records(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_admin, "LIMIT", 2)
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
    monkeypatch.setattr(records_admin, "LIMIT", 1)
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
    monkeypatch.setattr(records_admin, "LIMIT", 3)
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
        ({"operation": "shop.OrderViewSet.create"}, 8),
        ({"q": "=mine"}, 8),
        # the scopes' ids, and whether any is left of them
        ({"q": "user:1/"}, 9),
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
    monkeypatch.setattr(records_admin.IdempotencyRecordAdmin, "list_per_page", 5)
    RecordFactory.create(key="mine")
    RecordFactory.create_batch(20)
    RecordFactory.create_batch(20, tombstone=True)
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
    for shown in (record.scope, "parent", "201", "Content-Type, Location", "13 bytes"):
        assert shown in page


def test_the_detail_page_tells_that_a_reply_was_not_kept(viewer: Client) -> None:
    assert "not kept" in detail(viewer, RecordFactory.create(not_kept=True))
    assert "not kept" in detail(viewer, RecordFactory.create(tombstone=True, body=None, headers=""))


def test_the_detail_page_costs_one_query_of_ours(
    viewer: Client, django_assert_num_queries: Any
) -> None:
    record = RecordFactory.create(age=timedelta(hours=1))
    with django_assert_num_queries(5):  # session, user, permissions (2), the record
        detail(viewer, record)
