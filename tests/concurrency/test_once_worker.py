"""`once` in other processes: killed, crowded, cut off, and delivered to by a real broker."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.core.cache import caches
from django.db import connection
from django.utils import timezone

from enrollment_demo.demo.relay import LOOPBACK, Relay
from idempotency.models import IdempotencyRecord
from tests.app.models import Booking
from tests.concurrency import consumers
from tests.concurrent import until
from tests.served import DEADLINE, database_url
from tests.worked import worker
from tests.worked.gates import Gates

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _empty_cache(redis_db):
    """Keys are the same in every test, and so would be the cached results."""


def rows() -> dict[str, int]:
    """Bookings by name and number."""
    return dict(Booking.objects.values_list("name", "pk"))


# A log whose offset moves after the event (Kafka), and a queue that delivers to many (SQS).


@contextmanager
def process(call: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Python that runs `call`, a function of tests.concurrency.consumers; killed at the end."""
    url = database_url()
    if connection.vendor == "sqlite":
        url = f"sqlite:///{connection.settings_dict['NAME']}"
    code = (
        "import pathlib, sys, django; django.setup()\n"
        "from tests.concurrency import consumers\n"
        f"consumers.{call}"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "settings.test"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with running:
        try:
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize("moment", ["effects", "committed"])
def test_a_log_is_consumed_once_although_its_reader_is_killed(tmp_path, gates, moment):
    """Before the commit nothing has happened; behind it, only the offset has not moved."""
    log = tmp_path / "events"
    log.write_text("".join(f'{{"id": "event-{n}"}}\n' for n in range(5)))
    log.with_suffix(".offset").write_text("0")
    reader = "read_log(pathlib.Path(sys.argv[1]))"
    for _ in range(3):
        gates.close(moment)
        with process(reader, str(log)) as running:
            os.kill(gates.reached(moment), signal.SIGKILL)
            assert running.wait(DEADLINE) == -signal.SIGKILL
    with process(reader, str(log)) as running:
        assert running.wait(DEADLINE) == 0
    results = [line.split() for line in log.with_suffix(".results").read_text().splitlines()]
    assert {f"event-{position}": int(result) for position, result in results} == rows()
    assert Booking.objects.count() == IdempotencyRecord.objects.count() == 5


def test_of_20_deliveries_at_once_one_has_its_effect_and_all_its_result(gates):
    gates.close("crowd", comers=4)
    with (
        process("crowd({'id': 'one'}, 5)") as first,
        process("crowd({'id': 'one'}, 5)") as second,
        process("crowd({'id': 'one'}, 5)") as third,
        process("crowd({'id': 'one'}, 5)") as fourth,
    ):
        for _ in range(4):
            gates.reached("crowd")
        gates.open("crowd")
        crowds = [each.communicate(timeout=DEADLINE)[0] for each in (first, second, third, fourth)]
    results = [result for crowd in crowds for result in json.loads(crowd)]
    assert results == [Booking.objects.get().pk] * 20


# A broker (AMQP, or Redis in its place) and a worker.

with_a_worker = pytest.mark.vendors("postgresql", "mysql")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


def consuming(log: Path, **options):
    """A worker that knows the consumers."""
    return worker(log, "--include", consumers.__name__, **options)


def message(key: str = "one", **extra: object) -> dict[str, object]:
    return {"headers": [{"id": key, **extra}], "body": "any"}


def succeeded(log: Path) -> list[str]:
    """The results of all tasks that have ended well, as the worker's log tells them."""
    return re.findall(r"succeeded in [\d.]+s: (.*)", log.read_text())


@with_a_worker
@pytest.mark.parametrize("task", [consumers.below, consumers.above], ids=["below", "above"])
@pytest.mark.parametrize("moment", ["effects", "committed", "acknowledgement"])
def test_a_killed_consumers_message_comes_again_and_has_one_effect(
    broker, gates: Gates, log, task, moment
):
    gates.close(moment)
    with consuming(log, concurrency=1) as celery:
        task.delay(message())
        celery.kill_child(gates.reached(moment))
        gates.close("acknowledgement")
        gates.reached("acknowledgement")
        gates.open("acknowledgement")
        until(lambda: bool(succeeded(log)))
    assert succeeded(log)[-1] == str(Booking.objects.get().pk)


@with_a_worker
@pytest.mark.parametrize("task", [consumers.below, consumers.above], ids=["below", "above"])
def test_a_message_that_was_sent_20_times_has_one_effect(broker, gates: Gates, log, task):
    gates.close("effects")
    with consuming(log, concurrency=4):
        for number in range(20):
            task.delay(message(sent=number))
        gates.reached("effects")
        gates.open("effects")
        until(lambda: len(succeeded(log)) == 20)
    assert succeeded(log) == [str(Booking.objects.get().pk)] * 20


@with_a_worker
@pytest.mark.parametrize("task", [consumers.retrying, consumers.flaky], ids=["retry", "autoretry"])
def test_celerys_retry_frees_the_key_for_the_next_attempt(broker, log, task):
    with consuming(log):
        task.delay("one")
        until(lambda: bool(succeeded(log)))
        task.delay("one")
        until(lambda: len(succeeded(log)) == 2)
    booking = Booking.objects.get()
    assert booking.seats == 1
    assert succeeded(log) == [str(booking.pk)] * 2


@with_a_worker
def test_a_message_that_met_one_in_progress_comes_again_and_uses_up_no_retry(
    broker, gates: Gates, log
):
    gates.close("effects")
    with consuming(log) as celery:
        consumers.hasty.delay({"id": "one"})
        gates.reached("effects")
        consumers.hasty.delay({"id": "one"})
        until(lambda: log.read_text().count("retry: Retry in 1s: InProgress(") >= 2)
        gates.open("effects")
        until(lambda: len(succeeded(log)) == 2)
        celery.warm()
        assert celery.wait() == 0  # what is told as done is acknowledged by then
    assert succeeded(log) == [str(Booking.objects.get().pk)] * 2
    assert broker.messages() == 0


@with_a_worker
def test_a_task_that_calls_a_consumer_gets_the_refusal_itself(broker, gates: Gates, log):
    """What it did before and would do behind the call is its own business."""
    gates.close("effects")
    with consuming(log):
        consumers.hasty.delay({"id": "one"})
        gates.reached("effects")
        consumers.caller.delay({"id": "one"})
        until(lambda: "raised unexpected: InProgress(" in log.read_text())
        gates.open("effects")
        until(lambda: bool(succeeded(log)))
    assert "retry: Retry" not in log.read_text()


@with_a_worker
def test_an_expired_key_of_another_event_does_not_settle_this_one(broker, log):
    with consuming(log):
        consumers.relaying.delay("one")
        until(lambda: "raised unexpected: KeyExpired(" in log.read_text())


@with_a_worker
def test_a_message_that_cannot_be_sent_again_stays_with_the_broker(
    broker, gates: Gates, log, closed_port
):
    gates.close("effects")
    deaf = {"CELERY_BROKER_WRITE_URL": f"redis://{LOOPBACK}:{closed_port}/0"}
    with consuming(log, environment=deaf):
        consumers.hasty.delay({"id": "one"})
        gates.reached("effects")
        consumers.hasty.delay({"id": "one"})
        until(lambda: "reject requeue=True" in log.read_text())
        gates.open("effects")
        until(lambda: len(succeeded(log)) == 2)
    assert succeeded(log) == [str(Booking.objects.get().pk)] * 2


@with_a_worker
def test_a_message_outlasts_an_absent_database(broker, log):
    parts = urlsplit(database_url())
    with Relay((parts.hostname or LOOPBACK, parts.port or 0)) as relay:
        account, at, _ = parts.netloc.rpartition("@")
        through = parts._replace(netloc=f"{account}{at}{LOOPBACK}:{relay.port}").geturl()
        with consuming(log, environment={"DATABASE_URL": through}):
            relay.cut()
            consumers.hasty.delay({"id": "one"})
            until(lambda: "retry: Retry in 1s: Unavailable(" in log.read_text())
            relay.mend()
            until(lambda: bool(succeeded(log)))
    assert succeeded(log) == [str(Booking.objects.get().pk)]


@with_a_worker
def test_a_consumer_that_loses_its_connection_each_time_is_given_up(broker, log):
    """Nobody was in its way, so it has as many attempts as its task allows."""
    with consuming(log):
        consumers.cut.delay("one")
        until(lambda: "raised unexpected: Unavailable(" in log.read_text())
    assert log.read_text().count("retry: Retry in 1s: Unavailable(") == 1
    assert rows() == {}


@with_a_worker
def test_a_redelivery_after_the_replay_window_is_done_with(broker, log):
    """It neither runs again nor fails, and what waits for its result is told no wrong one."""
    with consuming(log) as celery:
        consumers.below.delay(message())
        until(lambda: bool(succeeded(log)))
        IdempotencyRecord.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        caches["default"].clear()
        consumers.below.apply_async([message()], link=consumers.below.si(message("two")))
        until(lambda: re.search(r"consumers\.below\S+ ignored", log.read_text()) is not None)
        consumers.below.delay(message("three"))
        until(lambda: len(succeeded(log)) == 2)
        celery.warm()
        assert celery.wait() == 0  # what is told as done is acknowledged by then
    assert set(rows()) == {"one", "three"}
    assert broker.messages() == 0
    assert "raised unexpected" not in log.read_text()
