"""The tree of parent and child keys on a record's page."""

from typing import Any

import pytest
from django.test import Client

from idempotency.admin import family
from idempotency.identity import identify, parent_of
from idempotency.keys import child_beginnings, derive_child_key
from idempotency.models import IdempotencyRecord
from idempotency.outcomes import Identity
from tests.admin.looking import detail, response_of, url_of
from tests.factories import RecordFactory

pytestmark = pytest.mark.django_db


def called(parent: IdempotencyRecord, name: str, *, step: str = "", **traits: Any) -> Any:
    """A record as a service keeps it that was called under `parent`, perhaps within a step."""
    around = derive_child_key(parent.key, step) if step else parent.key
    key = derive_child_key(around, name)
    narrowing = Identity(parent.scope, parent.key).scope_digest
    scope = identify("user:service", f"{name}.View.create", narrowing, key).scope
    parent_key = parent_of(key, narrowing)
    return RecordFactory.create(scope=scope, key=key, parent_key=parent_key, **traits)


def tree(client: Client, record: IdempotencyRecord) -> Any:
    """The tree as nested dictionaries by key."""

    def of(kin: Any) -> Any:
        return {child.record.key: of(child) for child in kin.children}

    root = response_of(client, record).context["family"].root
    return {root.record.key: of(root)}


def test_every_page_of_a_family_shows_what_is_above_and_below(viewer: Client) -> None:
    parent = RecordFactory.create(key="8e03-978e")
    roster, billing = called(parent, "roster"), called(parent, "billing")
    book = called(billing, "book", tombstone=True)
    branch: Any = {billing.key: {book.key: {}}}
    assert book.key == "8e03-978e-billing-book"
    assert tree(viewer, parent) == {parent.key: {roster.key: {}} | branch}
    assert tree(viewer, roster) == {parent.key: {roster.key: {}}}
    assert tree(viewer, billing) == tree(viewer, book) == {parent.key: branch}


def test_the_tree_links_to_every_page_but_its_own(viewer: Client) -> None:
    parent = RecordFactory.create(key="order")
    billing = called(parent, "billing")
    book = called(billing, "book", tombstone=True)
    page = detail(viewer, billing)
    assert f'<strong aria-current="page">{billing.key}</strong>' in page
    for other in (parent, book):
        assert f'<a href="{url_of(other)}">{other.key}</a>' in page
    assert "book.View.create, tombstone" in page


def test_a_client_that_derives_keys_itself_has_a_family_too(viewer: Client) -> None:
    parent = RecordFactory.create(key="order", scope="user:1/shop.Order.create")
    RecordFactory.create(key="order-payment", scope="user:1/shop.Payment.create")
    assert tree(viewer, parent) == {"order": {"order-payment": {}}}


def test_other_callers_keys_are_no_kin(viewer: Client) -> None:
    parent = RecordFactory.create(key="order", scope="user:1/shop.Order.create")
    stranger = RecordFactory.create(key="order", scope="user:2/shop.Order.create")
    called(stranger, "billing")
    RecordFactory.create(key="order-billing", scope="user:2/shop.Payment.create")
    RecordFactory.create(key="orderly", scope="user:1/shop.Order.create")
    assert tree(viewer, parent) == {"order": {}}
    assert "Parent and child keys" not in detail(viewer, parent)


def test_a_call_within_a_step_belongs_to_its_execution(viewer: Client) -> None:
    parent = RecordFactory.create(key="import")
    child = called(parent, "billing", step="enroll.1")
    assert tree(viewer, parent) == {"import": {"import-enroll.1-billing": {}}}
    assert tree(viewer, child) == tree(viewer, parent)


@pytest.mark.parametrize("key", ["k" * 240, "k" * 200, "sha256:" + "0" * 64])
def test_children_of_long_keys_are_found_by_their_digest(viewer: Client, key: str) -> None:
    parent = RecordFactory.create(key=key)
    children = [called(parent, name) for name in ("b", "x" * 60)]
    assert set(tree(viewer, parent)[key]) == {child.key for child in children}


def test_a_parent_that_another_service_has_is_named(viewer: Client) -> None:
    parent = RecordFactory.create(key="order")
    child = called(parent, "billing")
    parent.delete()
    page = detail(viewer, child)
    assert "Called under order, of which this ledger has no record" in page


def test_no_more_rows_are_read_than_the_bound(
    viewer: Client, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr(family, "KIN", 3)
    parent = RecordFactory.create(key="order")
    for number in range(5):
        called(parent, f"line.{number}")
    assert len(tree(viewer, parent)["order"]) == 3
    assert "There are more than could be read here" in detail(viewer, parent)


@pytest.mark.parametrize(
    "parent", ["a", "a-b", "k" * 189, "k" * 191, "k" * 255, "sha256:" + "f" * 64]
)
@pytest.mark.parametrize("name", ["b", "x" * 64])
def test_a_childs_key_begins_as_said(parent: str, name: str) -> None:
    assert derive_child_key(parent, name).rpartition("-")[0] in child_beginnings(parent)
