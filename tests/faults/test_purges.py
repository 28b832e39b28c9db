"""Purges that are killed, that meet each other, and that run beside traffic: real processes."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.models import Count
from django.http import HttpResponse
from django.utils import timezone

from idempotency.layers.counters import KEPT_DAYS
from idempotency.models import HourlyCount, IdempotencyRecord, State
from tests.app.models import Booking
from tests.concurrent import Crew, open_transaction, until
from tests.factories import RecordFactory
from tests.served import DEADLINE, database_url
from tests.worked import worker

pytestmark = pytest.mark.django_db(transaction=True)
postgresql = pytest.mark.vendors("postgresql")
servers = pytest.mark.vendors("postgresql", "mysql")

#: Records, and how many of them a purge takes at once.
RECORDS, BATCH = 1_000, 50
#: Requests at a time beside it.
THREADS = 4
#: What the test holds and a purge waits for: no key's own number.
LOCK = 4711
WAITING = (
    "FROM pg_locks WHERE NOT granted"
    " AND (locktype = 'advisory' OR relation = 'idempotency_record'::regclass)"
)


def plant(records: int = RECORDS, scope: str = "user:1/app.View.create") -> set[int]:
    """Forgotten records; their ids."""
    built = RecordFactory.build_batch(records, forgotten=True, scope=scope)
    IdempotencyRecord.objects.bulk_create(built)
    return set(IdempotencyRecord.objects.values_list("pk", flat=True))


def left() -> set[int]:
    return set(IdempotencyRecord.objects.values_list("pk", flat=True))


def archived(*paths) -> Counter[int]:
    """How often each record is in the archives."""
    lines = [line for path in paths for line in gzip.decompress(path.read_bytes()).splitlines()]
    return Counter(json.loads(line)["id"] for line in lines)


def purge(*arguments: str) -> str:
    out = io.StringIO()
    call_command("idempotency_purge", "--batch-size", str(BATCH), *arguments, stdout=out)
    return out.getvalue()


@contextmanager
def purging(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A purge in a process of its own, which does not outlive the block."""
    command = [sys.executable, "-m", "django", "idempotency_purge", "--batch-size", str(BATCH)]
    process = subprocess.Popen(
        [*command, *arguments],
        env={
            **os.environ,
            "DATABASE_URL": database_url(),
            "DJANGO_SETTINGS_MODULE": "tests.served.settings",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: "subprocess.Popen[str]") -> str:
    """What it said; it must have done all of it."""
    said, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    return said


def execute(*statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def waiting() -> int:
    """How many wait for one of the locks that a test holds."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(DISTINCT pid) {WAITING}")
        return int(cursor.fetchone()[0])


@pytest.fixture
def at_commit() -> Iterator[None]:
    """Whoever deletes records waits for the test's lock when it commits."""
    execute(
        "CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER wait_for_the_test AFTER DELETE ON idempotency_record"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_for_the_test()",
    )
    yield
    execute("DROP FUNCTION wait_for_the_test CASCADE")


def held() -> None:
    execute(f"SELECT pg_advisory_xact_lock({LOCK})")


def stopped() -> None:
    """Nobody writes records until the transaction ends."""
    execute("LOCK TABLE idempotency_record IN SHARE MODE")


@postgresql
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_purge_killed_between_archive_and_commit_is_resumed(tmp_path, at_commit, number):
    """The worst moment: its batch is archived, and still there. Each record gets into the archive,
    those of this one batch twice, and the next purge goes on where this one has stopped."""
    path = tmp_path / "a.jsonl.gz"
    planted = plant()
    with pytest.raises(SystemExit):
        purge("--archive", str(path), "--max-seconds", "0.000001")
    assert len(left()) == RECORDS - BATCH
    with open_transaction(held), purging("--archive", str(path)) as process:
        until(lambda: waiting() == 1)
        process.send_signal(number)
        assert process.wait(DEADLINE) != 0
        # Its COMMIT was on the way, and would still be carried out: the server goes with it.
        execute(f"SELECT pg_terminate_backend(pid) {WAITING}")
        until(lambda: waiting() == 0)
    assert len(left()) == RECORDS - BATCH
    assert archived(path).total() == 2 * BATCH
    assert "there is more" not in purge("--archive", str(path))
    assert left() == set()
    lines = archived(path)
    assert set(lines) == planted
    assert Counter(lines.values()) == {1: RECORDS - BATCH, 2: BATCH}


@postgresql
def test_two_purges_at_once_delete_and_archive_each_record_once(tmp_path):
    paths = [tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.gz"]
    planted = plant()
    with (
        purging("--archive", str(paths[0])) as one,
        purging("--archive", str(paths[1])) as two,
    ):
        with open_transaction(stopped):  # both wait for their first batch, and begin together
            until(lambda: waiting() == 2)
        said = [ended(process) for process in (one, two)]
    assert left() == set()
    assert archived(*paths) == Counter(planted)
    assert sum(int(each.split()[0]) for each in said) == RECORDS


@postgresql
def test_keys_that_are_used_anew_meanwhile_run_once_and_are_kept(ask):
    """Their forgotten records are deleted by the purge or taken over by the request, and neither
    makes a key run twice, or loses what it has just written."""
    keys = [f"key-{number}" for number in range(60)]
    plant(RECORDS)
    for key in keys:
        RecordFactory.create(forgotten=True, scope="user:7/app.View.create", key=key)

    def use(key: str) -> list[bytes]:
        def book() -> HttpResponse:
            Booking.objects.create(name=key)
            return HttpResponse(key, status=201)

        return [ask(book, key=key, caller="user:7").content for _ in range(2)]

    with purging() as process, Crew(THREADS) as crew:
        with open_transaction(stopped):  # all begin together
            replies = [crew.start(use, key) for key in keys]
            until(lambda: waiting() == 1 + THREADS)
        assert [each.result(DEADLINE) for each in replies] == [[key.encode()] * 2 for key in keys]
        ended(process)
    effects = dict(Booking.objects.values_list("name").annotate(Count("pk")))
    assert effects == dict.fromkeys(keys, 1)
    purge()
    kept = IdempotencyRecord.objects.filter(expires_at__gt=timezone.now(), state=State.FINISHED)
    assert sorted(kept.values_list("key", flat=True)) == sorted(keys)
    assert IdempotencyRecord.objects.count() == len(keys)


@servers
def test_the_beat_purges_records_and_counts(broker, tmp_path):
    plant(10)
    live = RecordFactory.create()
    for days in (1, KEPT_DAYS + 1):
        hour = timezone.now() - timedelta(days=days)
        HourlyCount.objects.create(hour=hour, event="executed", count=1, seconds=0.0)
    beat: Sequence[str] = ("--beat", "--schedule", str(tmp_path / "beat"))
    beating = {"DJANGO_SETTINGS_MODULE": "tests.worked.beating"}
    with worker(tmp_path / "worker.log", *beat, environment=beating):
        until(lambda: HourlyCount.objects.filter(event="executed").count() == 1)
    assert left() == {live.pk}
