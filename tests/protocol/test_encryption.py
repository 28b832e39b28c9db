"""Encryption at rest: nothing that was said stands in the clear, keys rotate, and a key that is
gone never runs anything twice."""

import gzip
import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.http import HttpResponse
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from idempotency import exceptions
from idempotency.fingerprint import Fingerprint
from idempotency.jobs import JobFailed, cancel_job, step
from idempotency.layers import cache, encryption, look
from idempotency.layers.retention import purge
from idempotency.models import IdempotencyRecord, Job, JobStatus, State, Step
from idempotency.outcomes import Identity, StoredReply
from tests.app.models import Booking
from tests.jobs import Started, booked, doing, lapse, run
from tests.protocol.test_atomic import Counted, age

pytestmark = pytest.mark.django_db(transaction=True)
servers = pytest.mark.vendors("postgresql", "mysql")

SECRET = "Ada Lovelace"
OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))
TABLES = [model._meta.db_table for model in (IdempotencyRecord, Job, Step)]


@pytest.fixture
def keys(settings):
    """Sets the keys; begins with one."""

    def set_keys(*keys):
        settings.IDEMPOTENCY_ENCRYPTION_KEYS = list(keys)

    set_keys(OLD)
    return set_keys


def book():
    """One effect, and a reply that says who it was for."""
    booking = Booking.objects.create(name=SECRET)
    return HttpResponse(
        json.dumps({"id": booking.pk, "for": SECRET}),
        status=201,
        headers={"Content-Type": "application/json", "Location": f"/for/{SECRET}/"},
    )


def never():
    pytest.fail("it was run again")


def in_the_clear(what=SECRET):
    """The columns of the ledger that show it."""
    shown = set()
    with connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                cells = (bytes(c) if isinstance(c, memoryview | bytes) else str(c) for c in row)
                texts = (c.decode("latin-1") if isinstance(c, bytes) else c for c in cells)
                shown |= {
                    f"{table}.{name}"
                    for name, text in zip(names, texts, strict=True)
                    if what in text
                }
    return shown


def entries(redis_db):
    return {name: redis_db.get(name) for name in redis_db.scan_iter("*:reply")}


# Replies


@pytest.mark.usefixtures("rooms")
def test_a_duplicate_gets_the_same_reply(ask, bookings, keys):
    first = ask(book)
    for _ in range(2):
        again = ask(never)
        assert (again.status_code, again.content) == (201, first.content)
        assert (again["Location"], again["Content-Type"]) == (first["Location"], "application/json")
    assert bookings() == 1
    assert in_the_clear() == set()


@pytest.mark.usefixtures("redis_db")
def test_without_keys_it_is_in_the_clear(ask):
    """So that the test above looks where something would be."""
    ask(book)
    assert in_the_clear() == {"idempotency_record.headers", "idempotency_record.body"}


def test_nothing_is_in_the_clear_in_redis(ask, redis_db, keys):
    ask(book)
    (entry,) = entries(redis_db).values()
    assert SECRET.encode() not in entry
    redis_db.flushdb()
    keys()
    ask(book, key="plain")
    (entry,) = entries(redis_db).values()
    assert SECRET.encode() in entry


@pytest.mark.parametrize("room", ["cache", "ledger"])
def test_keys_rotate(ask, bookings, redis_db, keys, room):
    """Old first; new in front of it; old dropped."""

    def replays(key):
        if room == "ledger":
            redis_db.flushdb()
        counted = Counted()
        again = ask(never, key=key)
        assert counted[f"replayed.{room}"] == 1
        return again.content

    under_old = ask(book, key="a").content
    keys(NEW, OLD)
    under_new = ask(book, key="b").content
    assert (replays("a"), replays("b")) == (under_old, under_new)
    keys(NEW)
    assert replays("b") == under_new
    redis_db.flushdb()
    with pytest.raises(exceptions.ReplyNotKept):
        ask(never, key="a")
    assert bookings() == 2


@pytest.mark.usefixtures("rooms")
def test_what_was_written_before_there_were_keys_is_still_replayed(ask, keys):
    keys()
    first = ask(book)
    keys(OLD)
    assert ask(never).content == first.content
    assert ask(never).content == first.content


@pytest.mark.parametrize("left", [[], [OTHER]], ids=["no keys", "another key"])
@pytest.mark.usefixtures("rooms")
def test_a_reply_whose_key_is_gone_is_refused_and_never_run_again(ask, bookings, keys, left):
    first = ask(book)
    keys(*left)
    counted = Counted()
    for _ in range(2):
        with pytest.raises(exceptions.ReplyNotKept):
            ask(never)
    assert counted["unreadable.reply"] == counted["refused.idempotency_reply_not_kept"] == 2
    assert bookings() == 1
    keys(*left, OLD)
    assert ask(never).content == first.content  # nothing was published in its place


def test_its_own_fingerprint_still_outranks_that(ask, keys):
    ask(book)
    keys(OTHER)
    with pytest.raises(exceptions.KeyReused):
        ask(never, body={"name": "Eve"})


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 500, b"fernet:", b"[]", b"12:"])
@pytest.mark.parametrize("used", [True, False], ids=["keys", "no keys"])
def test_any_body_comes_back_as_it_was(ask, keys, redis_db, content, used):
    keys(*[OLD] * used)
    ask(lambda: HttpResponse(content))
    redis_db.flushdb()
    assert ask(never).content == content


@given(st.text(), st.binary())
def test_headers_and_body_are_kept_apart(headers, body):
    made = Fernet(OLD)
    sealed = encryption.seal_reply(headers, body)
    assert sealed == (headers, body)  # no keys, no change
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encryption, "_fernet", lambda: made)
        sealed = encryption.seal_reply(headers, body)
        assert sealed[0] == encryption.SEALED
        assert encryption.unseal_reply(*sealed) == (headers, body)


@pytest.mark.usefixtures("redis_db")
def test_the_limit_of_a_body_is_that_of_what_was_said(ask, keys, settings):
    settings.IDEMPOTENCY_MAX_BODY = 100
    ask(lambda: HttpResponse(b"x" * 60))
    assert len(bytes(IdempotencyRecord.objects.get().body)) > 100
    assert ask(never).content == b"x" * 60


@pytest.mark.usefixtures("redis_db")
def test_what_was_not_kept_says_so_as_before(ask, keys, settings):
    settings.IDEMPOTENCY_MAX_BODY = 10
    ask(book)
    record = IdempotencyRecord.objects.get()
    assert (record.headers, record.body) == ("[]", None)
    counted = Counted()
    with pytest.raises(exceptions.ReplyNotKept):
        ask(never)
    assert counted["unreadable"] == 0


def test_a_purge_empties_it_and_the_key_is_refused(ask, redis_db, keys):
    ask(book)
    age(expires_at=-timedelta(hours=1), purge_at=timedelta(hours=1))
    redis_db.flushdb()
    assert purge().emptied == 1
    record = IdempotencyRecord.objects.get()
    assert (record.headers, record.body) == ("", None)
    with pytest.raises(exceptions.KeyExpired):
        ask(never)


@pytest.mark.usefixtures("redis_db")
def test_in_an_archive_it_stays_encrypted(ask, keys, tmp_path):
    ask(book)
    age(expires_at=-timedelta(hours=2), purge_at=-timedelta(hours=1))
    assert purge(archive=tmp_path / "a.jsonl.gz").deleted == 1
    text = gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes())
    line = json.loads(text)
    assert line["headers"] == encryption.SEALED
    assert line["body"]
    assert SECRET.encode() not in text


@pytest.mark.usefixtures("redis_db")
def test_a_look_up_reads_it_or_says_that_nobody_can(ask, keys):
    first = ask(book)
    record = IdempotencyRecord.objects.get()
    identity = Identity(record.scope, record.key)
    outcome = look.outcome(identity, with_reply=True)
    assert outcome.reply.body == first.content
    assert ("Location", f"/for/{SECRET}/") in outcome.reply.headers
    keys(OTHER)
    assert look.outcome(identity, with_reply=True).reply.body is None


@pytest.mark.parametrize("key", ["no key", "c2hvcnQ="], ids=["no base64", "too short"])
@pytest.mark.usefixtures("redis_db")
def test_a_setting_that_is_no_key_stops_what_would_be_in_the_clear(ask, bookings, keys, key):
    keys(key)
    with pytest.raises(ImproperlyConfigured, match="IDEMPOTENCY_ENCRYPTION_KEYS") as refused:
        ask(book)
    assert key not in str(refused.value)
    assert refused.value.__suppress_context__
    assert bookings() == 0


# Cached entries


@pytest.fixture
def entry():
    reply = StoredReply(
        Fingerprint(b"r" * 16, b"b" * 16),
        201,
        (("Location", "/1/"),),
        SECRET.encode(),
        expires_at=timezone.now().timestamp() + 60,
    )
    return lambda: (cache.seal("name", reply), reply)


def test_an_entry_under_a_key_that_is_gone_is_a_miss(keys, entry):
    sealed, reply = entry()
    assert cache.unseal("name", sealed) == reply
    keys(OTHER)
    assert cache.unseal("name", sealed) is None
    keys()
    assert cache.unseal("name", sealed) is None


def test_no_entry_passes_for_one_of_the_other_kind(keys, entry):
    """Neither the plain for an encrypted, nor the encrypted for a plain: its MAC says which."""
    sealed, _ = entry()
    keys()
    plain, reply = entry()
    keys(OLD)
    assert cache.unseal("name", plain) == reply  # from before there were keys
    assert cache.unseal("name", cache.SEALED_VERSION + plain[1:]) is None
    assert cache.unseal("name", cache.VERSION + sealed[1:]) is None
    assert cache.unseal("other", sealed) is None


# Jobs and steps


@pytest.fixture
def start(ask, messages, redis_db):
    """Starts a job that calls the function."""
    return lambda function: Started(ask, doing(function))


@servers
class TestJobs:
    def test_nothing_of_a_job_is_in_the_clear(self, start, keys):
        def work():
            step("greet", lambda: f"Hello {SECRET}")
            return {"for": SECRET}

        job = start(work)
        arguments = Job.objects.values_list("arguments", flat=True).get()
        assert arguments.startswith(encryption.SEALED)
        run(job.id)
        assert job.told()["result"] == {"for": SECRET}
        assert in_the_clear() == set()
        assert look.job(job.id, using="default").view.result == json.dumps(
            {"for": SECRET}, separators=(",", ":")
        )

    def test_nothing_of_its_failure_is_either(self, start, keys):
        def work():
            raise JobFailed(f"{SECRET} is not enrolled.", code="not_enrolled")

        job = start(work)
        run(job.id)
        assert job.told()["error"] == {
            "code": "not_enrolled",
            "message": f"{SECRET} is not enrolled.",
        }
        assert in_the_clear() == set()
        row = job.row
        assert row.error_code == "not_enrolled"
        traceback = encryption.unseal_text(row.traceback, "job")
        assert "Traceback" in traceback
        assert SECRET in traceback

    def test_without_keys_all_of_it_would_be(self, start):
        def work():
            step("greet", lambda: f"Hello {SECRET}")
            raise JobFailed(f"{SECRET} is not enrolled.")

        job = start(work)
        run(job.id)
        assert in_the_clear() == {
            "idempotency_record.body",
            "idempotency_job.error_message",
            "idempotency_job.traceback",
            "idempotency_step.result",
        }

    def test_keys_rotate_under_a_job(self, start, keys):
        job = start(lambda: {"for": SECRET})
        keys(NEW, OLD)
        run(job.id)
        keys(NEW)
        assert look.job(job.id, using="default").view.result
        assert job.told()["status"] == JobStatus.SUCCEEDED

    def test_a_job_whose_key_is_gone_waits_for_it(self, start, keys):
        job = start(lambda: Booking.objects.create(name="done").pk)
        keys(OTHER)
        counted = Counted()
        run(job.id)
        assert (job.status, job.row.attempts, booked()) == (JobStatus.QUEUED, 0, {})
        assert counted["unreadable.job"] == counted["job_ignored"] == 1
        keys(OTHER, OLD)
        run(job.id)
        assert (job.status, booked()) == (JobStatus.SUCCEEDED, {"done": 1})

    def test_it_can_be_called_off_without(self, start, keys):
        job = start(never)
        keys()
        assert cancel_job(job.id)
        assert job.told()["error"]["code"] == "job_cancelled"

    def test_a_result_whose_key_is_gone_is_not_told_as_none(self, start, keys):
        job = start(lambda: SECRET)
        run(job.id)
        keys(OTHER)
        found = look.job(job.id, using="default")
        assert found.view is None
        assert found.owner.key

    def test_a_step_is_resumed_under_a_key_that_was_rotated(self, start, keys):
        job = start(greets_then_dies())
        with suppress(KeyboardInterrupt):
            run(job.id)
        keys(NEW, OLD)
        lapse()
        run(job.id)
        assert (job.told()["result"], booked()) == (f"Hello {SECRET}", {"greeting": 1})

    def test_a_step_whose_key_is_gone_is_not_run_again(self, start, keys):
        keys()
        job = start(greets_then_dies())
        keys(OLD)
        with suppress(KeyboardInterrupt):
            run(job.id)
        keys(OTHER)
        lapse()
        counted = Counted()
        run(job.id)
        assert booked() == {"greeting": 1}
        assert counted["unreadable.step"] == 1
        assert job.status == JobStatus.FAILED
        traceback = encryption.unseal_text(job.row.traceback, "job")
        assert "IDEMPOTENCY_ENCRYPTION_KEYS lacks the key" in traceback


def greets_then_dies():
    """A task that is killed after its step the first time."""
    killed: list[bool] = []

    def work():
        greeting = step("greet", greet)
        if not killed:
            killed.append(True)
            raise KeyboardInterrupt
        return greeting

    return work


def greet():
    Booking.objects.create(name="greeting")
    return f"Hello {SECRET}"


@servers
def test_a_leased_execution_goes_on_once_the_key_is_back(leased, redis_db, keys):
    def handler(error=None):
        greeting = step("greet", greet)
        if error is not None:
            raise error
        return HttpResponse(greeting)

    with pytest.raises(ZeroDivisionError):
        leased(lambda: handler(ZeroDivisionError()))
    keys(OTHER)
    with pytest.raises(ImproperlyConfigured, match="lacks the key"):
        leased(handler)
    assert IdempotencyRecord.objects.get().state == State.ABANDONED
    keys(OTHER, OLD)
    assert leased(handler).content.decode() == f"Hello {SECRET}"
    assert booked() == {"greeting": 1}


@pytest.mark.usefixtures("redis_db")
def test_the_local_room_is_encrypted_too(ask, keys, settings):
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    local: Any = caches["default"]
    local.clear()
    first = ask(book)
    kept = b"".join(local._cache.values())
    assert SECRET.encode() not in kept
    assert ask(never).content == first.content
