"""Workers, brokers, gates and clocks: real processes do what the suites count on."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import requests

from tests.app.models import Booking
from tests.concurrent import PATIENCE, Crew, until
from tests.served import gunicorn
from tests.worked import worker
from tests.worked.broker import clear
from tests.worked.clock import ahead
from tests.worked.deliveries import deliver, tell_time
from tests.worked.gates import stop_at

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.vendors("postgresql", "mysql")]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "worker.log"


def rows():
    return Booking.objects.count()


def gone(pid):
    """Ended; a zombie counts, since its parent may be a container's init that reaps nothing."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class TestWorker:
    def test_runs_tasks_in_its_children_on_the_test_database(self, broker, gates, log):
        gates.close("delivered", comers=2)
        with worker(log) as celery:
            children = celery.pids()
            deliver.delay(name="Ada")
            deliver.delay(name="Bob")
            assert {gates.reached("delivered"), gates.reached("delivered")} == set(children)
            assert celery.pid not in children
            assert rows() == 2

    def test_serves_the_queues_it_is_told_to(self, broker, log):
        broker.app.conf.task_routes = {deliver.name: {"queue": broker.other_queue}}
        deliver.delay(name="Ada")
        assert broker.messages(broker.other_queue) == 1
        assert broker.messages() == 0
        with worker(log, queues=[broker.other_queue]):
            until(lambda: rows() == 1)
            until(lambda: broker.messages(broker.other_queue) == 0)

    def test_a_killed_child_is_replaced_and_its_message_comes_again(self, broker, gates, log):
        gates.close("delivered")
        with worker(log, concurrency=1) as celery:
            deliver.delay(name="Ada")
            first = gates.reached("delivered")
            celery.kill_child()
            assert gone(first)
            until(lambda: rows() == 2)
            until(lambda: celery.pids() not in ([], [first]))

    def test_a_task_that_ended_comes_again_if_its_message_was_not_acknowledged(
        self, broker, gates, log
    ):
        gates.close("acknowledgement")
        with worker(log) as celery:
            deliver.delay(name="Ada")
            celery.kill_child(gates.reached("acknowledgement"))
            until(lambda: rows() == 2)

    def test_another_worker_gets_the_message_of_one_that_was_killed(self, broker, gates, tmp_path):
        gates.close("delivered")
        with (
            worker(tmp_path / "first.log", visibility_timeout=1) as first,
            worker(tmp_path / "second.log", visibility_timeout=1) as second,
        ):
            deliver.delay(name="Ada")
            child = gates.reached("delivered")
            killed, other = (first, second) if child in first.pids() else (second, first)
            processes = [killed.pid, *killed.pids()]
            gates.close("delivered")
            killed.kill()
            assert all(map(gone, processes))
            assert gates.reached("delivered") in other.pids()
            assert rows() == 2

    def test_a_suspended_child_goes_on_where_it_stopped(self, broker, gates, log):
        gates.close("delivered")
        gates.close("acknowledgement")
        with worker(log) as celery:
            deliver.delay(name="Ada")
            first = gates.reached("delivered")
            celery.suspend(first)
            gates.open("delivered")
            deliver.delay(name="Bob")
            assert gates.reached("acknowledgement") != first
            gates.open("acknowledgement")
            gates.close("acknowledgement")
            celery.resume(first)
            assert gates.reached("acknowledgement") == first
        assert rows() == 2

    def test_a_suspended_worker_does_nothing_until_it_is_resumed(self, broker, log):
        with worker(log) as celery:
            celery.suspend()
            processes = [celery.pid, *celery.pids()]
            states = {psutil.Process(pid).status() for pid in processes}
            assert states == {psutil.STATUS_STOPPED}
            deliver.delay(name="Ada")
            celery.resume()
            until(lambda: rows() == 1)

    def test_a_warm_shutdown_waits_for_the_task(self, broker, gates, log):
        gates.close("delivered")
        with worker(log) as celery:
            deliver.delay(name="Ada")
            child = gates.reached("delivered")
            celery.warm()
            until(lambda: "Warm shutdown" in log.read_text())
            deliver.delay(name="Bob")
            assert not gone(child)
            gates.open("delivered")
            assert celery.wait() == 0
        assert rows() == 1
        assert broker.messages() == 1

    def test_a_cold_shutdown_gives_the_message_back(self, broker, gates, log):
        gates.close("delivered")
        with worker(log) as celery:
            deliver.delay(name="Ada")
            gates.reached("delivered")
            celery.cold()
            celery.wait()
        assert broker.messages() == 1
        with worker(log):
            until(lambda: rows() == 2)

    def test_nothing_is_left_after_the_block(self, broker, log):
        with worker(log) as celery:
            processes = [celery.pid, *celery.pids()]
            celery.suspend()
        assert len(processes) == 3
        assert all(map(gone, processes))

    def test_an_error_in_the_block_tells_what_the_worker_said(self, broker, log):
        with pytest.raises(LookupError) as raised, worker(log):
            raise LookupError
        assert "tests.worked.deliveries.deliver" in raised.value.__notes__[0]

    def test_a_worker_that_does_not_come_up_is_told_with_its_log(self, broker, log):
        broken = {"DATABASE_URL": "nonsense://"}
        with pytest.raises(AssertionError) as raised, worker(log, environment=broken):
            pass
        assert "nonsense" in raised.value.__notes__[0]

    def test_a_worker_ends_with_a_run_that_was_killed(self, broker, log):
        code = (
            "import signal, pathlib, sys, django\n"
            "django.setup()\n"
            "from tests import worked\n"
            "worked.database_url = lambda: sys.argv[2]\n"
            "with worked.worker(pathlib.Path(sys.argv[1])) as celery:\n"
            "    print(celery.pid, *celery.pids(), flush=True)\n"
            "    signal.pause()\n"
        )
        run = subprocess.Popen(
            [sys.executable, "-c", code, str(log), os.environ["DATABASE_URL"]],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        with run:
            processes = [int(pid) for pid in run.stdout.readline().split()]
            run.kill()
        assert len(processes) == 3
        until(lambda: all(map(gone, processes)))


class TestBroker:
    def test_messages_can_be_counted_and_lost(self, broker, log):
        assert broker.messages() == 0
        deliver.delay(name="Ada")
        deliver.delay(name="Bob")
        assert broker.messages() == 2
        assert broker.lose() == 2
        assert broker.messages() == 0

    def test_a_stopped_broker_takes_no_message(self, breakable_broker):
        breakable_broker.stop()
        with pytest.raises(deliver.OperationalError):
            deliver.apply_async(kwargs={"name": "Ada"}, retry=False)
        breakable_broker.start()
        deliver.apply_async(kwargs={"name": "Ada"}, retry=False)
        assert breakable_broker.messages() == 1

    def test_a_worker_finds_its_broker_again(self, breakable_broker, log):
        with worker(log):
            breakable_broker.stop()
            until(lambda: "Connection to broker lost" in log.read_text())
            breakable_broker.start()
            deliver.delay(name="Ada")
            until(lambda: rows() == 1)

    def test_nothing_is_left_in_the_broker(self, broker):
        deliver.delay(name="Ada")
        clear(os.environ["CELERY_BROKER_URL"], broker)
        with (
            broker.app.connection_for_read() as connection,
            connection.channel() as channel,
            pytest.raises(connection.channel_errors),
        ):
            channel.queue_declare(broker.queue, passive=True)


class TestGates:
    def test_a_gate_is_open_until_it_is_closed(self, gates):
        stop_at("effects")

    def test_as_many_stop_as_were_asked_for(self, gates):
        gates.close("effects", comers=2)
        with Crew() as crew:
            stopped = [crew.start(stop_at, "effects") for _ in range(2)]
            assert gates.reached("effects") == gates.reached("effects") == os.getpid()
            crew.start(stop_at, "effects").result(5)
            assert not any(comer.done() for comer in stopped)
            gates.open("effects")
            for comer in stopped:
                comer.result(5)

    def test_an_opened_gate_stops_nobody_who_was_still_to_come(self, gates):
        gates.close("effects", comers=20)
        gates.open("effects")
        stop_at("effects")

    def test_gates_are_apart(self, gates):
        gates.close("effects")
        stop_at("elsewhere")

    def test_web_processes_stop_and_can_be_killed_there(self, gates, tmp_path):
        gates.close("before")
        with (
            gunicorn(tmp_path / "gunicorn.log", workers=1, environment={}) as origin,
            Crew() as crew,
        ):
            first = requests.get(f"{origin}/bookings/", timeout=30).json()["pid"]
            asked = crew.start(requests.post, f"{origin}/leased/", json={"name": "Ada"}, timeout=30)
            assert gates.reached("before") == first
            os.kill(first, signal.SIGKILL)
            with pytest.raises(requests.ConnectionError):
                asked.result(PATIENCE)
        assert rows() == 0


class TestClock:
    @pytest.mark.parametrize("hours", [1, -1])
    def test_a_worker_with_a_wrong_clock_still_works(self, broker, log, hours):
        with worker(log, environment=ahead(timedelta(hours=hours))) as celery:
            tell_time.delay()
            until(lambda: rows() == 2)
            assert celery.pids()
        for seconds in Booking.objects.values_list("seats", flat=True):
            assert abs(seconds - time.time() - hours * 3600) < 60

    def test_web_processes_can_have_one_too(self, tmp_path):
        wrong = ahead(timedelta(hours=1))
        with gunicorn(tmp_path / "gunicorn.log", workers=1, environment=wrong) as origin:
            told = requests.get(f"{origin}/bookings/", timeout=30).json()["time"]
        assert abs(told - time.time() - 3600) < 60

    def test_a_wrong_clock_is_a_clock(self):
        """What libraries do with datetime goes on working."""
        code = """
import copy, datetime, functools, pickle, time
import psycopg  # compiled against datetime
from datetime import datetime as moment
now = moment.now(datetime.UTC)
assert abs(now.timestamp() - time.time()) < 5 and abs(time.time_ns() / 1e9 - time.time()) < 5
assert abs(moment.now().timestamp() - time.time()) < 5
assert type(now) is type(moment(2026, 1, 1)) is type(moment.fromisoformat("2026-01-01"))
assert isinstance(now, moment) and not isinstance(now.date(), moment)
assert pickle.loads(pickle.dumps(now)) == copy.deepcopy(now) == now
assert not isinstance(now, type("Sub", (moment,), {}))
assert {moment: True}[type(now)]
shown = functools.singledispatch(str)
shown.register(moment, repr)
assert shown(now) == repr(now)
"""
        wrong = os.environ | ahead(timedelta(hours=1))
        subprocess.run([sys.executable, "-W", "error", "-c", code], env=wrong, check=True)
