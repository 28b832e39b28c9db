"""A job's message is only a hint: lost, late or never sent, the job is done all the same."""

import os
import signal
import socket
import time
from functools import partial
from urllib.parse import urlsplit

import pytest
import requests

from idempotency import events
from idempotency.jobs import start_job
from idempotency.models import Job, JobStatus
from tests.concurrent import PATIENCE, Crew, until
from tests.jobs import Started, booked, overdue, sweep, swept_until
from tests.served import gunicorn
from tests.worked import tasks, worker
from tests.worked.celery import make_app

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.vendors("postgresql", "mysql"),
    pytest.mark.usefixtures("redis_db"),
]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "worker.log"


@pytest.fixture
def start(ask):
    """Starts a job as a client does, whatever the broker says."""

    def start(name):
        return Started(partial(ask, lease=1), lambda: start_job(tasks.book, name=name))

    return start


def unsent():
    return events.counts().get("job_unsent", 0)


class TestStopped:
    def test_a_stopped_broker_fails_no_request(self, breakable_broker, start, log):
        """The job waits for the sweep, and the sweep for the broker."""
        first = start("connected")
        breakable_broker.stop()
        before, began = unsent(), time.monotonic()
        job = start("Ada")
        assert time.monotonic() - began < 5
        assert (job.ask().status_code, job.status) == (202, JobStatus.QUEUED)
        assert unsent() == before + 1
        until(lambda: overdue() == 2)
        assert sweep().resent == 2
        assert unsent() == before + 3

        breakable_broker.start()
        until(lambda: overdue() == 2)
        assert sweep().resent == 2
        assert unsent() == before + 3
        with worker(log):
            until(lambda: job.ended and first.ended)
        assert booked() == {"connected": 1, "Ada": 1}

    def test_one_that_hangs_costs_a_moment(self, broker, start, monkeypatch):
        """It takes the connection, and says nothing."""
        with socket.create_server(("127.0.0.1", 0)) as silent, monkeypatch.context() as here:
            scheme = urlsplit(os.environ["CELERY_BROKER_URL"]).scheme
            here.setenv("CELERY_BROKER_URL", f"{scheme}://127.0.0.1:{silent.getsockname()[1]}//")
            before, began = unsent(), time.monotonic()
            with make_app():
                job = start("Ada")
            assert time.monotonic() - began < 5
        assert (job.status, unsent()) == (JobStatus.QUEUED, before + 1)

    def test_one_that_was_restarted_takes_the_next_message(self, breakable_broker, start):
        """Over a connection that the process had before."""
        start("before")
        breakable_broker.stop()
        breakable_broker.start()
        waiting, before = breakable_broker.messages(), unsent()
        start("behind")
        assert unsent() == before
        assert breakable_broker.messages() == waiting + 1

    def test_a_broker_that_goes_away_under_a_job(self, breakable_broker, start, gates, log):
        """Its message cannot be acknowledged; the next worker may get it again, or the sweep's."""
        gates.close("effects")
        with worker(log):
            job = start("Ada")
            gates.reached("effects")
            breakable_broker.stop()
            gates.open("effects")
            until(lambda: overdue() == 1 or job.ended)
        breakable_broker.start()
        other = start("Bob")
        with worker(log):
            swept_until(lambda: job.ended and other.ended)
        assert booked() == {"Ada": 1, "Bob": 1}


class TestLost:
    def test_messages_that_the_broker_forgot_are_sent_again(self, broker, start, log):
        jobs = [start(name) for name in ("Ada", "Bob")]
        assert broker.lose() == 2
        with worker(log):
            until(lambda: overdue() == 2)
            assert sweep().resent == 2
            until(lambda: all(job.ended for job in jobs))
        assert booked() == {"Ada": 1, "Bob": 1}

    def test_a_web_process_killed_behind_its_commit_leaves_the_job_to_the_beat(
        self, broker, gates, log, tmp_path
    ):
        """The client never got its 202, and asks again; nobody else has to do anything."""
        with gunicorn(tmp_path / "web.log", workers=1, environment={}) as origin, Crew(1) as crew:
            gates.close("committed")
            lost = crew.start(post, origin)
            os.kill(gates.reached("committed"), signal.SIGKILL)
            with pytest.raises(requests.ConnectionError):
                lost.result(PATIENCE)
            assert (Job.objects.get().status, broker.messages()) == (JobStatus.QUEUED, 0)

            queued = post(origin)
            assert (queued.status_code, queued.json()["id"]) == (202, str(Job.objects.get().pk))
            assert broker.messages() == 0
            beat = ("--beat", "--schedule", str(tmp_path / "beat"))
            beating = {"DJANGO_SETTINGS_MODULE": "tests.worked.beating"}
            with worker(log, *beat, environment=beating):
                until(lambda: post(origin).status_code == 200)
            final = post(origin)
        assert final.json()["status"] == "succeeded"
        assert final.headers["Idempotent-Replayed"] == "true"
        assert booked() == {"Ada": 1}

    def test_one_killed_before_its_commit_has_started_nothing(self, broker, gates, log, tmp_path):
        with gunicorn(tmp_path / "web.log", workers=1, environment={}) as origin, Crew(1) as crew:
            gates.close("started")
            lost = crew.start(post, origin)
            os.kill(gates.reached("started"), signal.SIGKILL)
            with pytest.raises(requests.ConnectionError):
                lost.result(PATIENCE)
            assert not Job.objects.exists()
            until(lambda: post(origin).status_code == 202)
            assert broker.messages() == Job.objects.count() == 1


def post(origin):
    return requests.post(
        f"{origin}/jobs/",
        json={"task": "book", "name": "Ada"},
        headers={"Idempotency-Key": "k-1", "Connection": "close"},
        timeout=PATIENCE,
    )
