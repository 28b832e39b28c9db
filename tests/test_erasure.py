"""Erasure: one caller's records, replies, jobs and steps, due or not, and nobody else's.

Runs on the vendor that TEST_DATABASE names.
"""

import io
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.http import HttpResponse

from idempotency.attempts import attempt
from idempotency.identity import MAX_SCOPE, identify, scopes_of
from idempotency.layers import connection as redis_connection
from idempotency.layers import erasure, lock
from idempotency.layers.erasure import Erased, Found, count, erase
from idempotency.models import IdempotencyRecord, Job, State, Step
from idempotency.outcomes import Identity
from tests.app.models import Booking
from tests.concurrent import elsewhere, open_transaction
from tests.factories import JobFactory, RecordFactory, StepFactory, from_now
from tests.protocol.conftest import ask  # noqa: F401 - a fixture

pytestmark = pytest.mark.django_db
#: What other connections have to see, or the rooms: nothing is published inside a TestCase.
committed = pytest.mark.django_db(transaction=True)
needs_row_locks = pytest.mark.vendors("postgresql", "mysql")

OPERATION = "shop.Orders.create"
MINE = f"user:7/{OPERATION}"
NARROWED = identify("user:7", OPERATION, "a service's scope", "").scope
LONG = "user:" + "x" * 200


@pytest.fixture(autouse=True)
def rooms(redis_db: Any) -> Any:
    redis_connection._servers.clear()  # a breaker that another test has opened
    yield redis_db
    redis_connection._servers.clear()


def plant(scope: str = MINE, **values: Any) -> IdempotencyRecord:
    return RecordFactory.create(scope=scope, **values)


def scopes() -> set[str]:
    return set(IdempotencyRecord.objects.values_list("scope", flat=True))


def command(*arguments: str) -> str:
    out = io.StringIO()
    call_command("idempotency_purge", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def code_of(*arguments: str) -> tuple[Any, str]:
    """The command's exit code, and what it said."""
    out = io.StringIO()
    with pytest.raises(SystemExit) as stopped:
        call_command("idempotency_purge", *arguments, stdout=out, stderr=out)
    return stopped.value.code, out.getvalue()


# Which records


SCOPES = {
    MINE,
    NARROWED,
    f"user:7/{OPERATION}2",
    "user:7/shop.Orders.pay",
    f"user:70/{OPERATION}",
    f"user:7%2F/{OPERATION}",
    f"user:7.0/{OPERATION}",
    f"USER:7/{OPERATION}",
    f"xuser:7/{OPERATION}",
    f"anon/{OPERATION}",
    f"+once/{OPERATION}",
}
OWN = {MINE, NARROWED, f"user:7/{OPERATION}2", "user:7/shop.Orders.pay"}


@pytest.mark.parametrize(
    ("asked", "erased"),
    [
        ("user:7", OWN),
        ("user:7/", OWN),
        (MINE, {MINE}),
        (NARROWED, {NARROWED}),
        (NARROWED.partition("/")[0], {NARROWED}),
        ("user:70", {f"user:70/{OPERATION}"}),
        ("user", set()),
        ("er:7", set()),
        ("anon", {f"anon/{OPERATION}"}),
        ("+once", {f"+once/{OPERATION}"}),
    ],
)
def test_a_caller_ends_where_it_ends(asked: str, erased: set[str]) -> None:
    for scope in SCOPES:
        plant(scope)
    assert count(asked) == Found(len(erased), {})
    assert erase(asked).deleted == len(erased)
    assert scopes() == SCOPES - erased


@pytest.mark.parametrize("narrowing", [None, "narrowed"])
def test_a_caller_too_long_for_a_scope_is_found_by_its_digest(narrowing: str | None) -> None:
    """The digest of a narrowed one covers what narrows it: it is found by its stored scope."""
    scope = identify(LONG, "o" * 100, narrowing, "").scope
    assert scope.startswith("+")
    plant(scope)
    plant(identify(LONG + "x", "o" * 100, narrowing, "").scope)
    assert erase(LONG).deleted == (1 if narrowing is None else 0)
    assert erase(scope).deleted == (0 if narrowing is None else 1)


def test_so_is_one_of_its_operations() -> None:
    plant(identify(LONG, "o" * 100, None, "").scope)
    plant(identify(LONG, "p" * 100, None, "").scope)
    asked = f"{LONG}/{'o' * 100}"
    assert len(asked) > MAX_SCOPE
    assert erase(asked).deleted == 1


@pytest.mark.parametrize("caller", ["user:7", 'auth:["iss","sub"]', "user:a b/c+d", "user:é"])
@pytest.mark.parametrize("narrowing", [None, "narrowed"])
def test_every_scope_of_a_caller_is_one_of_its_own(caller: str, narrowing: str | None) -> None:
    scope = identify(caller, OPERATION, narrowing, "").scope
    name = scope.partition("/")[0].partition("+")[0]
    assert any(first <= scope <= last for first, last in scopes_of(name))
    assert not any(first <= scope <= last for first, last in scopes_of(name[:-1]))


@pytest.mark.parametrize(
    "asked", ["", "/", "/shop", "user:7/a/b", "user:é", "user:7\n", "user: 7", 'auth:["a"]', "u'"]
)
def test_what_no_scope_looks_like_is_refused(asked: str) -> None:
    plant()
    for function in (count, erase):
        with pytest.raises(ValueError, match="percent-encoded"):
            function(asked)
    with pytest.raises(CommandError, match="percent-encoded"):
        command("--scope", asked, "--no-input")
    assert scopes() == {MINE}


# What goes, and what stays


@pytest.mark.parametrize(
    "trait", ["", "not_kept", "tombstone", "forgotten", "released", "abandoned"]
)
def test_whatever_is_settled_goes_at_any_age(trait: str) -> None:
    RecordFactory.create(scope=MINE, **({trait: True} if trait else {}))
    done = erase("user:7")
    assert (done.deleted, done.left) == (1, Found(0, {}))
    assert scopes() == set()


@pytest.mark.parametrize(
    ("trait", "state"),
    [
        ("leased", State.RUNNING),
        ("lapsed", State.RUNNING),
        ("pending", State.JOB),
        ("unknown", State.UNKNOWN),
    ],
)
def test_what_is_not_settled_is_left_and_told(trait: str, state: State) -> None:
    record = RecordFactory.create(scope=MINE, **{trait: True})
    StepFactory.create(record=record)
    plant()
    done = erase("user:7")
    assert (done.deleted, done.left) == (1, Found(0, {state: 1}))
    assert list(IdempotencyRecord.objects.values_list("pk", flat=True)) == [record.pk]
    assert Step.objects.count() == 1


def test_jobs_and_steps_go_with_their_record_and_no_others() -> None:
    mine = JobFactory.create(succeeded=True, record__scope=MINE)
    other = JobFactory.create(succeeded=True, record__scope="user:70/a")
    for job in (mine, other):
        StepFactory.create_batch(2, record=job.record)
    erase("user:7")
    assert list(Job.objects.values_list("pk", flat=True)) == [other.pk]
    assert set(Step.objects.values_list("record", flat=True)) == {other.record_id}


@committed
def test_batches_commit_one_by_one_and_come_to_the_end() -> None:
    for scope in (MINE, NARROWED):
        for number in range(5):
            plant(scope, key=f"key-{number}")
    plant("user:70/a")
    told: list[int] = []
    done = erase(
        "user:7",
        batch_size=2,
        progress=lambda _: told.append(elsewhere(IdempotencyRecord.objects.count)),
    )
    assert done.deleted == 10
    assert told == [9, 7, 6, 4, 2, 1]
    assert scopes() == {"user:70/a"}


def test_a_time_limit_ends_it_after_a_batch() -> None:
    RecordFactory.create_batch(3, scope=MINE)
    done = erase("user:7", batch_size=1, max_seconds=1e-9)
    assert (done.deleted, done.left) == (1, None)


@committed
def test_it_refuses_to_run_inside_a_transaction() -> None:
    plant()
    with transaction.atomic(), pytest.raises(RuntimeError):
        erase("user:7")


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        erase("user:7", batch_size=0)


@committed
@needs_row_locks
def test_a_record_that_somebody_has_locked_is_left_without_waiting() -> None:
    held = plant(key="held", abandoned=True)
    plant(key="free")
    records = IdempotencyRecord.objects.filter(pk=held.pk)
    with open_transaction(lambda: list(records.select_for_update())):
        done = erase("user:7")
    assert (done.deleted, done.left) == (1, Found(1, {}))


@committed
@needs_row_locks
def test_a_take_over_under_way_is_not_erased() -> None:
    """What it is about to commit is a running execution."""
    plant(abandoned=True)
    records = IdempotencyRecord.objects.all()
    taken = {"state": State.RUNNING, "lease_until": from_now(minutes=1), "purge_at": None}
    with open_transaction(lambda: records.update(**taken)):
        assert erase("user:7").deleted == 0
    assert erase("user:7").left == Found(0, {State.RUNNING: 1})


# The cache


def book() -> HttpResponse:
    return HttpResponse(f"{Booking.objects.create(name='Ada').pk}", status=201)


@committed
def test_nothing_is_replayed_any_more(ask: Any, rooms: Any) -> None:  # noqa: F811 - the fixture
    first, other = ask(book, caller="user:7"), ask(book, caller="user:70")
    names = set(rooms.scan_iter("*:reply"))
    assert ask(book, caller="user:7").content == first.content
    assert erase("user:7").served_for == 0.0
    assert set(rooms.scan_iter("*:reply")) < names
    assert ask(book, caller="user:7").content not in (first.content, other.content)
    assert ask(book, caller="user:70").content == other.content


@committed
def test_who_has_just_read_the_ledger_publishes_no_more(
    ask: Any,  # noqa: F811 - the fixture
    rooms: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its lock goes along, and without its token nothing is published."""
    ask(book, caller="user:7")
    rooms.flushdb()

    def attempted(*args: Any) -> Any:
        found = attempt(*args)
        elsewhere(erase, "user:7")
        return found

    monkeypatch.setattr("idempotency.protocol.attempt", attempted)
    assert ask(book, caller="user:7")["Idempotent-Replayed"] == "true"
    assert list(rooms.scan_iter("*:reply")) == []


def unreachable(settings: Any, port: int) -> None:
    configured = dict(settings.CACHES["default"]) | {"LOCATION": f"redis://127.0.0.1:{port}/0"}
    settings.CACHES = {"default": configured}


def test_a_cache_out_of_reach_is_told_with_how_long_it_may_serve(
    settings: Any, closed_port: int
) -> None:
    unreachable(settings, closed_port)
    plant(tombstone=True)
    plant(expires_at=from_now(hours=3))
    plant(expires_at=from_now(hours=1))
    done = erase("user:7", batch_size=1)
    assert done.deleted == 3
    assert timedelta(hours=3).total_seconds() - 60 < done.served_for <= 3 * 3600
    plant(expires_at=from_now(hours=3))
    code, said = code_of("--scope", "user:7", "--no-input")
    assert code == 4
    assert "up to 2:59:" in said or "up to 3:00:00" in said
    assert scopes() == set()


def test_a_cache_out_of_reach_that_has_nothing_is_no_matter(
    settings: Any, closed_port: int
) -> None:
    unreachable(settings, closed_port)
    plant(tombstone=True)
    assert command("--scope", "user:7", "--no-input").startswith("1 records of user:7 erased")


@pytest.mark.parametrize(
    ("backend", "gone"),
    [
        ("django.core.cache.backends.locmem.LocMemCache", False),
        ("django.core.cache.backends.dummy.DummyCache", True),
    ],
)
def test_a_memory_of_each_process_cannot_be_reached(
    settings: Any, backend: str, gone: bool
) -> None:
    settings.CACHES = {"default": {"BACKEND": backend}}
    plant()
    assert (erase("user:7").served_for == 0.0) is gone


@committed
def test_our_own_memory_is_emptied_all_the_same(ask: Any, settings: Any) -> None:  # noqa: F811
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    caches["default"].clear()
    first = ask(book, caller="user:7")
    erase("user:7")
    assert ask(book, caller="user:7").content != first.content


def test_locks_are_dropped_in_one_round_trip(rooms: Any) -> None:
    identities = [Identity(MINE, f"key-{number}") for number in range(100)]
    server = redis_connection.server(caches["default"])
    before = rooms.info("stats")["total_reads_processed"]
    server.client.ping()  # its connection is there
    between = rooms.info("stats")["total_reads_processed"]
    assert lock.drop(identities)
    assert rooms.info("stats")["total_reads_processed"] - between <= between - before


def test_a_redis_that_takes_no_writes_is_told(rooms: Any) -> None:
    rooms.config_set("min-replicas-to-write", 1)
    try:
        assert not lock.drop([Identity(MINE, "key")])
    finally:
        rooms.config_set("min-replicas-to-write", 0)


# The command


def test_a_dry_run_counts_and_changes_nothing() -> None:
    plant()
    plant(tombstone=True)
    plant(unknown=True)
    said = command("--scope", "user:7", "--dry-run")
    assert said.startswith("2 records of user:7 would be erased, due or not")
    assert "1 outcome unknown" in said
    assert IdempotencyRecord.objects.count() == 3


def test_without_a_scope_nothing_that_is_alive_goes() -> None:
    plant()
    command()
    assert scopes() == {MINE}


@pytest.mark.parametrize(("answer", "left"), [("yes", 0), ("no", 1), ("", 1), ("y", 1)])
def test_it_asks_first(monkeypatch: pytest.MonkeyPatch, answer: str, left: int) -> None:
    plant()
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    if left:
        with pytest.raises(CommandError, match="Nothing was erased"):
            command("--scope", "user:7")
    else:
        assert "1 records of user:7 would be erased" in command("--scope", "user:7")
    assert IdempotencyRecord.objects.count() == left


def test_where_nobody_can_be_asked_nothing_is_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    plant()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(CommandError, match="--no-input"):
        command("--scope", "user:7")
    assert scopes() == {MINE}


def test_what_is_left_is_an_exit_code() -> None:
    plant()
    plant(leased=True)
    code, said = code_of("--scope", "user:7", "--no-input")
    assert (code, IdempotencyRecord.objects.count()) == (3, 1)
    assert "1 running" in said


def test_so_is_a_time_limit() -> None:
    RecordFactory.create_batch(3, scope=MINE)
    limits = ("--batch-size", "1", "--max-seconds", "0.000000001")
    code, said = code_of("--scope", "user:7", "--no-input", *limits)
    assert (code, IdempotencyRecord.objects.count()) == (3, 2)
    assert "there is more to do" in said


def test_what_is_erased_is_not_archived(tmp_path: Any) -> None:
    plant()
    with pytest.raises(CommandError, match="no --archive"):
        command("--scope", "user:7", "--no-input", "--archive", str(tmp_path / "a.jsonl.gz"))
    assert scopes() == {MINE}
    assert list(tmp_path.iterdir()) == []


def test_the_database_may_be_named() -> None:
    plant()
    with pytest.raises(CommandError, match="nowhere"):
        command("--scope", "user:7", "--no-input", "--database", "nowhere")
    command("--scope", "user:7", "--no-input", "--database", "default")
    assert scopes() == set()


def test_it_shows_progress_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    plant()
    out = Terminal()
    call_command("idempotency_purge", "--scope", "user:7", "--no-input", stdout=out)
    assert "\r1 erased" in out.getvalue()


# What it costs


@pytest.mark.vendors("postgresql")
def test_it_finds_a_caller_by_the_index() -> None:
    RecordFactory.create_batch(3, scope=MINE)
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        try:
            ((first, last), *_) = scopes_of("user:7/")
            plan = erasure._between(first, last, "default").order_by("scope", "key").explain()
        finally:
            cursor.execute("RESET enable_seqscan")
    assert "idempotency_scope_key" in plan
    assert "Sort" not in plan


def test_the_values_are_frozen() -> None:
    done = erase("user:7")
    assert done == Erased(0, done.batches, done.seconds, 0.0, Found(0, {}))
    with pytest.raises(AttributeError):
        done.deleted = 5  # type: ignore[misc] # that is the test
