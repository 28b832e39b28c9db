"""Dropping a key's reply from the cache: the entry, and the lock with it."""

import time

import pytest
from django.core.cache import caches

from idempotency import settlement
from idempotency.fingerprint import Fingerprint
from idempotency.layers import connection as redis_connection
from idempotency.layers import lock
from idempotency.outcomes import Busy, Held, Identity, Off, StoredReply
from tests.factories import RecordFactory

FINGERPRINT = Fingerprint.from_bytes(bytes(32))
IDENTITY = Identity("user:1/app.View.create", "key-1")


def entered(identity=IDENTITY):
    return lock.enter(identity, FINGERPRINT)


def a_reply():
    return StoredReply(FINGERPRINT, 201, (), b"1", time.time() + 60, 60.0)


def published(identity=IDENTITY):
    """The reply in the cache, put there by the holder of the lock."""
    lock.leave(identity, entered(identity), a_reply())
    return isinstance(entered(identity), StoredReply)


def test_the_entry_goes_and_others_stay(redis_db):
    other = Identity(IDENTITY.scope, "key-2")
    assert published()
    assert published(other)
    assert lock.drop([IDENTITY])
    assert isinstance(entered(), Held)
    assert isinstance(entered(other), StoredReply)


def test_a_key_that_is_in_no_cache_is_dropped_too(redis_db):
    assert lock.drop([IDENTITY])


def test_whoever_has_the_lock_publishes_no_more(redis_db):
    leader = entered()
    assert isinstance(entered(), Busy)
    assert lock.drop([IDENTITY])
    lock.leave(IDENTITY, leader, a_reply())
    assert isinstance(entered(), Held)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("verdict", [settlement.expire, settlement.forget])
def test_a_verdict_between_finish_and_publication_outlives_both(redis_db, verdict):
    """The leader has committed its reply and is about to publish it."""
    record = RecordFactory.create()
    identity = Identity(record.scope, record.key, "default")
    leader = entered(identity)
    assert verdict(record.scope, record.key)
    lock.leave(identity, leader, a_reply())
    assert not isinstance(entered(identity), StoredReply)


@pytest.mark.parametrize(
    ("backend", "sure"),
    [("dummy.DummyCache", True), ("locmem.LocMemCache", False)],
)
def test_only_a_cache_that_all_processes_share_is_dropped_for_certain(settings, backend, sure):
    settings.CACHES = {"default": {"BACKEND": f"django.core.cache.backends.{backend}"}}
    caches["default"].clear()
    lock.leave(IDENTITY, Off(), a_reply())
    assert lock.drop([IDENTITY]) == sure
    assert isinstance(entered(), Off)


def test_a_server_that_does_not_answer_may_still_have_the_reply(settings, closed_port):
    settings.CACHES = {
        "default": settings.CACHES["default"] | {"LOCATION": f"redis://127.0.0.1:{closed_port}/0"}
    }
    redis_connection._servers.clear()
    assert not lock.drop([IDENTITY])
    redis_connection._servers.clear()
