"""PgBouncer in transaction mode before the database: a crowd of requests on three connections."""

import time
from contextlib import ExitStack

import psycopg
import pytest
import requests
from django.db import connections
from django.db.models import Count

from idempotency.models import IdempotencyRecord
from tests.aftermath import Call, violations
from tests.app.models import Booking
from tests.concurrent import PATIENCE
from tests.contracts import test_ledger
from tests.faults.bouncer import PgBouncer
from tests.faults.test_database import check, drive
from tests.plugin import pgbouncer
from tests.served import database_url
from tests.served.site import kill, served, suspended

pytestmark = [
    pytest.mark.pgbouncer,
    pytest.mark.django_db(transaction=True),
    pytest.mark.vendors("postgresql"),
]

KEYS = [f"k-{number}" for number in range(30)]
DUPLICATES = 10
#: Sync workers: the one that runs is busy, so a duplicate waits in the other.
SYNC = ("--worker-class", "sync", "--threads", "1")
#: Seconds within which a dead one's key is another's: a look at the ledger, and a busy machine.
MOMENT = 4

SESSION = """SELECT pg_backend_pid(), (SELECT json_object_agg(name, setting) FROM pg_settings),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),
    (SELECT count(*) FROM pg_prepared_statements)"""


@pytest.fixture
def bouncer(transactional_db):
    with PgBouncer(pgbouncer(), database_url()) as server:
        yield server


@pytest.fixture(params=["with Redis", "without Redis"])
def behind(request, bouncer, redis_db, closed_port):
    """The environment of a site whose database is behind the bouncer."""
    environment = {"DATABASE_URL": bouncer.url(), "POOLED_BY_TRANSACTION": "1"}
    if request.param == "without Redis":
        environment["REDIS_URL"] = f"redis://127.0.0.1:{closed_port}/0"
    return environment


def effects():
    return dict(Booking.objects.values_list("name").annotate(rows=Count("pk")))


def told(response):
    return response.status_code, response.content


def replayed(response):
    return response.status_code, response.headers.get("Idempotent-Replayed")


def sessions(bouncer):
    """What each connection of the pool brings along, by its process id."""
    with ExitStack() as stack:
        # A transaction each, all at once, so that no two are given the same one.
        clients = [stack.enter_context(psycopg.connect(bouncer.url())) for _ in range(bouncer.size)]
        rows = [client.execute(SESSION).fetchone() for client in clients]
    return {pid: seen for pid, *seen in rows}


def fresh():
    with psycopg.connect(database_url()) as client:
        _, *seen = client.execute(SESSION).fetchone()
    return seen


def check_sessions(bouncer):
    """Every connection to the server is as a new one: no setting, no lock, nothing prepared."""
    found = sessions(bouncer)
    assert bouncer.servers() == set(found)
    settings, *left = fresh()
    for seen, *held in found.values():
        assert seen["idle_in_transaction_session_timeout"] == "0"
        assert seen == settings
        assert held == left == [0, 0]


@pytest.mark.parametrize("path", ["/bookings/", "/leased/"])
def test_a_storm_on_three_connections_runs_each_key_once(tmp_path, bouncer, behind, path):
    with served(tmp_path, environment=behind) as site:
        sent = [
            (key, site.begin(path, key=key, name=key, seconds=0.05))
            for key in KEYS
            for _ in range(DUPLICATES)
        ]
        history = [Call(key, *told(future.result(PATIENCE))) for key, future in sent]
        again = {key: site.post(path, key=key, name=key, seconds=0.05) for key in KEYS}
        clients = len(bouncer.show("CLIENTS"))
    assert {call.status for call in history} <= {201, 409}
    assert {replayed(response) for response in again.values()} == {(201, "true")}
    history += [Call(key, *told(response)) for key, response in again.items()]
    assert violations(history, effects()) == []
    assert effects() == dict.fromkeys(KEYS, 1)
    assert IdempotencyRecord.objects.count() == len(KEYS)
    servers = bouncer.servers()
    (counted,) = bouncer.show("STATS")
    assert 0 < len(servers) <= bouncer.size < clients
    assert counted["total_xact_count"] >= len(KEYS) >= 10 * bouncer.size
    check_sessions(bouncer)
    assert bouncer.servers() == servers


@pytest.mark.parametrize("gate", ["before", "effects"])
def test_a_process_killed_in_its_handler_frees_the_key_at_once(
    tmp_path, gates, bouncer, behind, gate
):
    """The bouncer does not give its connection to the next one with the transaction still open."""
    with served(tmp_path, *SYNC, environment=behind) as site:
        gates.close(gate)
        first = site.begin("/gated/")
        pid = gates.reached(gate)
        waiting = site.begin("/gated/")
        kill(pid)
        killed = time.monotonic()
        second = waiting.result(PATIENCE)
        assert time.monotonic() - killed < MOMENT
        assert replayed(second) == (201, None)
        with pytest.raises(requests.ConnectionError):
            first.result(PATIENCE)
        again = site.post("/gated/")
    assert (replayed(again), again.content) == ((201, "true"), second.content)
    assert effects() == {"Ada": 1}
    check_sessions(bouncer)


def test_a_suspended_process_loses_its_key_and_its_place_in_the_pool(
    tmp_path, gates, bouncer, behind
):
    """The claim's own limit of silence holds behind the bouncer, and for that transaction only."""
    with served(tmp_path, environment=behind | {"LOCK_TIMEOUT": "1"}) as site:
        gates.close("effects")
        first = site.begin("/gated/")
        with suspended(gates.reached("effects")):
            second = site.begin("/gated/").result(PATIENCE)
            assert replayed(second) == (201, None)
            check_sessions(bouncer)
            gates.open("effects")
        late = first.result(PATIENCE)
        assert (late.status_code, late.json()["code"]) == (503, "idempotency_unavailable")
        again = site.post("/gated/")
    assert (replayed(again), again.content) == ((201, "true"), second.content)
    assert effects() == {"Ada": 1}


def test_killed_under_load_it_leaves_nothing_half_done(tmp_path, bouncer, behind):
    def restart():
        bouncer.kill()
        bouncer.start()

    with served(tmp_path, environment=behind) as site:
        history = drive(site, restart)
        check(history, site, database_url())
    check_sessions(bouncer)


@pytest.fixture
def pooled(monkeypatch, bouncer):
    """This process's connections come by the bouncer too."""
    connections.close_all()
    for name, value in {"PORT": bouncer.port, "DISABLE_SERVER_SIDE_CURSORS": True}.items():
        monkeypatch.setitem(connections.settings["default"], name, value)
    yield
    connections.close_all()


def test_the_ledgers_own_storm(bouncer, pooled):
    test_ledger.test_of_many_claims_at_once_one_succeeds()
    (counted,) = bouncer.show("STATS")
    assert counted["total_xact_count"] >= 40  # they did come by the bouncer
    check_sessions(bouncer)
