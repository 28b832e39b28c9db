"""The database under fire: connections broken at the COMMIT, deadlocks, restarts, a promotion."""

import time
from threading import Barrier

import pytest
import requests
from django.db import OperationalError, connection
from django.http import HttpResponse

from chaos.commits import CommitRelay, through
from enrollment_demo.demo.relay import Relay
from enrollment_demo.servers import Postgres
from idempotency.exceptions import Unavailable
from idempotency.models import IdempotencyRecord
from tests.aftermath import Call, violations
from tests.app.models import Booking
from tests.concurrent import PATIENCE, Crew, open_transaction, until
from tests.faults.clusters import Standby, bookings, empty, migrate
from tests.protocol.conftest import ask  # noqa: F401 - a fixture
from tests.served.site import served

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_db")]

KEYS = [f"k-{number}" for number in range(60)]


@pytest.fixture(scope="module")
def made():
    with Postgres() as server:
        migrate(server.url())
        yield server


@pytest.fixture
def cluster(made):
    """A PostgreSQL that the test may break, with the served project's tables, empty."""
    empty(made.url())
    return made


def told(response):
    return response.status_code, response.content


@pytest.mark.vendors("postgresql")
@pytest.mark.parametrize(("lost", "committed"), [("unsent", False), ("unanswered", True)])
def test_a_commit_that_nobody_answered(tmp_path, cluster, lost, committed):
    """The client is told that nobody knows; the retry learns it from the ledger."""
    with CommitRelay(cluster.port) as relay:
        environment = {"DATABASE_URL": through(cluster.url(), relay.port)}
        with served(tmp_path, environment=environment) as site:
            relay.break_next = lost
            first = site.post("/bookings/")
            assert (first.status_code, first.json()["code"]) == (503, "idempotency_unavailable")
            assert "Retry-After" in first.headers
            assert relay.broken == 1
            again = site.post("/bookings/")
    assert (again.status_code, again.headers.get("Idempotent-Replayed")) == (
        201,
        "true" if committed else None,
    )
    assert bookings(cluster.url()) == {"Ada": 1}


@pytest.mark.vendors("postgresql", "mysql")
def test_a_deadlock_is_its_victims_own_error_and_frees_its_key(ask):  # noqa: F811 - the fixture
    """Two handlers lock two rows the other way round; the database ends one of them."""
    rows = [Booking.objects.create(name=name).pk for name in ("a", "b")]
    met = Barrier(2)

    def crossing(*order):
        def handler():
            for number, pk in enumerate(order):
                Booking.objects.select_for_update().get(pk=pk)
                if not number and not met.broken:
                    met.wait(PATIENCE)
            return HttpResponse(f"{Booking.objects.create(name='done').pk}", status=201)

        return handler

    with Crew(2) as crew:
        asked = {
            "there": crew.start(ask, crossing(*rows), key="there"),
            "back": crew.start(ask, crossing(*reversed(rows)), key="back"),
        }
        errors = {key: future.exception(PATIENCE) for key, future in asked.items()}
    (victim,) = (key for key, error in errors.items() if error is not None)
    assert isinstance(errors[victim], OperationalError)
    assert IdempotencyRecord.objects.count() == 1
    met.abort()  # the next one comes alone
    again = ask(crossing(*rows), key=victim)
    assert "Idempotent-Replayed" not in again
    assert Booking.objects.filter(name="done").count() == 2


@pytest.mark.vendors("postgresql")
def test_a_serialization_failure_says_so_and_frees_the_key(ask):  # noqa: F811 - the fixture
    """Where a project runs another isolation level, against the check: a write skew."""
    met = Barrier(2)

    def skewed():
        count = Booking.objects.count()
        if not met.broken:
            met.wait(PATIENCE)
        return HttpResponse(f"{Booking.objects.create(name=f'{count}').pk}", status=201)

    def asked(key):
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_isolation = serializable")
        return ask(skewed, key=key)

    with Crew(2) as crew:
        futures = {key: crew.start(asked, key) for key in ("there", "back")}
        errors = {key: future.exception(PATIENCE) for key, future in futures.items()}
    (victim,) = (key for key, error in errors.items() if error is not None)
    error = errors[victim]
    assert isinstance(error, Unavailable)
    assert "serialization failure" in error.detail
    assert error.wait >= 1
    assert Booking.objects.count() == IdempotencyRecord.objects.count() == 1
    met.abort()
    assert "Idempotent-Replayed" not in ask(skewed, key=victim)
    assert Booking.objects.count() == 2


STANDBY = {
    "postgresql": "SET default_transaction_read_only = on",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
}


@pytest.mark.vendors("postgresql", "mysql")
@pytest.mark.parametrize("execution", ["atomic", "leased", "job"])
def test_a_standby_that_is_not_promoted_yet_is_unavailable(ask, execution):  # noqa: F811
    def asked(handler):
        with connection.cursor() as cursor:
            cursor.execute(STANDBY[connection.vendor])
        return ask(handler, execution=execution)

    with Crew(1) as crew:
        error = crew.start(asked, None).exception(PATIENCE)
    assert isinstance(error, Unavailable)
    assert error.wait >= 1


@pytest.mark.vendors("postgresql")
@pytest.mark.parametrize("execution", ["atomic", "leased"])
def test_a_claim_that_waits_too_long_for_a_migration_is_unavailable(ask, execution):  # noqa: F811
    def locked():
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE idempotency_record IN ACCESS EXCLUSIVE MODE")

    def asked(handler):
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '50ms'")
        return ask(handler, execution=execution)

    with open_transaction(locked), Crew(1) as crew:
        assert isinstance(crew.start(asked, None).exception(PATIENCE), Unavailable)


@pytest.mark.vendors("postgresql")
@pytest.mark.parametrize("execution", ["atomic", "leased"])
def test_a_finish_that_is_not_taken_is_unavailable_and_frees_the_key(ask, execution):  # noqa: F811
    def book():
        return HttpResponse(f"{Booking.objects.create(name='done').pk}", status=201)

    def demoted():
        response = book()
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
        return response

    with pytest.raises(Unavailable):
        ask(demoted, execution=execution)
    assert "Idempotent-Replayed" not in ask(book, execution=execution)
    assert Booking.objects.count() == 1


def drive(site, strike):
    """Ask for every key until it is done; strike when a third of them are. The whole history."""
    history, done = [], set()

    def pursue(key):
        deadline = time.monotonic() + 2 * PATIENCE
        while key not in done and time.monotonic() < deadline:
            try:
                call = Call(key, *told(site.post("/bookings/", key=key, name=key, seconds=0.05)))
            except requests.RequestException:
                call = Call(key)
            history.append(call)
            if call.status == 201:
                done.add(key)
            else:
                time.sleep(0.1)  # as a client does, between two tries

    with Crew(8) as crew:
        pursued = [crew.start(pursue, key) for key in KEYS]
        until(lambda: len(done) > len(KEYS) / 3)
        strike()
        for future in pursued:
            future.result(3 * PATIENCE)
    return history


def check(history, site, url):
    """Every key is done, once, and told so, again and again; and something did go wrong."""
    assert any(call.status != 201 for call in history), "the fault has met no request"
    for key in KEYS:
        call = Call(key, *told(site.post("/bookings/", key=key, name=key, seconds=0.05)))
        assert call.status == 201
        history.append(call)
    effects = bookings(url)
    assert violations(history, effects) == []
    assert effects == dict.fromkeys(KEYS, 1)


@pytest.mark.vendors("postgresql")
@pytest.mark.parametrize("end", [Postgres.kill, Postgres.stop], ids=["killed", "stopped"])
def test_restarted_under_load(tmp_path, cluster, end):
    def restart():
        end(cluster)
        cluster.start()

    with served(tmp_path, environment={"DATABASE_URL": cluster.url()}) as site:
        history = drive(site, restart)
        check(history, site, cluster.url())


@pytest.mark.vendors("postgresql")
def test_a_promoted_standby_has_every_acknowledged_success(tmp_path):
    with (
        Postgres() as primary,
        Standby(primary) as standby,
        Relay(("127.0.0.1", primary.port)) as relay,
    ):
        migrate(primary.url())
        standby.follow()

        def promote():
            primary.kill()
            standby.promote()
            relay.target = ("127.0.0.1", standby.port)

        url = through(primary.url(), relay.port)
        with served(tmp_path, environment={"DATABASE_URL": url}) as site:
            history = drive(site, promote)
            check(history, site, standby.url())
