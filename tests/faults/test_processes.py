"""Atomic requests whose process is killed, suspended or recycled: real signals, real servers."""

import os
import time
from collections import Counter
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from django.db.models import Count

from enrollment_demo.demo.relay import Fault, Relay
from idempotency.layers import breaker
from idempotency.models import IdempotencyRecord
from tests.aftermath import Call, violations
from tests.app.models import Booking
from tests.concurrent import PATIENCE, until
from tests.served.site import kill, served, suspended

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_db"),
]

#: With more threads, gunicorn would take gthread workers all the same.
SYNC = ("--worker-class", "sync", "--threads", "1")
#: Seconds within which a dead one's key is another's: a look at the ledger, and a busy machine.
MOMENT = 2
#: Seconds of the lock, and of a handler's silence, where a test waits for their end.
LOCK = 1


@pytest.fixture
def site(tmp_path, gates):
    """Sync workers: the one that runs is busy, so a duplicate waits in the other."""
    with served(tmp_path, *SYNC) as site:
        yield site


@pytest.fixture
def hasty(tmp_path, gates):
    """The same with a lock that ends soon."""
    with served(tmp_path, environment={"LOCK_TIMEOUT": str(LOCK)}) as site:
        yield site


def effects():
    return dict(Booking.objects.values_list("name").annotate(rows=Count("pk")))


def replayed(response):
    return response.status_code, response.headers.get("Idempotent-Replayed")


@pytest.mark.parametrize("gate", ["before", "effects"])
def test_a_process_killed_in_its_handler_frees_the_key_at_once(site, gates, gate):
    """Its lock has a minute to live, its transaction is over: waiters ask the ledger."""
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
    assert effects() == {"Ada": 1}
    assert site.post("/gated/").content == second.content


def test_a_process_killed_in_its_handler_refuses_no_corrected_request(site, gates):
    """The mistaken one was rolled back; its lock has a minute to live."""
    gates.close("effects")
    site.begin("/gated/", name="Eve")
    kill(gates.reached("effects"))
    gates.open("effects")
    until(lambda: site.post("/gated/").status_code == 201)
    assert effects() == {"Ada": 1}


def test_a_process_killed_between_commit_and_publish_has_committed(site, gates, redis_db):
    gates.close("committed")
    first = site.begin("/gated/")
    kill(gates.reached("committed"))
    with pytest.raises(requests.ConnectionError):
        first.result(PATIENCE)
    assert not list(redis_db.scan_iter("*:reply"))
    again = site.post("/gated/")
    assert replayed(again) == (201, "true")
    assert effects() == {"Ada": 1}


def test_a_process_killed_while_it_waits_takes_nothing_along(site, gates, redis_db):
    gates.close("effects")
    first = site.begin("/gated/")
    runs = gates.reached("effects")
    duplicate = site.begin("/gated/")
    until(lambda: redis_db.info("clients")["blocked_clients"] == 1)
    (waits,) = workers() - {runs}
    kill(waits)
    with pytest.raises(requests.ConnectionError):
        duplicate.result(PATIENCE)
    gates.open("effects")
    done = first.result(PATIENCE)
    assert replayed(done) == (201, None)
    assert site.post("/gated/").content == done.content
    assert effects() == {"Ada": 1}


@pytest.mark.vendors("postgresql")
def test_a_suspended_process_loses_its_key_and_changes_nothing_when_it_goes_on(
    hasty, gates, redis_db
):
    """As a host that vanished in mid-transaction: its connection stays, idle. The claim's own
    limit of silence ends its transaction."""
    gates.close("effects")
    first = hasty.begin("/gated/")
    pid = gates.reached("effects")
    with suspended(pid):
        duplicates = [hasty.begin("/gated/") for _ in range(4)]
        answers = [duplicate.result(PATIENCE) for duplicate in duplicates]
        assert effects() == {"Ada": 1}
        (name,) = redis_db.scan_iter("*:reply")
        entry = redis_db.get(name)
        gates.open("effects")
    late = first.result(PATIENCE)
    assert (late.status_code, late.json()["code"]) == (503, "idempotency_unavailable")
    assert redis_db.get(name) == entry
    history = [Call("Ada", *told(answer)) for answer in [*answers, hasty.post("/gated/")]]
    assert {call.status for call in history} == {201}
    assert violations(history, effects()) == []


@pytest.mark.vendors("mysql", "sqlite")
def test_a_suspended_process_keeps_its_key_where_the_database_waits_for_it(hasty, gates):
    """No claim limits a silence there: the duplicates are told to come again."""
    gates.close("effects")
    first = hasty.begin("/gated/")
    with suspended(gates.reached("effects")):
        duplicates = [hasty.begin("/gated/") for _ in range(4)]
        answers = [duplicate.result(PATIENCE) for duplicate in duplicates]
        gates.open("effects")
    assert {answer.status_code for answer in answers} <= {409, 503}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
    done = first.result(PATIENCE)
    history = [Call("Ada", *told(answer)) for answer in [done, hasty.post("/gated/")]]
    assert {call.status for call in history} == {201}
    assert violations(history, effects()) == []


def test_a_suspended_process_that_had_committed_publishes_nothing_late(hasty, gates, redis_db):
    gates.close("committed")
    first = hasty.begin("/gated/")
    with suspended(gates.reached("committed")):
        until(lambda: not list(redis_db.scan_iter("*:lock")))  # its lock is over
        (record,) = IdempotencyRecord.objects.all()
        IdempotencyRecord.objects.update(body=b'{"id": "newer"}')  # what a replay finds from now on
        gates.open("committed")
    assert first.result(PATIENCE).status_code == 201
    assert bytes(record.body) == first.result(PATIENCE).content
    assert not list(redis_db.scan_iter("*:reply"))


@pytest.mark.vendors("postgresql", "mysql")
@pytest.mark.parametrize("leader", ["cut off", "connected"])
def test_a_breaker_open_in_one_process_and_closed_in_another(tmp_path, gates, redis_db, leader):
    """Between one that knows Redis and one that does not, the ledger is what they share."""
    location = urlsplit(os.environ["REDIS_URL"])
    with Relay((location.hostname, location.port), Fault.CUT) as relay:
        through = location._replace(netloc=f"127.0.0.1:{relay.port}").geturl()
        alone = ("--workers", "1")
        with (
            served(tmp_path / "cut", *alone, environment={"REDIS_URL": through}) as cut,
            served(tmp_path / "well", *alone) as well,
        ):
            for number in range(breaker.FAILURES):
                cut.post("/bookings/", key=f"unlucky-{number}", name=f"unlucky-{number}")
            assert cut.counts()["cache_unavailable.breaker_open"] == 1
            leads, follows = (cut, well) if leader == "cut off" else (well, cut)
            gates.close("effects")
            first = leads.begin("/gated/")
            gates.reached("effects")
            assert bool(list(redis_db.scan_iter("*:lock"))) is (leads is well)
            duplicates = [site.begin("/gated/") for site in (follows, follows, leads)]
            until(lambda: follows.counts().get("constraint_caught", 0) > 0)
            gates.open("effects")
            answers = [each.result(PATIENCE) for each in [first, *duplicates]]
            answers += [site.post("/gated/") for site in (cut, well)]
            assert "cache_unavailable" not in well.counts()
    history = [Call("Ada", *told(answer)) for answer in answers]
    assert {call.status for call in history} == {201}
    assert violations(history, {"Ada": effects()["Ada"]}) == []
    assert len(list(redis_db.scan_iter("*:reply"))) == 1
    assert not list(redis_db.scan_iter("*:lock"))


SERVERS = {
    "gthread": (),
    "gthread, preloaded": ("--preload",),
    "sync": (*SYNC, "--workers", "4"),
    "sync, preloaded": (*SYNC, "--workers", "4", "--preload"),
    "recycled": ("--max-requests", "8", "--max-requests-jitter", "4"),
}


@pytest.mark.parametrize("arguments", SERVERS.values(), ids=SERVERS)
def test_each_way_to_run_gunicorn_serves_a_storm(tmp_path, arguments):
    keys, retries = 12, 6
    with served(tmp_path, *arguments) as site:
        sent = [
            (f"k-{number}", site.begin("/bookings/", key=f"k-{number}", name=f"k-{number}"))
            for number in range(keys)
            for _ in range(retries)
        ]
        history = [called(key, future) for key, future in sent]
        history += [Call(key, *told(site.post("/bookings/", key=key, name=key))) for key, _ in sent]
    assert violations(history, effects()) == []
    assert effects() == {f"k-{number}": 1 for number in range(keys)}
    assert Counter(call.status for call in history[len(sent) :]) == {201: len(sent)}
    if "--max-requests" in arguments:
        assert (tmp_path / "server.log").read_text().count("Autorestarting") >= 3


def called(key, future):
    """What a request was told; a recycled worker may have closed its connection."""
    try:
        return Call(key, *told(future.result(PATIENCE)))
    except requests.ConnectionError:
        return Call(key)


def told(response):
    return response.status_code, response.content


def workers():
    """The process ids of the served project's workers."""
    (master,) = [
        child
        for child in psutil.Process().children()
        if "gunicorn" in child.cmdline() and "tests.served.wsgi" in child.cmdline()
    ]
    return {worker.pid for worker in master.children()}
