"""The purge: what it deletes, empties, leaves alone and archives; and its command.

Runs on the vendor that TEST_DATABASE names.
"""

import base64
import errno
import gzip
import io
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from idempotency.fingerprint import DIGEST_SIZE, Fingerprint
from idempotency.layers import ledger, retention
from idempotency.layers.archive import Archive, ArchiveError
from idempotency.layers.retention import Purged, purge
from idempotency.layers.windows import Windows
from idempotency.models import IdempotencyRecord, Job, State, Step
from idempotency.outcomes import Candidate, Expired, Identity
from tests.factories import JobFactory, StepFactory

SCOPE = "user:1/shop.OrderViewSet.create"
HOUR = timedelta(hours=1)
REPLY = b'{"id": 1}'
HEADERS = '[["Content-Type","application/json"]]'

pytestmark = pytest.mark.django_db


def plant(
    key: str,
    *,
    expires: timedelta | None = -25 * HOUR,
    purge: timedelta | None = -HOUR,
    scope: str = SCOPE,
    **values: Any,
) -> IdempotencyRecord:
    """A finished record that expires and is forgotten so much later than now."""
    now = timezone.now()
    return IdempotencyRecord.objects.create(
        **{
            "scope": scope,
            "key": key,
            "operation": "shop.OrderViewSet.create",
            "state": State.FINISHED,
            "fingerprint": bytes(2 * DIGEST_SIZE),
            "status": 201,
            "headers": HEADERS,
            "body": REPLY,
            "created_at": now - 50 * HOUR,
            "completed_at": now - 49 * HOUR,
            "expires_at": None if expires is None else now + expires,
            "purge_at": None if purge is None else now + purge,
        }
        | values
    )


def forgotten(count: int) -> None:
    for number in range(count):
        plant(f"forgotten-{number}", purge=-HOUR + timedelta(seconds=number))


def worked(record: IdempotencyRecord, steps: int = 2) -> IdempotencyRecord:
    """The record, with a job and steps behind it."""
    JobFactory.create(record=record)
    StepFactory.create_batch(steps, record=record)
    return record


def behind(model: type[Job] | type[Step]) -> list[str]:
    """The keys of the records that have rows of the model."""
    return sorted(model.objects.values_list("record__key", flat=True))


def tombstone(key: str, **values: Any) -> IdempotencyRecord:
    return plant(key, expires=-HOUR, purge=23 * HOUR, **values)


def live(key: str, **values: Any) -> IdempotencyRecord:
    return plant(key, expires=HOUR, purge=25 * HOUR, **values)


def keys() -> list[str]:
    return sorted(IdempotencyRecord.objects.values_list("key", flat=True))


def elsewhere(call: Callable[[], Any]) -> Any:
    """The call's result, from a connection of its own."""

    def run() -> Any:
        try:
            return call()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


# What is deleted, emptied and left alone


def test_forgotten_records_are_deleted_and_no_others() -> None:
    plant("forgotten")
    tombstone("tombstone")
    live("live")
    done = purge()
    assert keys() == ["live", "tombstone"]
    assert (done.deleted, done.finished) == (1, True)


def test_a_record_without_purge_at_is_never_touched() -> None:
    record = plant("unsettled", purge=None)
    assert purge().finished
    record.refresh_from_db()
    assert bytes(record.body or b"") == REPLY


def test_the_databases_clock_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    plant("forgotten")
    live("live")
    for year, left in ((2000, ["live"]), (2100, ["live"])):
        monkeypatch.setattr(timezone, "now", lambda y=year: datetime(y, 1, 1, tzinfo=UTC))
        monkeypatch.setattr("time.time", lambda y=year: datetime(y, 1, 1, tzinfo=UTC).timestamp())
        purge()
        assert keys() == left


def test_the_replies_of_tombstones_are_emptied_and_the_rest_of_them_stays() -> None:
    record = tombstone("tombstone")
    assert purge().emptied == 1
    emptied = IdempotencyRecord.objects.get()
    assert (emptied.body, emptied.headers) == (None, "")
    kept = ("scope", "key", "status", "state", "attempt", "expires_at", "purge_at")
    assert [getattr(emptied, name) for name in kept] == [getattr(record, name) for name in kept]


def test_an_emptied_tombstone_still_refuses_its_key() -> None:
    tombstone("tombstone")
    purge()
    candidate = Candidate(
        identity=Identity(SCOPE, "tombstone"),
        operation="shop.OrderViewSet.create",
        fingerprint=Fingerprint.from_bytes(bytes(2 * DIGEST_SIZE)),
        parent_key="",
        ttl=60,
        tombstone=60,
        silence=60,
    )
    with transaction.atomic():
        assert ledger.claim(candidate, using="default") == Expired()


def test_an_emptied_tombstone_is_not_written_again() -> None:
    tombstone("tombstone")
    purge()
    assert purge().emptied == 0


def test_a_live_record_keeps_its_reply_and_its_mark_of_a_reply_not_kept() -> None:
    live("live")
    live("not kept", headers="[]", body=None)
    assert purge().emptied == 0
    assert sorted(IdempotencyRecord.objects.values_list("headers", flat=True)) == sorted(
        [HEADERS, "[]"]
    )


def test_the_walk_ends_where_no_tombstone_of_the_setting_can_be(settings: Any) -> None:
    settings.IDEMPOTENCY_TOMBSTONE = 10 * HOUR
    settings.IDEMPOTENCY_LOCK_TIMEOUT = HOUR
    near = plant("near", expires=-HOUR, purge=11 * HOUR - timedelta(minutes=1))
    far = plant("far", expires=-HOUR, purge=11 * HOUR + timedelta(minutes=1))
    for number in range(5):
        live(f"live-{number}")
    done = purge(batch_size=1)
    assert (done.emptied, done.batches) == (1, 3)  # nothing forgotten; `near`; nothing behind it
    near.refresh_from_db()
    far.refresh_from_db()
    assert (near.body, bytes(far.body or b"")) == (None, REPLY)


# Jobs and steps


def test_jobs_and_steps_go_with_their_record_and_no_others() -> None:
    for record in (plant("forgotten"), tombstone("tombstone"), live("live")):
        worked(record)
    plant("without")
    assert purge().deleted == 2
    assert Job.objects.count() == 2
    assert behind(Job) == ["live", "tombstone"]
    assert Step.objects.count() == 4
    assert behind(Step) == ["live", "live", "tombstone", "tombstone"]


@pytest.mark.parametrize(("factory", "model"), [(JobFactory, Job), (StepFactory, Step)])
def test_jobs_go_without_steps_and_steps_without_jobs(factory: Any, model: Any) -> None:
    factory.create(record=plant("forgotten"))
    factory.create(record=live("live"))
    purge()
    assert model.objects.count() == 1
    assert behind(model) == ["live"]


def test_unsettled_records_keep_their_jobs_and_steps() -> None:
    worked(plant("unsettled", purge=None, state=State.JOB))
    assert purge().deleted == 0
    assert (behind(Job), len(behind(Step))) == (["unsettled"], 2)


def test_all_windows_delete_jobs_and_steps() -> None:
    forgotten(7)
    for record in IdempotencyRecord.objects.all():
        worked(record)
    worked(plant("last", purge=-timedelta(minutes=1)))
    assert purge(batch_size=3).deleted == 8
    assert (Job.objects.count(), Step.objects.count()) == (0, 0)


def test_a_dry_run_leaves_jobs_and_steps() -> None:
    worked(plant("forgotten"))
    assert purge(dry_run=True).deleted == 1
    assert (Job.objects.count(), Step.objects.count()) == (1, 2)


@pytest.mark.django_db(transaction=True)
def test_a_record_and_what_is_behind_it_go_in_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked(plant("forgotten"))

    def fail(archive: Archive, columns: Any, rows: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Archive, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        purge(archive=tmp_path / "a.jsonl.gz")
    assert (keys(), behind(Job), len(behind(Step))) == (["forgotten"], ["forgotten"], 2)


def test_with_an_archive_they_go_as_well(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    worked(plant("forgotten"))
    worked(live("live"))
    assert purge(archive=path).deleted == 1
    assert [line["key"] for line in lines(path)] == ["forgotten"]
    assert (behind(Job), len(behind(Step))) == (["live"], 2)


# Batches


def test_it_goes_on_in_batches_to_the_end() -> None:
    forgotten(7)
    tombstone("tombstone")
    done = purge(batch_size=3)
    assert keys() == ["tombstone"]
    assert (done.deleted, done.emptied, done.finished) == (7, 1, True)


def test_records_that_share_a_moment_are_all_deleted() -> None:
    moment = timezone.now().replace(microsecond=0) - HOUR
    for number in range(7):
        plant(f"tie-{number}", purge_at=moment)
    assert purge(batch_size=2).deleted == 7


@pytest.mark.django_db(transaction=True)
def test_each_batch_commits_by_itself() -> None:
    forgotten(4)

    def stop(done: Purged) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        purge(batch_size=3, progress=stop)
    assert elsewhere(keys) == ["forgotten-3"]


@pytest.mark.django_db(transaction=True)
def test_it_refuses_to_run_inside_a_transaction() -> None:
    plant("forgotten")
    with transaction.atomic(), pytest.raises(RuntimeError):
        purge()


def test_it_never_looks_back() -> None:
    forgotten(3)

    def plant_behind(done: Purged) -> None:
        if done.batches == 2:
            plant("behind", purge=-2 * HOUR)

    assert purge(batch_size=1, progress=plant_behind).deleted == 3
    assert keys() == ["behind"]


def test_a_time_limit_ends_it_after_a_batch_with_work_left() -> None:
    forgotten(3)
    done = purge(batch_size=1, max_seconds=1e-9)
    assert (done.deleted, done.batches, done.finished) == (1, 1, False)


@pytest.mark.parametrize("used", [False, True], ids=["no jobs", "jobs and steps"])
def test_a_batch_takes_a_look_ahead_and_a_change(
    django_assert_num_queries: Any, used: bool
) -> None:
    forgotten(10)
    if used:
        worked(live("live"))
    savepoints = 2 * 2  # in a TestCase; else BEGIN and COMMIT
    picked = 1 if connection.vendor == "mysql" else 0
    others = 2 if used and connection.vendor != "postgresql" else 0
    counters = 1
    with django_assert_num_queries(1 + 2 * 2 + savepoints + picked + others + counters):
        purge()


def test_a_project_without_jobs_and_steps_does_not_pay_for_them() -> None:
    forgotten(10)
    with CaptureQueriesContext(connection) as asked:
        purge()
    look, *walk, _ = [query["sql"] for query in asked]
    assert "idempotency_job" in look
    assert not [sql for sql in walk if "idempotency_job" in sql or "idempotency_step" in sql]


def test_the_result_is_frozen() -> None:
    done = purge()
    with pytest.raises(FrozenInstanceError):
        done.deleted = 5  # type: ignore[misc] # that is the test


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"max_seconds": 0},
        {"max_seconds": float("nan")},
    ],
    ids=str,
)
def test_bad_arguments_are_refused(wrong: Any) -> None:
    plant("forgotten")
    with pytest.raises(ValueError, match="must be"):
        purge(**wrong)
    assert keys() == ["forgotten"]


# Dry run


def test_a_dry_run_counts_and_changes_nothing(tmp_path: Path) -> None:
    forgotten(5)
    tombstone("tombstone")
    live("live")
    before = list(IdempotencyRecord.objects.order_by("id").values())
    path = tmp_path / "a.jsonl.gz"
    counted = purge(dry_run=True, batch_size=2, archive=path)
    assert list(IdempotencyRecord.objects.order_by("id").values()) == before
    assert not path.exists()
    done = purge(batch_size=2)
    assert (counted.deleted, counted.emptied) == (done.deleted, done.emptied) == (5, 1)


# Beside others


def hold(key: str, then: Callable[[], Any]) -> Any:
    """What the call gives from another connection while the record is locked by this one."""
    with transaction.atomic():
        renewed = timezone.now() + HOUR
        IdempotencyRecord.objects.filter(key=key).update(purge_at=renewed, attempt=2)
        return elsewhere(then)


#: SQLite has one writer at a time.
needs_row_locks = pytest.mark.vendors("postgresql", "mysql")


@needs_row_locks
@pytest.mark.django_db(transaction=True)
def test_a_record_that_is_being_taken_over_is_left_alone_without_waiting() -> None:
    forgotten(3)
    done = hold("forgotten-1", purge)
    assert (done.deleted, done.finished) == (2, True)
    assert keys() == ["forgotten-1"]


@needs_row_locks
@pytest.mark.django_db(transaction=True)
def test_a_record_that_is_being_taken_over_keeps_its_job_and_steps() -> None:
    for record in (plant("taken"), plant("forgotten")):
        worked(record)
    assert hold("taken", purge).deleted == 1
    assert (behind(Job), len(behind(Step))) == (["taken"], 2)


@needs_row_locks
@pytest.mark.django_db(transaction=True)
def test_a_tombstone_that_is_locked_is_left_alone_without_waiting() -> None:
    for name in "abc":
        tombstone(name)
    assert hold("b", purge).emptied == 2


@pytest.mark.django_db(transaction=True)
def test_a_record_renewed_under_the_walk_is_not_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten(3)
    end = Windows.end

    def look_then_renew(self: Windows, *args: Any) -> Any:
        found = end(self, *args)
        renewed = timezone.now() + 20 * HOUR
        IdempotencyRecord.objects.filter(key="forgotten-1").update(
            purge_at=renewed, expires_at=None
        )
        return found

    monkeypatch.setattr(Windows, "end", look_then_renew)
    assert purge().deleted == 2
    assert keys() == ["forgotten-1"]


@pytest.mark.django_db(transaction=True)
def test_two_purges_at_once_share_the_work() -> None:
    forgotten(60)
    start = threading.Barrier(2)

    def one() -> Purged:
        start.wait()
        try:
            return purge(batch_size=3)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        done = [future.result() for future in [pool.submit(one), pool.submit(one)]]
    assert sum(each.deleted for each in done) == 60
    assert keys() == []


# Archive


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_the_archive_holds_every_deleted_record_and_no_other(tmp_path: Path) -> None:
    record = plant("forgotten", fields='{"seats":"01020304"}', parent_key="parent")
    plant("not kept", body=None, headers="")
    tombstone("tombstone")
    path = tmp_path / "a.jsonl.gz"
    purge(archive=path)
    first, second = sorted(lines(path), key=lambda line: str(line["key"]))
    assert base64.b64decode(first.pop("body")) == REPLY
    assert datetime.fromisoformat(first.pop("purge_at")) == record.purge_at
    assert datetime.fromisoformat(first["created_at"]).utcoffset() == timedelta(0)
    assert first["headers"] == [["Content-Type", "application/json"]]
    assert first["fields"] == {"seats": "01020304"}
    assert first["fingerprint"] == "00" * 2 * DIGEST_SIZE
    plain = {name: first[name] for name in ("id", "scope", "key", "status", "parent_key", "state")}
    assert plain == {
        "id": record.pk,
        "scope": SCOPE,
        "key": "forgotten",
        "status": 201,
        "parent_key": "parent",
        "state": "finished",
    }
    assert (second["key"], second["body"], second["headers"]) == ("not kept", None, None)


def test_the_archive_says_the_same_on_every_vendor(tmp_path: Path) -> None:
    """A finish clears the lease; a row that has one is no reason to stop for."""
    path = tmp_path / "a.jsonl.gz"
    leased = plant("held", holds=True, lease_until=timezone.now() - 2 * HOUR)
    plant("plain")
    purge(archive=path)
    held, plain = sorted(lines(path), key=lambda line: str(line["key"]))
    assert held["holds"] is True
    assert datetime.fromisoformat(held["lease_until"]) == leased.lease_until
    assert datetime.fromisoformat(held["lease_until"]).utcoffset() == timedelta(0)
    assert plain["holds"] is False
    assert plain["lease_until"] is None


def test_a_second_run_appends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    for key in ("one", "two"):
        plant(key)
        purge(archive=path)
    assert [line["key"] for line in lines(path)] == ["one", "two"]


def test_a_run_with_nothing_to_archive_leaves_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    assert purge(archive=path).finished
    assert lines(path) == []


def test_what_a_crash_has_torn_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    for key in ("one", "torn"):
        plant(key)
        purge(archive=path)
    path.write_bytes(path.read_bytes()[:-5])
    plant("two")
    purge(archive=path)
    assert [line["key"] for line in lines(path)] == ["one", "two"]


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"{}\n") + b"garbage"],
    ids=["no gzip", "garbage behind it"],
)
def test_a_file_that_is_no_archive_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    plant("forgotten")
    with pytest.raises(ArchiveError, match="name another file"):
        purge(archive=path)
    assert keys() == ["forgotten"]
    assert path.read_bytes() == content


def test_an_archive_that_cannot_be_written_is_refused_before_anything_happens(
    tmp_path: Path,
) -> None:
    plant("forgotten")
    for path in (tmp_path, tmp_path / "missing" / "a.jsonl.gz"):
        with pytest.raises(ArchiveError, match="cannot be written"):
            purge(archive=path)
    assert keys() == ["forgotten"]


def test_two_purges_do_not_share_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    plant("forgotten")
    with Archive(path), pytest.raises(ArchiveError, match="another purge"):
        purge(archive=path)
    assert keys() == ["forgotten"]


@pytest.mark.django_db(transaction=True)
def test_a_batch_whose_archive_is_not_on_the_disk_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl.gz"
    forgotten(4)
    synced = os.fsync
    calls: list[int] = []

    def fail_second_batch(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:  # the directory, the first batch, the second
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", fail_second_batch)
    with pytest.raises(OSError, match="No space left"):
        purge(archive=path, batch_size=2)
    assert keys() == ["forgotten-2", "forgotten-3"]
    assert {line["key"] for line in lines(path)} == {"forgotten-0", "forgotten-1"}


def test_with_an_archive_batches_stay_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ARCHIVE_BATCH_SIZE", 2)
    forgotten(5)
    assert purge(archive=tmp_path / "a.jsonl.gz").batches == 4  # of 2, 2 and 1; the tombstones


# The command


def command(*arguments: str) -> str:
    out = io.StringIO()
    call_command("idempotency_purge", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_says_what_it_did_in_one_line(tmp_path: Path) -> None:
    forgotten(2)
    tombstone("tombstone")
    path = tmp_path / "a.jsonl.gz"
    out = command("--batch-size", "1", "--archive", str(path), "--database", "default")
    assert out.startswith("2 records deleted, 1 tombstones emptied, ")
    assert out.count("\n") == 1
    assert "\r" not in out
    assert len(lines(path)) == 2


def test_the_command_takes_a_dry_run() -> None:
    plant("forgotten")
    assert command("--dry-run").startswith("1 records would be deleted")
    assert keys() == ["forgotten"]


def test_the_command_exits_with_3_when_time_is_up() -> None:
    forgotten(3)
    with pytest.raises(SystemExit) as stopped:
        command("--batch-size", "1", "--max-seconds", "0.000000001")
    assert stopped.value.code == 3
    assert len(keys()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size: '0'"),
        (["--batch-size", "many"], "--batch-size: 'many'"),
        (["--max-seconds", "-1"], "--max-seconds: '-1'"),
        (["--max-seconds", "nan"], "--max-seconds: 'nan'"),
        (["--database", "nowhere"], "nowhere"),
        (["--archive", "/"], "cannot be written"),
    ],
)
def test_the_command_refuses_bad_arguments(arguments: list[str], message: str) -> None:
    plant("forgotten")
    with pytest.raises(CommandError, match=message) as refused:
        command(*arguments)
    assert refused.value.returncode == 1
    assert keys() == ["forgotten"]


def test_the_command_shows_progress_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    forgotten(2)
    out = Terminal()
    call_command("idempotency_purge", "--batch-size", "1", stdout=out)
    assert "\r1 deleted" in out.getvalue()
    assert out.getvalue().endswith(" s.\n")


def test_progress_tells_the_whole_so_far() -> None:
    forgotten(2)
    told: list[Purged] = []
    done = purge(batch_size=1, progress=told.append)
    assert [each.deleted for each in told[:2]] == [1, 2]
    assert told[-1] == done
    assert replace(done, seconds=0) == Purged(deleted=2, batches=done.batches, finished=True)
