"""The ledger's contract, on whichever vendor the run has chosen."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from idempotency.exceptions import LeaseLost
from idempotency.fingerprint import Fingerprint
from idempotency.layers import cursors, ledger, statements
from idempotency.models import IdempotencyRecord, State
from idempotency.outcomes import (
    Candidate,
    Claimed,
    Expired,
    Finished,
    Identity,
    InFlight,
    Reply,
)
from tests.concurrent import Crew, elsewhere, open_transaction

pytestmark = pytest.mark.django_db(transaction=True)

FINGERPRINT = Fingerprint(b"r" * 16, b"b" * 16, '{"name":"00112233","seats":"44556677"}')
REPLY = Reply(201, (("Content-Type", "application/json"), ("X-Odd", 'a"b')), b'{"id":1}\x00\xff')


def candidate(key="k", scope="user:1/app.View.create", **changes):
    values: dict[str, Any] = {
        "identity": Identity(scope, key),
        "operation": "app.View.create",
        "fingerprint": FINGERPRINT,
        "parent_key": "",
        "ttl": 3600.0,
        "tombstone": 1800.0,
        "silence": 60.0,
    }
    return Candidate(**values | changes)


def claim(asked=None):
    """A claim in a transaction of its own, as a look at the ledger does."""
    with transaction.atomic():
        return ledger.claim(asked or candidate(), using="default")


def execute(asked=None, reply=REPLY):
    """A whole execution: claim, finish, commit."""
    asked = asked or candidate()
    with transaction.atomic():
        claimed = ledger.claim(asked, using="default")
        assert isinstance(claimed, Claimed)
        return ledger.finish(claimed, asked, reply, using="default")


def plant(**changes):
    """A record as a past execution has left it."""
    now = timezone.now()
    values = {
        "scope": "user:1/app.View.create",
        "key": "k",
        "operation": "app.View.create",
        "state": State.FINISHED,
        "fingerprint": bytes(FINGERPRINT),
        "status": 201,
        "headers": "[]",
        "body": b"old",
        "attempt": 3,
        "created_at": now - timedelta(hours=3),
        "completed_at": now - timedelta(hours=3),
        "expires_at": now - timedelta(hours=2),
        "purge_at": now + timedelta(hours=1),
    }
    return IdempotencyRecord.objects.create(**values | changes)


def test_a_new_key_is_claimed():
    assert claim() == Claimed(record_id=IdempotencyRecord.objects.get().pk, attempt=1)


def test_what_was_finished_is_found_as_it_was():
    stored = execute()
    found = claim()
    assert isinstance(found, Finished)
    assert found.reply.fingerprint == FINGERPRINT
    assert (found.reply.status, found.reply.headers, found.reply.body) == (
        REPLY.status,
        REPLY.headers,
        REPLY.body,
    )
    assert found.reply.expires_at == pytest.approx(stored.expires_at, abs=0.01)
    assert 3590 < found.reply.expires_in <= stored.expires_in == 3600


@pytest.mark.parametrize("body", [b"", None])
def test_an_empty_reply_and_one_that_was_not_kept_stay_apart(body):
    execute(reply=Reply(204, (), body))
    assert claim().reply.body == body


def test_a_fingerprint_without_fields_stays_without():
    asked = candidate(fingerprint=Fingerprint(b"r" * 16, b"b" * 16))
    execute(asked)
    assert claim(asked).reply.fingerprint.fields is None


def test_what_rolled_back_is_forgotten():
    with transaction.atomic():
        assert isinstance(ledger.claim(candidate(), using="default"), Claimed)
        transaction.set_rollback(True)
    assert isinstance(claim(), Claimed)


def test_the_expiry_counts_from_the_finish_by_the_database_clock():
    before = timezone.now()
    execute()
    record = IdempotencyRecord.objects.get()
    assert record.state == State.FINISHED
    assert abs(record.completed_at - before) < timedelta(seconds=5)
    assert record.expires_at - record.completed_at == pytest.approx(
        timedelta(hours=1), abs=timedelta(milliseconds=5)
    )
    assert record.purge_at - record.expires_at >= timedelta(minutes=30, milliseconds=-5)


def test_a_slow_handler_shortens_no_tombstone():
    """The purge was set at the claim; a finish later than that moves it on."""
    asked = candidate(ttl=1000.0, tombstone=500.0, silence=0.0)
    with transaction.atomic():
        claimed = ledger.claim(asked, using="default")
        assert isinstance(claimed, Claimed)
        late = timezone.now() - timedelta(hours=2)
        IdempotencyRecord.objects.filter(pk=claimed.record_id).update(purge_at=late)
        ledger.finish(claimed, asked, REPLY, using="default")
    record = IdempotencyRecord.objects.get()
    assert record.purge_at - record.expires_at == pytest.approx(
        timedelta(seconds=500), abs=timedelta(milliseconds=5)
    )


def test_past_its_window_a_key_is_expired_and_its_record_untouched():
    record = plant()
    assert claim() == Expired()
    record.refresh_from_db()
    assert (record.attempt, bytes(record.body)) == (3, b"old")


def test_past_its_tombstone_a_key_is_taken_over_and_its_fence_rises():
    record = plant(purge_at=timezone.now() - timedelta(seconds=1), parent_key="p")
    assert claim(candidate(fingerprint=Fingerprint(b"x" * 16, b"y" * 16))) == Claimed(record.pk, 4)
    record.refresh_from_db()
    assert (record.state, record.status, record.body, record.expires_at, record.parent_key) == (
        State.RUNNING,
        None,
        None,
        None,
        "",
    )
    assert bytes(record.fingerprint) == b"x" * 16 + b"y" * 16
    assert record.purge_at > timezone.now()


def test_a_record_without_a_purge_date_is_never_taken_over():
    plant(purge_at=None)
    assert claim() == Expired()


def test_a_committed_running_record_is_in_flight():
    plant(state=State.RUNNING, expires_at=None, purge_at=None)
    verdict = claim()
    assert isinstance(verdict, InFlight)
    assert verdict.certain


# SQLite knows one writer: there, every write waits for every other.
@pytest.mark.vendors("postgresql", "mysql")
def test_an_uncommitted_claim_is_in_flight_and_nobody_waits_for_it():
    asked = candidate()
    with open_transaction(lambda: ledger.claim(asked, using="default")):
        assert isinstance(elsewhere(claim), InFlight)
    # Committed without a finish: still not free, and it tells which request has it.
    assert elsewhere(claim) == InFlight(fingerprint=asked.fingerprint)


# SQLite knows one writer: there, every write waits for every other.
@pytest.mark.vendors("postgresql", "mysql")
def test_neighbouring_keys_do_not_contend():
    with open_transaction(lambda: ledger.claim(candidate("k2"), using="default")):
        assert isinstance(elsewhere(claim, candidate("k1")), Claimed)
        assert isinstance(elsewhere(claim, candidate("k3")), Claimed)


# SQLite knows one writer: there, every write waits for every other.
@pytest.mark.vendors("postgresql", "mysql")
def test_a_take_over_under_way_is_in_flight():
    plant(purge_at=timezone.now() - timedelta(seconds=1))
    with open_transaction(lambda: ledger.claim(candidate(), using="default")):
        assert isinstance(elsewhere(claim), InFlight)


# SQLite knows one writer: there, every write waits for every other.
@pytest.mark.vendors("postgresql", "mysql")
def test_a_settled_record_is_read_without_waiting_for_who_holds_its_row():
    execute()
    with open_transaction(lambda: list(IdempotencyRecord.objects.select_for_update())):
        assert isinstance(elsewhere(claim), Finished)


def test_of_many_claims_at_once_one_succeeds():
    def attempt():
        try:
            with transaction.atomic():
                verdict = ledger.claim(candidate(), using="default")
                if isinstance(verdict, Claimed):
                    ledger.finish(verdict, candidate(), REPLY, using="default")
                return type(verdict)
        except OperationalError:  # SQLite: locked
            return OperationalError

    with Crew(8) as crew:
        endings = [future.result() for future in [crew.start(attempt) for _ in range(40)]]
    assert endings.count(Claimed) == 1
    assert set(endings) <= {Claimed, Finished, InFlight, OperationalError}
    assert IdempotencyRecord.objects.count() == 1


@pytest.mark.parametrize(("one", "other"), [("Abc", "aBC"), ("abc", "abc "), ("abc", "abc  ")])
def test_keys_compare_as_bytes(one, other):
    execute(candidate(one))
    assert isinstance(claim(candidate(other)), Claimed)
    assert isinstance(claim(candidate(one)), Finished)


def test_scopes_compare_as_bytes():
    execute(candidate(scope="user:a/op"))
    assert isinstance(claim(candidate(scope="user:A/op")), Claimed)


@pytest.mark.parametrize(
    "theft", [{"attempt": 2}, {"state": State.FINISHED}], ids=["attempt", "state"]
)
def test_the_fence_holds_a_finish_that_is_no_longer_ours(theft):
    with transaction.atomic():
        claimed = ledger.claim(candidate(), using="default")
        assert isinstance(claimed, Claimed)
        IdempotencyRecord.objects.update(**theft)
        with pytest.raises(LeaseLost):
            ledger.finish(claimed, candidate(), REPLY, using="default")
    assert IdempotencyRecord.objects.get().status is None


@pytest.mark.vendors("postgresql")
def test_a_claim_that_commits_after_our_snapshot_is_caught_by_the_constraint():
    """A row that took no advisory lock: only the unique constraint can stop us."""
    with Crew(1) as crew:
        with open_transaction(plant_replayable):
            ours = crew.start(claim)
            wait_until_blocked()
        assert isinstance(ours.result(10), Finished)


def plant_replayable():
    return plant(expires_at=timezone.now() + timedelta(hours=1))


def wait_until_blocked():
    """Until some backend waits for another transaction's row; the caller's deadline is pytest's."""
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
    for _ in range(1000):
        with connection.cursor() as cursor:
            cursor.execute(f"{waiting} AND pg_sleep(0.01) IS NOT NULL")
            if cursor.fetchone():
                return
            cursor.execute("SELECT pg_sleep(0.01)")
    raise AssertionError("nobody waits for the row")


@pytest.mark.vendors("postgresql")
def test_the_idle_limit_ends_with_the_transaction():
    def limit():
        with connection.cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            return cursor.fetchone()[0]

    before = limit()
    with transaction.atomic():
        ledger.claim(candidate(silence=42.0), using="default")
        assert limit() == "42s"
    assert limit() == before


@pytest.fixture
def server_side_binding():
    """Django's option that lets PostgreSQL prepare statements."""
    connection.close()
    options = connection.settings_dict["OPTIONS"]
    options.update(server_side_binding=True, prepare_threshold=0)
    yield
    connection.close()
    options.clear()


@pytest.mark.vendors("postgresql")
@pytest.mark.usefixtures("server_side_binding")
def test_prepared_statements_do_the_same():
    execute()
    assert claim().reply.body == REPLY.body
    IdempotencyRecord.objects.update(
        expires_at=timezone.now() - timedelta(hours=2), purge_at=timezone.now()
    )
    assert isinstance(claim(), Claimed)
    assert isinstance(claim(), InFlight)
    assert connection.connection.prepare_threshold == 0


def prepared():
    """How many statements the connection keeps prepared."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements")
        return cursor.fetchone()[0]


@pytest.fixture
def fresh_connection():
    connection.close()
    yield connection
    connection.close()


@pytest.mark.vendors("postgresql")
def test_claim_and_finish_are_prepared_on_a_connection_of_our_own(fresh_connection):
    for number in range(cursors.PREPARE_AFTER + 2):
        execute(candidate(f"key-{number}"))
    assert prepared() == 2


@pytest.mark.vendors("postgresql")
def test_nothing_is_prepared_where_the_options_say_so(fresh_connection):
    options = fresh_connection.settings_dict["OPTIONS"]
    options["prepare_threshold"] = None
    for number in range(cursors.PREPARE_AFTER + 2):
        execute(candidate(f"key-{number}"))
    assert prepared() == 0
    options.clear()


@pytest.mark.vendors("postgresql")
def test_nothing_is_prepared_behind_a_pooler(fresh_connection):
    """Its clients are told a process of its own making."""
    fresh_connection.ensure_connection()
    raw = fresh_connection.connection
    cursors.prepare_if_direct(fresh_connection, raw.info.backend_pid + 1)
    assert raw.prepare_threshold is None
    cursors.prepare_if_direct(fresh_connection, raw.info.backend_pid)
    assert raw.prepare_threshold == cursors.PREPARE_AFTER


@pytest.mark.vendors("postgresql")
def test_logged_statements_have_their_text(fresh_connection):
    """Also where they would be prepared by now; debuggers show it."""
    for number in range(cursors.PREPARE_AFTER + 2):
        execute(candidate(f"key-{number}"))
    with CaptureQueriesContext(connection) as queries:
        execute(candidate("logged"))
    claimed = [query["sql"] for query in queries if query["sql"].startswith("INSERT")]
    assert len(claimed) == 1
    assert "'logged'" in claimed[0]


@pytest.mark.vendors("postgresql")
def test_a_cursor_that_the_project_has_chosen_is_kept(fresh_connection):
    fresh_connection.ensure_connection()
    raw = fresh_connection.connection
    raw.cursor_factory = type("Chosen", (raw.cursor_factory,), {})
    with cursors.cursor(fresh_connection) as cursor:
        assert type(cursor.cursor) is raw.cursor_factory


def test_a_record_that_a_purge_empties_is_expired():
    """A transaction may have begun before the expiry that the purge has already acted on."""
    plant(expires_at=timezone.now() + timedelta(seconds=9), headers="", body=None)
    assert claim() == Expired()


@pytest.mark.vendors("mysql")
def test_the_statements_of_mysql_claim_too(monkeypatch):
    """MariaDB understands them, so they can be proven on it."""
    mysql = statements._in_steps(mariadb=False)
    monkeypatch.setattr(ledger, "statements", lambda connection: mysql)
    with open_transaction(lambda: ledger.claim(candidate(), using="default")):
        assert elsewhere(claim) == InFlight()
    assert isinstance(claim(candidate("other")), Claimed)


def test_an_unknown_vendor_is_refused_by_name():
    oracle: Any = SimpleNamespace(vendor="oracle")
    with pytest.raises(NotImplementedError, match=r"'oracle'.*using"):
        statements.statements(oracle)
